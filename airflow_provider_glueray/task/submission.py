"""Start a run once: take up the one of an earlier try, or start a new one, waiting for room.

Floor 3. This is where "never two runs" is kept; the operator only says what to run and how to rest.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_glueray.core import clock
from airflow_provider_glueray.core.backend import RunHook
from airflow_provider_glueray.core.errors import CapacityExceeded, RunStopped, StopError
from airflow_provider_glueray.core.runs import Outcome, RunRef, RunSnapshot, RunState
from airflow_provider_glueray.hooks import settings
from airflow_provider_glueray.hooks.registry import make_hook
from airflow_provider_glueray.task.record import STORE_KEY, RunRecord, first_try_of, new_client_token

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_glueray.core.drivers import TaskLog

#: Starts a run that carries the given mark; raises ``ServiceFull`` while there is no room for it.
Start = Callable[[str], RunRef]


class Submission:
    """One task's way to its run.

    :param backend: of the run, as in ``RunRef``.
    :param door: those arguments of the hook that say where runs are; with others, one of an earlier try is elsewhere.
    :param run_timeout: seconds that a run may take, None for ever.
    :param queue_timeout: seconds to wait while the service has no room.
    :param rest: waits the given seconds; it may instead leave the task, which then begins again.
    :param needs: says what room the run needs, for the error when there was none in time.
    :param key: where the task remembers the run; a task with several runs has a key for each.
    """

    def __init__(
        self,
        hook: RunHook,
        log: TaskLog,
        *,
        backend: str,
        connection: Mapping[str, Any],
        run_timeout: float | None,
        queue_timeout: float,
        wait_for_capacity: Callable[[float], None],
        required_capacity: Callable[[], str],
        key: str = STORE_KEY,
    ) -> None:
        self._hook = hook
        self._log = log
        self._backend = backend
        self._connection = dict(connection)
        self._required_capacity = required_capacity
        self._key = key
        self._run_timeout = run_timeout
        self._queue_timeout = queue_timeout
        self._wait_for_capacity = wait_for_capacity
        self._record: RunRecord | None = None
        self.killed = False

    def submit_or_reattach(
        self, context: Context, name: Callable[[str], str], prepare: Callable[[], Start], *, only_in: str | None = None
    ) -> tuple[RunRecord, RunRef]:
        """Return the run of this series if it can still be used, else a new one.

        :param name: says, for a new mark, what the run will belong to.
        :param prepare: makes ready what starts the run; called only when one has to be started.
        :param within: take up only a run that belongs to this.
        """
        record = RunRecord.load(context, self._key)
        if record and record.backend and (record.backend, record.connection) != (self._backend, self._connection):
            self.abandon(record)
            record = None
        if record and record.first_try < first_try_of(context):
            self._stop_earlier_runs(record)
            record = None
        if record and only_in is not None and record.name != only_in:
            record = None
        self._record = record
        if record and self._can_reattach(record):
            record.save(context, self._key)
            return record, self._ref_of(record)
        if record is None or record.run_id is not None:
            client_token = new_client_token()
            record = RunRecord.new(context, client_token, name(client_token), clock.now())
            record.backend, record.connection = self._backend, self._connection
        # Written before the request: if everything dies now, the next try finds the run by its mark.
        record.save(context, self._key)
        self._record = record
        self._record_run_id(record, self._start(prepare(), record, context))
        record.save(context, self._key)
        if self.killed:
            # The kill came while the answer was under way and could not know the id.
            self.kill()
            self._raise_if_killed()
        return record, self._ref_of(record)

    @property
    def ref(self) -> RunRef | None:
        """The run that was obtained."""
        return self._record.ref(self._backend) if self._record else None

    def resume(self, record: RunRecord) -> RunRef:
        """Go on with a run that this task was deferred for: it is known to be there."""
        self._record = record
        return self._ref_of(record)

    def kill(self) -> None:
        """Stop the run, whether or not its id is known yet; start none any more."""
        self.killed = True
        if self._record is None:
            return
        refs = [snapshot.ref for snapshot in self._runs_of(self._record)]
        if refs:
            self._log.info("Task killed; stopping %s", ", ".join(ref.title for ref in refs))
            self._hook.stop(*refs)

    def _can_reattach(self, record: RunRecord) -> bool:
        """Look at the run of an earlier try; tell whether to go on with it."""
        found = self._runs_of(record)
        if not found:
            return False
        snapshot = found[0]
        if record.run_id is None:
            self._record_run_id(record, snapshot.ref)
        if snapshot.state.is_terminal and snapshot.state is not RunState.SUCCEEDED:
            self._log.info("%s of an earlier try ended %s; starting anew", snapshot.ref.title, snapshot.raw_state)
            return False
        self._log.info("Taking up %s of an earlier try, which is %s", snapshot.ref.title, snapshot.raw_state)
        return True

    def _stop_earlier_runs(self, record: RunRecord) -> None:
        """Stop what an earlier series left running: the task was cleared, so its result is not wanted."""
        for snapshot in self._runs_of(record):
            if not snapshot.is_over:
                self._log.info("Stopping %s, from before the task was cleared", snapshot.ref.title)
                self._hook.stop(snapshot.ref)

    def abandon(self, record: RunRecord) -> None:
        """Stop a run of before the connection was changed, by the way it was started; it cannot be taken up here."""
        ref = record.ref(record.backend)
        what = ref.title if ref else f"a run of {record.name} with the mark {record.client_token}"
        said = "The connection was changed; %s ran by %s %s"
        self._log.log(logging.WARNING, said, what, record.backend, record.connection)
        try:
            hook = make_hook(record.backend, record.connection)
            refs = [ref] if ref else [snapshot.ref for snapshot in hook.find_runs(record.name, record.client_token)]
            hook.stop(*refs)
        except Exception as error:  # whatever has become of the old connection, somebody has decided to leave it
            self._log.log(logging.ERROR, "%s cannot be reached there; if it runs, stop it by hand: %s", what, error)

    def _start(self, start: Start, record: RunRecord, context: Context) -> RunRef:
        """Start the run, waiting for room: full is not failed."""
        attempt, waits = 0, settings.waits()
        while True:
            self._raise_if_killed()
            try:
                return start(record.client_token)
            except CapacityExceeded as error:
                now = clock.now()
                record.queued_since = record.queued_since or now
                waited = now - record.queued_since
                if waited >= self._queue_timeout:
                    # The next try waits anew.
                    record.queued_since = None
                    record.save(context, self._key)
                    raise self._capacity_timeout_error(waited, error) from error
                record.save(context, self._key)
                attempt += 1
                longest = max(waits.queue_first * 2 ** (attempt - 1), waited * 0.5)
                pause = min(longest, waits.queue_longest)
                pause = min(pause * random.uniform(0.8, 1.2), self._queue_timeout - waited)
                self._log.info("No room yet (%s); trying again in %.0f s", error, pause)
                self._wait_for_capacity(pause)

    def _capacity_timeout_error(self, waited: float, error: CapacityExceeded) -> CapacityExceeded:
        return CapacityExceeded(
            f"{error}. Waited {waited:.0f} s of {self._queue_timeout:.0f} s (queue_timeout) for room. "
            f"{self._required_capacity()}"
        )

    def _record_run_id(self, record: RunRecord, ref: RunRef) -> None:
        record.name, record.run_id = ref.name, ref.id
        record.queued_since = None
        record.deadline = clock.now() + self._run_timeout if self._run_timeout else None

    def _runs_of(self, record: RunRecord) -> list[RunSnapshot]:
        """Return the record's run, by its id or by its mark."""
        ref = record.ref(self._backend)
        return [self._hook.describe([ref])[ref]] if ref else self._hook.find_runs(record.name, record.client_token)

    def _raise_if_killed(self) -> None:
        if not self.killed:
            return
        snapshots = self._runs_of(self._record) if self._record else []
        if snapshots:
            raise RunStopped(Outcome(snapshots[0]))
        raise StopError("The task was killed before its run was started")

    def _ref_of(self, record: RunRecord) -> RunRef:
        ref = record.ref(self._backend)
        assert ref is not None, "a record that comes back from submission has a run"
        return ref
