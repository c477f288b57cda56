"""The `aws` command line works against the endpoint with the environment of `glueray local env`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from airflow_provider_glueray.local import client as local_client


def test_the_aws_cli(
    clean_endpoint: local_client.Endpoint, make_job: Callable[..., str], wait_for: Callable[..., object], tmp_path: Path
) -> None:
    """Commands for S3, Glue and Logs work unchanged."""
    aws = Path(sys.executable).parent / "aws"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), **clean_endpoint.env()}

    def run(*words: str) -> str:
        done = subprocess.run([aws, *words], capture_output=True, text=True, env=environment, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    (tmp_path / "cli.py").write_text("import logging\nlogging.warning('from the shell')\n")
    run("s3", "cp", str(tmp_path / "cli.py"), f"s3://{local_client.BUCKET}/cli.py")
    assert "cli.py" in run("s3", "ls", f"s3://{local_client.BUCKET}")
    command = f"Name=glueray,Runtime=Ray2.4,ScriptLocation=s3://{local_client.BUCKET}/cli.py"
    sizes = ["--worker-type", "Z.2X", "--number-of-workers", "2", "--glue-version", "4.0"]
    run("glue", "create-job", "--name", "cli", "--role", local_client.ROLE_ARN, "--command", command, *sizes)
    run_id = json.loads(run("glue", "start-job-run", "--job-name", "cli"))["JobRunId"]
    wait_for("cli", run_id, "SUCCEEDED")
    shown = json.loads(run("glue", "get-job-run", "--job-name", "cli", "--run-id", run_id))["JobRun"]
    assert shown["JobRunState"] == "SUCCEEDED"
    group = "/aws-glue/ray/jobs/script-log"
    found = run("logs", "filter-log-events", "--log-group-name", group, "--log-stream-name-prefix", f"cli-{run_id}")
    assert "WARNING:root:from the shell" in found
    stopped = json.loads(run("glue", "batch-stop-job-run", "--job-name", "cli", "--job-run-ids", run_id))
    assert stopped["Errors"][0]["ErrorDetail"]["ErrorCode"] == "JobRunInTerminalStateException"
