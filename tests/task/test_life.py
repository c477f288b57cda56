"""The life of a run, whoever writes the step and whoever waits for it: each scene in each way, on the scripted backend.

The table says which scene is played in which way; `pytest_generate_tests` obeys it. The clock is the test's, so a scene
of hours takes milliseconds.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from airflow.sdk import Asset
from airflow.sdk.bases.sensor import AirflowSensorTimeout

from airflow_provider_glueray.airflow_compat import AirflowFailException
from airflow_provider_glueray.core.errors import (
    CapacityExceeded,
    RunFailed,
    RunLost,
    RunStopped,
    RunTimedOut,
    StatementFailed,
    StopError,
    SubmitError,
    SubmitOutcomeUnknown,
)
from airflow_provider_glueray.core.spec import RayJobSpec
from tests.contract.scripted import BACKEND, Service
from tests.contract.scripts import Script
from tests.runner import HAS_STORE, serialize, stored_id
from tests.task.conftest import SENSORS, WAYS, WorkerDied

#: Which scenes are played in which way. x: in the worker; d: deferred.
TABLE = """
scene                                                  script  mapped  function  notebook  sensor
a_run_succeeds                                         xd      xd      xd        xd        xd
its_links_are_there_while_it_runs                      xd      xd      xd        xd        xd
its_log_is_shown_once_and_in_order                     xd      xd      xd        xd        -
a_failed_read_is_not_the_end_of_its_log                xd      xd      xd        xd        -
its_reports_become_asset_events                        xd      xd      xd        -         -
nobody_waits_for_it                                    xd      xd      -         -         -
a_run_fails                                            xd      xd      xd        xd        xd
every_other_end_is_a_failure                           xd      xd      xd        xd        xd
a_retry_after_a_failure_starts_anew                    xd      xd      xd        xd        -
no_verdict_while_something_of_it_may_run               xd      xd      xd        xd        -
a_retry_waits_until_nothing_of_it_can_run              xd      xd      xd        xd        -
a_retry_takes_up_the_run_of_a_dead_worker              x       x       x         x         -
a_retry_takes_up_what_the_triggerer_lost               d       d       d         d         -
a_retry_finds_a_run_whose_id_was_never_stored          xd      xd      xd        xd        -
a_retry_finds_a_run_whose_start_had_no_answer          xd      xd      xd        xd        -
a_retry_waits_for_a_list_that_lags                     xd      xd      xd        xd        -
a_retry_looks_again_when_it_could_not_look             xd      xd      xd        xd        -
a_retry_takes_the_run_that_ended_meanwhile             xd      xd      xd        xd        -
a_retry_without_the_store_finds_the_run                xd      xd      xd        xd        -
a_retry_without_the_store_takes_the_run_that_ended     xd      xd      xd        xd        -
a_retry_without_the_store_after_a_failure_starts_anew  xd      xd      xd        xd        -
a_clear_without_the_store_stops_the_run                xd      xd      xd        xd        -
a_clear_without_the_store_starts_another               xd      xd      xd        xd        -
other_retries_do_not_hide_an_active_run                xd      xd      -         -         -
other_retries_and_a_run_that_ended_start_another       xd      xd      -         -         -
a_try_begun_again_after_a_failure_starts_another       xd      xd      xd        xd        -
a_dag_run_made_anew_starts_another                     xd      xd      xd        xd        -
an_old_result_is_not_taken_for_that_of_a_new_run       -       -       xd        xd        -
a_clear_stops_the_run_and_starts_another               xd      xd      xd        xd        -
a_clear_after_a_success_starts_another                 xd      xd      xd        xd        -
a_clear_after_a_failure_starts_another                 xd      xd      xd        xd        -
another_connection_stops_the_run_and_starts_another    xd      xd      xd        xd        -
the_old_connection_is_gone                             xd      xd      xd        xd        -
there_is_no_room_for_a_while                           xd      xd      xd        xd        -
preparing_is_throttled_for_a_while                     xd      xd      xd        xd        -
no_room_but_for_the_run_it_has_started_itself          x       x       x         x         -
there_is_no_room_in_time                               xd      xd      xd        xd        -
a_retry_queues_anew                                    xd      xd      xd        xd        -
a_kill_stops_it                                        x       x       x         x         -
a_kill_of_the_deferred_task_stops_it                   d       d       d         d         -
a_kill_stops_nothing_if_the_task_says_so               xd      xd      xd        xd        -
a_restart_of_the_triggerer_stops_nothing               d       d       d         d         d
a_kill_while_there_is_no_room_starts_nothing           x       x       x         x         -
a_kill_before_the_answer_stops_it                      xd      xd      xd        xd        -
the_deadline_stops_it                                  xd      xd      xd        xd        -
the_deadline_is_that_of_the_first_start                x       x       x         x         -
a_stop_without_effect_is_asked_for_again               xd      xd      xd        xd        -
a_run_that_cannot_be_stopped_is_left_in_the_end        xd      xd      xd        xd        -
the_deferral_times_out                                 d       d       d         d         d
the_trigger_breaks                                     d       d       d         d         -
it_is_lost                                             xd      xd      xd        xd        xd
polls_fail_for_a_while                                 xd      xd      xd        xd        xd
its_log_cannot_be_read                                 xd      xd      xd        xd        -
the_last_try_fails_for_another_reason                  xd      xd      xd        xd        -
a_last_start_without_an_answer_is_stopped              xd      xd      xd        xd        -
a_last_run_that_cannot_be_noted_is_stopped             xd      xd      xd        xd        -
a_success_seen_late_is_a_success                       d       d       d         d         -
what_airflow_cannot_store_harms_nothing                xd      xd      xd        xd        -
a_try_that_is_retried_leaves_its_run                   xd      xd      xd        xd        -
what_it_used_is_told                                   xd      xd      xd        xd        xd
the_newest_run_is_waited_for                           -       -       -         -         xd
there_is_no_run_yet                                    -       -       -         -         xd
a_timeout_leaves_the_run_alone                         -       -       -         -         xd
a_soft_fail_skips                                      -       -       -         -         xd
"""


def rows() -> dict[str, list[str]]:
    """Read the table: each scene with its ways."""
    head, *lines = (line.split() for line in TABLE.strip().splitlines())
    modes = {"x": "", "d": ", deferred"}
    return {
        scene: [f"{way}{modes[mode]}" for way, cell in zip(head[1:], cells, strict=True) for mode in cell.strip("-")]
        for scene, *cells in lines
    }


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Play a scene in the ways of its row."""
    if "way" in metafunc.fixturenames:
        metafunc.parametrize("way", rows()[metafunc.function.__name__.removeprefix("test_")])


