"""How far the log of a deferred run was shown, kept where a restarted triggerer finds it again.

A triggerer can reach XCom but not the task state store, so the position is an XCom of the task; the task
deletes it when it resumes. Without it, every restart would show the whole log once more.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from airflow.sdk.execution_time.xcom import XCom

from airflow_provider_glueray.airflow_compat import get_xcom, set_xcom, task_of
from airflow_provider_glueray.core.logs import LogCursor
from airflow_provider_glueray.core.storable import storable

KEY = "glueray_log_cursor"
#: Seconds between two notes while lines keep coming: what a triggerer that is killed outright may show twice.
SAVE_SECONDS = 30.0
#: Seconds after the beginning of its log, which is set a minute before the run was asked for, in which a trigger
#: counts as the first one of its run.
YOUNG_SECONDS = 65.0


class LogPosition:
    """The position in the log of one task's run.

    :param task_instance: what Airflow gave the trigger; None outside a triggerer, where nothing is kept.
    :param run_id: of the run; a note of an earlier run of the same task is none of this one.
    """

    def __init__(self, task_instance: Any, run_id: str) -> None:
        self._task_instance = task_instance
        self._run_id = run_id
        self._cursor: LogCursor | None = None
        self._saved: LogCursor | None = None
        self._saved_at = time.monotonic()

    @property
    def was_saved(self) -> bool:
        """Tell whether there is an XCom to delete."""
        return self._saved is not None

    async def load(self, begin: LogCursor) -> LogCursor:
        """Return where to go on: the position saved for this run, else ``begin``."""
        found = None
        # Right after the start of its run a trigger cannot have been restarted, and a note that is not there is
        # an error in the triggerer's log. A position that cannot be read costs repeated lines, and no more.
        if self._task_instance is not None and time.time() - begin.since_ms / 1000 > YOUNG_SECONDS:
            with suppress(Exception):
                found = await get_xcom(KEY, self._task_instance)
        if found and found.get("run_id") == self._run_id:
            begin = self._saved = LogCursor.from_json(found)
        self._cursor = begin
        return begin

    async def advance(self, cursor: LogCursor) -> None:
        """Keep a position, and save it if the last save is old enough."""
        self._cursor = cursor
        if time.monotonic() - self._saved_at >= SAVE_SECONDS:
            await self.save()

    async def save(self) -> None:
        """Save the position, if it is another one than was saved last."""
        self._saved_at = time.monotonic()
        if self._task_instance is not None and self._cursor and self._cursor != self._saved:
            with suppress(Exception):
                note = {**self._cursor.to_json(), "run_id": self._run_id}
                await set_xcom(KEY, storable(note), self._task_instance)
                self._saved = self._cursor


def delete(task_instance: Any) -> None:
    """Delete the note of a task, from its worker."""
    XCom.delete(key=KEY, **task_of(task_instance))
