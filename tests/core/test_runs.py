"""Floor 0 by plain calls: states, references, outcomes, the end of a log."""

from __future__ import annotations

import json

import botocore.session
import pytest

from airflow_provider_glueray.core import errors
from airflow_provider_glueray.core.errors import RunFailed, RunLost, RunStopped, RunTimedOut, failure_of
from airflow_provider_glueray.core.logs import LogCursor, LogLine, LogTail
from airflow_provider_glueray.core.runs import Outcome, Prices, RunRef, RunSnapshot, RunState, Usage, read_state
from airflow_provider_glueray.hooks.glue.responses import GLUE_JOB_STATE, GLUE_SESSION_STATE, GLUE_STATEMENT_STATE

REF = RunRef("glue-job", "nightly", "jr_1")


def ended(state: RunState, **more) -> Outcome:
    """Return the outcome of a run in a state."""
    return Outcome(RunSnapshot(REF, state, str(state).upper(), message="because"), **more)


@pytest.mark.parametrize(
    ("table", "shape"),
    [
        (GLUE_JOB_STATE, "JobRunState"),
        (GLUE_SESSION_STATE, "SessionStatus"),
        (GLUE_STATEMENT_STATE, "StatementState"),
    ],
)
def test_the_tables_have_every_state_of_the_service(table, shape):
    """When AWS adds a state, this fails before a task hangs on it."""
    model = botocore.session.get_session().get_service_model("glue")

    assert set(table) == set(model.shape_for(shape).enum)


@pytest.mark.parametrize(
    ("table", "success"),
    [(GLUE_JOB_STATE, {"SUCCEEDED"}), (GLUE_SESSION_STATE, {"READY"}), (GLUE_STATEMENT_STATE, {"AVAILABLE"})],
)
def test_one_state_of_each_is_success(table, success):
    """STOPPED, ERROR and EXPIRED end a run that did not do its work."""
    assert {raw for raw, state in table.items() if state.is_terminal and failure_of(ended(state)) is None} == success


def test_a_session_that_has_started_is_not_over():
    """Its start has succeeded; there is something to stop all the same."""
    session = RunSnapshot(RunRef("glue-session", "s", "s"), RunState.SUCCEEDED, "READY")

    assert not session.is_over
    assert session._replace(state=RunState.STOPPED).is_over
    assert session._replace(ref=REF).is_over


def test_an_unknown_state_is_active_until_the_service_completes_it():
    """A new word must not end a healthy run, and must not be waited on once it has ended."""
    assert read_state(GLUE_JOB_STATE, "PAUSED", completed=False) is RunState.RUNNING
    assert read_state(GLUE_JOB_STATE, "PAUSED", completed=True) is RunState.FAILED


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        (RunState.FAILED, RunFailed),
        (RunState.STOPPED, RunStopped),
        (RunState.TIMED_OUT, RunTimedOut),
        (RunState.LOST, RunLost),
    ],
)
def test_each_failure_has_its_type_and_says_the_cause(state, kind):
    """Type, run, job, last state, message, log and link all stand in the exception."""
    failure = failure_of(ended(state, tail=["ValueError: odd"]), "https://here")

    assert type(failure) is kind
    for words in ("jr_1", "nightly", str(state).upper(), "because", "ValueError: odd", "https://here"):
        assert words in str(failure)


def test_a_passed_deadline_is_a_timeout_unless_the_work_was_done():
    """The run we stopped is not 'stopped by somebody'; the run that made it in the end is a success."""
    assert type(failure_of(ended(RunState.STOPPED, deadline_passed=True))) is RunTimedOut
    assert type(failure_of(ended(RunState.RUNNING, deadline_passed=True))) is RunTimedOut
    assert failure_of(ended(RunState.SUCCEEDED, deadline_passed=True)) is None