def test_the_table_is_whole(request: pytest.FixtureRequest) -> None:
    """Each row has its scene, each scene its row, and the ways are those there are."""
    scenes = {name.removeprefix("test_") for name in vars(request.module) if name.startswith("test_")}
    assert scenes - {"the_table_is_whole"} == set(rows())
    assert {way for ways in rows().values() for way in ways} == {*WAYS, *SENSORS}


@pytest.fixture
def life(way, life_of):
    """Return a task in one of the ways; a sensor's run is there already."""

    def make(script: Script | None = None, **kwargs: Any) -> Any:
        made = life_of(way, script, **kwargs)
        if way in SENSORS:
            made.service.start(THEIRS, "somebody", {})
        return made

    return make


#: The job of somebody else, which sensors wait for.
THEIRS = RayJobSpec(name="theirs", script="s3://scripted/theirs.py")
RUNNING = Script(states=[(0, "RUNNING")])
FAILING = Script(
    states=[(0, "RUNNING"), (10, "FAILED")],
    lines=[(9, "Traceback (most recent call last):"), (9, '  File "step.py", line 1'), (9, "ValueError: odd")],
    message="exit code 1",
)


def test_a_run_succeeds(life, way):
    """Its result is the XCom of the task, and which run it was stands beside it."""
    one = life()
    result = one.run()

    assert result.state == "success", result.error
    assert one.states() == ["SUCCEEDED"]
    values = {"script": "run-1", "mapped": "run-1", "function": "value of run-1", "sensor": "run-1"}
    if way.startswith("notebook"):
        assert result.xcoms["glueray_value"] == "value of run-1"
        assert result.xcoms["return_value"].endswith("out.ipynb")
    else:
        assert result.xcoms["return_value"] == values[way.partition(",")[0]]
    if way not in SENSORS:
        assert result.xcoms["glueray_run"] == {"backend": BACKEND, "name": "walk-step", "id": "run-1"}
        assert one.service.calls["start"] == 1


def test_its_links_are_there_while_it_runs(life):
    """They are pushed before anything is waited for."""
    one = life(RUNNING)
    if one.is_deferred:
        xcoms = one.task.run().xcoms
    else:
        one.dies_after(20)
        xcoms = one.task.run().xcoms

    assert xcoms["_link_GlueRayRunLink"] == "https://scripted.invalid/run-1"
    assert xcoms["_link_GlueRayLogsLink"] == "https://scripted.invalid/run-1/log"


