"""Airflow's amazon provider works against the endpoint with the connection of `glueray local env --airflow`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_glueray.local import client as local_client

HOOKS = """
from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
for service in ("glue", "s3", "logs", "sts", "iam"):
    print("URL", AwsBaseHook(aws_conn_id="aws_default", client_type=service).get_conn().meta.endpoint_url)
print("ACCOUNT", AwsBaseHook(aws_conn_id="aws_default", client_type="sts").account_id)
"""
OPERATOR = """
import sys
from unittest.mock import MagicMock
from airflow.providers.amazon.aws.operators.glue import GlueJobOperator

job, region = sys.argv[1:]
operator = GlueJobOperator(
    task_id="run", job_name="amazon", iam_role_name="GlueRayRole", region_name=region, job_poll_interval=1,
    script_location=f"s3://glueray-local/{job}.py", deferrable=False,
    create_job_kwargs={
        "GlueVersion": "4.0", "WorkerType": "Z.2X", "NumberOfWorkers": 2,
        "Command": {"Name": "glueray", "Runtime": "Ray2.4", "ScriptLocation": f"s3://glueray-local/{job}.py"},
    },
)
context = {"ti": MagicMock(), "task_instance": MagicMock()}  # the operator only pushes links to it
print("RUN", operator.execute(context))
"""


@pytest.fixture
def run_with_airflow(clean_endpoint: local_client.Endpoint, tmp_path: Path) -> Callable[..., list[str]]:
    """Return a function that runs code in an interpreter whose `aws_default` is the endpoint."""
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "AIRFLOW_"))}
    connection = json.dumps(clean_endpoint.airflow_connection())
    environment = {**keep, "AIRFLOW_HOME": str(tmp_path), "AIRFLOW_CONN_AWS_DEFAULT": connection}

    def run(code: str, *words: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            capture_output=True,
            text=True,
            env=environment,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.splitlines()

    return run


def test_hooks_reach_the_endpoint(
    clean_endpoint: local_client.Endpoint, run_with_airflow: Callable[..., list[str]]
) -> None:
    """Hooks for Glue, S3, Logs, IAM and STS use the endpoint; STS needs `service_config`."""
    lines = run_with_airflow(HOOKS)
    assert lines.count(f"URL {clean_endpoint.url}") == 5
    assert "ACCOUNT 123456789012" in lines


def test_the_glue_job_operator_runs_a_ray_job(
    glue: Any, make_job: Callable[..., str], run_with_airflow: Callable[..., list[str]]
) -> None:
    """Amazon's own operator creates, starts and waits for a Ray job."""
    lines = run_with_airflow(OPERATOR, make_job("print('from airflow')"), glue.meta.region_name)
    (run_id,) = [line.split()[1] for line in lines if line.startswith("RUN ")]
    assert glue.get_job_run(JobName="amazon", RunId=run_id)["JobRun"]["JobRunState"] == "SUCCEEDED"
