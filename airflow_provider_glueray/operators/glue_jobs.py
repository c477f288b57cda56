"""Run one Ray script as a step of a DAG.

The operator says what runs; the life of a run is the same for all operators (``task/``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from airflow.sdk import Context, XComArg

from airflow_provider_glueray.core.backend import JobBackend, Prepared
from airflow_provider_glueray.core.errors import SpecError
from airflow_provider_glueray.core.follow import FollowPolicy
from airflow_provider_glueray.core.logs import SCRIPT
from airflow_provider_glueray.core.runs import GLUE_JOB, Outcome, RunRef
from airflow_provider_glueray.core.spec import MDPU_PER_WORKER, STEP_FOLDER, RayJobSpec, SourceFile
from airflow_provider_glueray.core.validation import is_template
from airflow_provider_glueray.hooks.registry import backend_for_connection
from airflow_provider_glueray.task.assets import lineage_of, note_reports
from airflow_provider_glueray.task.life import Start
from airflow_provider_glueray.task.operator import WORKER_FIELDS, GlueRayStepOperator, check_rendered, parameters_of
from airflow_provider_glueray.task.outcome import finish
from airflow_provider_glueray.task.record import RunRecord, owner_of

_SPEC_FIELDS = parameters_of(RayJobSpec)


#: What a job of AWS Glue holds for all its runs.
_DEFINITION = frozenset({"script", "role", "max_concurrent_runs", "overrides"})


def _mapped_over(task: Any) -> frozenset[str]:
    """Return the parameters that a task is mapped over; where that is known only when it runs, all that count."""
    value = getattr(getattr(task, "expand_input", None), "value", {})
    if isinstance(value, Mapping):
        return frozenset(value)
    if isinstance(value, (list, tuple)) and all(isinstance(each, Mapping) for each in value):
        return frozenset().union(*value)
    return frozenset({*_DEFINITION, "job_name"})


class GlueRayJobOperator(GlueRayStepOperator):
    """Run a Ray script where the connection leads: ``aws`` to Glue, ``ray`` to a cluster, ``kubernetes`` to KubeRay.

    Returns the run's id (XCom ``return_value``, in every mode). Also pushes ``glueray_run`` (which run) and
    ``glueray_usage`` (seconds, workers, M-DPU hours, estimated cost). A retry takes the run of the failed try
    up again if it is still active or has succeeded; clearing the task starts a new run and stops the old one.

    :param script: local ``.py`` file, relative to the DAG's file, or an S3 URI. (templated)
    :param role: name or ARN of the IAM role the run assumes on AWS Glue. (templated)
    :param job_name: the Glue job to create or update; by default ``<dag_id>-<task_id>``, and a digest where
        the task is mapped over what a job holds for all its runs, such as its script. (templated)
    :param requirements: a requirements.txt beside the DAG's file, whose lines are added to ``pip`` when the task
        runs. (templated)
    :param check_requirements: warn of requirements that the runtime or its processor will not get along with,
        whenever the job was created or updated.
    :param max_concurrent_runs: runs of this job that may be active at once; more of them wait. The default
        of 1 also keeps the service from ever running the step twice.
    :param cluster: on KubeRay, the id of a cluster that stays up between runs, usually ``create.output`` of a
        :class:`GlueRayCreateClusterOperator`; by default each run has a cluster of its own. (templated)
    :param overrides: rarer members of the requests, by backend: ``{"glue": {"job": {…}, "run": {…}}, "ray": {…}}``;
        those of other backends than the run's have no effect. (templated)
    :param wait_for_completion: False returns as soon as the run has started.
    :param log_sources: which logs to show: any of script, worker-out, worker-err, runtime-env, monitor, gcs,
        raylet, process. A failed run adds the worker, runtime-env and autoscaler logs by itself.
    :param conn_id: what runs it, by its type; the default is ``[glueray] conn_id``. (templated)
    :param run_timeout: Glue refuses a timeout of its own for Ray jobs, so this is the only bound there is; 48 hours by
        default.

    Further: the cluster (``number_of_workers`` and so on) as in :class:`GlueRayClusterOperator`, what is sent to it
    (``arguments``, ``pip``, ``py_modules``, ``staging_uri`` and so on) as in :class:`GlueRayStepOperator`, and how to
    wait as in :class:`GlueRayRunOperator`.

    :raises SpecError: while the DAG is parsed, for each value that is not a template and breaks a rule.
    """

    template_fields: Sequence[str] = (
        *(name for name in _SPEC_FIELDS if name not in ("logging_configuration", "max_concurrent_runs")),
        *WORKER_FIELDS,
        *("staging_uri", "job_name", "requirements", "conn_id", "region_name"),
    )
    template_fields_renderers = {  # noqa: RUF012
        "arguments": "json",
        "tags": "json",
        "overrides": "json",
        "object_spilling_config": "json",
    }
    hook: JobBackend
    _ended: Outcome | None = None

    def __init__(
        self,
        *,
        script: str | Path,
        role: str | None = None,
        job_name: str | None = None,
        requirements: str | Path | None = None,
        check_requirements: bool = True,
        max_concurrent_runs: int = 1,
        cluster: str | XComArg | None = None,
        overrides: Mapping[str, Any] | None = None,
        wait_for_completion: bool = True,
        log_sources: Sequence[str] = (SCRIPT,),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.script = str(script)
        self.role = role
        self.job_name = job_name
        self.requirements = str(requirements) if isinstance(requirements, Path) else requirements
        self.check_requirements = check_requirements
        self.max_concurrent_runs = max_concurrent_runs
        self.cluster = cluster
        self.overrides = dict(overrides or {})
        self.wait_for_completion = wait_for_completion
        self.log_sources = tuple(log_sources)
        given = self._given(*WORKER_FIELDS, *_SPEC_FIELDS, "staging_uri", "requirements", "log_sources")
        check_rendered(given | ({"name": job_name} if job_name else {}))

    # -- what it says of its runs -----------------------------------------------------------------------------

    @cached_property
    def backend(self) -> str:  # type: ignore[override]
        """Where it runs: what the type of the connection says."""
        return backend_for_connection(self.conn_id)

    def _name(self, client_token: str, context: Context) -> str:
        return self._job_name()

    def _prepare(self, context: Context) -> Start:
        prepared = self._prepare_job(context)
        return lambda client_token: prepared.start(client_token, self._call_arguments(client_token))

    def _prepare_job(self, context: Context) -> Prepared:
        """Upload what is local and define the job, so that a run can be started."""
        spec = self._spec(context)
        self._note_foreign(spec.overrides)
        if idle := self._ineffective_settings():
            self.log.info("Runs by %s; no effect: %s", self.backend, ", ".join(idle))
        prepared = self.hook.prepare(spec, self.staging_uri, self.run_timeout)
        if self.backend == GLUE_JOB and self.check_requirements and prepared.is_new:
            self._warn_of_requirements(spec)
        return prepared

    def _call_arguments(self, client_token: str) -> Mapping[str, str]:
        """Return the arguments that a run with this client token adds to those of the spec."""
        return {}

    def _needs_step(self) -> bool:
        """Tell whether the script may want to report what it has written: then ``glueray_step`` is sent along."""
        return bool(self.outlets)

    def _wait_or_defer(self, ref: RunRef, context: Context) -> Any:
        if not self.wait_for_completion:
            return ref.id
        if self.backend == GLUE_JOB and not self.deferrable and SCRIPT in self.log_sources:
            self.log.info("Log records are shown as they come; what the script prints, Glue hands over at the end")
        return super()._wait_or_defer(ref, context)

    def _finish(self, outcome: Outcome, context: Context) -> Any:
        """Leave the run: usage, verdict, and what it has reported of its outputs; return its id."""
        self._ended = outcome
        run_id = finish(outcome, self.hook, context, self.log)
        note_reports(outcome, self.outlets, context, self.log)
        return run_id

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Tell OpenLineage which run it was and what it wrote; None where that provider is not installed."""
        return lineage_of(self._ended, self.inlets, self.outlets) if self._ended else None

    def get_openlineage_facets_on_failure(self, task_instance: Any) -> Any:
        """Tell OpenLineage which run it was."""
        return self.get_openlineage_facets_on_complete(task_instance)

    def _required_capacity(self) -> str:
        if self.backend != GLUE_JOB:
            return f"The run asks for {self.number_of_workers} workers"
        return (
            f"The run needs {int(self.number_of_workers) * MDPU_PER_WORKER} M-DPU; an account has 50 per region, not "
            f"adjustable, and this job allows {self.max_concurrent_runs} run(s) at once"
        )

    def _policy(self, record: RunRecord) -> FollowPolicy:
        policy = super()._policy(record)
        return policy._replace(sources=self.log_sources, min_poll_interval=policy.waits.least_poll)

    def _job_name(self) -> str:
        """Return the name of the job.

        Its definition is that of all its runs, so tasks that are mapped over a part of it have jobs of their own.

        :raises SpecError: one name is given for several definitions.
        """
        name = self.job_name or f"{self.dag_id}-{self.task_id}"
        task: Any = self.dag.task_dict.get(self.task_id) if self.has_dag() else None  # type: ignore[no-untyped-call]
        mapped = _mapped_over(task)
        varies = sorted(mapped & _DEFINITION)
        if not varies:
            return name
        if self.job_name is None:
            parts = json.dumps(self._given(*sorted(_DEFINITION)), sort_keys=True, default=str)
            return f"{name}-{hashlib.sha256(parts.encode()).hexdigest()[:8]}"
        if "job_name" in mapped or is_template(task.partial_kwargs.get("job_name")):
            return name
        problem = (
            f"job_name={name!r}: it is one job for tasks that are mapped over {', '.join(varies)}, and its definition"
        )
        raise SpecError([f"{problem} is that of all its runs; leave job_name out, or map it as well"])

    def _spec(self, context: Context) -> RayJobSpec:
        """Build the spec from the rendered fields; say in it which task runs it.

        :param context: of its members ``ti`` is read.
        :raises SpecError: a value breaks a rule.
        """
        from airflow_provider_glueray.packaging.requirements import resolve_requirements

        ti = context["ti"]
        file = self._relative_to_dag(self.requirements) if self.requirements else None
        given = {**self._given(*_SPEC_FIELDS), **self._placed_files()}
        if self._needs_step():
            given["py_modules"] = [*given["py_modules"], STEP_FOLDER]
        given |= {
            "name": self._job_name(),
            "script": self._script(),
            "pip": resolve_requirements(self.pip, file, RayJobSpec.python_version),
            "tags": {**owner_of(ti), **self.tags},
            "arguments": {**owner_of(ti), "airflow_run_id": ti.run_id, **self.arguments},
        }
        return RayJobSpec(workers=self._workers(), **given)

    def _script(self) -> str | SourceFile:
        """Return what runs: the path of a script, or its text."""
        return self._relative_to_dag(self.script)

    def _warn_of_requirements(self, spec: RayJobSpec) -> None:
        """Say what is wrong with the requirements as far as it can be known before a cluster is paid for."""
        from airflow_provider_glueray.packaging.requirements import known_incompatibilities, missing_wheels

        known = known_incompatibilities(spec.pip, spec.runtime)
        for warning in (*known, *missing_wheels(spec.pip, spec.python_version, self.log)):
            self.log.warning("%s", warning)
