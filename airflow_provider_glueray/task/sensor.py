"""What every sensor has in common: wait for a run that was started elsewhere.

The same snapshots, trigger and verdict as the operators; only it never stops a run: it is not its own.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import BaseSensorOperator, Context, PokeReturnValue

from airflow_provider_glueray.airflow_compat import AirflowFailException
from airflow_provider_glueray.core import clock
from airflow_provider_glueray.core.errors import ConnectionConfigError, GlueRayError, RunFailed
from airflow_provider_glueray.core.follow import FollowPolicy
from airflow_provider_glueray.core.logs import LogCursor
from airflow_provider_glueray.core.runs import Outcome, RunRef, RunState
from airflow_provider_glueray.hooks import settings
from airflow_provider_glueray.task.operator import GlueRayConnectedOperator
from airflow_provider_glueray.task.outcome import fail_without_retry, publish_links
from airflow_provider_glueray.task.record import RunRecord

#: Seconds between two looks, unless a sensor says otherwise.
POKE_INTERVAL = 10.0


class GlueRayRunSensor(GlueRayConnectedOperator, BaseSensorOperator):
    """Wait until a run has succeeded; fail when it failed. For which run, the sensors built on this one say.

    Deferred, sensors and operators of one job share their polls. Further parameters: see
    :class:`GlueRayConnectedOperator`.

    :param poke_interval: the longest pause between two polls, in every mode: a timedelta, or seconds.

    ``timeout``, ``soft_fail``, ``mode`` and the rest are Airflow's own. A failed run fails the sensor for good: waiting
    again cannot change it.
    """

    ui_color = "#d5f5e3"

    def __init__(self, *, poke_interval: timedelta | float = POKE_INTERVAL, **kwargs: Any) -> None:
        super().__init__(poke_interval=poke_interval, **kwargs)
        self._published = False

    # -- what a sensor says of its run --------------------------------------------------------------------------

    def _look(self) -> RunRef | None:
        """Return the run to wait for, or None while there is none."""
        raise NotImplementedError

    def _finish(self, outcome: Outcome, context: Context) -> Any:
        """Leave with the result of the run, or raise its failure."""
        raise NotImplementedError

    # -- the waiting --------------------------------------------------------------------------------------------

    def execute(self, context: Context, event: Any = None) -> Any:
        """Wait, in whichever mode. ``event`` only says that a timer has rung."""
        if not self.deferrable:
            return super().execute(context)
        with fail_without_retry():
            ref = self._run(context)
        if ref is None:
            from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger

            self.log.info("Nothing to wait for yet")
            pause = TimeDeltaTrigger(timedelta(seconds=self.poke_interval))
            return self.defer(trigger=pause, method_name=self.execute.__name__, timeout=self._left(context))
        from airflow_provider_glueray.triggers.runs import GlueRayRunTrigger

        waits = settings.waits()
        policy = FollowPolicy(
            poll_interval=self.poke_interval,
            owns_run=False,
            sources=(),
            min_poll_interval=waits.least_poll,
            waits=waits,
        )
        return self.defer(
            trigger=GlueRayRunTrigger(
                run=ref.to_json(),
                hook=self._hook_kwargs(),
                policy=policy.to_json(),
                cursor=LogCursor().to_json(),
            ),
            method_name=self.execute_complete.__name__,
            timeout=self._left(context),
        )

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Take over from the trigger: judge the outcome it sent."""
        return self._leave(Outcome.from_json(event), context)

    def poke(self, context: Context) -> PokeReturnValue:
        """Look once. A failed look is not a failed run."""
        with fail_without_retry():
            try:
                ref = self._run(context)
                snapshot = self.hook.describe([ref])[ref] if ref else None
            except ConnectionConfigError:
                raise
            except GlueRayError as error:
                self.log.warning("Could not look, trying again: %s", error)
                return PokeReturnValue(is_done=False)
        # A run may be known to whoever started it a little before it is known to everybody.
        is_lost = snapshot is not None and snapshot.state is RunState.LOST
        unsure = is_lost and self._looked(context) < settings.waits().lost
        if snapshot is None or unsure or not snapshot.state.is_terminal:
            self.log.info(
                "%s", f"{snapshot.ref.title} is {snapshot.raw_state}" if snapshot else "Nothing to wait for yet"
            )
            return PokeReturnValue(is_done=False)
        return PokeReturnValue(is_done=True, xcom_value=self._leave(Outcome(snapshot), context))

    def _run(self, context: Context) -> RunRef | None:
        """Return the run to wait for. The newest one is chosen once and kept, also across reschedules."""
        record = RunRecord.load(context)
        if record is None or record.is_from_before_clear(context):
            record = RunRecord.new(context, self.backend, "")
            record.submitted = self._first_look(context) or record.submitted
        if record.run_id is None:
            found = self._look()
            if found is not None:
                record.name, record.run_id = found.name, found.id
            record.save(context)
        ref = record.ref
        if ref and not self._published:
            publish_links(ref, self.hook, context, self.log)
            self._published = True
        return ref

    def _leave(self, outcome: Outcome, context: Context) -> Any:
        try:
            return self._finish(outcome, context)
        except RunFailed as failure:
            # Waiting again cannot change how a run has ended.
            raise AirflowFailException(str(failure)) from failure

    def _looked(self, context: Context) -> float:
        """Return the seconds since the sensor's first look."""
        record = RunRecord.load(context)
        return clock.now() - record.submitted if record else 0.0

    def _first_look(self, context: Context) -> float | None:
        """Return when the sensor first looked, where only Airflow remembers it: see ``airflow_compat.task_store``."""
        first = context["ti"].get_first_reschedule_date(context) if self.reschedule else None
        return first.timestamp() if first else None

    def _left(self, context: Context) -> timedelta:
        """Return what is left of the timeout, which runs from the sensor's first look."""
        return timedelta(seconds=max(self.timeout - self._looked(context), 0.0))
