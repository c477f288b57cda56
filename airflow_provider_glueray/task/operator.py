"""What operators have in common: their parameters, and the life of a run in Airflow's terms.

The dag processor imports this in every parse, so nothing here loads a client of a service.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator, Context, XComArg

from airflow_provider_glueray.airflow_compat import TaskDeferralError, TaskDeferralTimeout, conf
from airflow_provider_glueray.core import clock
from airflow_provider_glueray.core.errors import RunTimedOut, raise_failure
from airflow_provider_glueray.core.follow import FollowPolicy
from airflow_provider_glueray.core.runs import BACKENDS, Outcome, RunRef, RunState
from airflow_provider_glueray.core.spec import StepSpec, Workers
from airflow_provider_glueray.core.validation import check_fields, is_template, items_of, seconds_of
from airflow_provider_glueray.hooks import settings
from airflow_provider_glueray.hooks.registry import hook_kwargs, make_hook
from airflow_provider_glueray.links.runs import LINKS
from airflow_provider_glueray.task.life import RunLife, Start
from airflow_provider_glueray.task.outcome import fail_without_retry, publish_links, push, returned
from airflow_provider_glueray.task.record import STORE_KEY, RunRecord

#: How long to wait for capacity, unless a task says otherwise.
QUEUE_TIMEOUT = timedelta(hours=6)
WORKER_FIELDS = tuple(field.name for field in fields(Workers))
#: Fields of a spec that are no parameters: operators name and describe what they make, on the only runtime there is.
_NO_PARAMETERS = ("workers", "name", "description", "runtime", "python_version", "glue_version")


class GlueRayConnectedOperator(BaseOperator):
    """Ask the backend that a connection leads to.

    :param conn_id: an Airflow connection, by default ``[glueray] conn_id``; None for boto3's own credentials.
    :param region_name, verify, botocore_config: as in the amazon provider.
    :param deferrable: wait in the triggerer instead of the worker.
    """

    #: Of the runs, as in ``RunRef``; where the connection decides, it is known when the task runs.
    backend: str
    operator_extra_links = LINKS

    def __init__(
        self,
        *,
        conn_id: str | None = settings.default_conn_id(),
        region_name: str | None = None,
        verify: bool | str | None = None,
        botocore_config: dict[str, Any] | None = None,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.conn_id = conn_id
        self.region_name = region_name
        self.verify = verify
        self.botocore_config = botocore_config
        self.deferrable = deferrable

    @cached_property
    def hook(self) -> Any:
        """The hook of the backend, on the task's connection."""
        return make_hook(self.backend, self._hook_kwargs())

    def _hook_kwargs(self) -> dict[str, Any]:
        return hook_kwargs(self.backend, self.conn_id, self.region_name, self.verify, self.botocore_config)


