"""Every night: six questions to one night's customer reviews, asked one after the other of one Ray cluster.

The data comes from `python example_dags/datasets.py reviews s3://glueray-local/reviews/raw`. The session is made once
and keeps the reviews in memory; each statement is a task of its own, with its own log, value and retries. As jobs,
each of them would wait for a cluster and read everything again.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone

from airflow.sdk import Param, dag, task

from airflow_provider_glueray.operators.session_group import glue_ray_session

BUCKET = os.environ.get("GLUERAY_EXAMPLE_BUCKET", "glueray-local")
ROLE = os.environ.get("GLUERAY_EXAMPLE_ROLE", "GlueRayRole")
CONN_ID = "aws_default"


JOIN = """
import ray
ray.init("auto", ignore_reinit_error=True)
print("Ray", ray.__version__, "with", int(ray.cluster_resources()["CPU"]), "CPUs")
"""

LOAD = """
import ray.data
from ray.data.context import DatasetContext

# Newer releases have another reader, which is slower on a small cluster; Ray 2.4 takes no notice of this.
DatasetContext.get_current().use_datasource_v2 = False
DatasetContext.get_current().enable_progress_bars = False
columns = ["review_id", "product_title", "star_rating", "helpful_votes", "total_votes", "marketplace"]
reviews = ray.data.read_parquet("{{ params.input }}", columns=columns).materialize()
reviews.count()
"""

# In `load` and `clean` the data stays on the cluster; only numbers travel.
CLEAN = """
def voted(batch):
    return batch[batch["total_votes"] > 0]

kept = reviews.map_batches(voted, batch_format="pandas").materialize()
kept.count()
"""

STARS = """
counts = {}
for batch in kept.iter_batches(batch_format="pandas", batch_size=4096):
    for stars, rows in batch["star_rating"].value_counts().items():
        counts[int(stars)] = counts.get(int(stars), 0) + int(rows)
return_value = {str(stars): counts[stars] for stars in sorted(counts)}
"""

HELPFUL = """
helpful, total = kept.sum("helpful_votes"), kept.sum("total_votes")
print("%d of %d votes found a review helpful" % (helpful, total))
round(helpful / total, 4)
"""


@dag(
    dag_id="customer_reviews_session",
    schedule="0 2 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=1)},
    doc_md=__doc__,
    tags=["glueray", "example"],
    params={
        "input": Param(
            f"s3://{BUCKET}/reviews/raw",
            type="string",
            pattern="^s3://",
            title="Input",
            description="A directory of Parquet files.",
        ),
        "output": Param(
            f"s3://{BUCKET}/reviews/session",
            type="string",
            pattern="^s3://",
            title="Output",
            description="Each run replaces the directory of its day below this one.",
        ),
        "workers": Param(
            2,
            type="integer",
            minimum=1,
            maximum=25,
            title="Workers",
            description="Most Z.2X workers (8 vCPU, 64 GB each). An account has room for 25.",
        ),
    },
)
def customer_reviews_session():
    """Make the session, run six statements in it, stop it; report."""
    # [START howto_glue_ray_session]
    with glue_ray_session(role=ROLE, number_of_workers="{{ params.workers }}", conn_id=CONN_ID) as session:
        join = session.statement("join", JOIN)
        load = session.statement("load", LOAD)
        clean = session.statement("clean", CLEAN)
        stars = session.statement("stars", STARS)
        helpful = session.statement("helpful", HELPFUL)
        save = session.statement("save", "statements/save_reviews.py")
        join >> load >> clean >> [stars, helpful] >> save
    # [END howto_glue_ray_session]

    @task
    def report(rows_in: int, rows_out: int, stars: dict, helpful: float, files: int) -> dict:
        """Print what was found; return the numbers worth keeping."""
        print(f"{rows_out} of {rows_in} reviews have votes; {helpful:.0%} of the votes are helpful")
        for rating, count in stars.items():
            print(f"{rating} stars: {count}")
        return {"rows_in": rows_in, "rows_out": rows_out, "stars": stars, "helpful": helpful, "files": files}

    session.group >> report(load.output, clean.output, stars.output, helpful.output, save.output)


customer_reviews_session()
