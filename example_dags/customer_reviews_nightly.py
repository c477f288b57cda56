"""Every night: clean one category of customer reviews on Glue for Ray, check the result, report it.

The data comes from `python example_dags/datasets.py reviews s3://glueray-local/reviews/raw`. The connection
`aws_default` decides where the step runs: on AWS, or with an `endpoint_url` on the endpoint of this machine.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone

from airflow.sdk import Param, dag, task

from airflow_provider_glueray.operators.glue_jobs import GlueRayJobOperator

BUCKET = os.environ.get("GLUERAY_EXAMPLE_BUCKET", "glueray-local")
ROLE = os.environ.get("GLUERAY_EXAMPLE_ROLE", "GlueRayRole")
CONN_ID = "aws_default"

# A run triggered by hand may have no data interval, and naming the context's `data_interval_start` then fails.
DAY = "{{ (dag_run.data_interval_start or dag_run.run_after) | ds }}"
INPUT = "{{ params.input }}"
OUTPUT = "{{ params.output.rstrip('/') }}/day=" + DAY


@dag(
    dag_id="customer_reviews_nightly",
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
            description="One partition of the reviews.",
        ),
        "output": Param(
            f"s3://{BUCKET}/reviews/clean",
            type="string",
            pattern="^s3://",
            title="Output",
            description="Each run replaces the directory of its day below this one.",
        ),
        "marketplace": Param(
            "US",
            type="string",
            enum=["US", "UK", "DE", "FR", "JP"],
            title="Marketplace",
            description="Keep the reviews of this one.",
        ),
        "max_votes": Param(
            100,
            type="integer",
            minimum=1,
            title="Vote threshold",
            description="Keep reviews with fewer votes than this.",
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
def customer_reviews_nightly():
    """Check the input, clean it, verify the output, report."""

    @task
    def check_input(uri: str) -> int:
        """Return how many files there are to read; fail at once when there is none."""
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook

        from airflow_provider_glueray.airflow_compat import AirflowFailException

        bucket, key = S3Hook.parse_s3_url(uri)
        keys = S3Hook(CONN_ID).list_keys(bucket, prefix=key.rstrip("/") + "/")
        files = [key for key in keys or [] if key.endswith(".parquet")]
        if not files:
            raise AirflowFailException(
                f"no Parquet files below {uri}; to make some: python example_dags/datasets.py reviews s3://…/raw"
            )
        return len(files)

    # [START howto_operator_glue_ray_job]
    clean = GlueRayJobOperator(
        task_id="clean",
        script="scripts/customer_reviews_etl.py",  # from the directory of this file
        py_modules=["modules/steps.py"],
        arguments={
            "input": INPUT,
            "output": OUTPUT,
            "marketplace": "{{ params.marketplace }}",
            "max_votes": "{{ params.max_votes }}",
        },
        number_of_workers="{{ params.workers }}",
        role=ROLE,
        staging_uri=f"s3://{BUCKET}/staging",
        run_timeout=timedelta(hours=1),
    )
    # [END howto_operator_glue_ray_job]

    @task
    def verify(uri: str) -> dict:
        """Count the rows in the files themselves and compare them with the summary of the script."""
        import json

        from airflow.providers.amazon.aws.hooks.s3 import S3Hook
        from pyarrow import fs, parquet

        from airflow_provider_glueray.airflow_compat import AirflowFailException

        hook = S3Hook(CONN_ID)
        bucket, key = S3Hook.parse_s3_url(uri)
        summary = json.loads(hook.read_key(f"{key}/_summary.json", bucket))
        # Arrow reads the rows' number from the end of a file; boto3 would load all of it.
        credentials = hook.get_credentials()
        s3 = fs.S3FileSystem(
            access_key=credentials.access_key,
            secret_key=credentials.secret_key,
            session_token=credentials.token,
            region=hook.conn_region_name,
            endpoint_override=hook.conn_config.get_service_endpoint_url("s3"),
        )
        found = s3.get_file_info(fs.FileSelector(f"{bucket}/{key}/parquet", allow_not_found=True))
        rows = sum(parquet.read_metadata(info.path, filesystem=s3).num_rows for info in found if info.is_file)
        if rows != summary["rows_out"]:
            raise AirflowFailException(f"{uri}: the files hold {rows} rows, _summary.json says {summary['rows_out']}")
        return summary

    @task
    def report(summary: dict) -> dict:
        """Print what each step left; return the numbers worth keeping."""
        print(f"{'step':<20}{'rows':>10}{'seconds':>10}")
        for step in summary["steps"]:
            print(f"{step['step']:<20}{step.get('rows', ''):>10}{step['seconds']:>10.2f}")
        return {name: summary[name] for name in ("output", "rows_in", "rows_out", "seconds")}

    verified = verify(OUTPUT)
    check_input(INPUT) >> clean >> verified
    report(verified)


customer_reviews_nightly()
