"""The one trigger: it drives `follow` in the triggerer, for operators and sensors alike.

Floor 3. Everything it needs travels in its arguments, so a triggerer that restarts takes up where it was.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_glueray.drive import adrive
from airflow_provider_glueray.follow import Policy, follow
from airflow_provider_glueray.runs import LogCursor, RunBackend, RunRef
from airflow_provider_glueray.triggers.bookmark import Bookmark
from airflow_provider_glueray.watcher import watching

#: How long the last note of the place in the log may take.
LAST_NOTE_SECONDS = 1.0


class GlueRayJobTrigger(BaseTrigger):
    """Wait for a run and send its outcome as the event.

    :param run: a ``RunRef`` as JSON.
    :param hook: keyword arguments of :class:`GlueRayJobHook`; the runs of equal ones share their polls.
    :param policy: a ``Policy`` as JSON.
    :param cursor: a ``LogCursor`` as JSON: where to begin in the log.
    :param stop_on_kill: whether to stop the run when a user kills or clears the deferred task.
    """

    def __init__(
        self,
        run: Mapping[str, Any],
        hook: Mapping[str, Any],
        policy: Mapping[str, Any],
        cursor: Mapping[str, Any],
        stop_on_kill: bool = True,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.run_json = dict(run)
        self.hook = dict(hook)
        self.policy = dict(policy)
        self.cursor = dict(cursor)
        self.stop_on_kill = stop_on_kill
        self._bookmark: Bookmark | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments, all plain JSON."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "run": self.run_json,
                "hook": self.hook,
                "policy": self.policy,
                "cursor": self.cursor,
                "stop_on_kill": self.stop_on_kill,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Follow the run to its end and yield its ``Outcome`` as JSON."""
        ref = RunRef.from_json(self.run_json)
        self._bookmark = Bookmark(self.task_instance)
        cursor = await self._bookmark.find(LogCursor.from_json(self.cursor))
        steps = follow(ref, Policy.from_json(self.policy), cursor)
        async with watching(self._key(), self._make_backend) as watcher:
            outcome = await adrive(steps, watcher, ref, self.log, turn=self._bookmark.turn)
        event = {**outcome.to_json(), "noted": self._bookmark.was_noted}
        self._bookmark = None
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]

    async def cleanup(self) -> None:
        """Note the place in the log: the triggerer is going away before the run has ended."""
        if self._bookmark is not None:
            # A triggerer that stops still hears us but no longer answers; waiting on would make it hang.
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_NOTE_SECONDS):
                    await self._bookmark.note()

    async def on_kill(self) -> None:
        """Stop the run: a user marked the deferred task, or cleared it. Not called on a restart."""
        if not self.stop_on_kill:
            return
        ref = RunRef.from_json(self.run_json)
        self.log.info("Task killed; stopping run %s", ref.id)
        async with watching(self._key(), self._make_backend) as watcher:
            await watcher.call(lambda backend: backend.stop(ref))

    def _key(self) -> str:
        return json.dumps(self.hook, sort_keys=True)

    def _make_backend(self) -> RunBackend:
        from airflow_provider_glueray.hooks.glue_jobs import GlueRayJobHook

        return GlueRayJobHook(**self.hook)