def test_its_log_is_shown_once_and_in_order(life):
    """Also what comes a moment after the end."""
    lines = [(1, "one"), (4, "two"), (4, "three"), (9, "four"), (10, "the last")]
    one = life(Script(lines=lines))
    one.run()

    shown = [line.removeprefix("[script] ") for line in one.said().splitlines() if line.startswith("[script] ")]
    assert shown == ["one", "two", "three", "four", "the last"]


def test_a_failed_read_is_not_the_end_of_its_log(life):
    """The last line comes with the end, and the service cannot hand it over at first."""
    one = life(Script(lines=[(1, "one"), (10, "the last")]))
    one.clock.at(9, lambda: one.service.errors.update(read_logs=[SubmitError("not now")] * 8))
    one.run()

    shown = [line.removeprefix("[script] ") for line in one.said().splitlines() if line.startswith("[script] ")]
    assert shown == ["one", "the last"]

    one = life(Script(lines=[(1, "one"), (10, "the last")]))
    one.clock.at(9, lambda: one.service.errors.update(read_logs=[SubmitError("never again")] * 1000))
    assert one.run().state == "success"
    assert "The end of the log could not be read for 60 seconds" in one.said()


def test_its_reports_become_asset_events(life):
    """Those of all outlets, with the run."""
    report = 'glueray-report: {"asset": "s3://b/out", "rows": 10}'
    one = life(Script(lines=[(3, report)]), outlets=[Asset("s3://b/out")])
    result = one.run()

    (event,) = [each for each in result.message.outlet_events if each["extra"]]
    assert event["extra"] == {"rows": 10, "glueray_run": "run-1"}


def test_nobody_waits_for_it(life):
    """The id is the result as soon as the service has answered, deferrable or not."""
    one = life(RUNNING, wait_for_completion=False)
    result = one.run()

    assert (result.state, result.xcoms["return_value"]) == ("success", "run-1")
    assert one.states() == ["RUNNING"]


def failure_in(way: str) -> type[Exception]:
    """Return how a task says that the script raised."""
    return StatementFailed if way.startswith("notebook") else RunFailed


def test_a_run_fails(life, way):
    """The end of the traceback is in the exception; a step may be retried, a sensor cannot change it."""
    one = life(FAILING, retries=1)
    result = one.run()

    assert "ValueError: odd" in str(result.error) or way in SENSORS
    if way in SENSORS:
        assert isinstance(result.error, AirflowFailException)
        assert "exit code 1" in str(result.error)
    else:
        assert isinstance(result.error, failure_in(way))
        assert result.state == "up_for_retry"


def test_every_other_end_is_a_failure(life, way):
    """No state but one counts as a success."""
    kinds = {"STOPPED": RunStopped, "TIMEOUT": RunTimedOut, "ERROR": RunFailed, "EXPIRED": RunFailed}
    for raw, kind in kinds.items():
        one = life(Script(states=[(0, "RUNNING"), (5, raw)]))
        result = one.run()

        assert result.state == "failed"
        assert isinstance(result.error, AirflowFailException if way in SENSORS else kind), (raw, result.error)
        assert f"last state {raw}" in str(result.error)


def test_a_retry_after_a_failure_starts_anew(life):
    """What failed is done again."""
    one = life(FAILING, retries=1)
    one.run()
    one.service.script = Script()
    result = one.retry()

    assert result.state == "success", result.error
    assert one.states() == ["FAILED", "SUCCEEDED"]


def test_no_verdict_while_something_of_it_may_run(life):
    """What it holds is taken away, and the task fails when that is gone."""
    one = life(replace(FAILING, holds=40.0))
    result = one.run()
    [run] = one.service.runs.values()

    assert result.state == "failed"
    assert run.stopped is not None
    assert one.clock.now() >= run.stopped + 40


def test_a_retry_waits_until_nothing_of_it_can_run(life, way):
    """Nobody saw it fail, for its worker or its trigger was lost; the new run begins when the old one holds nothing."""
    one = life(replace(FAILING, holds=40.0), retries=1)
    if way.endswith("deferred"):
        assert one.task.run().state == "deferred"
    else:
        one.dies_after(5)
        assert isinstance(one.run().error, WorkerDied)
    one.clock.forward(100)
    one.service.script = Script()
    result = one.retry()
    old, new = one.service.runs.values()

    assert result.state == "success", result.error
    assert old.stopped is not None
    assert new.began >= old.stopped + 40


