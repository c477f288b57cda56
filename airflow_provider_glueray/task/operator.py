"""What every operator that starts a run has in common: start or take up, wait, finish, and never leave an orphan.

Floor 3. One routine starts a run or takes one up again, one waits (in the worker or deferred), one finishes.
Module level imports only Airflow's SDK and floors 0 and 1: the dag processor imports this in every parse.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, XComArg, conf
from airflow.sdk.exceptions import TaskDeferralError, TaskDeferralTimeout

from airflow_provider_glueray.core import clock
from airflow_provider_glueray.core.drivers import run_sync
from airflow_provider_glueray.core.errors import GlueRayError, RunStopped, RunTimedOut
from airflow_provider_glueray.core.follow import FollowPolicy, follow
from airflow_provider_glueray.core.logs import LogCursor
from airflow_provider_glueray.core.runs import KUBERAY_JOB, RAY_JOB, Outcome, RunRef
from airflow_provider_glueray.core.validation import is_template
from airflow_provider_glueray.hooks import settings
from airflow_provider_glueray.hooks.registry import hook_kwargs, make_hook
from airflow_provider_glueray.links.runs import LINKS
from airflow_provider_glueray.task.outcome import fail_without_retry, publish_links, will_retry
from airflow_provider_glueray.task.record import STORE_KEY, RunRecord
from airflow_provider_glueray.task.submission import Start, Submission

if TYPE_CHECKING:
    from airflow.sdk import Context

#: How long to wait for room, unless a task says otherwise.
QUEUE_TIMEOUT = timedelta(hours=6)


class GlueRayRunOperator(BaseOperator):
    """The life of a run, from its start to its verdict; what is run, the operators built on this one say.

    :param conn_id: an ``aws`` connection; None for boto3's own credentials.
    :param region_name, verify, botocore_config: as in the amazon provider.
    :param deferrable: wait in the triggerer instead of the worker.
    :param poll_interval: the longest pause between two polls.
    :param run_timeout: how long the run may take, from its start on; then it is stopped and the task fails.
    :param queue_timeout: how long to wait while the service has no room.
    """

    #: Of the runs it starts, as in ``RunRef``; where the connection decides, it is known when the task runs.
    backend: str
    operator_extra_links = LINKS
    ui_color = "#d6eaf8"

    def __init__(
        self,
        *,
        conn_id: str | None = "aws_default",
        region_name: str | None = None,
        verify: bool | str | None = None,
        botocore_config: dict[str, Any] | None = None,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poll_interval: float = 10.0,
        run_timeout: timedelta | float | None = timedelta(hours=48),
        queue_timeout: timedelta | float = QUEUE_TIMEOUT,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id
        self.region_name = region_name
        self.verify = verify
        self.botocore_config = botocore_config
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self.run_timeout = seconds_of(run_timeout)
        self.queue_timeout = seconds_of(queue_timeout) or 0.0

    # -- what an operator says of its runs --------------------------------------------------------------------

    def _name(self, client_token: str, context: Context) -> str:
        """Return what a run with this mark will belong to, as in ``RunRef``."""
        raise NotImplementedError

    def _prepare(self, context: Context) -> Start:
        """Make ready what starts the run; called only when one has to be started."""
        raise NotImplementedError

    def _finish(self, outcome: Outcome, context: Context) -> Any:
        """Leave with the result of the run, or raise its failure."""
        raise NotImplementedError

    def _required_capacity(self) -> str:
        """Say what room the run needs."""
        raise NotImplementedError

    def _policy(self, record: RunRecord) -> FollowPolicy:
        """Say how to follow the run."""
        waits = settings.waits()
        return FollowPolicy(
            deadline=record.deadline,
            poll_interval=self.poll_interval,
            sources=(),
            min_poll_interval=waits.least_poll_in_session,
            waits=waits,
        )

    def ineffective_settings(self) -> list[str]:
        """Return what the task says of its waiting and its requests that means nothing where the connection leads."""
        if self.backend not in (RAY_JOB, KUBERAY_JOB):
            return []
        given = [name for name in ("region_name", "verify", "botocore_config") if getattr(self, name) is not None]
        # Ray refuses no run for want of room: it takes it and lets it wait.
        waits = self.backend == RAY_JOB and self.queue_timeout != QUEUE_TIMEOUT.total_seconds()
        return [*given, "queue_timeout"] if waits else given

    # -- the life of a run ------------------------------------------------------------------------------------

    def execute(self, context: Context) -> Any:
        """Start the run or take it up again, wait for it, and return its result."""
        with fail_without_retry():
            record, ref = self._submission.submit_or_reattach(
                context, lambda client_token: self._name(client_token, context), lambda: self._prepare(context)
            )
            try:
                context["ti"].xcom_push(key="glueray_run", value=ref.to_json())
                publish_links(ref, self.hook, context, self.log)
                return self._wait_or_defer(record, ref, context)
            except Exception as error:
                self._stop_if_last_try(ref, error, context)
                raise

    def _wait_or_defer(self, record: RunRecord, ref: RunRef, context: Context) -> Any:
        """Wait for the run: here, or in the triggerer, which this call then never returns from."""
        if self.deferrable:
            self._defer(record, ref)
        return self._finish(self._wait(record, ref), context)

    def _wait(self, record: RunRecord, ref: RunRef) -> Outcome:
        """Wait for the run in the worker."""
        outcome = run_sync(follow(ref, self._policy(record), cursor_of(record)), self.hook, ref, self.log)
        if self._was_killed():
            raise RunStopped(outcome, self.hook.url(ref))
        return outcome

    def _was_killed(self) -> bool:
        """Tell whether Airflow has asked for the end of the task."""
        return self._submission.killed

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Take over from the trigger: judge the outcome it sent."""
        if event.get("log_position_saved"):
            from airflow_provider_glueray.triggers._log_position import delete

            delete(context["ti"])
        with fail_without_retry():
            return self._finish(Outcome.from_json(event), context)

    def execute_after_queueing(self, context: Context, event: Any = None) -> Any:
        """Take over from the timer that let a full service rest: try to start the run again."""
        return self.execute(context)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume, also when Airflow gave up on the trigger, which never calls ``execute_complete``."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except TaskDeferralTimeout:
            ref = self._current_run(context)
            if ref is None:
                raise
            self.hook.stop(ref)
            return self._end_overdue(Outcome(self.hook.describe([ref])[ref], deadline_passed=True), context)
        except TaskDeferralError as error:
            self.log.warning("The trigger failed (%s); waiting in the worker instead", error)
            self.deferrable = False
            return self.execute(context)

    def _current_run(self, context: Context) -> RunRef | None:
        """Return the run that the task was deferred for."""
        record = RunRecord.load(context)
        return record.ref(self.backend) if record else None

    def _end_overdue(self, outcome: Outcome, context: Context) -> Any:
        """Leave a run whose time was over and which has been stopped."""
        raise RunTimedOut(outcome, self.hook.url(outcome.snapshot.ref)) from None

    def on_kill(self) -> None:
        """Stop the run. Airflow gives us five seconds, and neither XCom nor the state store."""
        self._submission.kill()

    def _wait_for_capacity(self, seconds: float) -> None:
        """Let a full service rest: deferred, the task begins again in ``execute_after_queueing``."""
        if not self.deferrable:
            clock.sleep(seconds)
            return
        from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger

        timer = TimeDeltaTrigger(timedelta(seconds=seconds))
        self.defer(trigger=timer, method_name=self.execute_after_queueing.__name__)

    def _defer(self, record: RunRecord, ref: RunRef, *, kill: RunRef | None = None) -> None:
        """Leave the worker; the trigger follows the run.

        :param kill: what to stop when the deferred task is killed; the run itself if it is None.
        """
        from airflow_provider_glueray.triggers.runs import GlueRayRunTrigger

        bounds = [self.execution_timeout.total_seconds()] if self.execution_timeout else []
        if record.deadline is not None:
            # For the case that no triggerer is there to keep the deadline.
            bounds.append(max(record.deadline - clock.now(), 0.0) + 2 * settings.waits().stop_grace)
        self.defer(
            trigger=GlueRayRunTrigger(
                run=ref.to_json(),
                hook=self._hook_kwargs(),
                policy=self._policy(record).to_json(),
                cursor=cursor_of(record).to_json(),
                kill=(kill or ref).to_json(),
            ),
            method_name=self.execute_complete.__name__,
            timeout=timedelta(seconds=min(bounds)) if bounds else None,
        )

    def _stop_if_last_try(self, ref: RunRef, error: Exception, context: Context) -> None:
        """Leave no run behind when something other than the run has failed and nobody will come back."""
        if will_retry(error, context):
            return
        try:
            if not self.hook.describe([ref])[ref].is_over:
                self.log.warning("Stopping %s: the last try of its task has failed (%s)", ref.title, error)
                self.hook.stop(ref)
        except GlueRayError as trouble:  # why the task failed is what people have to be told
            self.log.error("Could not stop %s; if it runs, stop it by hand: %s", ref.title, trouble)  # noqa: TRY400

    # -- what it is made of -----------------------------------------------------------------------------------

    @cached_property
    def _submission(self) -> Submission:
        return self._submission_for(self.backend, STORE_KEY, self.run_timeout)

    def _submission_for(self, backend: str, key: str, run_timeout: float | None) -> Submission:
        """Return the way to a run; a task with several runs remembers each under a key of its own."""
        return Submission(
            self.hook,
            self.log,
            backend=backend,
            # How the service is asked is not where it is, and need not have a JSON form.
            connection={key: value for key, value in self._hook_kwargs().items() if key not in ("verify", "config")},
            run_timeout=run_timeout,
            queue_timeout=self.queue_timeout,
            wait_for_capacity=self._wait_for_capacity,
            required_capacity=self._required_capacity,
            key=key,
        )

    @cached_property
    def hook(self) -> Any:
        """The door to the service."""
        return make_hook(self.backend, self._hook_kwargs())

    def _hook_kwargs(self) -> dict[str, Any]:
        return hook_kwargs(self.backend, self.conn_id, self.region_name, self.verify, self.botocore_config)

    def _relative_to_dag(self, path: str) -> str:
        """Resolve a relative path from where the DAG's file is."""
        if path.startswith("s3://"):
            return path
        return str(Path(self.dag.fileloc).parent / path)


def seconds_of(value: timedelta | float | None) -> float | None:
    """Read a duration; numbers are seconds."""
    return value.total_seconds() if isinstance(value, timedelta) else value


def is_unrendered(value: object) -> bool:
    """Tell whether a value is only known when the task runs."""
    if isinstance(value, Mapping):
        return any(is_unrendered(part) for part in value.values()) or is_template(value)
    if isinstance(value, (list, tuple)):
        return any(is_unrendered(part) for part in value)
    return isinstance(value, XComArg) or is_template(value)


def cursor_of(record: RunRecord) -> LogCursor:
    """Begin a little before the run was asked for, so that no clock difference hides a line."""
    return LogCursor(since_ms=int((record.submitted - 60) * 1000))
