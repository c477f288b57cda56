"""Every night: the notebook of AWS's announcement of Glue for Ray, cell by cell on a Ray cluster of its own.

The data comes from `python example_dags/datasets.py reviews s3://glueray-local/reviews/raw`. The executed notebook is
kept for every day, with outputs and times, also when a cell fails.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone

from airflow.sdk import Param, XComArg, dag, task

from airflow_provider_glueray.operators.notebooks import GlueRayNotebookOperator

BUCKET = os.environ.get("GLUERAY_EXAMPLE_BUCKET", "glueray-local")
ROLE = os.environ.get("GLUERAY_EXAMPLE_ROLE", "GlueRayRole")

# A run triggered by hand may have no data interval, and naming the context's `data_interval_start` then fails.
DAY = "{{ (dag_run.data_interval_start or dag_run.run_after) | ds }}"


@dag(
    dag_id="customer_reviews_notebook",
    schedule="0 2 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=1)},
    doc_md=__doc__,
    tags=["glueray", "example"],
    params={
        "input": Param(
            f"s3://{BUCKET}/reviews/raw/product_category=Wireless",
            type="string",
            pattern="^s3://",
            title="Input",
            description="One partition: a directory of Parquet files.",
        ),
        "output": Param(
            f"s3://{BUCKET}/reviews/notebook",
            type="string",
            pattern="^s3://",
            title="Output",
            description="Each run replaces the directory of its day below this one.",
        ),
        "notebooks": Param(
            f"s3://{BUCKET}/notebooks/customer_reviews",
            type="string",
            title="Executed notebooks",
            description="The directory of the executed notebooks, one for each day.",
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
def customer_reviews_notebook():
    """Run the notebook; report."""
    # [START howto_operator_glue_ray_notebook]
    walk = GlueRayNotebookOperator(
        task_id="walk",
        notebook="notebooks/customer_reviews.ipynb",
        output_notebook="{{ params.notebooks.rstrip('/') }}/" + DAY + ".ipynb",
        parameters={
            "source": "{{ params.input }}",
            "target": "{{ params.output.rstrip('/') }}/day=" + DAY,
        },
        role=ROLE,
        number_of_workers="{{ params.workers }}",
        staging_uri=f"s3://{BUCKET}/staging",
    )
    # [END howto_operator_glue_ray_notebook]

    @task
    def report(notebook: str, counts: dict) -> dict:
        """Print where the executed notebook is; return the numbers worth keeping."""
        print(f"{counts['rows_out']} of {counts['rows_in']} reviews kept; the executed notebook is {notebook}")
        return {"notebook": notebook, **counts}

    report(walk.output, XComArg(walk, "glueray_value"))


customer_reviews_notebook()
