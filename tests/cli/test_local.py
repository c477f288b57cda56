"""The command group `glueray local`."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from airflow_provider_glueray.cli.main import main
from airflow_provider_glueray.local import client as local_client

HEAVY = {"ray", "boto3", "botocore", "moto", "airflow", "httpx", "psutil"}


@pytest.fixture
def named(endpoint: local_client.Endpoint, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the option that names the shared endpoint."""
    monkeypatch.setenv("GLUERAY_HOME", str(endpoint.log_path.parent))
    return ["--name", endpoint.name]


def test_the_command_line_imports_nothing_heavy() -> None:
    """`glueray --help` does not import Ray, boto3 or Airflow."""
    code = "import sys, airflow_provider_glueray.cli; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert not HEAVY & set(modules.split())


def test_it_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    """That of the installed distribution."""
    with pytest.raises(SystemExit) as end:
        main(["--version"])

    assert end.value.code == 0
    assert capsys.readouterr().out == f"glueray {version('airflow-provider-glueray')}\n"


@pytest.mark.parametrize("words", [[], ["local"], ["local", "start"], ["local", "stop"], ["local", "env"]])
def test_every_command_has_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Every command has a usage text."""
    with pytest.raises(SystemExit) as caught:
        main([*words, "--help"])
    assert caught.value.code == 0
    assert "usage: glueray" in capsys.readouterr().out


def test_a_second_start_reports_the_running_endpoint(named: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A second start is no error and starts no second endpoint."""
    assert main(["local", "start", *named]) == 0
    assert "is already running at http://127.0.0.1:" in capsys.readouterr().out


def test_status(named: list[str], endpoint: local_client.Endpoint, capsys: pytest.CaptureFixture[str]) -> None:
    """`status` prints a table, or JSON with `--json`."""
    assert main(["local", "status", *named]) == 0
    table = capsys.readouterr().out
    assert endpoint.url in table
    assert "ray nodes  2/2" in table
    assert main(["local", "status", "--json", *named]) == 0
    status = json.loads(capsys.readouterr().out.splitlines()[-1])  # an older Airflow, loaded by others, logs to it
    assert (status["running"], status["pid"], status["nodes_alive"]) == (True, endpoint.pid, 2)


def test_an_endpoint_that_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`status` and `env` exit with 3, `stop` with 0, and an invalid name with 1."""
    monkeypatch.setenv("GLUERAY_HOME", str(tmp_path))
    assert main(["local", "status"]) == 3
    assert main(["local", "status", "--json"]) == 3
    assert main(["local", "env"]) == 3
    assert main(["local", "stop"]) == 0
    assert "default is not running" in capsys.readouterr().out
    assert main(["local", "start", "--name", "../x"]) == 1
    assert "letters, digits, - and _ only" in capsys.readouterr().err


def test_env(named: list[str], endpoint: local_client.Endpoint, capsys: pytest.CaptureFixture[str]) -> None:
    """`env` prints exports that a shell can evaluate, or JSON."""
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


def test_the_state_file_is_private(endpoint: local_client.Endpoint) -> None:
    """Only the owner may read it, since it has Ray's token."""
    path = endpoint.log_path.with_suffix(".json")
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(json.loads(path.read_text())["token"]) == 32
