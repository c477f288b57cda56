"""Airflow's real task runner, without a database: a stand-in only for the supervisor at the other end.

It uses private names of Airflow's task SDK, so it is the one place that does.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import selectors
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import import_module
from typing import Any
from uuid import uuid4

import structlog
import structlog.testing
from airflow.sdk.api.datamodels._generated import DagRun, TIRunContext
from airflow.sdk.bases.operator import BaseOperator
from airflow.sdk.execution_time import comms, task_runner

try:
    from airflow.sdk.serde import deserialize, serialize
except ImportError:  # Airflow below 3.2
    from airflow.serialization.serialized_objects import BaseSerialization

    deserialize = BaseSerialization.deserialize

    def serialize(value: Any) -> Any:
        """Serialise as the supervisor does, to JSON."""
        return json.loads(json.dumps(BaseSerialization.serialize(value)))


from airflow_provider_glueray.airflow_compat import has_kill_of_triggers

# The runner makes one for each rendered field of each stretch, which takes longer than all the rest of most scenes.
task_runner.TypeAdapter = functools.cache(task_runner.TypeAdapter)  # type: ignore[misc,assignment]

#: Seconds on a test's clock for which a trigger follows its run before it is cancelled.
BEFORE_CANCEL = 30
#: Whether this Airflow has a task state store.
HAS_STORE = hasattr(comms, "GetTaskStateStore")
START = datetime(2026, 11, 21, 2, tzinfo=timezone.utc)


@dataclass
class Supervisor:
    """What the supervisor keeps for one task: XComs, and a state store that survives retries and clears."""

    xcoms: dict[str, Any] = field(default_factory=dict)
    store: dict[str, Any] = field(default_factory=dict)
    #: When a sensor that has been rescheduled first looked.
    first_look: datetime | None = None
    #: Of the task, as a trigger hears it.
    state: str | None = "deferred"
    #: Called before each message is answered; a test makes the worker die there.
    before: Callable[[Any], None] = lambda message: None

    def die_at(self, key: str) -> None:
        """Let the worker die when it sends an XCom of this key."""

        def die(message: Any) -> None:
            if getattr(message, "key", "") == key:
                raise ConnectionError("the worker is gone")

        self.before = die

    def revive(self) -> None:
        """Let the next worker live."""
        self.before = lambda message: None

    def send(self, msg: Any) -> Any:
        """Answer one message of the task runner."""
        self.before(msg)
        must_be_storable(getattr(msg, "value", None))
        must_be_storable(getattr(msg, "outlet_events", None))
        match type(msg).__name__:  # an older Airflow lacks some
            case "SetXCom":
                self.xcoms[msg.key] = msg.value
            case "GetXCom":
                return comms.XComResult(key=msg.key, value=self.xcoms.get(msg.key))
            case "SetTaskStateStore":
                self.store[msg.key] = json.loads(json.dumps(msg.value))
            case "GetTaskStateStore":
                if msg.key in self.store:
                    return comms.TaskStateStoreResult(value=self.store[msg.key])
                return comms.ErrorResponse(error=comms.ErrorType.TASK_STORE_NOT_FOUND)
            case "GetTaskRescheduleStartDate":
                return comms.TaskRescheduleStartDate(start_date=self.first_look)
            case "ValidateInletsAndOutlets":
                return comms.InactiveAssetsResult(inactive_assets=[])
            case "GetConnection":
                return comms.ErrorResponse(error=comms.ErrorType.CONNECTION_NOT_FOUND)
        return None

    async def asend(self, msg: Any) -> Any:
        """Answer one message of a trigger."""
        await asyncio.sleep(0.05)  # as a real one, so that more can happen meanwhile
        if type(msg).__name__ == "GetTaskStates":
            states = {} if self.state is None else {msg.task_ids[0]: self.state}
            return comms.TaskStatesResult(task_states={msg.run_ids[0]: states})
        return self.send(msg)


@dataclass
class Result:
    """How one stretch of a task ended."""

    state: str
    error: BaseException | None
    message: Any
    xcoms: dict[str, Any]


@dataclass
class Task:
    """One task of one DAG run, whose tries and clears a test plays through.

    :param clock: of the test, by which triggers then wait; None for the real one.
    """

    operator: BaseOperator
    supervisor: Supervisor = field(default_factory=Supervisor)
    try_number: int = 1
    max_tries: int | None = None
    #: Of no other test: runs at a service are found by it.
    run_id: str = field(default_factory=lambda: f"manual__{uuid4()}")
    map_index: int = -1
    clock: Any = None
    dag_run_start: datetime | None = None
    reschedules: int = 0
    _ti: Any = None
    _overdue: bool = False

    def run(self, next_method: str | None = None, next_kwargs: Any = None) -> Result:
        """Run this try in this process, or resume it."""
        if next_method is None:
            self.supervisor.xcoms.clear()
        if self.max_tries is None:
            self.max_tries = self.operator.retries or 0
        # No run of a task is older than its DAG run.
        began = min(START, datetime.fromtimestamp(self.clock.now(), timezone.utc)) if self.clock else START
        self.dag_run_start = self.dag_run_start or began
        dag_run = DagRun(
            dag_id=self.operator.dag_id, run_id=self.run_id, logical_date=START, data_interval_start=START,
            data_interval_end=START, run_after=START, start_date=self.dag_run_start, end_date=None,
            run_type="scheduled", state="running", consumed_asset_events=[],
            **({"partition_key": None} if "partition_key" in DagRun.model_fields else {}),
        )  # fmt: skip
        server = TIRunContext(
            dag_run=dag_run, max_tries=self.max_tries, should_retry=self.try_number <= self.max_tries,
            next_method=next_method, next_kwargs=next_kwargs, task_reschedule_count=self.reschedules,
        )  # fmt: skip
        ti = task_runner.RuntimeTaskInstance.model_construct(
            id=uuid4(), task_id=self.operator.task_id, dag_id=self.operator.dag_id, run_id=self.run_id,
            try_number=self.try_number, dag_version_id=uuid4(), map_index=self.map_index, task=self.operator,
            bundle_instance=None, _ti_context_from_server=server, max_tries=self.max_tries, start_date=START,
            state="running", sentry_integration="",
        )  # fmt: skip
        task_runner.SUPERVISOR_COMMS = self.supervisor
        log = structlog.get_logger("task")
        self._ti = ti
        context = ti.get_template_context()
        state, message, error = task_runner.run(ti, context, log)
        assert not self._overdue, "what the kill was to wait for has not come in time"
        try:
            task_runner.finalize(ti, state, context, log, error)
        except Exception as gone:  # an older Airflow lets through that its links could not be written
            error = error or gone
        return Result(state.value, error, message, dict(self.supervisor.xcoms))

    @property
    def running(self) -> Any:
        """Return the operator that executes: the runner works on a copy of ours."""
        return self._ti.task

    @property
    def instance(self) -> Any:
        """Return the task instance of the last stretch."""
        return self._ti

    @property
    def context(self) -> Any:
        """Return the context of the last stretch."""
        return self._ti.get_template_context()

    def kill_when(self, ready: Callable[[], Any]) -> None:
        """Let Airflow kill the task while it runs, as soon as ``ready`` says so; returns at once."""

        def wait() -> None:
            end = time.monotonic() + 120
            while not ready():
                if time.monotonic() > end:
                    self._overdue = True
                    break
                time.sleep(0.1)
            self.running.on_kill()

        threading.Thread(target=wait, daemon=True).start()

    def retry(self) -> Result:
        """Run the next try of the same series."""
        self.try_number += 1
        return self.run()

    def lose_store(self) -> None:
        """Forget what the task has stored, as an Airflow does that has no task state store."""
        self.supervisor.store.clear()

    def poke_again(self) -> Result:
        """Run a sensor that has been rescheduled: the same try, and its XComs are gone."""
        self.reschedules += 1
        return self.run()

    def clear(self) -> Result:
        """Do what a click on Clear does, then run: a new series."""
        self.max_tries = self.try_number + (self.operator.retries or 0)
        return self.retry()

    def run_to_end(self) -> Result:
        """Run, and play the triggerer for as long as the task defers."""
        return self.to_end(self.run())

    def to_end(self, result: Result) -> Result:
        """Play the triggerer for as long as the task defers."""
        while result.state == "deferred":
            result = self.resume(result)
        return result

    def kill_deferred(self, deferred: Result) -> None:
        """Do what Airflow does with the trigger when a user marks the deferred task as failed."""
        trigger = self.trigger_of(deferred)
        if has_kill_of_triggers():
            run_on(self.clock, trigger.on_kill())
        else:
            self.cancel(trigger, state="failed")

    def cancel(self, trigger: Any, *, state: str | None) -> None:
        """Cancel a trigger while it waits, as Airflow does for whatever reason.

        :param state: of the task by then.
        """
        trigger.task_instance = self._ti

        async def play() -> None:
            following = asyncio.ensure_future(fire(trigger))
            await asyncio.sleep(BEFORE_CANCEL)
            self.supervisor.state = state
            while not following.done():  # a triggerer of before 3.3 does so again and again
                following.cancel()
                await asyncio.wait({following}, timeout=0.01)
            self.supervisor.state = "deferred"

        run_on(self.clock, play())

    @staticmethod
    def trigger_of(deferred: Result) -> Any:
        """Rebuild the trigger as the triggerer would: from its class path and arguments."""
        module, _, name = deferred.message.classpath.rpartition(".")
        return getattr(import_module(module), name)(**deserialize(_sent(deferred)["trigger_kwargs"]))

    def resume(self, deferred: Result) -> Result:
        """Fire the trigger of a deferred result, through its serialised form, and resume the task."""
        trigger = self.trigger_of(deferred)
        if self.clock is not None and hasattr(trigger, "moment"):  # a timer of Airflow's, which knows no other clock
            # It looks once a second, so it is never early.
            self.clock.sleep(max((trigger.moment - datetime.now(timezone.utc)).total_seconds(), 0.0) + 1.0)
            event = trigger.moment
        else:
            event = run_on(self.clock, fire(trigger))
            must_be_storable(event)
        kwargs = {**deserialize(_sent(deferred)["next_kwargs"] or {}), "event": event}
        return self.run(deferred.message.next_method, serialize(kwargs))


def must_be_storable(value: Any) -> None:
    """Refuse what Airflow's database, or the way there, refuses: PostgreSQL's JSONB is stricter than SQLite's text."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, default=str)
    assert "\\u0000" not in text, "JSONB takes no NUL"
    text.encode()


