"""Start a run once: take up the one of an earlier try, or start a new one, waiting for room.

Floor 3. This is where "never two runs" is kept; the operator only says what to run and how to rest.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from airflow_provider_glueray.errors import RunStopped, ServiceFull, StopError
from airflow_provider_glueray.operators.series import Record, series_of
from airflow_provider_glueray.runs import Outcome, RunRef, RunSnapshot, RunState
from airflow_provider_glueray.spec import MDPU_PER_WORKER, RayJobSpec

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_glueray.drive import TaskLog
    from airflow_provider_glueray.hooks.glue_jobs import GlueRayJobHook

#: The backend of the runs, as in ``RunRef``.
BACKEND = "glue-job"
#: Seconds between two attempts to get room: from the first to the longest, with jitter on top.
QUEUE_FIRST, QUEUE_LONGEST = 5.0, 120.0


class Submission:
    """One task's way to its run.

    :param timeout: seconds that a run may take, None for ever.
    :param queue_timeout: seconds to wait while the service has no room.
    :param rest: waits the given seconds; it may instead leave the task, which then begins again.
    """

    def __init__(
        self,
        hook: GlueRayJobHook,
        log: TaskLog,
        *,
        timeout: float | None,
        queue_timeout: float,
        rest: Callable[[float], None],
    ) -> None:
        self._hook = hook
        self._log = log
        self._timeout = timeout
        self._queue_timeout = queue_timeout
        self._rest = rest
        self._record: Record | None = None
        self.killed = False

    def obtain(self, context: Context, job_name: str, make_spec: Callable[[], RayJobSpec]) -> tuple[Record, RunRef]:
        """Return the run of this series if it can still be used, else a new one.

        :param make_spec: builds and stages the spec; called only when a run has to be started.
        """
        record = Record.load(context)
        if record and record.series < series_of(context):
            self._stop_survivors(record)
            record = None
        self._record = record
        if record and self._reattached(record):
            record.save(context)
            return record, _ref_of(record)
        if record is None or record.run_id is not None:
            record = Record.new(context, job_name, time.time())
        # Written before the request: if everything dies now, the next try finds the run by its mark.
        record.save(context)
        self._record = record
        spec = make_spec()
        self._log.info("Job %s: %s", spec.name, self._hook.ensure_job(spec))
        self._note(record, self._start(spec, record, context))
        record.save(context)
        if self.killed:
            # The kill came while the answer was under way and could not know the id.
            self.kill()
            self._refuse_if_killed()
        return record, _ref_of(record)

    def kill(self) -> None:
        """Stop the run, whether or not its id is known yet; start none any more."""
        self.killed = True
        if self._record is None:
            return
        refs = [snapshot.ref for snapshot in self._runs_of(self._record)]
        if refs:
            self._log.info("Task killed; stopping run %s", ", ".join(ref.id for ref in refs))
            self._hook.stop(*refs)

    def _reattached(self, record: Record) -> bool:
        """Look at the run of an earlier try; tell whether to go on with it."""
        found = self._runs_of(record)
        if not found:
            return False
        snapshot = found[0]
        if record.run_id is None:
            self._note(record, snapshot.ref)
        if snapshot.state.is_terminal and snapshot.state is not RunState.SUCCEEDED:
            self._log.info("Run %s of an earlier try ended %s; starting a new one", snapshot.ref.id, snapshot.raw_state)
            return False
        self._log.info("Taking up run %s of an earlier try, which is %s", snapshot.ref.id, snapshot.raw_state)
        return True

    def _stop_survivors(self, record: Record) -> None:
        """Stop what an earlier series left running: the task was cleared, so its result is not wanted."""
        for snapshot in self._runs_of(record):
            if not snapshot.state.is_terminal:
                self._log.info("Stopping run %s, from before the task was cleared", snapshot.ref.id)
                self._hook.stop(snapshot.ref)

    def _start(self, spec: RayJobSpec, record: Record, context: Context) -> RunRef:
        """Start the run, waiting for room: full is not failed."""
        attempt = 0
        while True:
            self._refuse_if_killed()
            try:
                return self._hook.submit(spec, record.mark)
            except ServiceFull as error:
                now = time.time()
                record.queued_since = record.queued_since or now
                waited = now - record.queued_since
                if waited >= self._queue_timeout:
                    # The next try waits anew.
                    record.queued_since = None
                    record.save(context)
                    raise self._no_room(spec, waited, error) from error
                record.save(context)
                attempt += 1
                pause = min(max(QUEUE_FIRST * 2 ** (attempt - 1), waited * 0.5), QUEUE_LONGEST)
                pause = min(pause * random.uniform(0.8, 1.2), self._queue_timeout - waited)
                self._log.info("No room yet (%s); trying again in %.0f s", error, pause)
                self._rest(pause)

    def _no_room(self, spec: RayJobSpec, waited: float, error: ServiceFull) -> ServiceFull:
        needed = spec.workers.number_of_workers * MDPU_PER_WORKER
        return ServiceFull(
            f"{error}. Waited {waited:.0f} s of {self._queue_timeout:.0f} s (queue_timeout) for room. "
            f"The run needs {needed} M-DPU; an account has 50 per region, not adjustable, and "
            f"this job allows {spec.max_concurrent_runs} run(s) at once"
        )

    def _note(self, record: Record, ref: RunRef) -> None:
        record.run_id = ref.id
        record.queued_since = None
        record.deadline = time.time() + self._timeout if self._timeout else None

    def _runs_of(self, record: Record) -> list[RunSnapshot]:
        """Return the record's run, by its id or by its mark."""
        ref = record.ref(BACKEND)
        return [self._hook.describe([ref])[ref]] if ref else self._hook.find_runs(record.job_name, record.mark)

    def _refuse_if_killed(self) -> None:
        if not self.killed:
            return
        snapshots = self._runs_of(self._record) if self._record else []
        if snapshots:
            raise RunStopped(Outcome(snapshots[0]))
        raise StopError("The task was killed before its run was started")


def _ref_of(record: Record) -> RunRef:
    ref = record.ref(BACKEND)
    assert ref is not None, "a record that comes back from submission has a run"
    return ref
