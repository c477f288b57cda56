"""The one trigger: it drives `follow` in the triggerer, for operators and sensors alike.

Its arguments hold all that it needs, so a triggerer that restarts goes on where it was.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_glueray.airflow_compat import conf, has_kill_of_triggers, in_thread, is_over_for_user
from airflow_provider_glueray.core.backend import RunBackend
from airflow_provider_glueray.core.drivers import run_async
from airflow_provider_glueray.core.follow import FollowPolicy, follow
from airflow_provider_glueray.core.logs import LogCursor
from airflow_provider_glueray.core.runs import BACKENDS, RunRef
from airflow_provider_glueray.core.storable import storable
from airflow_provider_glueray.core.watcher import watching
from airflow_provider_glueray.hooks.registry import make_hook
from airflow_provider_glueray.triggers._log_position import LogPosition

#: Seconds to wait for a triggerer that may be going away: to note the log position, and to say what became of the task.
LAST_SAVE_SECONDS, ANSWER_SECONDS = 1.0, 10.0

T = TypeVar("T")


class GlueRayRunTrigger(BaseTrigger):
    """Wait for a run and send its outcome as the event.

    :param run: a ``RunRef`` as JSON; its backend says which hook watches it.
    :param hook: keyword arguments of the hook; the runs of equal ones share their polls.
    :param policy: a ``Policy`` as JSON.
    :param cursor: a ``LogCursor`` as JSON: where to begin in the log.
    :param kill: a ``RunRef`` as JSON: what to stop when a user kills or clears the deferred task; None for nothing.
    """

    def __init__(
        self,
        run: Mapping[str, Any],
        hook: Mapping[str, Any],
        policy: Mapping[str, Any],
        cursor: Mapping[str, Any],
        kill: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.run_json = dict(run)
        self.hook = dict(hook)
        self.policy = dict(policy)
        self.cursor = dict(cursor)
        self.kill = dict(kill) if kill else None
        self._log_position: LogPosition | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments, all plain JSON."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            storable(
                {
                    "run": self.run_json,
                    "hook": self.hook,
                    "policy": self.policy,
                    "cursor": self.cursor,
                    "kill": self.kill,
                }
            ),
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Follow the run to its end and yield its ``Outcome`` as JSON."""
        began = time.monotonic()
        ref = RunRef.from_json(self.run_json)
        self._log_position = LogPosition(self.task_instance, ref.id)
        cursor = await self._log_position.load(LogCursor.from_json(self.cursor))
        policy = FollowPolicy.from_json(self.policy)
        steps = follow(ref, policy, cursor)
        try:
            async with watching(self._key(), self._make_backend, in_thread) as watcher:
                outcome = await run_async(steps, watcher, ref, self.log, on_progress=self._log_position.advance)
        except asyncio.CancelledError:
            if self.kill is not None and self.task_instance is not None and not has_kill_of_triggers():
                await self._to_its_end(self._stop_if_killed(ref), ref)
            raise
        event = {**outcome.to_json(), "log_position_saved": self._log_position.was_saved}
        self._log_position = None
        if self.task_instance is not None:
            await asyncio.sleep(began + _min_deferral_seconds(policy) - time.monotonic())
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]

    async def cleanup(self) -> None:
        """Save the log position: the triggerer is going away before the run has ended."""
        if self._log_position is not None:
            await _answered(self._log_position.save(), LAST_SAVE_SECONDS)

    async def on_kill(self) -> None:
        """Stop the run: a user set the state of the deferred task, or cleared it. Not called on a restart."""
        if self.kill is None:
            return
        ref = RunRef.from_json(self.kill)
        self.log.info("Task killed; stopping %s", ref.title)
        async with watching(self._key(), self._make_backend, in_thread) as watcher:
            await watcher.stop(ref)

    async def _to_its_end(self, stop: Coroutine[Any, Any, None], ref: RunRef) -> None:
        """Stop, however often this is cancelled: below Airflow 3.3 a triggerer does so each second until it has ended.

        A triggerer that goes away cancels what is under way here as well.
        """
        task = asyncio.ensure_future(stop)
        while not task.done():
            with suppress(asyncio.CancelledError, Exception):
                await asyncio.shield(task)
        if not task.cancelled() and (error := task.exception()):
            self.log.error("Could not stop %s; if it runs, stop it by hand: %s", ref.title, error)

    async def _stop_if_killed(self, ref: RunRef) -> None:
        """Stop the run below Airflow 3.3, which only cancels the trigger: as it does when it moves it elsewhere.

        A run that has ended is left alone: another triggerer may have seen its end, and what is stopped with it, such
        as a session, is then for the task to use.
        """
        if not await _answered(is_over_for_user(self.task_instance), ANSWER_SECONDS):
            return
        async with watching(self._key(), self._make_backend, in_thread) as watcher:
            seen = await watcher.call(lambda backend: backend.describe([ref]))
        if not seen[ref].state.is_terminal:
            await self.on_kill()

    def _key(self) -> str:
        # One poll answers for the runs of two backends that have one hook.
        return f"{BACKENDS[self.run_json['backend']].hook} {json.dumps(self.hook, sort_keys=True)}"

    def _make_backend(self) -> RunBackend:
        return make_hook(self.run_json["backend"], self.hook)  # type: ignore[no-any-return]


async def _answered(question: Coroutine[Any, Any, T], seconds: float) -> T | None:
    """Return the triggerer's answer; a triggerer that stops still hears us but no longer answers.

    The question is not cancelled then: see ``airflow_compat``.
    """
    asked = asyncio.ensure_future(question)
    done, _ = await asyncio.wait({asked}, timeout=seconds)
    return asked.result() if done else None


def _min_deferral_seconds(policy: FollowPolicy) -> float:
    """Return how long a deferral has to last.

    The worker that deferred the task may take a heartbeat to end. If the task is queued again before the scheduler
    has heard of that end, it takes the end for the second stretch's own, and the task for lost (Airflow 3.3).
    """
    return conf.getint("workers", "min_heartbeat_interval", fallback=5) + policy.waits.worker_end
