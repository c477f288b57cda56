"""The life of a run on a real Airflow: scheduler, workers, triggerer and API server, on real Ray."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pandas as pd
import pytest
import ray

from .conftest import EXAMPLE, House, until

#: How many of the example's sources are mapped here.
SOURCES = 24


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
    step.mark("failed")
    until(step.states, lambda states: states == ["STOPPED"], 30)
    assert step.instance()["state"] == "failed"


def test_clear_while_deferred(house: House) -> None:
    """Clearing a deferred task stops its run and starts exactly one new one, which decides the task."""
    step = house.trigger("cleared")
    step.wait("deferred")
    old = step.started()
    step.clear()
    new = step.started(2)
    assert step.states() == ["STOPPED", "RUNNING"]
    step.open_gate()
    step.wait("success")
    assert step.states() == ["STOPPED", "SUCCEEDED"]
    assert step.xcom() == new != old


def test_clear_of_a_success(house: House) -> None:
    """Clearing a task that has succeeded runs the step again."""
    step = house.trigger("in_worker")
    step.open_gate()
    step.wait("success")
    # On sqlite, which locks no rows, a scheduler that is about to close the DAG run does not see the clear
    # and closes it all the same: the cleared task is then never scheduled.
    until(lambda: step.dag_run()["state"], lambda state: state == "success", 30)
    old = step.xcom()
    step.clear()
    until(step.runs, lambda runs: len(runs) == 2)
    task = until(step.instance, lambda task: task["state"] == "success" and task["try_number"] == 2)
    assert task["state"] == "success"
    assert step.states() == ["SUCCEEDED", "SUCCEEDED"]
    assert step.xcom() == step.runs()[-1]["Id"] != old


def test_mark_failed_in_worker(house: House) -> None:
    """Marking a task as failed while its worker waits stops its run."""
    step = house.trigger("in_worker")
    step.started()
    assert step.instance()["state"] == "running"
    step.mark("failed")
    until(step.states, lambda states: states == ["STOPPED"], 30)
    assert step.instance()["state"] == "failed"


def test_triggerer_dies(house: House) -> None:
    """A new triggerer takes up the run that another has left, killed or stopped in peace."""
    step = house.trigger("deferred")
    step.wait("deferred")
    run = step.started()
    for taken_up, sign in enumerate((signal.SIGKILL, signal.SIGTERM), 1):
        # Each triggerer says so once when it has taken the run up.
        until(step.log, lambda log, count=taken_up: log.count(f"Run is RUNNING; {run}") == count)
        house.end(house.triggerers(), sign)
        house.start_triggerer()
    assert step.states() == ["RUNNING"]
    step.open_gate()
    task = step.wait("success")
    assert task["try_number"] == 1
    # The one that was killed could not note how far it had read; the one that was stopped could.
    assert step.log().count("e2e: waiting at the gate") <= 2
    assert step.xcom() == run
    assert step.states() == ["SUCCEEDED"]


def test_worker_killed(house: House) -> None:
    """A retry takes up the run of a try that was killed, the task's process alone or its worker with it."""
    steps = alone, with_worker = house.trigger("retried"), house.trigger("retried")
    runs = [step.started() for step in steps]
    house.end([alone.process()], signal.SIGKILL)
    house.end([with_worker.process().parent()], signal.SIGKILL)
    for step, run in zip(steps, runs, strict=True):
        until(step.instance, lambda task: (task["try_number"], task["state"]) == (2, "running"))
        assert step.states() == ["RUNNING"]
        step.open_gate()
        step.wait("success")
        assert f"Taking up run {run} of e2e_retried-step of an earlier try" in step.log(2)
        assert step.xcom() == run
        assert step.states() == ["SUCCEEDED"]


def test_timeout_while_deferred(house: House) -> None:
    """At the operator's own timeout, and at Airflow's, the run is stopped and the task fails."""
    for step in [house.trigger(kind) for kind in ("timed_out", "overdue")]:
        step.wait("failed")
        assert "RunTimedOut" in step.log()
        until(step.states, lambda states: states == ["STOPPED"], 30)


def test_a_session_does_not_outlive_its_steps(house: House) -> None:
    """A step that is marked as failed while it is deferred ends, and the teardown stops the session."""
    step = house.trigger("session", "session.step")
    step.wait("deferred")
    (session,) = step.sessions()
    statement = {"SessionId": session["Id"], "Id": 0}
    until(lambda: house.glue.get_statement(**statement)["Statement"]["State"], lambda state: state == "RUNNING")
    step.mark("failed")
    until(lambda: step.sessions()[0]["Status"], lambda status: status == "STOPPED")
    # The triggerer cancels the statement, unless the teardown was faster.
    assert house.glue.get_statement(**statement)["Statement"]["State"] in {"CANCELLED", "ERROR"}
    until(lambda: step.dag_run()["state"], lambda state: state == "failed")
    states = {task["task_id"]: task["state"] for task in step.instances()}
    assert states == {"session.create": "success", "session.step": "failed", "session.stop": "success"}


