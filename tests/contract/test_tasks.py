"""The DAG stays, the connection changes: the same tasks at every place, through Airflow's task runner."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from airflow.sdk import Asset, task

from airflow_provider_glueray.airflow_compat import AirflowFailException
from airflow_provider_glueray.core.errors import RunFailed, RunStopped
from tests.runner import capture_logs


def test_it_runs(place, make_step, make_task):
    """With its arguments, its reports, its links and its usage, through the trigger."""
    source = (
        "import os\nfrom glueray_step import report\nprint(os.environ['day'])\n"
        "report('s3://b/out', rows=len(os.environ['day']))\n"
    )
    step = make_step(source, arguments={"day": "{{ ds }}"}, outlets=[Asset("s3://b/out")], deferrable=True)
    result = make_task(step).run_to_end()

    assert result.state == "success", result.error
    assert result.xcoms["glueray_run"]["backend"] == place.backend
    assert result.xcoms["return_value"] == result.xcoms["glueray_run"]["id"]
    assert result.xcoms["glueray_usage"]["seconds"] > 0
    assert result.xcoms["_link_GlueRayRunLink"].startswith("http")
    (event,) = [each for each in result.message.outlet_events if each["extra"]]
    assert event["extra"]["rows"] == 10


def test_it_fails_with_its_traceback(place, make_step, make_task):
    result = make_task(make_step("print('before')\nraise ValueError('odd')\n")).run()

    assert type(result.error) is RunFailed
    assert "ValueError: odd" in str(result.error)


@pytest.mark.only("glue", "ray", "kuberay", local=True)
def test_what_means_nothing_here_is_said(place, make_step, make_task):
    """The same settings everywhere: one line has those for other backends, one those of another way to wait or ask."""
    kinds = ["glue", "kuberay", "ray"]
    given = {"overrides": {kind: {} for kind in kinds}, "verify": True, "queue_timeout": 60}
    step = make_step("print('hello')\n", wait_for_completion=False, **given)
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


def test_a_kill_stops_it(place, make_step, make_task):
    one = make_task(make_step("import time\ntime.sleep(120)\n"))
    one.kill_when(lambda: "glueray_run" in one.supervisor.xcoms)

    assert isinstance(one.run().error, RunStopped)
    if place.kubernetes is not None:  # it stays to be seen
        [rayjob] = place.kubernetes.rayjobs.values()
        assert rayjob["spec"]["suspend"] is True


def test_a_retry_without_the_store_finds_its_run(place, make_step, make_task):
    """By the client token, which it computes; what is there of other DAG runs is not its own."""
    step = make_step("print('once')\n", retries=1)
    before = make_task(step).run()
    one = make_task(step)
    one.supervisor.die_at("_link_GlueRayRunLink")
    begun = one.run().xcoms["glueray_run"]
    one.supervisor.revive()
    one.lose_store()
    result = one.retry()

    assert result.state == "success", result.error
    assert result.xcoms["glueray_run"] == begun != before.xcoms["glueray_run"]


def test_a_function(place, dag, make_task):
    """Its arguments and its value pass through S3 wherever it runs."""
    import pandas as pd

    def doubled(frame, day):
        return {"frame": frame * 2, "day": day}

    given = {"role": place.role, "staging_uri": place.staging_uri, "dag": dag, "conn_id": "where", "deferrable": False}
    step = task.glue_ray(task_id=f"f-{place.name}", **given)(doubled)(pd.DataFrame({"n": [1, 2]}), "x").operator
    result = make_task(step).run()

    assert result.state == "success", result.error
    assert step.hook.storage.load(result.xcoms["return_value"]["frame"])["n"].tolist() == [2, 4]


@pytest.mark.only("kuberay", local=True)
def test_what_the_rayjob_says(place, make_step, make_task):
    """Whose it is, and how long it may live without us."""
    make_task(make_step("print()", arguments={"day": "{{ ds }}"}, wait_for_completion=False)).run()
    [rayjob] = place.kubernetes.rayjobs.values()
    assert rayjob["metadata"]["labels"]["glueray/dag"] == "walk"
    assert rayjob["spec"]["activeDeadlineSeconds"] == 48 * 3600


@pytest.mark.only("glue")
def test_a_connection_that_runs_no_jobs(place, make_step, make_task, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_WHERE", json.dumps({"conn_type": "postgres", "host": "x"}))
    result = make_task(make_step("print()")).run()

    assert isinstance(result.error, AirflowFailException)
    assert "a connection of type 'postgres' runs no Ray jobs; there are aws, ray, kubernetes" in str(result.error)


def test_a_role_is_asked_for_on_glue_only(place, make_step, make_task):
    result = make_task(make_step("print()", role=None, wait_for_completion=False)).run()

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