def test_a_retry_takes_up_the_run_of_a_dead_worker(life):
    """Killed while it polls."""
    one = life(Script(states=[(0, "RUNNING"), (100, "SUCCEEDED")]), retries=1)
    one.dies_after(30)
    assert isinstance(one.run().error, WorkerDied)
    result = one.retry()

    assert result.state == "success", result.error
    assert one.states() == ["SUCCEEDED"]
    assert "Reattaching to" in one.said()


def test_a_retry_takes_up_what_the_triggerer_lost(life):
    """The deferred task is failed by Airflow, for a heartbeat that was missed, and tried again."""
    one = life(Script(states=[(0, "RUNNING"), (100, "SUCCEEDED")]), retries=1)
    assert one.task.run().state == "deferred"
    one.clock.forward(50)
    result = one.retry()

    assert result.state == "success", result.error
    assert one.states() == ["SUCCEEDED"]


def test_a_retry_finds_a_run_whose_id_was_never_stored(life):
    """The worker dies between the answer and the record of it."""
    one = life(retries=1)
    one.dies_at_message(stored_id)
    assert isinstance(one.run().error, WorkerDied)
    result = one.retry()

    assert result.state == "success", result.error
    assert one.states() == ["SUCCEEDED"]


def test_a_retry_finds_a_run_whose_start_had_no_answer(life):
    """Whatever became of the answer, the run is there."""
    one = life(retries=1)
    one.service.lost_answers = 1
    assert isinstance(one.run().error, SubmitOutcomeUnknown)
    result = one.retry()

    assert result.state == "success", result.error
    assert one.states() == ["SUCCEEDED"]


@pytest.mark.parametrize("answered", [True, False])
def test_a_retry_waits_for_a_list_that_lags(life, answered):
    """Behind a start, whether that was answered or not: not to be seen yet is not never started."""
    one = life(retries=1)
    one.service.lag = 20
    if answered:
        one.dies_at_message(lambda message: getattr(message, "key", "") == "glueray_run")
    one.service.lost_answers = 0 if answered else 1
    one.run()
    result = one.retry()

    assert result.state == "success", result.error
    assert one.states() == ["SUCCEEDED"]


def test_a_retry_looks_again_when_it_could_not_look(life):
    """Throttling is no answer."""
    one = life(Script(states=[(0, "RUNNING"), (60, "SUCCEEDED")]), retries=1)
    one.dies_at_message(stored_id)
    one.run()
    one.service.errors["find_runs"] = [SubmitError("Rate exceeded")] * 3
    one.service.errors["describe"] = [SubmitError("Rate exceeded")] * 3
    result = one.retry()

    assert result.state == "success", result.error
    assert one.states() == ["SUCCEEDED"]


def test_a_retry_takes_the_run_that_ended_meanwhile(life):
    """It is not run again."""
    one = life(retries=1)
    one.dies_at_message(stored_id)
    one.run()
    one.clock.forward(3600)
    result = one.retry()

    assert result.state == "success", result.error
    assert one.states() == ["SUCCEEDED"]


LONG = Script(states=[(0, "RUNNING"), (100, "SUCCEEDED")])


def dies(one) -> None:
    """Let the worker, or the triggerer, die while the run goes on."""
    if one.is_deferred:
        assert one.task.run().state == "deferred"
        one.clock.forward(20)
    else:
        one.dies_after(20)
        assert isinstance(one.run().error, WorkerDied)


def test_a_retry_without_the_store_finds_the_run(life):
    """Its client token can be computed by whoever knows the task; also two tries later."""
    for tries in (1, 2):
        one = life(LONG, retries=2)
        dies(one)
        one.task.lose_store()
        one.task.try_number += tries - 1
        result = one.retry()

        assert result.state == "success", result.error
        assert one.states() == ["SUCCEEDED"]


def test_a_retry_without_the_store_takes_the_run_that_ended(life):
    """It is not run again."""
    one = life(LONG, retries=1)
    dies(one)
    one.task.lose_store()
    one.clock.forward(3600)
    result = one.retry()

    assert result.state == "success", result.error
    assert one.states() == ["SUCCEEDED"]


def test_a_retry_without_the_store_after_a_failure_starts_anew(life):
    """Each run has a client token of its own."""
    one = life(FAILING, retries=2)
    assert one.run().state == "up_for_retry"
    one.task.lose_store()
    assert one.retry().state == "up_for_retry"
    one.task.lose_store()
    one.service.script = Script()
    result = one.retry()

    assert result.state == "success", result.error
    assert one.states() == ["FAILED", "FAILED", "SUCCEEDED"]
    assert len({run.token for run in one.service.runs.values()}) == 3


