"""Every night: turn a CSV list of real films into ranked Parquet by decade, on Glue for Ray.

The data comes from `python example_dags/datasets.py movies s3://glueray-local/movies/raw`. One task starts the
run and a sensor waits for it, so other tasks can run in between.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone

from airflow.sdk import Param, dag, task

from airflow_provider_glueray.operators.glue_jobs import GlueRayJobOperator
from airflow_provider_glueray.sensors.glue_jobs import GlueRayJobSensor

BUCKET = os.environ.get("GLUERAY_EXAMPLE_BUCKET", "glueray-local")
ROLE = os.environ.get("GLUERAY_EXAMPLE_ROLE", "GlueRayRole")
CONN_ID = "aws_default"
JOB = "movie-ratings"

# A run triggered by hand may have no data interval, and naming the context's `data_interval_start` then fails.
DAY = "{{ (dag_run.data_interval_start or dag_run.run_after) | ds }}"
INPUT = "{{ params.input }}"
OUTPUT = "{{ params.output.rstrip('/') }}/day=" + DAY


@dag(
    dag_id="movie_ratings_nightly",
    schedule="0 2 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=1)},
    doc_md=__doc__,
    tags=["glueray", "example"],
    params={
        "input": Param(
            f"s3://{BUCKET}/movies/raw",
            type="string",
            pattern="^s3://",
            title="Input",
            description="A directory of CSV files.",
        ),
        "output": Param(
            f"s3://{BUCKET}/movies/ranked",
            type="string",
            pattern="^s3://",
            title="Output",
            description="Each run replaces the directory of its day below this one.",
        ),
        "prior_votes": Param(
            500,
            type="integer",
            minimum=1,
            title="Vote threshold",
            description="With this many votes a film's own rating weighs as much as the mean of all films.",
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
def movie_ratings_nightly():
    """Check the input, start the run, wait for it, verify the output, report."""

    @task
    def check_input(uri: str) -> int:
        """Return how many files there are to read; fail at once when there is none."""
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook

        from airflow_provider_glueray.airflow_compat import AirflowFailException

        bucket, key = S3Hook.parse_s3_url(uri)
        keys = S3Hook(CONN_ID).list_keys(bucket, prefix=key.rstrip("/") + "/")
        files = [key for key in keys or [] if key.endswith(".csv")]
        if not files:
            raise AirflowFailException(
                f"no CSV files below {uri}; to make some: python example_dags/datasets.py movies s3://…/raw"
            )
        return len(files)

    # [START howto_sensor_glue_ray_job]
    start = GlueRayJobOperator(
        task_id="start",
        job_name=JOB,
        script="scripts/movie_ratings_etl.py",  # from the directory of this file
        py_modules=["modules/steps.py"],
        arguments={"input": INPUT, "output": OUTPUT, "prior_votes": "{{ params.prior_votes }}"},
        number_of_workers="{{ params.workers }}",
        role=ROLE,
        staging_uri=f"s3://{BUCKET}/staging",
        wait_for_completion=False,
    )
    wait = GlueRayJobSensor(
        task_id="wait",
        job_name=JOB,
        run_id=start.output,
        timeout=timedelta(hours=1).total_seconds(),
    )
    # [END howto_sensor_glue_ray_job]

    @task
    def verify(uri: str) -> dict:
        """Count the films of each decade in the files themselves and compare them with the summary of the script."""
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
        films = {}
        for info in s3.get_file_info(fs.FileSelector(f"{bucket}/{key}", recursive=True)):
            if info.extension == "parquet":
                decade = int(info.path.split("/decade=")[1].split("/")[0])
                films[decade] = films.get(decade, 0) + parquet.read_metadata(info.path, filesystem=s3).num_rows
        summarised = {row["decade"]: row["films"] for row in summary["decades"]}
        if films != summarised:
            raise AirflowFailException(f"{uri}: the files hold {films}, _summary.json says {summarised}")
        return summary

    @task
    def report(summary: dict) -> dict:
        """Print the best film of each decade; return the numbers worth keeping."""
        print(f"{'decade':<8}{'films':>7}{'mean':>7}  best film by weighted rating")
        for row in summary["decades"]:
            best = f"{row['best']} ({row['best_weighted_rating']:.2f})"
            print(f"{row['decade']:<8}{row['films']:>7}{row['mean_rating']:>7.2f}  {best}")
        return {name: summary[name] for name in ("output", "rows_in", "rows_out", "mean_rating", "seconds")}

    verified = verify(OUTPUT)
    check_input(INPUT) >> start >> wait >> verified
    report(verified)


movie_ratings_nightly()
