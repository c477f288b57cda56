"""Wait for a run that was started elsewhere.

Floor 3. The same snapshots, trigger and verdict as the operator; only it never stops the run: it is not its own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator, PokeReturnValue, conf
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_glueray.errors import ConnectionMissing, GlueRayError, RunFailed
from airflow_provider_glueray.follow import LOST_PATIENCE, Policy
from airflow_provider_glueray.links.runs import LINKS
from airflow_provider_glueray.operators.finish import announce, finish, hook_kwargs, no_useless_retry
from airflow_provider_glueray.operators.series import Record, series_of
from airflow_provider_glueray.operators.submission import BACKEND
from airflow_provider_glueray.runs import LogCursor, Outcome, RunRef, RunState

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_glueray.hooks.glue_jobs import GlueRayJobHook


class GlueRayJobSensor(BaseSensorOperator):
    """Wait until a run has succeeded; fail when it failed. Returns the run's id.

    :param job_name: the Glue job. (templated)
    :param run_id: the run; None for the newest one of the job when the sensor first looks. While the job has
        no run yet, the sensor waits for one. (templated)
    :param conn_id: an ``aws`` connection; None for boto3's own credentials.
    :param region_name, verify, botocore_config: as in the amazon provider.
    :param deferrable: wait in the triggerer, where sensors and operators of one job share their polls.
    :param poll_seconds: the longest pause between two polls.

    ``timeout``, ``soft_fail``, ``mode`` and the rest are Airflow's own. A failed run fails the sensor for good:
    waiting again cannot change it.
    """

    template_fields: Sequence[str] = ("job_name", "run_id", "conn_id", "region_name")
    operator_extra_links = LINKS
    ui_color = "#d5f5e3"

    def __init__(
        self,
        *,
        job_name: str,
        run_id: str | None = None,
        conn_id: str | None = "aws_default",
        region_name: str | None = None,
        verify: bool | str | None = None,
        botocore_config: dict[str, Any] | None = None,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poll_seconds: float = 10.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"poke_interval": poll_seconds, **kwargs})
        self.job_name = job_name
        self.run_id = run_id
        self.conn_id = conn_id
        self.region_name = region_name
        self.verify = verify
        self.botocore_config = botocore_config
        self.deferrable = deferrable
        self.poll_seconds = poll_seconds
        self._announced = False

    def execute(self, context: Context, event: Any = None) -> Any:
        """Wait, in whichever mode. ``event`` only says that a timer has rung."""
        if not self.deferrable:
            return super().execute(context)
        with no_useless_retry():
            ref = self._run(context)
        if ref is None:
            from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger

            self.log.info("Job %s has no run yet", self.job_name)
            pause = TimeDeltaTrigger(timedelta(seconds=self.poll_seconds))
            return self.defer(trigger=pause, method_name=self.execute.__name__, timeout=self._left(context))
        from airflow_provider_glueray.triggers.glue_jobs import GlueRayJobTrigger

        policy = Policy(poll_seconds=self.poll_seconds, owns_run=False, sources=())
        return self.defer(
            trigger=GlueRayJobTrigger(
                run=ref.to_json(),
                hook=self._hook_kwargs(),
                policy=policy.to_json(),
                cursor=LogCursor().to_json(),
                stop_on_kill=False,
            ),
            method_name=self.execute_complete.__name__,
            timeout=self._left(context),
        )

    def execute_complete(self, context: Context, event: dict[str, Any]) -> str:
        """Take over from the trigger: judge the outcome it sent."""
        return self._finish(Outcome.from_json(event), context)

    def poke(self, context: Context) -> PokeReturnValue:
        """Look once. A failed look is not a failed run."""
        with no_useless_retry():
            try:
                ref = self._run(context)
                snapshot = self.hook.describe([ref])[ref] if ref else None
            except ConnectionMissing:
                raise
            except GlueRayError as error:
                self.log.warning("Could not look, trying again: %s", error)
                return PokeReturnValue(is_done=False)
        # A run may be known to whoever started it a little before it is known to everybody.
        unsure = snapshot is not None and snapshot.state is RunState.LOST and self._looked(context) < LOST_PATIENCE
        if snapshot is None or unsure or not snapshot.state.is_terminal:
            self.log.info("%s", f"Run {snapshot.ref.id} is {snapshot.raw_state}" if snapshot else "No run yet")
            return PokeReturnValue(is_done=False)
        return PokeReturnValue(is_done=True, xcom_value=self._finish(Outcome(snapshot), context))

    def _run(self, context: Context) -> RunRef | None:
        """Return the run to wait for. The newest one is chosen once and kept, also across reschedules."""
        record = Record.load(context)
        if record is None or record.series < series_of(context):
            record = Record.new(context, self.job_name, time.time())
        if record.run_id is None:
            latest = None if self.run_id else self.hook.latest_run(self.job_name)
            record.run_id = latest.ref.id if latest else self.run_id or None
            record.save(context)
        ref = record.ref(BACKEND)
        if ref and not self._announced:
            announce(ref, self.hook, context, self.log)
            self._announced = True
        return ref

    def _finish(self, outcome: Outcome, context: Context) -> str:
        try:
            return finish(outcome, self.hook, context, self.log)
        except RunFailed as failure:
            # Waiting again cannot change how a run has ended.
            raise AirflowFailException(str(failure)) from failure

    def _looked(self, context: Context) -> float:
        """Return the seconds since the sensor's first look."""
        record = Record.load(context)
        return time.time() - record.submitted if record else 0.0

    def _left(self, context: Context) -> timedelta:
        """Return what is left of the timeout, which runs from the sensor's first look."""
        return timedelta(seconds=max(self.timeout - self._looked(context), 0.0))

    @cached_property
    def hook(self) -> GlueRayJobHook:
        """The door to the service."""
        from airflow_provider_glueray.hooks.glue_jobs import GlueRayJobHook

        return GlueRayJobHook(**self._hook_kwargs())

    def _hook_kwargs(self) -> dict[str, Any]:
        return hook_kwargs(self.conn_id, self.region_name, self.verify, self.botocore_config)