def test_a_clear_without_the_store_stops_the_run(life):
    """Of the try before, or of one long before."""
    for clears in (1, 2):
        one = life(RUNNING, retries=1)
        dies(one)
        one.task.lose_store()
        for _ in range(clears - 1):
            one.task.max_tries = one.task.try_number + 1
            one.task.try_number += 1
        one.service.script = Script()
        result = one.clear()

        assert result.state == "success", result.error
        assert one.states() == ["STOPPED", "SUCCEEDED"]


def test_a_clear_without_the_store_starts_another(life):
    """The result of before the clear is not taken for the new one."""
    one = life()
    one.run()
    one.task.lose_store()
    result = one.clear()

    assert result.state == "success", result.error
    assert one.states() == ["SUCCEEDED", "SUCCEEDED"]
    assert result.xcoms["glueray_run"]["id"] == "run-2"


@pytest.mark.parametrize("is_stored", [True, False])
@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (1, 0), (2, 9), (9, 2), (0, 1)])
def test_other_retries_do_not_hide_an_active_run(life, before, after, is_stored):
    """Somebody edits the DAG file between two tries; no second run stands beside the first."""
    one = life(LONG, retries=before)
    dies(one)
    one.task.operator.retries = after
    if not is_stored:
        one.task.lose_store()
    result = one.retry()

    assert result.state == "success", result.error
    # Without the store, one retry less looks like a clear.
    is_certain = (is_stored and HAS_STORE) or before - after != 1
    assert one.states() == (["SUCCEEDED"] if is_certain else ["STOPPED", "SUCCEEDED"])


def test_other_retries_and_a_run_that_ended_start_another(life):
    """A clear in between cannot be ruled out, and a result of before a clear is not wanted."""
    one = life(LONG, retries=1)
    dies(one)
    one.clock.forward(3600)
    one.task.operator.retries = 3
    result = one.retry()

    assert result.state == "success", result.error
    assert one.states() == ["SUCCEEDED", "SUCCEEDED"]


def test_a_try_begun_again_after_a_failure_starts_another(life):
    """Its second run has a client token of its own: Ray and Kubernetes take a name once."""
    one = life(FAILING)
    one.run()
    one.service.script = Script()
    result = one.run()

    assert result.state == "success", result.error
    assert len({run.token for run in one.service.runs.values()}) == 2


def test_a_dag_run_made_anew_starts_another(life):
    """It has the id, and the try numbers, of one that was deleted; the result of that is not its own."""
    one = life()
    one.run()
    one.task.lose_store()
    one.clock.forward(3600)
    one.task.dag_run_start = None
    result = one.run()

    assert result.state == "success", result.error
    assert one.states() == ["SUCCEEDED", "SUCCEEDED"]
    assert len({run.token for run in one.service.runs.values()}) == 2


def test_an_old_result_is_not_taken_for_that_of_a_new_run(life):
    """The service has forgotten the run of the DAG run that was deleted; its files are there, at the same place."""
    one = life()
    assert one.run().state == "success"
    one.task.lose_store()
    one.service.runs.clear()
    one.service.work = lambda run: None
    result = one.run()

    assert result.state == "failed"
    assert str(result.error).startswith("ResultMissing")


def test_a_clear_stops_the_run_and_starts_another(life):
    """Its result is not wanted any more."""
    one = life(RUNNING, retries=1)
    if one.is_deferred:
        one.task.run()
    else:
        one.dies_after(20)
        one.run()
    one.service.script = Script()
    result = one.clear()

    assert result.state == "success", result.error
    assert one.states() == ["STOPPED", "SUCCEEDED"]


def test_a_clear_after_a_success_starts_another(life):
    """Airflow keeps what the task has stored; the result in it is not taken for the new one."""
    one = life()
    one.run()
    result = one.clear()

    assert result.state == "success", result.error
    assert one.states() == ["SUCCEEDED", "SUCCEEDED"]
    assert result.xcoms["glueray_run"]["id"] == "run-2"


def test_a_clear_after_a_failure_starts_another(life):
    """As a retry does."""
    one = life(FAILING)
    one.run()
    one.service.script = Script()

    assert one.clear().state == "success"
    assert one.states() == ["FAILED", "SUCCEEDED"]