def _sent(deferred: Result) -> dict[str, Any]:
    """Return a deferral as the supervisor gets it."""
    return json.loads(deferred.message.model_dump_json())  # type: ignore[no-any-return]


@contextmanager
def capture_logs() -> Iterator[list[Any]]:
    """Capture what is logged, as records of structlog, also where Airflow still logs by the standard library."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            arguments = record.args if isinstance(record.args, tuple) else (record.args,)
            caught.append({"event": record.msg, "positional_args": arguments, "log_level": record.levelname.lower()})

    handler, root = Handler(), logging.getLogger()
    level = root.level
    with structlog.testing.capture_logs() as caught:
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        try:
            yield caught
        finally:
            root.setLevel(level)
            root.removeHandler(handler)


def stored_id(message: Any, key: str | None = None) -> bool:
    """Tell whether a message keeps the id of a run: in the task state store or, without one, in an XCom.

    :param key: of the run's record; any if it is None.
    """
    value = getattr(message, "value", None)
    is_record = isinstance(value, dict) and "client_token" in value and bool(value["run_id"])
    return is_record and (key is None or message.key.removesuffix("_record") == key)


async def fire(trigger: Any) -> Any:
    """Run a trigger to its one event."""
    async for event in trigger.run():
        return event.payload
    raise AssertionError("the trigger ended without an event")


def run_on(clock: Any, main: Any) -> Any:
    """Run a coroutine to its end, on a clock of the test if there is one."""
    if clock is None:
        return asyncio.run(main)
    loop = InstantLoop(clock)
    try:
        return loop.run_until_complete(main)
    finally:
        for task in (left := asyncio.all_tasks(loop)):
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left))
        loop.close()


class InstantLoop(asyncio.SelectorEventLoop):
    """An event loop that waits by a test's clock, and calls what belongs into a thread at once."""

    def __init__(self, clock: Any) -> None:
        super().__init__(_Instantly(clock))
        self._clock = clock

    def time(self) -> float:
        return self._clock.now()  # type: ignore[no-any-return]

    def run_in_executor(self, executor: Executor | None, func: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


class _Instantly(selectors.DefaultSelector):  # type: ignore[misc,valid-type]
    def __init__(self, clock: Any) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout:
            self._clock.sleep(timeout)
        return ready
