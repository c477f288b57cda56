"""The two drivers of `follow`: one blocks a worker, one awaits in a triggerer. Neither decides anything."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from airflow_provider_glueray.core import clock
from airflow_provider_glueray.core.backend import RunBackend
from airflow_provider_glueray.core.follow import Answer, EmitLogLines, Log, Poll, ReadLogs, Sleep, Step, Steps, Stop
from airflow_provider_glueray.core.logs import LogCursor
from airflow_provider_glueray.core.runs import Outcome, RunRef

if TYPE_CHECKING:
    from airflow_provider_glueray.core.watcher import Watcher

#: Lines that are written before an event loop may do something else: each goes to the triggerer's supervisor.
PORTION = 200


class TaskLog(Protocol):
    """What is asked of a logger; Airflow's own and the standard library's both have it."""

    def log(self, level: int, msg: str, /, *args: Any) -> Any:
        """Write a record at a level."""

    def info(self, msg: str, /, *args: Any) -> Any:
        """Write a record."""


def run_sync(steps: Steps, backend: RunBackend, ref: RunRef, log: TaskLog) -> Outcome:
    """Obey ``steps`` in this thread."""

    def act(step: Step) -> Any:
        match step:
            case Poll(after=after):
                clock.sleep(after)
                return backend.describe([ref])[ref]
            case ReadLogs(cursor=cursor, sources=sources):
                return backend.read_logs({ref: cursor}, sources)[ref]
            case Sleep(seconds=seconds):
                return clock.sleep(seconds)
            case Stop():
                return backend.stop(ref)
            case Log() | EmitLogLines():
                return _write(step, log)

    try:
        step = next(steps)
        while True:
            try:
                # The time is that after the step: what was waited for counts.
                value = act(step)
                answer = Answer(clock.now(), value)
            except Exception as error:  # what a failed step means is for `follow` to say
                answer = Answer(clock.now(), error=error)
            step = steps.send(answer)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


async def run_async(
    steps: Steps,
    watcher: Watcher,
    ref: RunRef,
    log: TaskLog,
    *,
    on_progress: Callable[[LogCursor], Awaitable[None]] | None = None,
) -> Outcome:
    """Obey ``steps`` on the event loop; the watcher shares the calls with everybody else who waits.

    :param on_progress: gets the cursor after lines of the run have been written.
    """

    async def act(step: Step) -> Any:
        match step:
            case Poll(after=after, last_raw_state=last_raw_state):
                return await watcher.observe(ref, after, last_raw_state)
            case ReadLogs(cursor=cursor, sources=sources):
                return await watcher.read_logs(ref, cursor, sources)
            case Sleep(seconds=seconds):
                return await watcher.pause(seconds)
            case Stop():
                return await watcher.stop(ref)
            case Log():
                return _write(step, log)
            case EmitLogLines():
                await _write_in_portions(step, log)
                if on_progress is not None and step.cursor is not None:
                    await on_progress(step.cursor)
                return None

    try:
        step = next(steps)
        while True:
            try:
                value = await act(step)
                answer = Answer(clock.now(), value)
            except Exception as error:
                answer = Answer(clock.now(), error=error)
            step = steps.send(answer)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


async def _write_in_portions(step: EmitLogLines, log: TaskLog) -> None:
    """Write lines, and let others have their turn: a triggerer that hears of nothing for 30 s is taken for dead."""
    for begin in range(0, len(step.lines), PORTION):
        _write(step._replace(lines=step.lines[begin : begin + PORTION]), log)
        await asyncio.sleep(0)


def _write(step: Log | EmitLogLines, log: TaskLog) -> None:
    if isinstance(step, Log):
        log.log(step.level, "%s", step.message)
        return
    for line in step.lines:
        log.info("%s", line)
