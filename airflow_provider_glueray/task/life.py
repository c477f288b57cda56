"""The life of a run: submit or reattach, wait in the worker or in the triggerer, and never leave an orphan.

"Never two runs" is kept here. An operator owns one life per run: most have one run, a notebook in a session has one for
the session and one per cell.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.sdk import Context

from airflow_provider_glueray.core import clock
from airflow_provider_glueray.core.backend import RunHook
from airflow_provider_glueray.core.drivers import TaskLog, run_sync
from airflow_provider_glueray.core.errors import CapacityExceeded, RunStopped, StopError, SubmitError
from airflow_provider_glueray.core.follow import FollowPolicy, follow
from airflow_provider_glueray.core.logs import LogCursor
from airflow_provider_glueray.core.runs import Outcome, RunRef, RunSnapshot, RunState
from airflow_provider_glueray.hooks import settings
from airflow_provider_glueray.hooks.registry import make_hook
from airflow_provider_glueray.task.outcome import will_retry
from airflow_provider_glueray.task.record import STORE_KEY, RunRecord, client_tokens, first_try_of

if TYPE_CHECKING:
    from airflow_provider_glueray.triggers.runs import GlueRayRunTrigger

T = TypeVar("T")

#: Starts a run that carries the given client token; raises ``CapacityExceeded`` while there is no capacity for it.
Start = Callable[[str], RunRef]

#: Seconds before the submission at which the log begins to be read, so that no difference of clocks hides a line.
LOG_MARGIN = 60


class RunLife:
    """One run of a task, from its submission to its outcome.

    :param hook: of the run's backend.
    :param backend: as in ``RunRef``.
    :param hook_kwargs: build the hook again in the triggerer. Those that say where runs are, are kept with the run: a
        run of an earlier try that was started with others is elsewhere.
    :param policy: returns how to follow the run of a record.
    :param run_timeout: seconds that the run may take; None for ever.
    :param queue_timeout: seconds to wait while the service has no capacity.
    :param wait_for_capacity: waits so many seconds; it may instead leave the task, which then begins again.
    :param required_capacity: says what capacity the run needs, for the error when there was none in time.
    :param key: the key of the record in the task state store; a task with several runs has one for each.
    :param stop_on_kill: whether to stop the run when Airflow kills the task.
    """

    def __init__(
        self,
        hook: RunHook,
        log: TaskLog,
        *,
        backend: str,
        hook_kwargs: Mapping[str, Any],
        policy: Callable[[RunRecord], FollowPolicy],
        run_timeout: float | None,
        queue_timeout: float,
        wait_for_capacity: Callable[[float], None],
        required_capacity: Callable[[], str],
        key: str = STORE_KEY,
        stop_on_kill: bool = True,
    ) -> None:
        self._hook, self._log = hook, log
        self._backend = backend
        self._hook_kwargs = dict(hook_kwargs)
        # How the service is asked is not where it is, and need not have a JSON form.
        self._connection = {name: value for name, value in hook_kwargs.items() if name not in ("verify", "config")}
        self._policy = policy
        self._run_timeout, self._queue_timeout = run_timeout, queue_timeout
        self._wait_for_capacity, self._required_capacity = wait_for_capacity, required_capacity
        self._key = key
        self._stop_on_kill = stop_on_kill
        self._record: RunRecord | None = None
        # Whether the service may have a run of the record.
        self._may_be_there = False
        self.is_killed = False

    @property
    def ref(self) -> RunRef | None:
        """The run, once it has been submitted or found."""
        return self._record.ref if self._record else None

    # -- submit or reattach -----------------------------------------------------------------------------------

    def submit_or_reattach(
        self, context: Context, name: Callable[[str], str], prepare: Callable[[], Start], *, only_in: str | None = None
    ) -> RunRef:
        """Return the run of this attempt group if it can still be used, else a new one.

        :param name: returns, for a client token, what its run belongs to.
        :param prepare: makes ready what starts the run; called only when one has to be started.
        :param only_in: reattach only to a run that belongs to this name.
        :raises CapacityExceeded: there was no capacity within the queue timeout.
        """
        record = self._record_of_this_group(context)
        if record and only_in is not None and record.name != only_in:
            record = None
        used = None
        if record is None:
            # In a session that is there, nothing can have been started before the first try.
            is_new = only_in is not None and context["ti"].try_number == 1
            record, used = (None, 0) if is_new else self._find_without_record(context, name)
        self._record, self._may_be_there = record, record is not None
        if record and self._can_reattach(record, context):
            record.save(context, self._key)
            return self.resume(record)
        if record is None or record.run_id is not None:
            self._may_be_there = False
            token = self._unused_token(context, name, used)
            record = RunRecord.new(context, self._backend, name(token), token, self._connection)
        # Written before the request: if everything dies now, the next try finds the run by its client token.
        record.save(context, self._key)
        self._record = record
        self._record_run_id(record, self._start(prepare, record, context))
        record.save(context, self._key)
        if self.is_killed:
            # The kill came while the response was under way and could not know the id.
            self.kill()
            self._raise_if_killed()
        return self.resume(record)

    def _record_of_this_group(self, context: Context) -> RunRecord | None:
        """Return the record, unless its run is elsewhere or of before a clear: such a run is stopped."""
        record = RunRecord.load(context, self._key)
        if record and (record.backend, record.connection) != (self._backend, self._connection):
            self.abandon(record)
            return None
        if record and record.is_from_before_clear(context):
            self._stop_before_clear(self._runs_of(record))
            return None
        return record

    def _find_without_record(self, context: Context, name: Callable[[str], str]) -> tuple[RunRecord | None, int]:
        """Return a record for the newest run of this attempt group, found by the client tokens that its tries use.

        Also returns how many client tokens the current try has used. The task state store is empty at the first try,
        and may be lost. Runs of before a clear are stopped.
        """
        first, current = first_try_of(context), int(context["ti"].try_number)
        # Nobody knows whether the try before this one has started a run, and a list may lag behind a start.
        until = clock.now() + settings.waits().lost if current > first else 0.0
        return self._patiently(
            lambda: self._newest_of_this_group(context, name, first, current), lambda seen: seen[0] is not None, until
        )

    def _newest_of_this_group(
        self, context: Context, name: Callable[[str], str], first: int, current: int
    ) -> tuple[RunRecord | None, int]:
        newest, used = None, 0
        for try_number in range(current, 0, -1):
            found = list(self._runs_of_try(context, name, try_number))
            used = len(found) if try_number == current else used
            # Where the first try cannot be reckoned, no clear is known, and an active run must not be lost.
            if try_number < first <= current:
                self._stop_before_clear([run for _, runs in found for run in runs])
            elif newest is None and found:
                newest = found[-1]
        if newest is None:
            return None, used
        token, runs = newest
        if runs[0].is_over and _is_of_another_dag_run(runs[0], context):
            return None, used
        record = RunRecord.new(context, self._backend, name(token), token, self._connection)
        record.submitted = min(record.submitted, runs[0].started or record.submitted)
        return record, used

    def _runs_of_try(
        self, context: Context, name: Callable[[str], str], try_number: int
    ) -> Iterator[tuple[str, list[RunSnapshot]]]:
        """Yield the client tokens that a try has used, each with its runs."""
        for token in client_tokens(context, self._key, try_number):
            runs = self._hook.find_runs(name(token), token)
            if not runs:
                return
            yield token, runs

    def _unused_token(self, context: Context, name: Callable[[str], str], used: int | None) -> str:
        """Return a client token that no run carries: a try may start a second run, and a DAG run may be made anew."""
        try_number = int(context["ti"].try_number)
        if used is None:
            used = self._patiently(
                lambda: sum(1 for _ in self._runs_of_try(context, name, try_number)), lambda _: True, 0.0
            )
        return next(islice(client_tokens(context, self._key, try_number), used, None))

    def resume(self, record: RunRecord) -> RunRef:
        """Go on with the run of a record, which is known to be there; return it."""
        self._record = record
        return self._submitted()[1]

    def abandon(self, record: RunRecord) -> None:
        """Stop a run that another connection or another mode has started, by the hook that started it."""
        what = record.ref.title if record.ref else f"a run of {record.name} with the client token {record.client_token}"
        text = "The connection was changed; %s was started by %s %s"
        self._log.log(logging.WARNING, text, what, record.backend, record.connection)
        try:
            hook = make_hook(record.backend, record.connection)
            found = [record.ref] if record.ref else []
            hook.stop(*(found or [each.ref for each in hook.find_runs(record.name, record.client_token)]))
        except Exception as error:  # whatever has become of the old connection, somebody has decided to leave it
            self._log.log(logging.ERROR, "Cannot reach %s there; if it runs, stop it by hand: %s", what, error)

    def _can_reattach(self, record: RunRecord, context: Context) -> bool:
        """Look at the run of an earlier try; tell whether to go on with it."""
        found = self._look_patiently(record)
        if not found:
            return False
        snapshot = found[0]
        if record.run_id is None:
            self._record_run_id(record, snapshot.ref, snapshot.started)
        if snapshot.state.is_terminal and snapshot.state is not RunState.SUCCEEDED:
            if not snapshot.is_over:
                # Whoever saw it end had no time to wait until nothing of it can run.
                steps = follow(snapshot.ref, self._policy(record)._replace(sources=()))
                run_sync(steps, self._hook, snapshot.ref, self._log)
            self._log.info("%s of an earlier try ended %s; starting anew", snapshot.ref.title, snapshot.raw_state)
            return False
        # With ``retries`` as they were, no clear can have been missed.
        is_certain = record.first_try == first_try_of(context) and 1 <= record.first_try <= context["ti"].try_number
        if snapshot.is_over and not is_certain:
            self._log.info("Whether %s is of before a clear is not known; starting anew", snapshot.ref.title)
            return False
        self._log.info("Reattaching to %s of an earlier try, which is %s", snapshot.ref.title, snapshot.raw_state)
        return True

    def _look_patiently(self, record: RunRecord) -> list[RunSnapshot]:
        """Look for a run that may have been started just now, which a list may lag behind.

        One for which there was no room is not waited for: it was refused.
        """
        until = 0.0 if record.queued_since else record.submitted + settings.waits().lost
        return self._patiently(
            lambda: self._runs_of(record), lambda runs: any(run.state is not RunState.LOST for run in runs), until
        )

    def _patiently(self, look: Callable[[], T], is_enough: Callable[[T], bool], until: float) -> T:
        """Look for a run until it is seen, or until a time has come; a look that fails is no look."""
        waits, began = settings.waits(), clock.now()
        while True:
            try:
                seen = look()
                if is_enough(seen) or clock.now() >= until:
                    return seen
            except SubmitError as error:
                if not error.retryable or clock.now() >= began + waits.lost:
                    raise
                self._log.info("Could not look for the run of an earlier try, looking again: %s", error)
            clock.sleep(waits.look_again)

    def _stop_before_clear(self, snapshots: Sequence[RunSnapshot]) -> None:
        """Stop the runs of an earlier attempt group: the task was cleared, so their result is not wanted."""
        for snapshot in snapshots:
            if not snapshot.is_over:
                self._log.info("Stopping %s, from before the task was cleared", snapshot.ref.title)
                self._hook.stop(snapshot.ref)

    def _start(self, prepare: Callable[[], Start], record: RunRecord, context: Context) -> RunRef:
        """Start the run, waiting for capacity, also to prepare it: full is not failed."""
        attempt, waits = 0, settings.waits()
        start: Start | None = None
        while True:
            self._raise_if_killed()
            try:
                start = start or prepare()
                return self._send(start, record, again=attempt > 0)
            except CapacityExceeded as error:
                now = clock.now()
                record.queued_since = record.queued_since or now
                waited = now - record.queued_since
                if waited >= self._queue_timeout:
                    # The next try waits anew.
                    record.queued_since = None
                    record.save(context, self._key)
                    raise CapacityExceeded(
                        f"{error}. Waited {waited:.0f} s of {self._queue_timeout:.0f} s (queue_timeout) for capacity. "
                        f"{self._required_capacity()}",
                        code=error.code,
                        status=error.status,
                    ) from error
                record.save(context, self._key)
                attempt += 1
                pause = min(max(waits.queue_first * 2 ** (attempt - 1), waited * 0.5), waits.queue_longest)
                pause = min(pause * random.uniform(0.8, 1.2), self._queue_timeout - waited)
                self._log.info("Waiting for capacity (%s); trying again in %.0f s", error, pause)
                self._wait_for_capacity(pause)

    def _send(self, start: Start, record: RunRecord, *, again: bool) -> RunRef:
        """Send the start; before it is sent again, look for what it may have started: a refusal can be about that.

        :raises CapacityExceeded: there is none, or whether the start was accepted is not known yet.
        """
        if again:
            try:
                found = self._hook.find_runs(record.name, record.client_token)
            except SubmitError as error:
                raise CapacityExceeded(f"Whether the run was started is not known yet: {error}") from error
            if found:
                return found[0].ref
        self._may_be_there = True
        return start(record.client_token)

    def _record_run_id(self, record: RunRecord, ref: RunRef, started: float | None = None) -> None:
        record.name, record.run_id = ref.name, ref.id
        record.queued_since = None
        record.deadline = (started or clock.now()) + self._run_timeout if self._run_timeout else None

    def _runs_of(self, record: RunRecord) -> list[RunSnapshot]:
        """Return the record's run, by its id or by its client token."""
        if record.ref is not None:
            return [self._hook.describe([record.ref])[record.ref]]
        return self._hook.find_runs(record.name, record.client_token)

    # -- wait -------------------------------------------------------------------------------------------------

    def wait(self) -> Outcome:
        """Wait for the run in the worker.

        :raises RunStopped: Airflow has killed the task.
        """
        record, ref = self._submitted()
        outcome = run_sync(follow(ref, self._policy(record), _cursor_of(record)), self._hook, ref, self._log)
        if self.is_killed:
            raise RunStopped(outcome, self._hook.url(ref))
        return outcome

    def deferral(
        self, *, stop: RunRef | None = None, within: timedelta | None = None
    ) -> tuple[GlueRayRunTrigger, timedelta | None]:
        """Return the trigger that follows the run, and how long it may take.

        :param stop: what to stop when the deferred task is killed; the run itself if it is None.
        :param within: the task's own ``execution_timeout``.
        """
        from airflow_provider_glueray.triggers.runs import GlueRayRunTrigger

        record, ref = self._submitted()
        bounds = [within.total_seconds()] if within else []
        if record.deadline is not None:
            # For the case that no triggerer is there to keep the deadline.
            bounds.append(max(record.deadline - clock.now(), 0.0) + 2 * settings.waits().stop_grace)
        trigger = GlueRayRunTrigger(
            run=ref.to_json(),
            hook=self._hook_kwargs,
            policy=self._policy(record).to_json(),
            cursor=_cursor_of(record).to_json(),
            kill=(stop or ref).to_json() if self._stop_on_kill else None,
        )
        return trigger, timedelta(seconds=min(bounds)) if bounds else None

    def _submitted(self) -> tuple[RunRecord, RunRef]:
        record, ref = self._record, self.ref
        assert record, "a run was submitted or found"
        assert ref, "the service has answered for it"
        return record, ref

    # -- stop -------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """Stop the run because Airflow kills the task, whether or not its id is known yet; start none any more."""
        self.is_killed = True
        if self._record is None:
            return
        if not self._stop_on_kill:
            self._log.info("Task killed; its run goes on, because stop_on_kill is False")
            return
        refs = [snapshot.ref for snapshot in self._runs_of(self._record)]
        if refs:
            self._log.info("Task killed; stopping %s", ", ".join(ref.title for ref in refs))
            self._hook.stop(*refs)

    def _raise_if_killed(self) -> None:
        if not self.is_killed:
            return
        snapshots = self._runs_of(self._record) if self._record else []
        if snapshots:
            raise RunStopped(Outcome(snapshots[0]))
        raise StopError("The task was killed before its run was started")

    def stop_if_last_try(self, error: Exception, context: Context) -> None:
        """Leave no run behind when something other than the run has failed and nobody will come back.

        Also one whose start had no answer, and one that could not be noted.
        """
        record = self._record
        if record is None or not self._may_be_there or will_retry(error, context):
            return
        what = record.ref.title if record.ref else f"a run of {record.name} with the client token {record.client_token}"
        try:
            for snapshot in self._runs_of(record):
                if not snapshot.is_over:
                    text = "Stopping %s: the last try of its task has failed (%s)"
                    self._log.log(logging.WARNING, text, snapshot.ref.title, error)
                    self._hook.stop(snapshot.ref)
        except Exception as failure:  # the log has to say why the task failed, not this
            self._log.log(logging.ERROR, "Could not stop %s; if it runs, stop it by hand: %s", what, failure)


def _cursor_of(record: RunRecord) -> LogCursor:
    return LogCursor(since_ms=int((record.submitted - LOG_MARGIN) * 1000))


def _is_of_another_dag_run(snapshot: RunSnapshot, context: Context) -> bool:
    """Tell whether a run is older than its DAG run: one that was deleted and made anew has the same id."""
    began = context["dag_run"].start_date
    return bool(began and snapshot.started and snapshot.started < began.timestamp())
