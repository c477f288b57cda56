"""`glueray local` from the outside."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_provider_glueray.cli.main import main
from airflow_provider_glueray.local import client as local_client

HEAVY = {"ray", "boto3", "botocore", "moto", "airflow", "httpx", "psutil"}


@pytest.fixture
def named(endpoint: local_client.Endpoint, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the option which names the shared endpoint."""
    monkeypatch.setenv("GLUERAY_HOME", str(endpoint.log_path.parent))
    return ["--name", endpoint.name]


def test_the_command_line_imports_nothing_heavy() -> None:
    """`glueray --help` does not wait for Ray, boto3 or Airflow."""
    code = "import sys, airflow_provider_glueray.cli; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert not HEAVY & set(modules.split())


@pytest.mark.parametrize("words", [[], ["local"], ["local", "start"], ["local", "stop"], ["local", "env"]])
def test_help_everywhere(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Every level explains itself."""
    with pytest.raises(SystemExit) as caught:
        main([*words, "--help"])
    assert caught.value.code == 0
    assert "usage: glueray" in capsys.readouterr().out


def test_starting_twice_says_so(named: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The second start is no error and starts nothing."""
    assert main(["local", "start", *named]) == 0
    assert "is already running at http://127.0.0.1:" in capsys.readouterr().out


def test_status(named: list[str], endpoint: local_client.Endpoint, capsys: pytest.CaptureFixture[str]) -> None:
    """A table for people, JSON for programs."""
    assert main(["local", "status", *named]) == 0
    table = capsys.readouterr().out
    assert endpoint.url in table
    assert "ray nodes  2/2" in table
    assert main(["local", "status", "--json", *named]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["running"], status["pid"], status["nodes_alive"]) == (True, endpoint.pid, 2)


def test_what_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Status and env exit 3, stop is content, a strange name is refused."""
    monkeypatch.setenv("GLUERAY_HOME", str(tmp_path))
    assert main(["local", "status"]) == 3
    assert main(["local", "status", "--json"]) == 3
    assert main(["local", "env"]) == 3
    assert main(["local", "stop"]) == 0
    assert "default is not running" in capsys.readouterr().out
    assert main(["local", "start", "--name", "../x"]) == 1
    assert "letters, digits, - and _ only" in capsys.readouterr().err


def test_env(named: list[str], endpoint: local_client.Endpoint, capsys: pytest.CaptureFixture[str]) -> None:
    """Exports a shell can evaluate, or JSON."""
    assert main(["local", "env", "--region", "eu-west-1", *named]) == 0
    words = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert all(first == "export" and len(rest) == 1 for first, *rest in words)
    exported = dict(word.partition("=")[::2] for _, word in words)
    assert exported == endpoint.env("eu-west-1")
    assert exported["AWS_ENDPOINT_URL"] == endpoint.url
    assert main(["local", "env", "--json", *named]) == 0
    assert json.loads(capsys.readouterr().out) == endpoint.env(local_client.REGION)
    assert main(["local", "env", "--airflow", "--json", *named]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "AIRFLOW_CONN_AWS_DEFAULT": endpoint.airflow_connection(local_client.REGION),
        "AIRFLOW_CONN_RAY_DEFAULT": endpoint.ray_connection(),
    }


def test_the_state_file_is_the_owners(endpoint: local_client.Endpoint) -> None:
    """It holds Ray's token."""
    path = endpoint.log_path.with_suffix(".json")
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(json.loads(path.read_text())["token"]) == 32


def test_the_aws_cli(
    clean_endpoint: local_client.Endpoint, make_job: Callable[..., str], wait_for: Callable[..., object], tmp_path: Path
) -> None:
    """The commands people type work unchanged, given `glueray local env`."""
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
