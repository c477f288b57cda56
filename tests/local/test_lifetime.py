"""Endpoints leave no processes and files when they stop."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest

from airflow_provider_glueray.local import client as local_client
from airflow_provider_glueray.local.runtime import processes
from airflow_provider_glueray.local.runtime.cluster import Cluster, RayUnavailable
from airflow_provider_glueray.local.runtime.environments import NEWEST, Runtime
from tests.local.conftest import until

pytestmark = pytest.mark.full

NODE_FAILS = """
import ray, time
ray.init("auto")
other = [n["NodeID"] for n in ray.nodes() if n["Alive"] and n["NodeName"] != "127.0.0.2"][0]
where = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(other, soft=True)

@ray.remote(scheduling_strategy=where)
def f():
    me = ray.get_runtime_context().get_node_id()
    if me == other:
        print("holding", flush=True)
        time.sleep(600)
    return me

assert ray.get(f.remote()) != other
"""


def _until_gone(pids: list[int]) -> None:
    until(lambda: [pid for pid in pids if processes.alive(pid)], lambda left: not left)


def _client(endpoint: local_client.Endpoint, service: str) -> Any:
    options = {"region_name": local_client.REGION, "endpoint_url": endpoint.url}
    return boto3.client(service, **options, aws_access_key_id="local", aws_secret_access_key="local")


def _start(endpoint: local_client.Endpoint, script: str) -> Callable[[], dict[str, Any]]:
    """Start a run and return a function that reads it."""
    s3, glue = _client(endpoint, "s3"), _client(endpoint, "glue")
    s3.put_object(Bucket=local_client.BUCKET, Key="script.py", Body=script.encode())
    command = {"Name": "glueray", "Runtime": "Ray2.4", "ScriptLocation": f"s3://{local_client.BUCKET}/script.py"}
    glue.create_job(Name="job", Role="r", Command=command, WorkerType="Z.2X", NumberOfWorkers=1)
    run = glue.start_job_run(JobName="job")["JobRunId"]
    return lambda: glue.get_job_run(JobName="job", RunId=run)["JobRun"]  # type: ignore[no-any-return]


def _busy_kernel(endpoint: local_client.Endpoint, directory: Path) -> list[int]:
    """Return the pids of a busy kernel and of its child process."""
    glue = _client(endpoint, "glue")
    glue.create_session(Id="loop", Role=local_client.ROLE_ARN, Command={"Name": "glueray"}, NumberOfWorkers=1)
    until(lambda: glue.get_session(Id="loop")["Session"]["Status"], lambda status: status == "READY")
    code = (
        "import os, pathlib, ray, subprocess, time\nray.init('auto')\n"  # it installs Ray's SIGTERM handler
        "pids = os.getpid(), subprocess.Popen(['sleep', '600']).pid\n"
        f"pathlib.Path('{directory}/draft').write_text(' '.join(map(str, pids)))\n"
        f"pathlib.Path('{directory}/draft').rename('{directory}/pids')\n"
        "while True:\n    time.sleep(0.1)"
    )
    glue.run_statement(SessionId="loop", Code=code)
    until((directory / "pids").exists)
    return [int(pid) for pid in (directory / "pids").read_text().split()]


def test_a_killed_daemon_leaves_nothing_after_stop(endpoint: local_client.Endpoint, tmp_path: Path) -> None:
    """After SIGKILL, `remove` ends Ray and removes its files and the state file; another endpoint keeps running."""
    mine = local_client.start("crash", port=0, nodes=1, home=tmp_path)
    state = json.loads(mine.log_path.with_suffix(".json").read_text())
    _start(mine, f"import pathlib, time\npathlib.Path('{tmp_path}/begun').touch()\ntime.sleep(600)")
    until((tmp_path / "begun").exists)
    kernel, child = _busy_kernel(mine, tmp_path)
    until(lambda: json.loads(mine.log_path.with_suffix(".json").read_text())["sessions"], lambda ids: kernel in ids)
    inside = processes.in_sessions(state["sessions"])
    outside = processes.descendants_outside(state["sessions"])
    assert any(process.name().startswith("python") for process in outside)  # the driver has its own process session
    pids = [process.pid for process in [*inside, *outside]] + [kernel, child]
    assert mine.url != endpoint.url

    os.kill(mine.pid, signal.SIGKILL)
    os.waitpid(mine.pid, 0)
    assert local_client.find("crash", tmp_path) is None
    with pytest.raises(local_client.EndpointError, match="does not answer"):
        mine.calls()
    assert local_client.remove("crash", tmp_path)
    _until_gone(pids)
    assert not Path(state["root"]).exists()
    assert not mine.log_path.with_suffix(".json").exists()
    assert not local_client.remove("crash", tmp_path)
    assert endpoint.status()["ready"]


def test_sigterm_stops_everything_even_while_ray_starts(tmp_path: Path) -> None:
    """The daemon ends its processes also if SIGTERM comes while Ray starts."""
    mine = local_client.start("early", port=0, nodes=2, home=tmp_path, wait=False)
    children = until(lambda: [child.pid for child in psutil.Process(mine.pid).children(recursive=True)])
    state = json.loads(mine.log_path.with_suffix(".json").read_text())
    mine.stop()
    mine.stop()
    _until_gone(children)
    assert processes.in_sessions(state["sessions"]) == []
    assert not Path(state["root"]).exists()


def test_a_node_can_fail(tmp_path: Path) -> None:
    """Ray retries the lost task, the run succeeds, and a new node replaces the killed one."""
    with local_client.start("node", port=0, home=tmp_path) as mine:
        look, logs = _start(mine, NODE_FAILS), _client(mine, "logs")

        def worker_lines() -> list[str]:
            group = "/aws-glue/ray/jobs/ray-worker-out-logs"
            with contextlib.suppress(logs.exceptions.ResourceNotFoundException):
                return [event["message"] for event in logs.filter_log_events(logGroupName=group)["events"]]
            return []

        until(worker_lines, lambda lines: lines == ["holding"])  # worker lines arrive live
        mine.faults(fail_node=True)
        ended = until(look, lambda run: "CompletedOn" in run)
        assert ended["JobRunState"] == "SUCCEEDED", ended
        mine.wait_ready()
        assert mine.faults()["fail_node"] is False


def test_a_node_that_ends_by_itself_is_replaced(tmp_path: Path) -> None:
    """Also while Ray starts: a node ends if its port is taken meanwhile, or if its agent takes too long."""
    with local_client.start("ends", port=0, home=tmp_path, wait=False) as mine:
        state = mine.log_path.with_suffix(".json")

        def nodes() -> list[int]:
            return list(json.loads(state.read_text())["sessions"])

        head, worker = until(nodes, lambda found: len(found) == 2)
        os.killpg(worker, signal.SIGKILL)
        mine.wait_ready()
        until(nodes, lambda found: len(found) == 2 and found[0] == head and found[1] != worker)


def test_nodes_that_cannot_start_are_given_up(tmp_path: Path) -> None:
    """The error has the reason of Ray, and nothing is left."""
    ray = tmp_path / "bin" / "ray"
    ray.parent.mkdir()
    ray.write_text('#!/bin/sh\ncase "$*" in *--head*) exec "$REAL_RAY" "$@";; esac\necho no node for you\nexit 1\n')
    ray.chmod(0o755)
    cluster = Cluster(2, 80 * 2**20, Runtime(NEWEST, ray.with_name("python")))
    try:
        cluster.start({"REAL_RAY": str(Path(sys.executable).with_name("ray"))})
        with pytest.raises(RayUnavailable, match="ended 5 times in a row: no node for you"):
            until(cluster.replace_ended_workers, lambda _: False)
    finally:
        cluster.stop()
    assert processes.in_sessions(cluster.sessions) == []


def test_a_taken_port_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error gives the reason, and no files stay."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(local_client.EndpointError, match=r"the endpoint did not start: .*in use"):
            local_client.start("taken", port=taken.getsockname()[1], home=tmp_path)
    assert local_client.find("taken", tmp_path) is None
    assert list(tmp_path.glob("glueray-*")) == []
