"""The DAG stays, the connection changes: the same tasks at every place, through Airflow's task runner."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

import pytest
from airflow.sdk import Asset, task
from airflow.sdk.exceptions import AirflowFailException
from structlog.testing import capture_logs

from airflow_provider_glueray.errors import FunctionFailed, RunFailed, RunStopped, RunTimedOut
from airflow_provider_glueray.runs import RunRef, RunState
from airflow_provider_glueray.sensors.glue_jobs import GlueRayJobSensor


def until_over(hook: Any, ref: RunRef) -> None:
    end = time.monotonic() + 30
    while not hook.describe([ref])[ref].is_over and time.monotonic() < end:
        time.sleep(0.2)


@pytest.mark.parametrize("deferrable", [False, True])
def test_it_runs(place, make_step, make_task, deferrable):
    """With its arguments, its reports, its links and its usage, in both modes."""
    source = (
        "import os\nfrom glueray_step import report\nprint(os.environ['day'])\n"
        "report('s3://b/out', rows=len(os.environ['day']))\n"
    )
    step = make_step(source, arguments={"day": "{{ ds }}"}, outlets=[Asset("s3://b/out")], deferrable=deferrable)
    result = make_task(step).run_to_end()

    assert result.state == "success", result.error
    assert result.xcoms["glueray_run"]["backend"] == place.backend
    assert result.xcoms["return_value"] == result.xcoms["glueray_run"]["id"]
    assert result.xcoms["glueray_usage"]["seconds"] > 0
    assert result.xcoms["_link_GlueRayRunLink"].startswith("http")
    (event,) = [each for each in result.message.outlet_events if each["extra"]]
    assert event["extra"]["rows"] == 10


@pytest.mark.parametrize("deferrable", [False, True])
def test_it_fails_with_its_traceback(place, make_step, make_task, deferrable):
    result = make_task(make_step("print('before')\nraise ValueError('odd')\n", deferrable=deferrable)).run_to_end()

    assert type(result.error) is RunFailed
    assert "ValueError: odd" in str(result.error)


def test_a_retry_takes_up_the_run(place, make_step, make_task):
    """The worker dies when the run has begun; the next try follows that run, and there is no second one."""
    step = make_step("import time\ntime.sleep(2)\n", retries=1)
    one = make_task(step)
    one.supervisor.die_at("_link_GlueRayRunLink")
    one.run()
    begun = one.supervisor.store["glueray_run"]["run_id"]
    one.supervisor.revive()
    result = one.retry()

    assert result.state == "success", result.error
    assert result.xcoms["return_value"] == begun


def test_a_lost_id_is_found_by_its_mark(place, make_step, make_task):
    """The worker dies before it could note the id."""
    one = make_task(make_step("import time\ntime.sleep(2)\n", retries=1))
    saved = []

    def die(message):
        if getattr(message, "key", "") == "glueray_run" and hasattr(message, "value") and "mark" in message.value:
            saved.append(message.value)
            if len(saved) == 2:
                raise ConnectionError("the worker is gone")

    one.supervisor.before = die
    one.run()
    one.supervisor.revive()
    assert one.supervisor.store["glueray_run"]["run_id"] is None
    result = one.retry()

    assert result.state == "success", result.error
    assert result.xcoms["return_value"] == saved[1]["run_id"]


def test_a_clear_starts_anew_and_stops_the_old(place, make_step, make_task):
    one = make_task(make_step("import time\ntime.sleep(1 if __import__('os').environ['fast'] == 'y' else 120)\n",
                              arguments={"fast": "{{ 'y' if ti.try_number > 1 else 'n' }}"},
                              wait_for_completion=False))  # fmt: skip
    first = one.run().xcoms["return_value"]
    second = one.clear().xcoms["return_value"]

    assert first != second
    hook = one.running.hook
    ref = RunRef(place.backend, f"walk-{one.operator.task_id}", first)
    until_over(hook, ref)
    assert hook.describe([ref])[ref].state is RunState.STOPPED


@pytest.mark.only("glue", "ray", "kuberay", local=True)
def test_what_means_nothing_here_is_said(place, make_step, make_task):
    """The same settings everywhere: one line has those for other backends, one those of another way to wait or ask."""
    kinds = ["glue", "kuberay", "ray"]
    step = make_step("print('hello')\n", overrides={kind: {} for kind in kinds}, verify=True, queue_timeout=60)
    with capture_logs() as logs:
        result = make_task(step).run()

    assert result.state == "success", result.error
    said = [line["event"] % tuple(line.get("positional_args", ())) for line in logs]
    others = ", ".join(kind for kind in kinds if kind != place.name)
    assert f"Runs by {place.backend}; the overrides for {others} have no effect" in said
    idle = {"glue": [], "ray": ["verify, queue_timeout"], "kuberay": ["verify"]}[place.name]
    assert [
        line.partition("no effect: ")[2] for line in said if line.startswith("Runs by") and "no effect:" in line
    ] == idle


@pytest.mark.only("glue")
def test_how_the_service_is_asked_is_no_other_connection(place, make_step, make_task):
    """A retry takes its run up though the settings of the client do not survive JSON, or have changed."""
    config = {"proxies_config": {"proxy_client_cert": ("cert.pem", "key.pem")}}
    step = make_step("import time\ntime.sleep(2)\n", retries=1, botocore_config=config)
    one = make_task(step)
    one.supervisor.die_at("_link_GlueRayRunLink")
    one.run()
    begun = one.supervisor.store["glueray_run"]["run_id"]
    one.supervisor.revive()
    step.verify = False
    result = one.retry()

    assert result.state == "success", result.error
    assert result.xcoms["return_value"] == begun


@pytest.mark.only("glue", "ray", local=True)
def test_the_connection_changes_between_two_tries(place, connected, make_step, make_task, monkeypatch):
    """The run of the first try is stopped where it is, and the second try runs where the connection leads now."""
    is_ray = place.backend == "ray-job"
    elsewhere = connected.airflow_connection() if is_ray else connected.ray_connection()
    monkeypatch.setenv("AIRFLOW_CONN_ELSEWHERE", json.dumps(elsewhere))
    step = make_step(
        "import os, time\ntime.sleep(0 if os.environ['try'] == '2' else 120)\n",
        arguments={"try": "{{ ti.try_number }}"},
        conn_id="{{ 'where' if ti.try_number == 1 else 'elsewhere' }}",
        retries=1,
    )
    one = make_task(step)
    one.supervisor.die_at("_link_GlueRayRunLink")
    one.run()
    old = RunRef(place.backend, f"walk-{step.task_id}", one.supervisor.store["glueray_run"]["run_id"])
    hook = one.running.hook
    one.supervisor.revive()
    result = one.retry()

    assert result.state == "success", result.error
    assert result.xcoms["glueray_run"]["backend"] != place.backend
    until_over(hook, old)
    assert hook.describe([old])[old].state is RunState.STOPPED


@pytest.mark.only("ray", local=True)
def test_the_connection_changes_and_the_old_place_is_gone(place, connected, make_step, make_task, monkeypatch, caplog):
    """That the old run could not be looked for is said, and the task goes on: it was somebody's decision."""
    step = make_step("print('now')\n", retries=1)
    one = make_task(step)
    one.supervisor.store["glueray_run"] = {
        "series": 1, "mark": "m", "name": f"walk-{step.task_id}", "submitted": 1.0, "run_id": "jr_old",
        "backend": "glue-job", "door": {"aws_conn_id": "gone"},
    }  # fmt: skip
    with capture_logs() as logs:
        result = one.run()

    assert result.state == "success", result.error
    assert any("stop it by hand" in line["event"] for line in logs)


