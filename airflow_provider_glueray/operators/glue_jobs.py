"""Run one Ray script as a step of a DAG.

Floor 3. One routine starts a run or takes one up again, one waits (in the worker or deferred), one finishes.
Module level imports only Airflow's SDK and floors 0 and 1: the dag processor imports this in every parse.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, XComArg, conf
from airflow.sdk.exceptions import TaskDeferralError, TaskDeferralTimeout

from airflow_provider_glueray.drive import drive
from airflow_provider_glueray.errors import RunStopped, RunTimedOut
from airflow_provider_glueray.follow import STOP_GRACE, Policy, follow
from airflow_provider_glueray.links.runs import LINKS
from airflow_provider_glueray.operators.finish import announce, finish, hook_kwargs, no_useless_retry
from airflow_provider_glueray.operators.series import Record
from airflow_provider_glueray.operators.submission import BACKEND, Submission
from airflow_provider_glueray.rules import check_fields, is_template, items_of
from airflow_provider_glueray.runs import SCRIPT, LogCursor, Outcome, RunRef
from airflow_provider_glueray.spec import RayJobSpec, Workers

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_glueray.hooks.glue_jobs import GlueRayJobHook


_WORKER_FIELDS = tuple(field.name for field in fields(Workers))
#: The job's name and description are made by the operator; the versions are those of the only runtime.
_SPEC_FIELDS = tuple(
    field.name
    for field in fields(RayJobSpec)
    if field.name not in ("name", "workers", "description", "runtime", "python_version", "glue_version")
)


class GlueRayJobOperator(BaseOperator):
    """Run a Ray script on AWS Glue for Ray, or on whatever endpoint the connection names.

    Returns the run's id (XCom ``return_value``, in every mode). Also pushes ``glueray_run`` (which run) and
    ``glueray_usage`` (seconds, workers, M-DPU hours, estimated cost). A retry takes the run of the failed try
    up again if it is still active or has succeeded; clearing the task starts a new run and stops the old one.

    :param script: local ``.py`` file, relative to the DAG's file, or an S3 URI. (templated)
    :param role: name or ARN of the IAM role the run assumes. (templated)
    :param staging: ``s3://bucket/prefix`` for local files; needed when any file is local. (templated)
    :param job_name: the Glue job to create or update; by default ``<dag_id>-<task_id>``. (templated)
    :param arguments: reach the script as environment variables of the same names. (templated)
    :param number_of_workers: the most Z.2X workers (8 vCPU, 64 GB each). (templated)
    :param min_workers: the fewest workers; the floor of autoscaling. (templated)
    :param pip: requirements, with one bound each. (templated)
    :param py_modules: zip archives for the import path, like the script local or in S3. (templated)
    :param working_dir: zip archive unpacked on every node, likewise. (templated)
    :param spilling: Ray's object spilling configuration. (templated)
    :param object_store_memory_head: percent of the head's free memory for the object store. (templated)
    :param object_store_memory_worker: the same on each worker. (templated)
    :param logging: switches of the service, such as ``{"CLOUDWATCH_METRICS": False}``.
    :param max_concurrent_runs: runs of this job that may be active at once; more of them wait. The default
        of 1 also keeps the service from ever running the step twice.
    :param tags: of the job; the DAG's and the task's id are added. (templated)
    :param overrides: rarer members of the requests: ``{"glue": {"job": {…}, "run": {…}}}``. (templated)
    :param conn_id: an ``aws`` connection; None for boto3's own credentials.
    :param region_name, verify, botocore_config: as in the amazon provider.
    :param deferrable: wait in the triggerer instead of the worker.
    :param wait_for_completion: False returns as soon as the run has started.
    :param poll_seconds: the longest pause between two polls.
    :param timeout: how long the run may take, from its start on; then it is stopped and the task fails. Glue
        refuses a timeout of its own for Ray jobs, so this is the only bound there is. Default: 48 hours.
    :param queue_timeout: how long to wait while Glue has no room. Default: 6 hours.
    :param log_sources: which logs to show: any of script, worker-out, worker-err, runtime-env, monitor, gcs,
        raylet, process. A failed run adds the worker, runtime-env and autoscaler logs by itself.

    :raises SpecError: while the DAG is parsed, for each value that is not a template and breaks a rule.
    """

    template_fields: Sequence[str] = (
        "script",
        "role",
        "staging",
        "job_name",
        "arguments",
        "number_of_workers",
        "min_workers",
        "worker_type",
        "pip",
        "py_modules",
        "working_dir",
        "spilling",
        "object_store_memory_head",
        "object_store_memory_worker",
        "tags",
        "overrides",
        "conn_id",
        "region_name",
    )
    template_fields_renderers = {"arguments": "json", "tags": "json", "overrides": "json", "spilling": "json"}  # noqa: RUF012
    operator_extra_links = LINKS
    ui_color = "#d6eaf8"

    def __init__(
        self,
        *,
        script: str | Path,
        role: str,
        staging: str | None = None,
        job_name: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        number_of_workers: int | str = 2,
        min_workers: int | str | None = None,
        worker_type: str = "Z.2X",
        pip: Sequence[str] | str = (),
        py_modules: Sequence[str] | str = (),
        working_dir: str | None = None,
        spilling: Mapping[str, Any] | str | None = None,
        object_store_memory_head: int | str | None = None,
        object_store_memory_worker: int | str | None = None,
        logging: Mapping[str, bool] | None = None,
        max_concurrent_runs: int = 1,
        tags: Mapping[str, str] | None = None,
        overrides: Mapping[str, Any] | None = None,
        conn_id: str | None = "aws_default",
        region_name: str | None = None,
        verify: bool | str | None = None,
        botocore_config: dict[str, Any] | None = None,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        wait_for_completion: bool = True,
        poll_seconds: float = 10.0,
        timeout: timedelta | float | None = timedelta(hours=48),
        queue_timeout: timedelta | float = timedelta(hours=6),
        log_sources: Sequence[str] = (SCRIPT,),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.script = str(script)
        self.role = role
        self.staging = staging
        self.job_name = job_name
        self.arguments = dict(arguments or {})
        self.number_of_workers = number_of_workers
        self.min_workers = min_workers
        self.worker_type = worker_type
        self.pip = pip
        self.py_modules = py_modules
        self.working_dir = working_dir
        self.spilling = spilling
        self.object_store_memory_head = object_store_memory_head
        self.object_store_memory_worker = object_store_memory_worker
        self.logging = logging
        self.max_concurrent_runs = max_concurrent_runs
        self.tags = dict(tags or {})
        self.overrides = dict(overrides or {})
        self.conn_id = conn_id
        self.region_name = region_name
        self.verify = verify
        self.botocore_config = botocore_config
        self.deferrable = deferrable
        self.wait_for_completion = wait_for_completion
        self.poll_seconds = poll_seconds
        self.timeout = _seconds(timeout)
        self.queue_timeout = _seconds(queue_timeout) or 0.0
        self.log_sources = tuple(log_sources)
        given = {**self._spec_fields(), "staging": staging, "log_sources": self.log_sources}
        check_fields({name: value for name, value in given.items() if not _is_unrendered(value)})

    # -- the life of a run ----------------------------------------------------------------------------------

    def execute(self, context: Context) -> str:
        """Start the run or take it up again, wait for it, and return its id."""
        with no_useless_retry():
            record, ref = self._submission.obtain(
                context, self._name(), lambda: self.hook.stage(self._spec(context), self.staging)
            )
            try:
                context["ti"].xcom_push(key="glueray_run", value=ref.to_json())
                announce(ref, self.hook, context, self.log)
                if not self.wait_for_completion:
                    return ref.id
                if self.deferrable:
                    self._defer(record, ref)
                return self._wait(record, ref, context)
            except Exception as error:
                self._stop_if_last_try(ref, error, context)
                raise

    def execute_complete(self, context: Context, event: dict[str, Any]) -> str:
        """Take over from the trigger: judge the outcome it sent."""
        if event.get("noted"):
            from airflow_provider_glueray.triggers.bookmark import forget

            forget(context["ti"])
        with no_useless_retry():
            return finish(Outcome.from_json(event), self.hook, context, self.log)

    def execute_after_queueing(self, context: Context, event: Any = None) -> str:
        """Take over from the timer that let a full service rest: try to start the run again."""
        return self.execute(context)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume, also when Airflow gave up on the trigger, which never calls ``execute_complete``."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except TaskDeferralTimeout:
            record = Record.load(context)
            ref = record.ref(BACKEND) if record else None
            if ref is None:
                raise
            self.hook.stop(ref)
            outcome = Outcome(self.hook.describe([ref])[ref], deadline_passed=True)
            raise RunTimedOut(outcome, self.hook.url(ref)) from None
        except TaskDeferralError as error:
            self.log.warning("The trigger failed (%s); waiting in the worker instead", error)
            self.deferrable = False
            return self.execute(context)

    def on_kill(self) -> None:
        """Stop the run. Airflow gives us five seconds, and neither XCom nor the state store."""
        self._submission.kill()

    def _rest(self, seconds: float) -> None:
        """Let a full service rest: deferred, the task begins again in ``execute_after_queueing``."""
        if not self.deferrable:
            time.sleep(seconds)
            return
        from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger

        timer = TimeDeltaTrigger(timedelta(seconds=seconds))
        self.defer(trigger=timer, method_name=self.execute_after_queueing.__name__)

    def _wait(self, record: Record, ref: RunRef, context: Context) -> str:
        if SCRIPT in self.log_sources:
            self.log.info("Log records are shown as they come; what the script prints, Glue hands over at the end")
        steps = follow(ref, self._policy(record), _cursor(record))
        outcome = drive(steps, self.hook, ref, self.log)
        if self._submission.killed:
            raise RunStopped(outcome, self.hook.url(ref))
        return finish(outcome, self.hook, context, self.log)

    def _defer(self, record: Record, ref: RunRef) -> None:
        from airflow_provider_glueray.triggers.glue_jobs import GlueRayJobTrigger

        bounds = [self.execution_timeout.total_seconds()] if self.execution_timeout else []
        if record.deadline is not None:
            # For the case that no triggerer is there to keep the deadline.
            bounds.append(max(record.deadline - time.time(), 0.0) + 2 * STOP_GRACE)
        self.defer(
            trigger=GlueRayJobTrigger(
                run=ref.to_json(),
                hook=self._hook_kwargs(),
                policy=self._policy(record).to_json(),
                cursor=_cursor(record).to_json(),
            ),
            method_name=self.execute_complete.__name__,
            timeout=timedelta(seconds=min(bounds)) if bounds else None,
        )

    def _stop_if_last_try(self, ref: RunRef, error: Exception, context: Context) -> None:
        """Leave no run behind when something other than the run has failed and nobody will come back."""
        ti = context["ti"]
        if ti.try_number <= ti.max_tries or self.hook.describe([ref])[ref].state.is_terminal:
            return
        self.log.warning("Stopping run %s: the last try of its task has failed (%s)", ref.id, error)
        self.hook.stop(ref)

    # -- what it is made of ---------------------------------------------------------------------------------

    @cached_property
    def _submission(self) -> Submission:
        return Submission(self.hook, self.log, timeout=self.timeout, queue_timeout=self.queue_timeout, rest=self._rest)

    @cached_property
    def hook(self) -> GlueRayJobHook:
        """The door to the service."""
        from airflow_provider_glueray.hooks.glue_jobs import GlueRayJobHook

        return GlueRayJobHook(**self._hook_kwargs())

    def _hook_kwargs(self) -> dict[str, Any]:
        return hook_kwargs(self.conn_id, self.region_name, self.verify, self.botocore_config)

    def _policy(self, record: Record) -> Policy:
        return Policy(deadline=record.deadline, poll_seconds=self.poll_seconds, sources=self.log_sources)

    def _name(self) -> str:
        return self.job_name or f"{self.dag_id}-{self.task_id}"

    def _spec_fields(self) -> dict[str, Any]:
        """Return the fields of the spec as they stand, rendered or not."""
        given = {name: getattr(self, name) for name in (*_WORKER_FIELDS, *_SPEC_FIELDS)}
        return given | ({"name": self.job_name} if self.job_name else {})

    def _spec(self, context: Context) -> RayJobSpec:
        """Build the spec from the rendered fields; say in it whose run this is."""
        ti = context["ti"]
        given = self._spec_fields()
        workers = Workers(**{name: given.pop(name) for name in _WORKER_FIELDS})
        whose = {"airflow_dag_id": ti.dag_id, "airflow_task_id": ti.task_id}
        given |= {
            "name": self._name(),
            "script": self._beside_the_dag(self.script),
            "py_modules": [self._beside_the_dag(str(path)) for path in items_of(self.py_modules)],
            "working_dir": self._beside_the_dag(self.working_dir) if self.working_dir else None,
            "tags": {**whose, **self.tags},
            "arguments": {**whose, "airflow_run_id": ti.run_id, **self.arguments},
        }
        return RayJobSpec(workers=workers, **given)

    def _beside_the_dag(self, path: str) -> str:
        """Resolve a relative path from where the DAG's file is."""
        if path.startswith("s3://"):
            return path
        return str(Path(self.dag.fileloc).parent / path)


def _seconds(value: timedelta | float | None) -> float | None:
    return value.total_seconds() if isinstance(value, timedelta) else value


def _is_unrendered(value: object) -> bool:
    """Tell whether a value is only known when the task runs."""
    if isinstance(value, Mapping):
        return any(_is_unrendered(part) for part in value.values()) or is_template(value)
    if isinstance(value, (list, tuple)):
        return any(_is_unrendered(part) for part in value)
    return isinstance(value, XComArg) or is_template(value)


def _cursor(record: Record) -> LogCursor:
    """Begin a little before the run was asked for, so that no clock difference hides a line."""
    return LogCursor(since_ms=int((record.submitted - 60) * 1000))