class GlueRayRunOperator(GlueRayConnectedOperator):
    """Start a run or reattach to it, wait for it, and never leave an orphan; subclasses say what runs.

    A duration is a ``timedelta`` or a number of seconds. Further parameters: see :class:`GlueRayConnectedOperator`.

    :param poll_interval: the longest pause between two polls.
    :param run_timeout: how long the run may take, from its start on; then it is stopped and the task fails. None for
        ever.
    :param queue_timeout: how long to wait while the service has no capacity.
    :param stop_on_kill: whether to stop the run when the task is killed, marked or timed out by Airflow. A cleared task
        stops its earlier run in any case.
    """

    ui_color = "#d6eaf8"

    def __init__(
        self,
        *,
        poll_interval: timedelta | float = 10.0,
        run_timeout: timedelta | float | None = timedelta(hours=48),
        queue_timeout: timedelta | float = QUEUE_TIMEOUT,
        stop_on_kill: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_fields({"poll_interval": poll_interval, "run_timeout": run_timeout, "queue_timeout": queue_timeout})
        self.poll_interval = seconds_of(poll_interval) or 0.0
        self.run_timeout = seconds_of(run_timeout)
        self.queue_timeout = seconds_of(queue_timeout) or 0.0
        self.stop_on_kill = stop_on_kill

    # -- what a subclass says of its runs ---------------------------------------------------------------------

    def _name(self, client_token: str, context: Context) -> str:
        """Return what a run with this client token will belong to, as in ``RunRef``."""
        raise NotImplementedError

    def _prepare(self, context: Context) -> Start:
        """Make ready what starts the run; called only when one has to be started."""
        raise NotImplementedError

    def _finish(self, outcome: Outcome, context: Context) -> Any:
        """Leave with the result of the run, or raise its failure."""
        raise NotImplementedError

    def _required_capacity(self) -> str:
        """Say what capacity the run needs."""
        raise NotImplementedError

    def _policy(self, record: RunRecord) -> FollowPolicy:
        """Return how to follow the run."""
        waits = settings.waits()
        return FollowPolicy(
            deadline=record.deadline,
            poll_interval=self.poll_interval,
            sources=(),
            min_poll_interval=waits.least_poll_in_session,
            waits=waits,
        )

    def _ineffective_settings(self) -> list[str]:
        """Return the parameters that are given and have no effect where the connection leads."""
        row = BACKENDS[self.backend]
        of_clients = () if row.has_client else ("region_name", "verify", "botocore_config")
        given = [name for name in of_clients if getattr(self, name) is not None]
        waits = not row.has_queue and self.queue_timeout != QUEUE_TIMEOUT.total_seconds()
        return [*given, "queue_timeout"] if waits else given

    def _note_foreign(self, overrides: Mapping[str, Any]) -> None:
        """Say in the log which overrides are for other backends."""
        foreign = sorted(set(overrides) - {BACKENDS[self.backend].override_key})
        if foreign:
            self.log.info("Runs by %s; the overrides for %s have no effect", self.backend, ", ".join(foreign))

    # -- the life of the run ----------------------------------------------------------------------------------

    def execute(self, context: Context) -> Any:
        """Start the run or reattach to it, wait for it, and return its result."""
        with fail_without_retry():
            try:
                ref = self._life.submit_or_reattach(
                    context, lambda client_token: self._name(client_token, context), lambda: self._prepare(context)
                )
                push(context, "glueray_run", ref.to_json())
                publish_links(ref, self.hook, context, self.log)
                return self._wait_or_defer(ref, context)
            except Exception as error:
                self._life.stop_if_last_try(error, context)
                raise

    def _wait_or_defer(self, ref: RunRef, context: Context) -> Any:
        """Wait for the run: here, or in the triggerer, which this call then never returns from."""
        if self.deferrable:
            self._defer(self._life)
        return returned(self._finish(self._life.wait(), context), self.log)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Take over from the trigger: judge the outcome it sent."""
        if event.get("log_position_saved"):
            from airflow_provider_glueray.triggers._log_position import delete

            delete(context["ti"])
        with fail_without_retry():
            return returned(self._finish(Outcome.from_json(event), context), self.log)

    def execute_after_queueing(self, context: Context, event: Any = None) -> Any:
        """Take over from the timer that has waited for capacity: try to start the run again."""
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
        return record.ref if record else None

    def _end_overdue(self, outcome: Outcome, context: Context) -> Any:
        """Leave a run whose time was over and which has been stopped; one that had succeeded before has succeeded."""
        if outcome.snapshot.state is RunState.SUCCEEDED:
            return returned(self._finish(outcome, context), self.log)
        raise RunTimedOut(outcome, self.hook.url(outcome.snapshot.ref)) from None

    def on_kill(self) -> None:
        """Stop the run. Airflow gives us five seconds, and neither XCom nor the state store."""
        self._life.kill()

    def _wait_for_capacity(self, seconds: float) -> None:
        """Wait before the next start; deferred, the task begins again in ``execute_after_queueing``."""
        if not self.deferrable:
            clock.sleep(seconds)
            return
        from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger

        timer = TimeDeltaTrigger(timedelta(seconds=seconds))
        self.defer(trigger=timer, method_name=self.execute_after_queueing.__name__)

    def _defer(self, life: RunLife, stop: RunRef | None = None) -> None:
        """Leave the worker; the trigger follows the run. See :meth:`RunLife.deferral`."""
        trigger, timeout = life.deferral(stop=stop, within=self.execution_timeout)
        self.defer(trigger=trigger, method_name=self.execute_complete.__name__, timeout=timeout)

    # -- what it stands on ------------------------------------------------------------------------------------

    @cached_property
    def _life(self) -> RunLife:
        return self._make_life(self.backend, STORE_KEY, self.run_timeout)

    def _make_life(self, backend: str, key: str, run_timeout: float | None) -> RunLife:
        """Return the life of a run; a task with several runs keeps each under a key of its own."""
        return RunLife(
            self.hook,
            self.log,
            backend=backend,
            hook_kwargs=self._hook_kwargs(),
            policy=self._policy,
            run_timeout=run_timeout,
            queue_timeout=self.queue_timeout,
            wait_for_capacity=self._wait_for_capacity,
            required_capacity=self._required_capacity,
            key=key,
            stop_on_kill=self.stop_on_kill,
        )

    def _given(self, *names: str) -> dict[str, Any]:
        """Return parameters as they stand, rendered or not."""
        return {name: getattr(self, name) for name in names}

    def _relative_to_dag(self, path: str) -> str:
        """Resolve a relative path from where the DAG's file is."""
        if path.startswith("s3://"):
            return path
        return str(Path(self.dag.fileloc).parent / path)


class GlueRayClusterOperator(GlueRayRunOperator):
    """Start a run that has a Ray cluster of a certain size: a job, a session, a cluster.

    :param number_of_workers: the most Z.2X workers (8 vCPU, 64 GB each). (templated)
    :param min_workers: the fewest workers; the floor of autoscaling. (templated)
    :param worker_type: "Z.2X", the only one there is. (templated)
    :param object_store_memory_head: percent of the head's free memory for the object store. (templated)
    :param object_store_memory_worker: the same on each worker. (templated)
    :param object_spilling_config: Ray's object spilling configuration. (templated)
    :param tags: of what is made; those that say which task made it are added. (templated)
    """

    def __init__(
        self,
        *,
        number_of_workers: int | str = 2,
        min_workers: int | str | None = None,
        worker_type: str = "Z.2X",
        object_store_memory_head: int | str | None = None,
        object_store_memory_worker: int | str | None = None,
        object_spilling_config: Mapping[str, Any] | str | None = None,
        tags: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.number_of_workers = number_of_workers
        self.min_workers = min_workers
        self.worker_type = worker_type
        self.object_store_memory_head = object_store_memory_head
        self.object_store_memory_worker = object_store_memory_worker
        self.object_spilling_config = object_spilling_config
        self.tags = dict(tags or {})

    def _workers(self) -> Workers:
        return Workers(**self._given(*WORKER_FIELDS))


class GlueRayStepOperator(GlueRayClusterOperator):
    """Start a run whose cluster gets files, packages and arguments: a job or a session.

    :param arguments: reach the code as environment variables of the same names. (templated)
    :param pip: requirements, with one bound each. (templated)
    :param py_modules: for the import path: folders, ``.py`` files or zip archives, relative to the DAG's file, or
        archives in S3. (templated)
    :param working_dir: folder or zip archive unpacked on every node, likewise. (templated)
    :param staging_uri: ``s3://bucket/prefix`` for local files; on AWS Glue and KubeRay needed when any file is local.
        (templated)
    :param logging_configuration: switches of the service, such as ``{"CLOUDWATCH_METRICS": False}``.
    """

    def __init__(
        self,
        *,
        arguments: Mapping[str, Any] | None = None,
        pip: Sequence[str] | str = (),
        py_modules: Sequence[str] | str = (),
        working_dir: str | None = None,
        staging_uri: str | None = None,
        logging_configuration: Mapping[str, bool] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.arguments = dict(arguments or {})
        self.pip = pip
        self.py_modules = py_modules
        self.working_dir = working_dir
        self.staging_uri = staging_uri
        self.logging_configuration = logging_configuration

    def _placed_files(self) -> dict[str, Any]:
        """Return ``py_modules`` and ``working_dir`` with their paths resolved."""
        return {
            "py_modules": [self._relative_to_dag(str(path)) for path in items_of(self.py_modules)],
            "working_dir": self._relative_to_dag(self.working_dir) if self.working_dir else None,
        }


class GlueRayStartOperator(GlueRayRunOperator):
    """Make something that stays up, and wait until it is ready; its start is the run. Returns its id.

    :param run_timeout: how long it may take until it is ready; then it is stopped.
    """

    def __init__(self, *, run_timeout: timedelta | float | None = timedelta(minutes=30), **kwargs: Any) -> None:
        super().__init__(run_timeout=run_timeout, **kwargs)

    def _finish(self, outcome: Outcome, context: Context) -> str:
        ref = outcome.snapshot.ref
        raise_failure(outcome, self.hook.url(ref))
        self.log.info("%s is %s", ref.title, outcome.snapshot.raw_state)
        return ref.id


class GlueRayEndOperator(GlueRayRunOperator):
    """Stop something that stays up, and wait until it is over; subclasses say what.

    :param run_timeout: how long it may take; then the task fails, and a retry asks again.
    """

    ui_color = "#fadbd8"

    def __init__(self, *, run_timeout: timedelta | float | None = timedelta(minutes=10), **kwargs: Any) -> None:
        super().__init__(run_timeout=run_timeout, **kwargs)

    def _refs(self) -> tuple[RunRef, ...]:
        """Return what is to be stopped, the one to wait for first; nothing if it was never made."""
        raise NotImplementedError

    def execute(self, context: Context) -> Any:
        """Ask for the stop, and wait until it is done."""
        refs = self._refs()
        if not refs:
            self.log.info("There is nothing to stop")
            return None
        with fail_without_retry():
            ref = refs[0]
            self.hook.stop(*refs)
            publish_links(ref, self.hook, context, self.log)
            snapshot = self.hook.describe([ref])[ref]
            self._begin(Outcome(snapshot), context)
            if snapshot.is_over:
                return self._finish(Outcome(snapshot), context)
            record = RunRecord.new(context, self.backend, ref.name)
            record.run_id = ref.id
            record.deadline = clock.now() + self.run_timeout if self.run_timeout else None
            self._life.resume(record)
            return self._wait_or_defer(ref, context)

    def _begin(self, outcome: Outcome, context: Context) -> None:
        """Note what is known now, after the stop was asked for."""

    def _policy(self, record: RunRecord) -> FollowPolicy:
        return super()._policy(record)._replace(until_over=True)

    def on_kill(self) -> None:
        """Do nothing: the stop has been asked for."""


def parameters_of(spec: type[StepSpec]) -> tuple[str, ...]:
    """Return the fields of a spec that are parameters of the operator which makes it."""
    return tuple(field.name for field in fields(spec) if field.name not in _NO_PARAMETERS)


def is_unrendered(value: object) -> bool:
    """Tell whether a value is only known when the task runs."""
    if isinstance(value, Mapping):
        return any(is_unrendered(part) for part in value.values()) or is_template(value)
    if isinstance(value, (list, tuple)):
        return any(is_unrendered(part) for part in value)
    return isinstance(value, XComArg) or is_template(value)


def check_rendered(values: Mapping[str, Any]) -> None:
    """Refuse, while a DAG is parsed, the values that break a rule; what is still to be rendered is left out.

    :raises SpecError: with every broken rule.
    """
    check_fields({name: value for name, value in values.items() if not is_unrendered(value)})
