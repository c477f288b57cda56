"""The sensor through Airflow's real task runner, on the local endpoint."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout

from airflow_provider_glueray.hooks.glue_jobs import GlueRayJobHook
from airflow_provider_glueray.runs import RunRef
from airflow_provider_glueray.sensors.glue_jobs import GlueRayJobSensor
from airflow_provider_glueray.spec import RayJobSpec


@pytest.fixture
def hook(connected) -> GlueRayJobHook:
    """Return a hook on the local endpoint."""
    return GlueRayJobHook()


def define(hook: GlueRayJobHook, name: str) -> RayJobSpec:
    """Define a job whose script does not exist: its runs are only ever looked at, or made to end."""
    spec = RayJobSpec(name=name, script="s3://glueray-local/none.py", role="GlueRayRole", max_concurrent_runs=9)
    hook.ensure_job(spec)
    return spec


def ended(hook: GlueRayJobHook, endpoint: Any, name: str, raw: str) -> RunRef:
    """Return a run that has ended in a raw state of our choosing."""
    endpoint.faults(provisioning_seconds=60)
    ref = hook.submit(define(hook, name), "m")
    endpoint.faults(force_state={ref.id: raw})
    while hook.describe([ref])[ref].raw_state != raw:
        pass
    return ref


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize("raw", ["SUCCEEDED", "FAILED", "STOPPED", "TIMEOUT", "ERROR", "EXPIRED"])
def test_every_end(connected, hook, dag, make_task, raw, deferrable):
    """One verdict in both modes. ERROR and EXPIRED, which others wait on for ever, fail."""
    ref = ended(hook, connected, f"ends-{raw}-{deferrable}", raw)
    sensor = GlueRayJobSensor(
        task_id="wait", job_name=ref.name, run_id=ref.id, deferrable=deferrable, dag=dag, retries=2
    )
    result = make_task(sensor).run_to_end()

    if raw == "SUCCEEDED":
        assert result.xcoms["return_value"] == ref.id
    else:
        assert isinstance(result.error, AirflowFailException)
        assert f"last state {raw}" in str(result.error)


@pytest.mark.parametrize("deferrable", [False, True])
def test_the_latest_run(connected, hook, dag, make_task, deferrable):
    """Without a run id it is the newest run; a job that has none yet is waited for."""
    name = f"latest-{deferrable}"
    spec = define(hook, name)
    sensor = GlueRayJobSensor(task_id="wait", job_name=name, deferrable=deferrable, poll_seconds=0.5, dag=dag)
    task = make_task(sensor)
    if deferrable:
        first = task.run()
        assert "DateTimeTrigger" in first.message.classpath
    ended(hook, connected, name, "FAILED")
    newest = ended(hook, connected, name, "SUCCEEDED")
    result = task.resume(first) if deferrable else task.run()
    result = task.resume(result) if deferrable else result

    assert result.xcoms["return_value"] == newest.id
    assert spec.name == newest.name


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_timeout_leaves_the_run_alone(connected, hook, dag, make_task, deferrable):
    """The sensor does not own the run: it gives up and the run goes on."""
    connected.faults(provisioning_seconds=60)
    ref = hook.submit(define(hook, f"slow-{deferrable}"), "m")
    sensor = GlueRayJobSensor(
        task_id="wait", job_name=ref.name, run_id=ref.id, timeout=1, poll_seconds=0.4, deferrable=deferrable, dag=dag
    )
    task = make_task(sensor)
    result = task.run()
    if deferrable:
        assert 0 < result.message.trigger_timeout.total_seconds() <= 1
        result = task.run("__fail__", {"error": "Trigger timeout"})

    assert isinstance(result.error, AirflowSensorTimeout)
    assert hook.describe([ref])[ref].raw_state == "STARTING"
    hook.stop(ref)


@pytest.mark.parametrize("deferrable", [False, True])
def test_soft_fail_skips(connected, hook, dag: DAG, make_task, deferrable):
    """Airflow's own soft_fail holds in both modes."""
    ref = ended(hook, connected, f"soft-{deferrable}", "FAILED")
    sensor = GlueRayJobSensor(
        task_id="wait", job_name=ref.name, run_id=ref.id, soft_fail=True, deferrable=deferrable, dag=dag
    )

    assert make_task(sensor).run_to_end().state == "skipped"


def test_a_failed_look_is_not_a_failed_run(connected, hook, dag, make_task):
    """Throttled or broken polls are tried again."""
    ref = ended(hook, connected, "flaky", "SUCCEEDED")
    connected.faults(error_next={"GetJobRun": ["InternalServiceException", 9]})
    sensor = GlueRayJobSensor(task_id="wait", job_name=ref.name, run_id=ref.id, poll_seconds=0.2, dag=dag)

    assert make_task(sensor).run().xcoms["return_value"] == ref.id


def test_a_run_that_is_gone(connected, hook, dag, make_task, monkeypatch):
    """A run the service does not know is a failure with words, after a little patience, not an endless wait."""
    monkeypatch.setattr("airflow_provider_glueray.sensors.runs.LOST_PATIENCE", 4.0)
    define(hook, "gone")
    sensor = GlueRayJobSensor(task_id="wait", job_name="gone", run_id="jr_" + "0" * 64, poll_seconds=0.5, dag=dag)
    connected.reset_calls()
    result = make_task(sensor).run()

    assert "is gone" in str(result.error)
    assert connected.calls()["GetJobRun"] > 1
