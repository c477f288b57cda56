"""Endpoints come and go without leaving anything behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest

from airflow_provider_glueray.local import control, processes


def _until_gone(pids: list[int], seconds: float) -> list[int]:
    deadline = time.monotonic() + seconds
    while (left := [pid for pid in pids if processes.alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def _client(endpoint: control.Endpoint, service: str) -> Any:
    options = {"region_name": control.REGION, "endpoint_url": endpoint.url}
    return boto3.client(service, **options, aws_access_key_id="local", aws_secret_access_key="local")


def _run_for_ever(endpoint: control.Endpoint) -> None:
    s3, glue = _client(endpoint, "s3"), _client(endpoint, "glue")
    s3.put_object(Bucket=control.BUCKET, Key="sleep.py", Body=b"import time; time.sleep(600)")
    command = {"Name": "glueray", "Runtime": "Ray2.4", "ScriptLocation": f"s3://{control.BUCKET}/sleep.py"}
    glue.create_job(Name="sleep", Role="r", Command=command, WorkerType="Z.2X", NumberOfWorkers=1)
    run = glue.start_job_run(JobName="sleep")["JobRunId"]
    deadline = time.monotonic() + 60
    while glue.get_job_run(JobName="sleep", RunId=run)["JobRun"]["JobRunState"] != "RUNNING":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(0.5)


def _session_for_ever(endpoint: control.Endpoint, directory: Path) -> list[int]:
    """Return the pids of a kernel that is busy and of its child."""
    glue = _client(endpoint, "glue")
    glue.create_session(Id="loop", Role=control.ROLE_ARN, Command={"Name": "glueray"}, NumberOfWorkers=1)
    deadline = time.monotonic() + 60
    while glue.get_session(Id="loop")["Session"]["Status"] != "READY":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    code = (
        "import os, pathlib, ray, subprocess, time\nray.init('auto')\n"  # Ray's own SIGTERM handler is there, too
        "pids = os.getpid(), subprocess.Popen(['sleep', '600']).pid\n"
        f"pathlib.Path('{directory}/pids').write_text(' '.join(map(str, pids)))\n"
        "while True:\n    time.sleep(1)"
    )
    glue.run_statement(SessionId="loop", Code=code)
    while not (directory / "pids").exists() or not (directory / "pids").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return [int(pid) for pid in (directory / "pids").read_text().split()]


def test_a_killed_daemon_leaves_nothing_after_stop(endpoint: control.Endpoint, tmp_path: Path) -> None:
    """It runs beside another endpoint; after SIGKILL, stop sweeps Ray, its files and the state file."""
    mine = control.start("crash", port=0, nodes=1, home=tmp_path)
    state = json.loads(mine.log_path.with_suffix(".json").read_text())
    _run_for_ever(mine)
    kernel, child = _session_for_ever(mine, tmp_path)
    recorded = json.loads(mine.log_path.with_suffix(".json").read_text())["sessions"]
    assert kernel in recorded
    inside = processes.in_sessions(state["sessions"])
    outside = processes.descendants_outside(state["sessions"])
    assert any(process.name().startswith("python") for process in outside)  # the driver has its own session
    family = [process.pid for process in [*inside, *outside]] + [kernel, child]
    assert mine.url != endpoint.url

    os.kill(mine.pid, signal.SIGKILL)
    os.waitpid(mine.pid, 0)
    assert control.find("crash", tmp_path) is None
    with pytest.raises(control.EndpointError, match="does not answer"):
        mine.calls()
    assert control.forget("crash", tmp_path)
    assert _until_gone(family, 5) == []
    assert not Path(state["root"]).exists()
    assert not mine.log_path.with_suffix(".json").exists()
    assert not control.forget("crash", tmp_path)
    assert endpoint.status()["ready"]


def test_sigterm_stops_everything_even_while_ray_starts(tmp_path: Path) -> None:
    """A service manager may end the daemon at any time."""
    mine = control.start("early", port=0, nodes=2, home=tmp_path, wait=False)
    time.sleep(1)
    state = json.loads(mine.log_path.with_suffix(".json").read_text())
    children = [child.pid for child in psutil.Process(mine.pid).children(recursive=True)]
    mine.stop()
    mine.stop()
    assert _until_gone(children, 5) == []
    assert processes.in_sessions(state["sessions"]) == []
    assert not Path(state["root"]).exists()


def test_a_taken_port_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reason, and nothing left behind."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(control.EndpointError, match=r"the endpoint did not start: .*in use"):
            control.start("taken", port=taken.getsockname()[1], home=tmp_path)
    assert control.find("taken", tmp_path) is None
    assert list(tmp_path.glob("glueray-*")) == []
