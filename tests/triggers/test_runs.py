"""The real trigger and hook on the local endpoint; how many share their polls is in ``tests/task/test_crowd.py``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from airflow.sdk.execution_time import comms, task_runner

from airflow_provider_glueray.core.follow import FollowPolicy, Waits
from airflow_provider_glueray.core.logs import LogCursor
from airflow_provider_glueray.core.runs import GLUE_JOB, Outcome
from airflow_provider_glueray.core.spec import RayJobSpec
from airflow_provider_glueray.hooks.glue.jobs import GlueRayJobHook
from airflow_provider_glueray.hooks.glue.logs import GROUPS
from airflow_provider_glueray.hooks.registry import hook_kwargs
from airflow_provider_glueray.triggers import _log_position
from airflow_provider_glueray.triggers._log_position import LogPosition
from airflow_provider_glueray.triggers.runs import GlueRayRunTrigger

HOOK = hook_kwargs(GLUE_JOB, "aws_default", None, None, None)


def trigger(ref, **policy) -> GlueRayRunTrigger:
    """Return the trigger that a deferred operator would hand over."""
    return GlueRayRunTrigger(
        run=ref.to_json(), hook=HOOK, policy=FollowPolicy(**policy).to_json(), cursor=LogCursor().to_json()
    )


async def outcome_of(waiting: GlueRayRunTrigger) -> Outcome:
    """Run a trigger to its event."""
    async for event in waiting.run():
        return Outcome.from_json(event.payload)
    raise AssertionError("no event")


def test_the_links_lead_somewhere(connected, dag, make_task, tmp_path):
    """On the local endpoint a run's links open its fields and its log."""
    from airflow_provider_glueray.operators.glue_jobs import GlueRayJobOperator

    script = tmp_path / "step.py"
    script.write_text("print('seen by whoever clicks')\n")
    step = GlueRayJobOperator(
        task_id="linked", script=script, role="GlueRayRole", staging_uri="s3://glueray-local/code", dag=dag
    )
    xcoms = make_task(step).run().xcoms
    run_page = httpx.get(xcoms["_link_GlueRayRunLink"]).text
    log_page = httpx.get(xcoms["_link_GlueRayLogsLink"]).text

    assert "SUCCEEDED" in run_page
    assert log_page.rstrip().endswith("seen by whoever clicks")
    assert httpx.get(xcoms["_link_GlueRayRunLink"] + "x").status_code == 404


class Comms:
    """Stands for the triggerer's supervisor: keeps the XComs of one task."""

    def __init__(self) -> None:
        self.xcoms: dict[str, Any] = {}

    async def asend(self, message: Any) -> Any:
        """Answer one message of a trigger."""
        if isinstance(message, comms.SetXCom):
            self.xcoms[message.key] = message.value
            return None
        return comms.XComResult(key=message.key, value=self.xcoms.get(message.key))


class Lines:
    """A log that remembers what was shown."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def info(self, message: str, *values: Any) -> None:
        """Remember a record."""
        self.shown.append(message % values)

    def log(self, level: int, message: str, *values: Any) -> None:
        """Leave our own records out."""


def test_a_restarted_triggerer_goes_on_where_the_log_was(connected, monkeypatch):
    """No line twice, none lost: the place in the log outlives the triggerer."""
    # No worker has deferred here, so nobody needs to wait for its end.
    monkeypatch.setenv("AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL", "0")
    connected.faults(provisioning_seconds=600)
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", supervisor := Comms(), raising=False)
    hook = GlueRayJobHook()
    spec = RayJobSpec(name="restarted", script="s3://glueray-local/none.py", role="GlueRayRole")
    hook.ensure_job(spec)
    ref = hook.submit(spec, "m")
    logs = hook._client_for("logs")
    names = {"logGroupName": GROUPS["script"], "logStreamName": f"restarted-{ref.id}"}
    with contextlib.suppress(logs.exceptions.ResourceAlreadyExistsException):
        logs.create_log_group(logGroupName=names["logGroupName"])
    logs.create_log_stream(**names)

    def write(text: str) -> None:
        logs.put_log_events(**names, logEvents=[{"timestamp": int(time.time() * 1000), "message": text}])

    def deferred() -> tuple[GlueRayRunTrigger, Lines]:
        waiting, lines = trigger(ref, poll_interval=1, waits=Waits(worker_end=0)), Lines()
        waiting._log = lines
        waiting.task_instance = SimpleNamespace(dag_id="d", task_id="t", run_id="r", map_index=-1)
        return waiting, lines

    async def until(lines: Lines, count: int) -> None:
        end = time.monotonic() + 20
        while len(lines.shown) < count:  # the log is written to from a place without events
            assert time.monotonic() < end
            await asyncio.sleep(0.05)

    async def play() -> tuple[list[str], list[str], dict[str, Any]]:
        first, before = deferred()
        task = asyncio.create_task(outcome_of(first))
        await asyncio.to_thread(write, "one")
        await until(before, 1)
        await asyncio.to_thread(write, "two")
        await until(before, 2)
        task.cancel()
        await first.cleanup()
        await asyncio.to_thread(write, "three")
        second, after = deferred()
        task = asyncio.create_task(outcome_of(second))
        await until(after, 1)
        await asyncio.to_thread(connected.faults, force_state={ref.id: "SUCCEEDED"})
        await task
        return before.shown, after.shown, supervisor.xcoms

    before, after, xcoms = asyncio.run(play())
    assert before == ["[script] one", "[script] two"]
    assert after == ["[script] three"]
    assert list(xcoms) == ["glueray_log_cursor"]


@pytest.mark.parametrize("since_ms", [0, 5_000])
def test_a_position_is_of_its_run(monkeypatch, since_ms):
    """Whatever a cursor is like, it is accepted for the run that it was saved for, and for no other."""
    kept = {}

    async def keep(key, value, task_instance):
        kept[key] = json.loads(json.dumps(value))

    async def give(key, task_instance):
        return kept.get(key)

    monkeypatch.setattr(_log_position, "set_xcom", keep)
    monkeypatch.setattr(_log_position, "get_xcom", give)
    begin, cursor = LogCursor(since_ms=1_000), LogCursor(since_ms, frozenset({"14/abc/"}))

    async def play(run_id):
        first = LogPosition(object(), "jr_1")
        await first.load(begin)
        await first.advance(cursor)
        await first.save()
        return await LogPosition(object(), run_id).load(begin)

    assert asyncio.run(play("jr_1")) == cursor
    assert asyncio.run(play("jr_2")) == begin
