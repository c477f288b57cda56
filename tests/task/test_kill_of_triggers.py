"""A kill of a deferred task below Airflow 3.3, which only cancels its trigger: as it does for other reasons."""

from __future__ import annotations

import asyncio

import pytest

from airflow_provider_glueray.core.runs import RunRef
from airflow_provider_glueray.triggers import runs
from tests.contract.scripts import Script
from tests.runner import run_on
from tests.task.test_life import THEIRS

RUNNING = Script(states=[(0, "RUNNING")])
#: What a task may be when its trigger is cancelled, and whether its run is then nobody's.
STATES = {
    "failed": True,
    "success": True,
    "skipped": True,
    "upstream_failed": True,
    "removed": True,
    None: True,
    "deferred": False,
    "scheduled": False,
    "queued": False,
    "running": False,
    "restarting": False,
    "up_for_retry": False,
    "up_for_reschedule": False,
}


@pytest.fixture(autouse=True)
def older_airflow(monkeypatch):
    monkeypatch.setattr(runs, "has_kill_of_triggers", lambda: False)


@pytest.mark.parametrize("way", ["script, deferred", "notebook, deferred"])
@pytest.mark.parametrize(("state", "is_stopped"), STATES.items())
def test_a_run_is_stopped_if_the_task_is_over_or_cleared(life_of, way, state, is_stopped):
    """Not if the triggerer restarts, or if the trigger moves to another one: the task is as it was."""
    one = life_of(way, RUNNING)
    trigger = one.task.trigger_of(one.task.run())
    one.task.cancel(trigger, state=state)

    assert one.states() == ["STOPPED" if is_stopped else "RUNNING"]


def test_it_goes_on_if_the_task_says_so(life_of):
    """``stop_on_kill=False``."""
    one = life_of("script, deferred", RUNNING, stop_on_kill=False)
    one.task.cancel(one.task.trigger_of(one.task.run()), state="failed")

    assert one.states() == ["RUNNING"]


def test_a_sensor_stops_nothing(life_of):
    """The run is not its own."""
    one = life_of("sensor, deferred", RUNNING)
    one.service.start(THEIRS, "theirs", {})
    one.task.cancel(one.task.trigger_of(one.task.run()), state="failed")

    assert one.states() == ["RUNNING"]


def test_what_outlives_the_run_is_left_alone(life_of):
    """Another triggerer has seen the end of a cell, or that a session is ready, and the task went on with it."""
    one = life_of("script, deferred", Script(states=[(0, "RUNNING"), (10, "SUCCEEDED")]))
    trigger = one.task.trigger_of(one.task.run())
    one.service.script = RUNNING
    trigger.kill = one.service.start(THEIRS, "of the task", {}).to_json()
    one.clock.forward(60)
    trigger.task_instance, one.task.supervisor.state = one.task.instance, "success"
    run_on(one.clock, trigger._stop_if_killed(RunRef.from_json(trigger.run_json)))

    assert one.states() == ["SUCCEEDED", "RUNNING"]


def test_a_triggerer_that_no_longer_answers_is_not_waited_for(life_of, monkeypatch):
    """It is going away, so the run goes on; the question itself is not cancelled."""
    one = life_of("script, deferred", RUNNING)
    trigger = one.task.trigger_of(one.task.run())
    asked = []

    async def asend(supervisor, message):
        asked.append(asyncio.current_task())
        await asyncio.Event().wait()

    monkeypatch.setattr(type(one.task.supervisor), "asend", asend)
    one.task.cancel(trigger, state="failed")

    assert one.states() == ["RUNNING"]
    assert len(asked) == 1