def test_another_connection_stops_the_run_and_starts_another(life, connect):
    """The run of the first try is stopped where it is."""
    one = life(RUNNING, retries=1, conn_id="{{ 'scripted' if ti.try_number == 1 else 'elsewhere' }}")
    there = Service(one.clock, Script(), work=one.service.work, files=one.service.files)
    connect("elsewhere", there)
    one.dies_at_message(stored_id) if not one.is_deferred else None
    one.task.run()
    result = one.retry()

    assert result.state == "success", result.error
    assert there.states() == ["SUCCEEDED"]
    # Without a store that outlives a try, nobody knows of the connection before.
    assert one.states() == ["STOPPED" if HAS_STORE else "RUNNING"]
    assert ("The connection was changed" in one.said()) is HAS_STORE


def test_the_old_connection_is_gone(life):
    """That the old run could not be looked for is said, and the task goes on: it was somebody's decision."""
    one = life(retries=1)
    one.task.supervisor.store["glueray_run"] = {
        "first_try": 1, "client_token": "m", "name": "walk-step", "submitted": 1.0, "run_id": "run-0",
        "backend": BACKEND, "connection": {"conn_id": "gone"},
    }  # fmt: skip
    result = one.run()

    assert result.state == "success", result.error
    assert ("stop it by hand" in one.said()) is HAS_STORE


def test_there_is_no_room_for_a_while(life):
    """Full is not failed: the task waits, and the run is started once there is room."""
    one = life()
    one.service.errors["start"] = [CapacityExceeded("no room")] * 4
    before = one.clock.seconds
    result = one.run()

    assert result.state == "success", result.error
    assert one.states() == ["SUCCEEDED"]
    assert one.service.calls["start"] == 5
    assert one.clock.seconds - before > 10


def test_preparing_is_throttled_for_a_while(life):
    """Neither that, nor a look for runs of before, is a failure."""
    one = life()
    one.service.errors["prepare"] = [CapacityExceeded("Rate exceeded")] * 3
    one.service.errors["find_runs"] = [CapacityExceeded("Rate exceeded")] * 3
    result = one.run()

    assert result.state == "success", result.error
    assert one.states() == ["SUCCEEDED"]


def test_no_room_but_for_the_run_it_has_started_itself(life):
    """The answer was lost, the look for it was throttled: it is looked for again before a second one is started."""
    one = life(queue_timeout=600)
    accept, one.service.room = one.service.start, 1

    def start(*given):
        one.service.start = accept
        accept(*given)
        one.service.errors["find_runs"] = [CapacityExceeded("Rate exceeded"), SubmitError("InternalServiceException")]
        raise CapacityExceeded("Rate exceeded")

    one.service.start = start
    result = one.run()

    assert result.state == "success", result.error
    assert one.states() == ["SUCCEEDED"]
    assert one.service.calls["start"] == 1


def test_there_is_no_room_in_time(life):
    """The error says how long it waited, and what the run needs."""
    one = life(queue_timeout=100)
    one.service.room = 0
    result = one.run()

    assert isinstance(result.error, CapacityExceeded)
    assert "of 100 s (queue_timeout) for capacity" in str(result.error)
    assert "workers" in str(result.error)
    assert one.states() == []


def test_a_retry_queues_anew(life):
    """The patience of the next try is whole again."""
    one = life(queue_timeout=100, retries=1)
    one.service.room = 0
    assert one.run().state == "up_for_retry"
    one.clock.at(60, lambda: setattr(one.service, "room", 1))

    assert one.retry().state == "success"


def test_a_kill_stops_it(life):
    """Marked as failed while the worker waits."""
    one = life(RUNNING)
    one.killed_after(30)
    result = one.run()

    assert isinstance(result.error, RunStopped)
    assert one.states() == ["STOPPED"]


def test_a_kill_of_the_deferred_task_stops_it(life):
    """Airflow tells the trigger, and no worker."""
    one = life(RUNNING)
    one.on_kill_of(one.task.run())

    assert one.states() == ["STOPPED"]


def test_a_kill_stops_nothing_if_the_task_says_so(life):
    """With ``stop_on_kill=False`` the run goes on; a clear stops it all the same."""
    one = life(RUNNING, retries=1, stop_on_kill=False)
    if one.is_deferred:
        one.on_kill_of(one.task.run())
    else:
        one.killed_after(30)
        one.dies_after(35)
        one.run()
    assert one.states() == ["RUNNING"]
    one.service.script = Script()
    result = one.clear()

    assert (result.state, one.states()) == ("success", ["STOPPED", "SUCCEEDED"])