def test_a_kill_stops_it(place, make_step, make_task):
    one = make_task(make_step("import time\ntime.sleep(120)\n"))
    one.kill_when(lambda: "glueray_run" in one.supervisor.xcoms)

    assert isinstance(one.run().error, RunStopped)


def test_the_deadline(place, make_step, make_task):
    result = make_task(make_step("import time\ntime.sleep(120)\n", timeout=3)).run()

    assert isinstance(result.error, RunTimedOut)


def test_a_function(place, dag, make_task):
    """Its arguments and its value pass through S3 wherever it runs."""
    import pandas as pd

    def doubled(frame, day):
        return {"frame": frame * 2, "day": day}

    def fails():
        raise KeyError("nothing there")

    given = {"role": place.role, "staging": place.staging, "dag": dag, "conn_id": "where", "deferrable": False}
    step = task.glue_ray(task_id=f"f-{place.name}", **given)(doubled)(pd.DataFrame({"n": [1, 2]}), "x").operator
    result = make_task(step).run()

    assert result.state == "success", result.error
    assert step.hook.storage.load(result.xcoms["return_value"]["frame"])["n"].tolist() == [2, 4]
    failed = make_task(task.glue_ray(task_id=f"g-{place.name}", **given)(fails)().operator).run()
    assert isinstance(failed.error, FunctionFailed)
    assert failed.error.error_name == "KeyError"


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_sensor(place, dag, make_step, make_task, deferrable, fresh):
    step = make_step("import time\ntime.sleep(1)\n", wait_for_completion=False)
    begun = make_task(step).run().xcoms["return_value"]
    sensor = GlueRayJobSensor(
        task_id=f"wait-{fresh()}", job_name=f"walk-{step.task_id}", conn_id="where", deferrable=deferrable,
        poke_interval=1, poll_seconds=1, dag=dag,
    )  # fmt: skip

    assert make_task(sensor).run_to_end().xcoms["return_value"] == begun


