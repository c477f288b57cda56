"""Profile hundreds of real tables with one step: mapped, a run for each table, and fanned out, one run for all.

The data comes from `python example_dags/datasets.py tables s3://glueray-local/tables/raw`. Both DAGs write the same
table, a row for each column of each source: its type, rows, nulls, and its least and greatest value.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from airflow.sdk import Param, dag, task

if TYPE_CHECKING:
    import pandas as pd

BUCKET = os.environ.get("GLUERAY_EXAMPLE_BUCKET", "glueray-local")
ROLE = os.environ.get("GLUERAY_EXAMPLE_ROLE", "GlueRayRole")
CONN_ID = "aws_default"
#: An account has 50 M-DPU, which is 25 Z.2X workers, so this many runs of two workers each.
RUNS_AT_ONCE = 12

PARAMS = {
    "input": Param(
        f"s3://{BUCKET}/tables/raw",
        type="string",
        pattern="^s3://",
        title="Input",
        description="A directory of CSV files.",
    ),
    "sources": Param(
        300,
        type="integer",
        minimum=1,
        title="Sources",
        description="At most so many of them, by their names.",
    ),
}
ON_RAY = {"role": ROLE, "staging_uri": f"s3://{BUCKET}/staging", "number_of_workers": 2}
NIGHTLY = {
    "start_date": datetime(2026, 1, 1, tzinfo=timezone.utc),
    "catchup": False,
    "max_active_runs": 1,
    "default_args": {"retries": 2, "retry_delay": timedelta(minutes=1)},
    "doc_md": __doc__,
    "tags": ["glueray", "example"],
    "params": PARAMS,
}


# [START howto_function_with_helpers]
def profile_of(source: str) -> list[dict]:
    """Describe each column of one CSV file. A plain function of this file: it travels with those that call it."""
    import pandas as pd
    from pyarrow import fs

    filesystem, path = fs.FileSystem.from_uri(source)
    with filesystem.open_input_file(path) as file:
        table = pd.read_csv(file, index_col=0, low_memory=False)
    return [
        {
            "source": source.rpartition("/")[2],
            "column": str(name),
            "type": str(values.dtype),
            "rows": len(values),
            "nulls": int(values.isna().sum()),
            "least": None if values.dropna().empty else str(values.dropna().min()),
            "greatest": None if values.dropna().empty else str(values.dropna().max()),
        }
        for name, values in table.items()
    ]


# [END howto_function_with_helpers]


@task
def list_sources(uri: str, count: int) -> list[str]:
    """Return the files that there are to read; fail at once when there is none."""
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    from airflow_provider_glueray.airflow_compat import AirflowFailException

    bucket, key = S3Hook.parse_s3_url(uri)
    keys = S3Hook(CONN_ID).list_keys(bucket, prefix=key.rstrip("/") + "/") or []
    if not keys:
        raise AirflowFailException(
            f"no CSV files below {uri}; to make some: python example_dags/datasets.py tables s3://…/raw"
        )
    return [f"s3://{bucket}/{key}" for key in sorted(keys) if key.endswith(".csv")][: int(count)]


@task
def report(summary: dict) -> dict:
    """Return the numbers worth keeping; the table itself stays in S3."""
    print(f"{summary['rows']} columns of all sources, {summary['bytes']} bytes, in {summary['uri']}")
    return {"columns": summary["rows"], "table": summary["uri"]}


SOURCES = ("{{ params.input }}", "{{ params.sources }}")


@dag(dag_id="sources_mapped", schedule="0 3 * * *", **NIGHTLY)
def sources_mapped():
    """Give each source a run of its own: it has its own log, its own retries, its own place in the grid."""

    # [START howto_mapped_function]
    @task.glue_ray(**ON_RAY, max_concurrent_runs=RUNS_AT_ONCE, max_active_tis_per_dagrun=RUNS_AT_ONCE)
    def profile(source: str) -> list[dict]:
        return profile_of(source)

    # [END howto_mapped_function]

    @task.glue_ray(**ON_RAY)
    def summarise(profiles: list[list[dict]]) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame([column for columns in profiles for column in columns])

    report(summarise(profile.expand(source=list_sources(*SOURCES))))


@dag(dag_id="sources_fanned_out", schedule="0 4 * * *", **NIGHTLY)
def sources_fanned_out():
    """Give all sources one run, and each a Ray task in it: one cluster comes up instead of hundreds."""

    # [START howto_fan_out]
    @task.glue_ray(**ON_RAY)
    def profile_all(sources: list[str]) -> pd.DataFrame:
        import pandas as pd
        import ray

        @ray.remote
        def profile(source: str) -> list[dict]:
            return profile_of(source)

        profiles = ray.get([profile.remote(source) for source in sources])
        return pd.DataFrame([column for columns in profiles for column in columns])

    # [END howto_fan_out]

    report(profile_all(list_sources(*SOURCES)))


sources_mapped()
sources_fanned_out()