def test_a_restart_of_the_triggerer_stops_nothing(life):
    """The trigger is told to clean up, and comes back elsewhere."""
    one = life(Script(states=[(0, "RUNNING"), (50, "SUCCEEDED")]))
    deferred = one.task.run()
    asyncio.run(one.task.trigger_of(deferred).cleanup())

    assert one.states() == ["RUNNING"]
    assert one.task.to_end(deferred).state == "success"


def test_a_kill_while_there_is_no_room_starts_nothing(life):
    """Between the kill and the death of the process there is time enough to start a run."""
    one = life()
    one.service.errors["start"] = [CapacityExceeded("no room")]
    one.killed_after(0.1)
    result = one.run()

    assert isinstance(result.error, StopError)
    assert one.states() == []


def test_a_kill_before_the_answer_stops_it(life):
    """It is found by its token."""
    one = life(RUNNING)
    work = one.service.work

    def kill(run: Any) -> None:
        work(run)
        one.task.running.on_kill()

    one.service.work = kill
    result = one.run()

    assert isinstance(result.error, RunStopped)
    assert one.states() == ["STOPPED"]


def test_the_deadline_stops_it(life):
    """And the task fails, because it took too long."""
    one = life(RUNNING, run_timeout=600)
    before = one.clock.seconds
    result = one.run()

    assert isinstance(result.error, RunTimedOut)
    assert one.states() == ["STOPPED"]
    assert 600 <= one.clock.seconds - before < 700


def test_the_deadline_is_that_of_the_first_start(life):
    """A retry that takes the run up gives it no more time."""
    one = life(RUNNING, run_timeout=600, retries=1)
    before = one.clock.seconds
    one.dies_after(500)
    one.run()
    result = one.retry()

    assert isinstance(result.error, RunTimedOut)
    assert 600 <= one.clock.seconds - before < 700


def deaf(one: Any) -> None:
    """Let the service hear no stop."""
    one.service.errors["stop"] = [SubmitError("not now")] * 3


def test_a_stop_without_effect_is_asked_for_again(life):
    """A service that refuses it for now is asked once more."""
    one = life(RUNNING, run_timeout=600)
    deaf(one)
    result = one.run()

    assert isinstance(result.error, RunTimedOut)
    assert one.states() == ["STOPPED"]
    assert one.service.calls["stop"] == 4


def test_a_run_that_cannot_be_stopped_is_left_in_the_end(life):
    """Nobody waits for ever; the log says what may still run."""
    one = life(RUNNING, run_timeout=600)
    one.service.errors["stop"] = [SubmitError("never")] * 1000
    result = one.run()

    assert isinstance(result.error, RunTimedOut)
    assert "Could not stop run run-1, trying again: never" in one.said()
    assert one.said().count("The deadline of run run-1 has passed") == 1
    assert one.states() == ["RUNNING"]


def test_the_deferral_times_out(life, way):
    """Airflow resumes the task in words of its own: the run of a step is stopped, that of others is not."""
    one = life(RUNNING)
    one.task.run()
    result = one.task.run("__fail__", serialize({"error": "Trigger timeout"}))

    assert isinstance(result.error, AirflowSensorTimeout if way in SENSORS else RunTimedOut)
    assert one.states() == ["RUNNING" if way in SENSORS else "STOPPED"]


def test_the_trigger_breaks(life):
    """A triggerer that fails does not fail the run: it is waited for in the worker."""
    one = life()
    one.task.run()
    result = one.task.run("__fail__", serialize({"error": "Trigger failure", "traceback": ["oh"]}))

    assert result.state == "success", result.error
    assert one.states() == ["SUCCEEDED"]


def test_it_is_lost(life, way):
    """The service does not know it any more: a failure in words, after some patience."""
    one = life(RUNNING)
    one.clock.at(20, one.service.runs.clear)
    before = one.clock.seconds
    result = one.run()

    assert isinstance(result.error, AirflowFailException if way in SENSORS else RunLost), result.error
    assert "is gone" in str(result.error)
    assert one.clock.seconds - before >= (20 if way in SENSORS else 50)


def test_polls_fail_for_a_while(life):
    """That is no end of the run."""
    one = life()
    one.service.errors["describe"] = [SubmitError("throttled")] * 5
    result = one.run()

    assert result.state == "success", result.error
    assert one.states() == ["SUCCEEDED"]


def test_its_log_cannot_be_read(life):
    """The run is not affected, and it is said once."""
    one = life()
    one.service.errors["read_logs"] = [SubmitError("denied")] * 1000
    result = one.run()

    assert result.state == "success", result.error
    assert one.said().count("Could not read the logs") == 1


