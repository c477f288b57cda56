"""The session operators and sensor through Airflow's real task runner, on local sessions: real kernels, real Ray."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from airflow_provider_glueray.airflow_compat import AirflowFailException
from airflow_provider_glueray.core.errors import (
    CapacityExceeded,
    RunStopped,
    RunTimedOut,
    SourceFileError,
    SpecError,
    StatementFailed,
)
from airflow_provider_glueray.core.runs import RunRef
from airflow_provider_glueray.hooks.glue.sessions import GlueRaySessionHook
from airflow_provider_glueray.operators.glue_sessions import (
    GlueRayCreateSessionOperator,
    GlueRayStatementOperator,
    GlueRayStopSessionOperator,
)
from airflow_provider_glueray.operators.session_group import glue_ray_session
from airflow_provider_glueray.sensors.glue_sessions import GlueRaySessionSensor
from tests.gates import waits_for
from tests.runner import capture_logs, stored_id

ENDLESS = "import time\nwhile True: time.sleep(0.05)"
MODES = pytest.mark.parametrize("deferrable", [False, True])


class WorkerDied(BaseException):
    """Stands for SIGKILL: nothing after it runs."""


@pytest.fixture(scope="module")
def session(live_session: RunRef) -> str:
    """Return the id of a session that is up; no test may end it."""
    return live_session.id


@pytest.fixture
def hook(connected) -> GlueRaySessionHook:
    return GlueRaySessionHook()


@pytest.fixture
def make(dag, fresh):
    """Return a factory of operators with an id of their own."""

    def make(operator: type, **kwargs: Any) -> Any:
        return operator(**{"task_id": f"task-{fresh()}", "dag": dag, "deferrable": False, **kwargs})

    return make


def make_create(make, **kwargs: Any) -> GlueRayCreateSessionOperator:
    return make(GlueRayCreateSessionOperator, **{"role": "GlueRayRole", **kwargs})


def make_statement(make, session: str, code: str, **kwargs: Any) -> GlueRayStatementOperator:
    return make(GlueRayStatementOperator, **{"session_id": session, "code": code, "poll_interval": 1, **kwargs})


def sessions_of(hook: GlueRaySessionHook, task: Any) -> list[dict[str, Any]]:
    return list(hook.list_sessions({"airflow_task_id": task.operator.task_id}))


def until_ended(hook: GlueRaySessionHook, session_id: str) -> str:
    ref = RunRef("glue-session", session_id, session_id)
    for _ in range(100):
        if (seen := hook.describe([ref])[ref]).is_over:
            return seen.raw_state
        asyncio.run(asyncio.sleep(0.1))
    raise AssertionError(seen)


class TestCreate:
    def test_a_session_is_made_and_stopped(self, hook, make, make_task):
        """Its id is the result; links are there at once; it says whose it is; a stop reports what it used."""
        task = make_task(make_create(make, number_of_workers=3, tags={"team": "data"}, deferrable=True))
        result = task.run_to_end()

        assert result.state == "success"
        made = hook.session(result.xcoms["return_value"])
        assert (made["Status"], made["NumberOfWorkers"]) == ("READY", 3)
        assert made["Id"].startswith(f"walk-{task.operator.task_id}-")
        assert made["Description"] == f"Airflow: walk.{task.operator.task_id}, {task.run_id}"
        assert made["Id"] in [one["Id"] for one in hook.list_sessions({"airflow_dag_id": "walk", "team": "data"})]
        assert result.xcoms["_link_GlueRayRunLink"].endswith(f"/_glueray/sessions/{made['Id']}")
        assert result.xcoms["_link_GlueRayLogsLink"].endswith("/log")

        stop = make(GlueRayStopSessionOperator, session_id=made["Id"], deferrable=True, poll_interval=1, delete=True)
        ended = make_task(stop).run_to_end()
        assert (ended.state, ended.xcoms["return_value"]) == ("success", "STOPPED")
        assert ended.xcoms["glueray_usage"]["workers"] == 3
        assert hook.session(made["Id"]) is None

    @pytest.mark.parametrize("is_stored", [True, False])
    def test_a_retry_takes_the_session_up_and_a_clear_does_not(self, hook, make, make_task, connected, is_stored):
        """Whatever is left of a try before: one session per series, and the old one is stopped."""
        connected.faults(provisioning_seconds=0.5)
        task = make_task(make_create(make, retries=1, poll_interval=1))

        def die(message: Any) -> None:
            if stored_id(message):
                raise WorkerDied

        task.supervisor.before = die
        assert isinstance(task.run().error, WorkerDied)
        task.supervisor.before = lambda message: None
        if not is_stored:
            task.lose_store()
        first = task.retry().xcoms["return_value"]
        assert len(sessions_of(hook, task)) == 1

        second = task.clear().xcoms["return_value"]
        assert second != first
        assert until_ended(hook, first) == "STOPPED"
        hook.stop(RunRef("glue-session", second, second))

    def test_a_retry_after_a_session_that_failed_makes_another(self, hook, make, make_task):
        """Its id is taken, so the next one has an id of its own."""
        task = make_task(make_create(make, retries=1, py_modules=["s3://glueray-local/missing.zip"]))
        assert "missing.zip" in str(task.run().error)
        task.retry()

        assert [one["Status"] for one in sessions_of(hook, task)] == ["FAILED", "FAILED"]

    def test_no_orphan(self, hook, make, make_task, connected):
        """Killed in the worker or in the triggerer, or too slow: the session is stopped."""
        connected.faults(provisioning_seconds=3600)
        killed = make_task(make_create(make))
        killed.kill_when(lambda: sessions_of(hook, killed))
        assert isinstance(killed.run().error, RunStopped)

        deferred = make_task(make_create(make, deferrable=True))
        asyncio.run(deferred.trigger_of(deferred.run()).on_kill())

        late = make_task(make_create(make, run_timeout=1))
        assert isinstance(late.run().error, RunTimedOut)
        for task in (killed, deferred, late):
            (made,) = sessions_of(hook, task)
            assert until_ended(hook, made["Id"]) == "STOPPED"

    def test_no_orphan_when_the_last_try_fails(self, hook, make, make_task):
        """Something else than the session fails after it is READY; the teardown will not come."""
        task = make_task(make_create(make))

        def fail(message: Any) -> None:
            if type(message).__name__ == "SetXCom" and message.key == "_link_GlueRayRunLink":
                raise RuntimeError("no XCom today")

        task.supervisor.before = fail
        assert task.run().state == "failed"
        (made,) = sessions_of(hook, task)
        assert until_ended(hook, made["Id"]) == "STOPPED"

    def test_no_room(self, hook, make, make_task, connected):
        """It is waited for, and given up with the numbers."""
        connected.faults(quota_mdpu=2)
        result = make_task(make_create(make, number_of_workers=2, queue_timeout=0)).run()

        assert isinstance(result.error, CapacityExceeded)
        assert "needs 4 M-DPU" in str(result.error)

    def test_refused_for_good(self, hook, make, make_task, connected, session):
        """A retry could not help."""
        taken = make_task(make_create(make, session_id=session, retries=1)).run()
        assert isinstance(taken.error, AirflowFailException)
        assert "SessionConflict" in str(taken.error)
        connected.faults(account_closed=True)
        closed = make_task(make_create(make, retries=1)).run()
        assert "AccountNotEligible" in str(closed.error)

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            ({"number_of_workers": 0}, "number_of_workers=0"),
            ({"idle_timeout": timedelta(0)}, "idle_timeout"),
            ({"session_id": "with space"}, "session_id='with space'"),
            ({"worker_type": "G.1X"}, "worker_type='G.1X'"),
        ],
    )
    def test_while_the_dag_is_parsed(self, make, wrong, words):
        with pytest.raises(SpecError, match=words):
            make_create(make, **wrong)


class TestStatement:
    def test_value_and_print(self, hook, make, make_task, session):
        """The value is the result, JSON as it is; what was printed is in the log; templates are rendered."""
        code = "print('working on {{ ds }}')\n{'rows': 3, 'day': '{{ ds }}'}"
        with capture_logs() as logs:
            result = make_task(make_statement(make, session, code, deferrable=True)).run_to_end()

        assert result.state == "success"
        assert result.xcoms["return_value"] == {"rows": 3, "day": "2026-11-21"}
        said = [line["event"] % tuple(line.get("positional_args", ())) for line in logs]
        assert said.count("working on 2026-11-21") == 1
        assert not any("glueray:" in line for line in said)

    def test_a_file_beside_the_dag(self, hook, make, make_task, session, tmp_path, dag):
        """Its text is templated too."""
        (tmp_path / "step.py").write_text("return_value = '{{ run_id }}'\n")
        dag.template_searchpath = [str(tmp_path)]
        one = make_task(make_statement(make, session, "step.py"))
        result = one.run()

        assert result.xcoms["return_value"] == one.run_id

    def test_an_exception(self, hook, make, make_task, session):
        """With its name, its words and the lines of the author."""
        code = "print('before')\nraise KeyError('missing column')"
        result = make_task(make_statement(make, session, code, deferrable=False, retries=1)).run_to_end()

        assert result.state == "up_for_retry"
        assert isinstance(result.error, StatementFailed)
        assert result.error.error_name == "KeyError"
        assert "raise KeyError('missing column')" in str(result.error)
        assert session in str(result.error)

    @pytest.mark.full
    def test_a_long_text_is_bounded_in_the_log(self, hook, make, make_task, session):
        """50 MB go through; the log has the beginning and the end."""
        code = "print('first')\nprint('x' * 50_000_000)\nprint('last')\n7"
        with capture_logs() as logs:
            result = make_task(make_statement(make, session, code)).run()

        assert result.xcoms["return_value"] == 7
        said = [line["event"] % tuple(line.get("positional_args", ())) for line in logs]
        assert sum(map(len, said)) < 300_000
        assert "first" in said
        assert "last" in said
        assert any("characters are left out here" in line for line in said)

    @pytest.mark.parametrize("is_stored", [True, False])
    def test_never_twice(self, hook, make, make_task, session, connected, is_stored):
        """A dead worker, a lost answer and a retry of a success leave one statement."""
        task = make_task(make_statement(make, session, "once = 1\nonce", retries=2))

        def die(message: Any) -> None:
            if stored_id(message):
                raise WorkerDied

        before = len(hook.statements(session))
        connected.faults(drop_next={"RunStatement": 1})
        task.supervisor.before = die
        assert isinstance(task.run().error, WorkerDied)
        task.supervisor.before = lambda message: None
        if not is_stored:
            task.lose_store()
        assert [task.retry().xcoms["return_value"] for _ in range(2)] == [1, 1]
        assert len(hook.statements(session)) == before + 1
        task.clear()
        assert len(hook.statements(session)) == before + 2

    def test_a_busy_session_is_waited_for(self, hook, make, make_task, session, tmp_path):
        """So is one that is not READY yet: full is not failed."""
        other = hook.run_statement(session, waits_for(tmp_path / "gate"), "m-other")
        one = make_task(make_statement(make, session, "5", deferrable=True))
        result = one.run()
        assert "DateTimeTrigger" in result.message.classpath
        (tmp_path / "gate").touch()
        result = one.to_end(result)

        assert result.xcoms["return_value"] == 5
        assert hook.describe([other])[other].state.is_terminal

    def test_kill_and_deadline_cancel_it(self, hook, make, make_task, session):
        """The session stays usable."""
        killed = make_task(make_statement(make, session, ENDLESS))
        killed.kill_when(lambda: any(one["State"] == "RUNNING" for one in hook.statements(session)))
        assert isinstance(killed.run().error, RunStopped)

        deferred = make_task(make_statement(make, session, ENDLESS, deferrable=True))
        asyncio.run(deferred.trigger_of(deferred.run()).on_kill())

        late = make_task(make_statement(make, session, ENDLESS, run_timeout=1))
        assert isinstance(late.run().error, RunTimedOut)
        assert make_task(make_statement(make, session, "6")).run().xcoms["return_value"] == 6

    def test_a_session_that_has_ended(self, hook, make, make_task, connected, monkeypatch):
        """Reported as such; made again once if that is wanted, for all who come after, and stopped with the first."""
        session = make_task(make_create(make, idle_timeout=60)).run().xcoms["return_value"]
        connected.faults(minute_seconds=0.1)
        assert until_ended(hook, session) == "TIMEOUT"
        connected.reset_faults()
        plain = make_task(make_statement(make, session, "1", retries=1)).run()
        assert isinstance(plain.error, AirflowFailException)
        assert "SessionEnded" in str(plain.error)
        assert "idle_timeout of 1 minutes" in str(plain.error)

        again = [make_task(make_statement(make, session, f"{n}", recreate_on_timeout=True)).run() for n in (1, 2)]
        assert [result.xcoms["return_value"] for result in again] == [1, 2]
        assert {result.xcoms["glueray_run"]["name"] for result in again} == {f"{session}-again"}

        connected.faults(minute_seconds=0.1)
        assert until_ended(hook, f"{session}-again") == "TIMEOUT"
        connected.reset_faults()
        twice = make_task(make_statement(make, session, "3", recreate_on_timeout=True)).run()
        assert "SessionEnded" in str(twice.error)
        stop = make_task(make(GlueRayStopSessionOperator, session_id=session)).run()
        assert (stop.state, stop.xcoms["return_value"]) == ("success", "TIMEOUT")

    @pytest.mark.parametrize(
        ("code", "kind"), [("x = = 1", SourceFileError), ("", SourceFileError), ("#" * 70_000, SpecError)]
    )
    def test_while_the_dag_is_parsed(self, make, code, kind):
        with pytest.raises(kind):
            make_statement(make, "s", code)


class TestStop:
    @MODES
    def test_nothing_to_stop(self, hook, make, make_task, deferrable):
        """A setup that made nothing, and a session that is gone, need no stop."""
        none = make_task(make(GlueRayStopSessionOperator, session_id="", deferrable=deferrable)).run_to_end()
        gone = make(GlueRayStopSessionOperator, session_id="never-made", deferrable=deferrable, poll_interval=1)

        assert none.state == "success"
        assert make_task(gone).run_to_end().state == "success"


def test_a_group(dag):
    """The setup makes the session, all tasks share it and how it is reached, the teardown follows all of them."""
    with (
        dag,
        glue_ray_session(
            "etl", role="GlueRayRole", conn_id="mine", deferrable=True, recreate_on_timeout=True
        ) as session,
    ):
        load = session.statement("load", "1")
        walk = session.notebook("walk", "walk.ipynb", output_notebook="s3://b/walk.ipynb", deferrable=False)
        load >> walk

    assert set(dag.task_ids) == {"etl.create", "etl.load", "etl.walk", "etl.stop"}
    assert session.create.is_setup
    assert session.stop.is_teardown
    assert session.create.downstream_task_ids == {"etl.load", "etl.walk", "etl.stop"}
    assert session.stop.upstream_task_ids == {"etl.create", "etl.walk"}
    assert {task.conn_id for task in dag.tasks} == {"mine"}
    assert [task.deferrable for task in (session.create, load, walk, session.stop)] == [True, True, False, True]
    assert load.recreate_on_timeout
    assert load.session_id == walk.session_id == session.stop.session_id == session.id


class TestSensor:
    def test_a_session_and_a_statement(self, hook, make, make_task, session, tmp_path):
        """READY and done; what cannot be any more fails."""
        ref = hook.run_statement(session, f"{waits_for(tmp_path / 'gate')}\nprint('from elsewhere')", "m")
        ready = make(GlueRaySessionSensor, session_id=session, deferrable=True, poke_interval=1)
        done = make(GlueRaySessionSensor, session_id=session, statement_id=ref.id, deferrable=True, poke_interval=1)

        assert make_task(ready).run_to_end().xcoms["return_value"] == session
        one = make_task(done)
        deferred = one.run()
        (tmp_path / "gate").touch()
        with capture_logs() as logs:
            assert one.to_end(deferred).xcoms["return_value"] == ref.id
        assert "from elsewhere" in [line["event"] % tuple(line.get("positional_args", ())) for line in logs]

    def test_a_failed_statement(self, hook, make, make_task, session):
        """It fails the sensor for good."""
        ref = hook.run_statement(session, "1 / 0", "m")
        result = make_task(make(GlueRaySessionSensor, session_id=session, statement_id=ref.id, poke_interval=1)).run()

        assert isinstance(result.error, AirflowFailException)
        assert "ZeroDivisionError" in str(result.error)