def test_everything_that_travels_survives_json():
    """References, snapshots, cursors and outcomes come back equal from their JSON."""
    snapshot = RunSnapshot(REF, RunState.FAILED, "ERROR", "m", 1.5, 2.5, Usage(3.0, 2, 0.1), recognised=False)
    outcome = Outcome(snapshot, ("a", "b"), deadline_passed=True)
    cursor = LogCursor(5, frozenset({"x", "y"}))

    assert RunSnapshot.from_json(json.loads(json.dumps(snapshot.to_json()))) == snapshot
    assert Outcome.from_json(json.loads(json.dumps(outcome.to_json()))) == outcome
    assert LogCursor.from_json(json.loads(json.dumps(cursor.to_json()))) == cursor
    assert RunRef.from_json(json.loads(json.dumps(REF.to_json()))) == REF


def test_the_tail_is_the_traceback_wherever_it_stands():
    """What was printed comes after it on Glue, so the last lines alone would miss it."""
    tail = LogTail()
    tail.add(["starting", "Traceback (most recent call last):", '  File "x.py", line 1', "    f()", "ValueError: odd"])
    tail.add(f"printed {i}" for i in range(50))

    assert tail.lines() == ("Traceback (most recent call last):", '  File "x.py", line 1', "    f()", "ValueError: odd")


def test_the_tail_keeps_the_remote_traceback():
    """Ray nests the worker's own traceback; the message at its end is the one that explains."""
    tail = LogTail()
    tail.add(
        [
            "Traceback (most recent call last):",
            "  driver",
            "ray.exceptions.RayTaskError: ray::f()",
            "  remote",
            "KeyError: 'x'",
            "printed",
        ]
    )

    assert tail.lines()[-1] == "KeyError: 'x'"


def test_the_tail_is_bounded():
    """A long traceback loses its middle, a long line its end, an endless log its beginning."""
    tail = LogTail()
    tail.add(["Traceback (most recent call last):", *(f"  frame {i}" for i in range(100)), "ValueError: odd"])

    assert len(tail.lines()) == 30
    assert tail.lines()[0].startswith("Traceback")
    assert tail.lines()[-1] == "ValueError: odd"
    plain = LogTail()
    plain.add(["x" * 5000] * 1000)
    assert len(plain.lines()) == 30
    assert len(plain.lines()[0]) == 1000


def test_a_line_says_where_it_comes_from():
    """Source first, then the node where the service tells it."""
    assert str(LogLine("script", "hello")) == "[script] hello"
    assert str(LogLine("worker-out", "hello", "10_0_0_1")) == "[worker-out 10_0_0_1] hello"


def test_cost_is_reckoned_at_the_given_price():
    """M-DPU hours times the price, and the price stands beside it."""
    assert Usage(3600, 2, 4.0).to_json(Prices(0.5)) == {
        "seconds": 3600, "workers": 2, "mdpu_hours": 4.0, "price_per_mdpu_hour": 0.5, "estimated_cost_usd": 2.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("prices", "cost"),
    [(Prices(9.0, 0.1, 0.01), 1.72), (Prices(9.0, 0.1), 1.4), (Prices(9.0, None, 0.01), 0.32), (Prices(9.0), None)],
)
def test_pods_are_not_paid_in_mdpu_hours(prices, cost):
    """vCPU-hours and GiB-hours at the prices that are given; without one there is no cost."""
    assert Usage(3600, 2, 0.0, 14.0, 32.0).to_json(prices) == {
        "seconds": 3600, "workers": 2, "vcpu_hours": 14.0, "gib_hours": 32.0,
        "price_per_vcpu_hour": prices.vcpu, "price_per_gib_hour": prices.gib, "estimated_cost_usd": cost,
    }  # fmt: skip


def test_every_error_is_in_one_tree():
    """Whoever wants to catch all of ours catches one."""
    ours = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]

    assert len(ours) > 10
    assert all(issubclass(kind, errors.GlueRayError) for kind in ours)
