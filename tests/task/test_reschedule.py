"""A sensor in mode ``reschedule``: each look is a process of its own, and Airflow empties its XComs in between."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from tests.contract.scripts import Script
from tests.runner import HAS_STORE
from tests.task.test_life import THEIRS

RUNNING = Script(states=[(0, "RUNNING")])
#: Airflow reckons the timeout of this mode by the clock of the machine, not by that of the test.
NEVER = 10**10


@pytest.fixture
def sensor(life_of):
    """Return a sensor that has looked once, for a run that its service does not know."""

    def make(**kwargs):
        one = life_of("sensor", RUNNING, mode="reschedule", timeout=NEVER, **kwargs)
        result = one.task.run()
        assert result.state == "up_for_reschedule", result.error
        one.task.supervisor.first_look = datetime.fromtimestamp(one.clock.now(), timezone.utc)
        return one

    return make


@pytest.mark.parametrize("is_stored", [True, False])
def test_a_lost_run_is_lost_some_time_after_the_first_look(sensor, is_stored):
    """Without the store too, which remembers when that was: a list of runs may lag behind a start, but not for ever."""
    one = sensor(run_id="gone")
    one.clock.forward(5)
    if not is_stored:
        one.task.lose_store()
    assert one.task.poke_again().state == "up_for_reschedule"
    one.clock.forward(600)
    if not is_stored:
        one.task.lose_store()
    result = one.task.poke_again()

    assert result.state == "failed"
    assert "LOST" in str(result.error)


@pytest.mark.parametrize("is_stored", [True, False])
def test_the_newest_run_is_chosen_once_where_the_store_remembers_it(sensor, is_stored):
    """Without the store, by each look."""
    one = sensor()
    first = one.service.start(THEIRS, "first", {})
    assert one.task.poke_again().state == "up_for_reschedule"
    if not is_stored:
        one.task.lose_store()
    second = one.service.start(THEIRS, "second", {})
    chosen = first if is_stored and HAS_STORE else second
    assert one.task.poke_again().xcoms["_link_GlueRayRunLink"].endswith(chosen.id)
