"""The sensor through Airflow's real task runner, on the local endpoint."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_glueray.airflow_compat import AirflowFailException
from airflow_provider_glueray.core.runs import RunRef
from airflow_provider_glueray.core.spec import RayJobSpec
from airflow_provider_glueray.hooks.glue.jobs import GlueRayJobHook
from airflow_provider_glueray.sensors.glue_jobs import GlueRayJobSensor


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


@pytest.mark.parametrize("raw", ["SUCCEEDED", "FAILED", "STOPPED", "TIMEOUT", "ERROR", "EXPIRED"])
def test_every_end(connected, hook, dag, make_task, raw):
    """ERROR and EXPIRED, which others wait on for ever, fail."""
    ref = ended(hook, connected, f"ends-{raw}", raw)
    sensor = GlueRayJobSensor(task_id="wait", job_name=ref.name, run_id=ref.id, deferrable=True, dag=dag, retries=2)
    result = make_task(sensor).run_to_end()

    if raw == "SUCCEEDED":
        assert result.xcoms["return_value"] == ref.id
    else:
        assert isinstance(result.error, AirflowFailException)
        assert f"last state {raw}" in str(result.error)


def test_the_latest_run(connected, hook, dag, make_task):
    """Without a run id it is the newest run; a job that has none yet is waited for."""
    define(hook, "latest")
    sensor = GlueRayJobSensor(task_id="wait", job_name="latest", deferrable=True, poke_interval=0.2, dag=dag)
    task = make_task(sensor)
    first = task.run()
    assert "DateTimeTrigger" in first.message.classpath
    ended(hook, connected, "latest", "FAILED")
    newest = ended(hook, connected, "latest", "SUCCEEDED")

    assert task.to_end(first).xcoms["return_value"] == newest.id


def test_a_run_that_is_gone(connected, hook, dag, make_task, set_waits):
    """A run the service does not know is a failure with words, after a little patience, not an endless wait."""
    set_waits(lost=1)
    define(hook, "gone")
    sensor = GlueRayJobSensor(task_id="wait", job_name="gone", run_id="jr_" + "0" * 64, poke_interval=0.2, dag=dag)
    result = make_task(sensor).run()

    assert "is gone" in str(result.error)