def test_a_crowd_shares_its_polls(house: House) -> None:
    """Many deferred runs of one job cost the calls of one, and each of them is told and stopped."""
    house.endpoint.faults(provisioning_seconds=3600, quota_mdpu=1000)
    crowd = house.trigger("crowd")
    size = len(until(crowd.instances))
    until(crowd.instances, lambda tasks: {task["state"] for task in tasks} == {"deferred"})
    assert crowd.states() == ["STARTING"] * size

    house.endpoint.reset_calls()
    begun = time.monotonic()
    calls = until(house.endpoint.calls, lambda calls: calls.get("GetJobRuns", 0) >= 8)
    # One waiter polls at most once a second; so many who poll for themselves make these calls in half a second.
    assert time.monotonic() - begun > 3
    assert calls["FilterLogEvents"] <= calls["GetJobRuns"] + 4
    assert calls.get("GetJobRun", 0) <= 4

    chosen = {run["Id"]: "SUCCEEDED" for run in crowd.runs()[:3]}
    house.endpoint.faults(force_state=chosen)
    until(lambda: Counter(task["state"] for task in crowd.instances()), lambda seen: seen["success"] == len(chosen))
    crowd.mark_dag_run("failed")
    until(crowd.states, lambda states: Counter(states) == {"SUCCEEDED": len(chosen), "STOPPED": size - len(chosen)}, 30)
    assert house.endpoint.calls()["BatchStopJobRun"] == size - len(chosen)


def test_full_is_not_failed(house: House) -> None:
    """Of two DAG runs of a job that allows one run, the second waits its turn."""
    steps = [house.trigger("alone") for _ in range(2)]
    for step in steps:
        step.wait("deferred")
    assert sorted(len(step.runs()) for step in steps) == [0, 1]
    assert sum("No room yet" in step.log() for step in steps) == 1
    for step in steps:
        step.open_gate()
    for step in steps:
        step.wait("success")
        assert step.states() == ["SUCCEEDED"]
    first, second = sorted((step.runs()[0] for step in steps), key=lambda run: run["StartedOn"])
    assert first["CompletedOn"] <= second["StartedOn"]


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
    marked.mark("failed")
    cluster = house.endpoint.ray()
    address = f"{cluster['dashboard']}/api/jobs/{marked.xcom('glueray_run')['id']}"
    headers = {"Authorization": f"Bearer {cluster['token']}"}
    until(lambda: httpx.get(address, headers=headers).json()["status"], lambda state: state == "STOPPED", 30)
    assert done.runs() == marked.runs() == []


def test_the_button_of_the_form_for_connections(house: House) -> None:
    """Asks the cluster, in the API server."""
    given = {"connection_id": "tried", **house.endpoint.ray_connection()}

    assert house.call("POST", "/connections/test", given) == {"status": True, "message": f"Ray {ray.__version__}"}
    answer = house.call("POST", "/connections/test", {**given, "password": "wrong"})
    assert answer["status"] is False
    assert "token" in answer["message"]


@pytest.fixture
def tables(endpoint: Any) -> None:
    """Lay the sources into S3."""
    command = [str(Path(EXAMPLE).with_name("datasets.py")), "tables", "s3://glueray-local/tables/raw", "--count"]
    subprocess.run([sys.executable, *command, str(SOURCES)], env={**os.environ, **endpoint.env()}, check=True)


def run_dag(house: House, dag: str) -> dict[str, Any]:
    """Run a DAG to its end; return its report."""
    house.call("PATCH", f"/dags/{dag}", {"is_paused": False})
    body = {"logical_date": None, "conf": {"sources": SOURCES}}
    path = f"/dags/{dag}/dagRuns/" + quote(house.call("POST", f"/dags/{dag}/dagRuns", body)["dag_run_id"], safe="")
    ended = until(lambda: house.call("GET", path), lambda run: run["state"] in {"success", "failed"}, 280)
    tasks = house.call("GET", f"{path}/taskInstances", limit=100)["task_instances"]
    states = {(each["task_id"], each["map_index"]): (each["state"], each["try_number"]) for each in tasks}
    assert ended["state"] == "success", states
    assert {tries for _, tries in states.values()} == {1}, states
    return house.call("GET", f"{path}/taskInstances/report/xcomEntries/return_value")["value"]  # type: ignore[no-any-return]


def read(house: House, uri: str) -> pd.DataFrame:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return pd.read_parquet(io.BytesIO(house.s3.get_object(Bucket=bucket, Key=key)["Body"].read()))


def test_hundreds_of_sources_both_ways(house: House, tables: None) -> None:
    """24 sources mapped, where the account has room for three runs: they queue, and not one try fails."""
    house.endpoint.faults(quota_mdpu=12)
    mapped = run_dag(house, "sources_mapped")
    calls = house.endpoint.calls()
    refused = calls["StartJobRun"] - (SOURCES + 1)
    assert refused > 0
    assert len(house.glue.get_job_runs(JobName="sources_mapped-profile")["JobRuns"]) == SOURCES

    house.endpoint.reset_calls()
    fanned_out = run_dag(house, "sources_fanned_out")
    assert house.endpoint.calls()["StartJobRun"] == 1

    one, other = read(house, mapped["table"]), read(house, fanned_out["table"])
    assert mapped["columns"] == fanned_out["columns"] == len(one)
    assert one["source"].nunique() == SOURCES
    pd.testing.assert_frame_equal(one, other)
    titanic = one[one["source"] == "COUNT-titanic.csv"].set_index("column")
    assert set(titanic["rows"]) == {1316}
    assert list(titanic.index) == ["class", "age", "sex", "survived"]
    assert (titanic.loc["class", "least"], titanic.loc["class", "greatest"]) == ("1st class", "3rd class")