@pytest.mark.only("kuberay", local=True)
def test_what_the_rayjob_says(place, make_step, make_task):
    """Whose it is, and how long it may live without us; a killed one stays to be seen, suspended."""
    make_task(make_step("print()", arguments={"day": "{{ ds }}"})).run()
    [rayjob] = place.kubernetes.rayjobs.values()
    assert rayjob["metadata"]["labels"]["glueray/dag"] == "walk"
    assert rayjob["spec"]["activeDeadlineSeconds"] == 48 * 3600

    place.kubernetes.rayjobs.clear()
    one = make_task(make_step("import time\ntime.sleep(120)\n"))
    one.kill_when(lambda: "glueray_run" in one.supervisor.xcoms)
    assert isinstance(one.run().error, RunStopped)
    [rayjob] = place.kubernetes.rayjobs.values()
    assert rayjob["spec"]["suspend"] is True


@pytest.mark.only("glue")
def test_a_connection_that_runs_no_jobs(place, make_step, make_task, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_WHERE", json.dumps({"conn_type": "postgres", "host": "x"}))
    result = make_task(make_step("print()")).run()

    assert isinstance(result.error, AirflowFailException)
    assert "a connection of type 'postgres' runs no Ray jobs; there are aws, ray, kubernetes" in str(result.error)


def test_a_role_is_asked_for_on_glue_only(place, make_step, make_task):
    result = make_task(make_step("print()", role=None)).run()

    if place.backend == "glue-job":
        assert "role=None: AWS Glue runs a job as an IAM role" in str(result.error)
    else:
        assert result.state == "success"


def test_a_deployment_has_a_default():
    """Read when the operators are imported, as Airflow reads its own default of `deferrable`."""
    code = (
        "from airflow_provider_glueray.operators.glue_jobs import GlueRayJobOperator as O\n"
        "from airflow_provider_glueray.sensors.glue_jobs import GlueRayJobSensor as S\n"
        "print(O(task_id='a', script='a.py').conn_id, O(task_id='b', script='a.py', conn_id='mine').conn_id,"
        " S(task_id='c', job_name='j').conn_id)"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **more}
        ).stdout.split()[-3:]
        for more in ({}, {"AIRFLOW__GLUERAY__CONN_ID": "ray_eks"})
    ]

    assert said == [["aws_default", "mine", "aws_default"], ["ray_eks", "mine", "ray_eks"]]
