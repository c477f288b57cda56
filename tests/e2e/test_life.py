"""The life of a run on a real Airflow: scheduler, workers, triggerer and API server, on real Ray."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs
import httpx
import pandas as pd
import pytest
from airflow.sdk.execution_time.supervisor import ActivitySubprocess

from tests.e2e.conftest import EXAMPLE, House, Step, until

#: What takes half an hour hangs. The waits have shorter limits, of which a loaded machine may need a few.
pytestmark = pytest.mark.timeout(1800)

#: How many of the example's sources are mapped here, and how many runs there is room for at once.
SOURCES, ROOM = 8, 2

#: Airflow 3.0 fails a task whose process was killed, whatever its retries (docs/airflow.md).
AIRFLOW_RETRIES_A_KILLED_PROCESS = "_should_retry" in {field.name for field in attrs.fields(ActivitySubprocess)}


def test_deferred_run(house: House) -> None:
    """A deferred run shows links and log while it runs, and ends with its id as the result."""
    step = house.trigger("deferred")
    step.wait("deferred")
    run = step.started()
    assert step.instance()["state"] == "deferred"
    base = f"{house.endpoint.url}/_glueray/runs/{run}"
    assert step.links() == {"Glue Ray run": base, "Glue Ray logs": f"{base}/log"}
    until(step.log, lambda log: "e2e: waiting at the gate" in log)
    assert step.states() == ["RUNNING"]
    step.open_gate()
    step.wait("success")
    log = step.log()
    assert log.count("e2e: waiting at the gate") == 1
    assert "e2e: the squares are [0, 1, 4, 9]" in log
    assert "Ended SUCCEEDED: " in log
    assert f"; {run} of e2e_deferred-step" in log
    assert "M-DPU-hours" in log
    assert step.xcom() == run
    assert step.xcom("glueray_usage")["workers"] == 2
    assert step.states() == ["SUCCEEDED"]


def test_mark_failed_while_deferred(house: House) -> None:
    """Marking a deferred task as failed stops its run."""
    step = house.trigger("marked")
    step.wait("deferred")
    step.started()
    step.client_token("failed")
    until(step.states, lambda states: states == ["STOPPED"])
    assert step.instance()["state"] == "failed"


@pytest.mark.full
def test_clear_while_deferred(house: House) -> None:
    """Clearing a deferred task stops its run and starts exactly one new one, which decides the task."""
    step = house.trigger("cleared")
    step.wait("deferred")
    old = step.started()
    step.clear()
    new = step.started(2)
    until(step.states, lambda states: states == ["STOPPED", "RUNNING"])
    step.open_gate()
    step.wait("success")
    assert step.states() == ["STOPPED", "SUCCEEDED"]
    assert step.xcom() == new != old


@pytest.mark.full
def test_clear_of_a_success(house: House) -> None:
    """Clearing a task that has succeeded runs the step again."""
    step = house.trigger("in_worker")
    step.open_gate()
    step.wait("success")
    # On sqlite, which locks no rows, a scheduler that is about to close the DAG run does not see the clear
    # and closes it all the same: the cleared task is then never scheduled.
    until(lambda: step.dag_run()["state"], lambda state: state == "success")
    old = step.xcom()
    step.clear()
    until(step.runs, lambda runs: len(runs) == 2)
    task = until(step.instance, lambda task: task["state"] == "success" and task["try_number"] == 2)
    assert task["state"] == "success"
    assert step.states() == ["SUCCEEDED", "SUCCEEDED"]
    assert step.xcom() == step.runs()[-1]["Id"] != old


@pytest.mark.full
def test_mark_failed_in_worker(house: House) -> None:
    """Marking a task as failed while its worker waits stops its run."""
    step = house.trigger("in_worker")
    step.started()
    assert step.instance()["state"] == "running"
    step.client_token("failed")
    until(step.states, lambda states: states == ["STOPPED"])
    assert step.instance()["state"] == "failed"


@pytest.mark.full
def test_triggerer_dies(house: House) -> None:
    """A new triggerer takes up the run that another has left, killed or stopped in peace."""
    step = house.trigger("deferred")
    step.wait("deferred")
    run = step.started()
    for taken_up, sign in enumerate((signal.SIGKILL, signal.SIGTERM), 1):
        # Each triggerer says so once when it has taken the run up.
        until(step.log, lambda log, count=taken_up: log.count(f"Run is RUNNING; {run}") == count)
        house.end(house.processes("triggerer"), sign)
        house.make_whole()
    until(step.log, lambda log: log.count(f"Run is RUNNING; {run}") == 3)
    assert step.states() == ["RUNNING"]
    step.open_gate()
    task = step.wait("success")
    assert task["try_number"] == 1
    # The one that was killed could not note how far it had read; the one that was stopped could.
    assert step.log().count("e2e: waiting at the gate") <= 2
    assert step.xcom() == run
    assert step.states() == ["SUCCEEDED"]


def test_task_killed(house: House) -> None:
    """A retry takes up the run of a try whose process was killed."""
    step = house.trigger("retried")
    run = step.started()
    house.end([step.process()], signal.SIGKILL)
    if AIRFLOW_RETRIES_A_KILLED_PROCESS:
        _is_taken_up(step, run)
        return
    step.wait("failed")
    step.clear()
    assert step.started(2) != run
    until(step.states, lambda states: states == ["STOPPED", "RUNNING"])


@pytest.mark.full
def test_worker_killed(house: House) -> None:
    """A retry takes up the run of a try that was killed with its worker, which Airflow misses by its heartbeat."""
    step = house.trigger("retried")
    run = step.started()
    house.end([step.process().parent()], signal.SIGKILL)
    _is_taken_up(step, run)


def _is_taken_up(step: Step, run: str) -> None:
    until(step.instance, lambda task: (task["try_number"], task["state"]) == (2, "running"))
    assert step.states() == ["RUNNING"]
    step.open_gate()
    step.wait("success")
    assert f"Reattaching to run {run} of e2e_retried-step of an earlier try" in step.log(2)
    assert step.xcom() == run
    assert step.states() == ["SUCCEEDED"]


@pytest.mark.full
def test_timeout_while_deferred(house: House) -> None:
    """At the operator's own timeout, and at Airflow's, the run is stopped and the task fails."""
    for step in [house.trigger(kind) for kind in ("timed_out", "overdue")]:
        step.wait("failed")
        assert "RunTimedOut" in step.log()
        until(step.states, lambda states: states == ["STOPPED"])


@pytest.mark.full
def test_a_session_does_not_outlive_its_steps(house: House) -> None:
    """A step that is marked as failed while it is deferred ends, and the teardown stops the session."""
    step = house.trigger("session", "session.step")
    step.wait("deferred")
    (session,) = step.sessions()
    statement = {"SessionId": session["Id"], "Id": 0}
    until(lambda: house.glue.get_statement(**statement)["Statement"]["State"], lambda state: state == "RUNNING")
    step.client_token("failed")
    until(lambda: step.sessions()[0]["Status"], lambda status: status == "STOPPED")
    # The triggerer cancels the statement, unless the teardown was faster.
    assert house.glue.get_statement(**statement)["Statement"]["State"] in {"CANCELLED", "ERROR"}
    until(lambda: step.dag_run()["state"], lambda state: state == "failed")
    states = {task["task_id"]: task["state"] for task in step.instances()}
    assert states == {"session.create": "success", "session.step": "failed", "session.stop": "success"}


@pytest.mark.full
def test_a_crowd_shares_its_polls(house: House) -> None:
    """Many deferred runs of one job cost the calls of one, and each of them is told and stopped."""
    house.endpoint.faults(provisioning_seconds=3600, quota_mdpu=1000)
    crowd = house.trigger("crowd")
    size = len(until(crowd.instances))
    until(crowd.instances, lambda tasks: {task["state"] for task in tasks} == {"deferred"})
    assert crowd.states() == ["STARTING"] * size

    # Each waiter has been answered once: from here on all of them wait for the same polls.
    waiters = [crowd.mapped(number) for number in range(size)]
    for waiter in waiters:
        until(waiter.log, lambda log: "Run is STARTING" in log)

    begun = time.monotonic()
    house.endpoint.reset_calls()
    calls = until(house.endpoint.calls, lambda calls: calls.get("GetJobRuns", 0) >= size)
    # A waiter polls once a second. One poll serves whoever waits for it by half, so all of them make at most two a
    # second; by themselves they would make one each. A slow machine makes fewer.
    assert calls["GetJobRuns"] <= 2 * (time.monotonic() - begun) + 2
    assert calls.get("FilterLogEvents", 0) <= 2 * calls["GetJobRuns"] + 4
    assert calls.get("GetJobRun", 0) <= 4

    chosen = {run["Id"]: "SUCCEEDED" for run in crowd.runs()[:3]}
    house.endpoint.faults(force_state=chosen)
    until(lambda: Counter(task["state"] for task in crowd.instances()), lambda seen: seen["success"] == len(chosen))
    crowd.mark_dag_run("failed")
    until(crowd.states, lambda states: Counter(states) == {"SUCCEEDED": len(chosen), "STOPPED": size - len(chosen)})
    assert house.endpoint.calls()["BatchStopJobRun"] == size - len(chosen)


@pytest.mark.full
def test_full_is_not_failed(house: House) -> None:
    """Of two DAG runs of a job that allows one run, the second waits its turn."""
    steps = [house.trigger("alone") for _ in range(2)]
    for step in steps:
        step.wait("deferred")
    assert sorted(len(step.runs()) for step in steps) == [0, 1]
    until(lambda: sum("Waiting for capacity" in step.log() for step in steps), lambda count: count == 1)
    for step in steps:
        step.open_gate()
    for step in steps:
        step.wait("success")
        assert step.states() == ["SUCCEEDED"]
    first, second = sorted((step.runs()[0] for step in steps), key=lambda run: run["StartedOn"])
    assert first["CompletedOn"] <= second["StartedOn"]


@pytest.mark.full
def test_on_a_ray_cluster(house: House) -> None:
    """By another connection: a deferred run shows its log live and ends; one that is marked as failed is stopped."""
    done, marked = steps = house.trigger("on_ray"), house.trigger("on_ray")
    for step in steps:
        step.wait("deferred")
        until(step.log, lambda log: "e2e: waiting at the gate" in log)
    done.open_gate()
    done.wait("success")
    assert "e2e: the squares are [0, 1, 4, 9]" in done.log()
    assert done.xcom() == done.xcom("glueray_run")["id"]
    marked.client_token("failed")
    cluster = house.endpoint.ray()
    address = f"{cluster['dashboard']}/api/jobs/{marked.xcom('glueray_run')['id']}"
    headers = {"Authorization": f"Bearer {cluster['token']}"}
    until(lambda: httpx.get(address, headers=headers).json()["status"], lambda state: state == "STOPPED")
    assert done.runs() == marked.runs() == []


@pytest.mark.full
def test_the_button_of_the_form_for_connections(house: House) -> None:
    """Asks the cluster, in the API server."""
    given = {"connection_id": "tried", **house.endpoint.ray_connection()}
    headers = {"Authorization": f"Bearer {given['password']}"}
    version = httpx.get(f"{given['host']}/api/version", headers=headers).json()["ray_version"]

    assert house.call("POST", "/connections/test", given) == {"status": True, "message": f"Ray {version}"}
    answer = house.call("POST", "/connections/test", {**given, "password": "wrong"})
    assert answer["status"] is False
    assert "token" in answer["message"]


@pytest.fixture
def tables(endpoint: Any) -> None:
    """Lay the sources into S3."""
    command = [str(Path(EXAMPLE).with_name("datasets.py")), "tables", "s3://glueray-local/tables/raw", "--count"]
    subprocess.run([sys.executable, *command, str(SOURCES)], env={**os.environ, **endpoint.env()}, check=True)


@dataclass(frozen=True)
class ExampleRun:
    """A DAG run of the example, with few sources."""

    house: House
    path: str

    @classmethod
    def start(cls, house: House, dag: str) -> ExampleRun:
        """Trigger the DAG."""
        house.call("PATCH", f"/dags/{dag}", {"is_paused": False})
        body = {"logical_date": None, "conf": {"sources": SOURCES}}
        run = house.call("POST", f"/dags/{dag}/dagRuns", body)["dag_run_id"]
        return cls(house, f"/dags/{dag}/dagRuns/{quote(run, safe='')}")

    def tasks(self) -> dict[tuple[str, int], tuple[str, int]]:
        """Return the state and the try of each task instance."""
        tasks = self.house.call("GET", f"{self.path}/taskInstances", limit=100)["task_instances"]
        return {(task["task_id"], task["map_index"]): (task["state"], task["try_number"]) for task in tasks}

    def report(self) -> dict[str, Any]:
        """Wait for the end, as long as something changes; return what the last task reports. No task is tried twice."""
        until(self.tasks, lambda _: self._state() in {"success", "failed"}, moves=True)
        assert self._state() == "success", self.tasks()
        assert {tries for _, tries in self.tasks().values()} == {1}, self.tasks()
        entry = f"{self.path}/taskInstances/report/xcomEntries/return_value"
        return self.house.call("GET", entry)["value"]  # type: ignore[no-any-return]

    def _state(self) -> str:
        return str(self.house.call("GET", self.path)["state"])


def read(house: House, uri: str) -> pd.DataFrame:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return pd.read_parquet(io.BytesIO(house.s3.get_object(Bucket=bucket, Key=key)["Body"].read()))


@pytest.mark.full
def test_hundreds_of_sources_both_ways(house: House, tables: None) -> None:
    """Sources mapped, more than the account has room for: they queue, and not one try fails."""
    # Those that find room keep it until another one has been refused.
    house.endpoint.faults(quota_mdpu=4 * ROOM, provisioning_seconds=3600)
    run = ExampleRun.start(house, "sources_mapped")
    until(house.endpoint.calls, lambda calls: calls.get("StartJobRun", 0) > ROOM)
    assert len(house.glue.get_job_runs(JobName="sources_mapped-profile")["JobRuns"]) == ROOM
    house.endpoint.faults(provisioning_seconds=0)
    mapped = run.report()
    assert house.endpoint.calls()["StartJobRun"] > SOURCES + 1
    assert len(house.glue.get_job_runs(JobName="sources_mapped-profile")["JobRuns"]) == SOURCES

    house.endpoint.reset_calls()
    fanned_out = ExampleRun.start(house, "sources_fanned_out").report()
    assert house.endpoint.calls()["StartJobRun"] == 1

    one, other = read(house, mapped["table"]), read(house, fanned_out["table"])
    assert mapped["columns"] == fanned_out["columns"] == len(one)
    assert one["source"].nunique() == SOURCES
    pd.testing.assert_frame_equal(one, other)
    fishing = one[one["source"] == "COUNT-fishing.csv"].set_index("column")
    assert set(fishing["rows"]) == {147}
    assert list(fishing.index) == ["site", "totabund", "density", "meandepth", "year", "period", "sweptarea"]
    assert (fishing.loc["year", "least"], fishing.loc["year", "greatest"]) == ("1977", "2002")