def fail_at_link(one: Any) -> None:
    """Let something else than the run fail, right after its start."""

    def fail(message: Any) -> None:
        if getattr(message, "key", "") == "_link_GlueRayRunLink":
            one.task.supervisor.revive()
            raise RuntimeError("no XCom today")

    one.task.supervisor.before = fail


def test_the_last_try_fails_for_another_reason(life):
    """Nobody will come back for the run, so it is stopped."""
    one = life(RUNNING)
    fail_at_link(one)

    assert one.run().state == "failed"
    assert one.states() == ["STOPPED"]


def test_a_last_start_without_an_answer_is_stopped(life):
    """It is found by its client token."""
    one = life(RUNNING)
    one.service.lost_answers = 1

    assert isinstance(one.run().error, SubmitOutcomeUnknown)
    assert one.states() == ["STOPPED"]


def test_a_last_run_that_cannot_be_noted_is_stopped(life):
    """Airflow's API fails right after the start; what became of the task is in the log, whatever the stop does."""
    one = life(RUNNING)
    is_there = [False]

    def fail(message):
        if one.service.runs and not is_there[0]:
            is_there[0] = True
            raise ConnectionError("API server: 502")

    one.task.supervisor.before = fail

    assert one.run().state == "failed"
    assert one.states() == ["STOPPED"]


def test_a_success_seen_late_is_a_success(life):
    """The run had ended well before Airflow gave up on the trigger: no triggerer was there to see it."""
    one = life()
    one.task.run()
    one.clock.forward(3600)
    result = one.task.run("__fail__", serialize({"error": "Trigger timeout"}))

    assert result.state == "success", result.error
    assert "glueray_usage" in result.xcoms
    assert one.states() == ["SUCCEEDED"]


def test_what_airflow_cannot_store_harms_nothing(life):
    """A NUL byte in a log takes no triggerer down, and reports that Airflow refuses fail no task."""
    reports = [{"asset": "s3://b/out", "rows": "ten"}, {"asset": "s3://b/out", "rows": 10}, {"rows": float("nan")}]
    lines = ["a\0b", *(f"glueray-report: {json.dumps(each)}" for each in reports)]
    one = life(Script(lines=[(3, line) for line in lines]), outlets=[Asset("s3://b/out")])
    result = one.run()  # and the runner is as strict as Airflow's database (tests/runner.py)

    assert result.state == "success", result.error


def test_a_try_that_is_retried_leaves_its_run(life):
    """The next try goes on with it."""
    one = life(Script(states=[(0, "RUNNING"), (60, "SUCCEEDED")]), retries=1)
    fail_at_link(one)

    assert one.run().state == "up_for_retry"
    assert one.states() == ["RUNNING"]
    assert one.retry().state == "success"
    assert one.states() == ["SUCCEEDED"]


def test_what_it_used_is_told(life):
    """As an XCom and in the last line of the log."""
    one = life(Script(states=[(0, "RUNNING"), (100, "SUCCEEDED")]))
    result = one.run()

    assert result.xcoms["glueray_usage"]["seconds"] >= 100
    assert result.xcoms["glueray_usage"]["workers"] == 2
    assert "Ended SUCCEEDED: " in one.said()


def test_the_newest_run_is_waited_for(life):
    """It is chosen once, also where the sensor looks again."""
    one = life(Script(states=[(0, "RUNNING"), (100, "SUCCEEDED")]))
    newest = one.service.start(THEIRS, "another", {})
    one.clock.at(20, lambda: one.service.start(THEIRS, "a third", {}))

    assert one.run().xcoms["return_value"] == newest.id == "run-2"


def test_there_is_no_run_yet(life):
    """It is waited for."""
    one = life()
    one.service.runs.clear()
    one.clock.at(300, lambda: one.service.start(THEIRS, "late", {}))

    assert one.run().xcoms["return_value"] == "run-1"


def test_a_timeout_leaves_the_run_alone(life):
    """The sensor gives up, and the run goes on: it is not the sensor's."""
    one = life(RUNNING, timeout=300)
    result = one.task.run()
    if one.is_deferred:
        assert 0 < result.message.trigger_timeout.total_seconds() <= 300
        result = one.task.run("__fail__", serialize({"error": "Trigger timeout"}))

    assert isinstance(result.error, AirflowSensorTimeout)
    assert one.states() == ["RUNNING"]


def test_a_soft_fail_skips(life):
    """Airflow's own setting holds in both modes."""
    assert life(FAILING, soft_fail=True).run().state == "skipped"
