"""Run a notebook as a task, and write the executed notebook back: in a session of AWS Glue, or as one Ray job.

Where the connection leads decides which; this is what both have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from airflow.sdk import Context, XComArg

from airflow_provider_glueray.airflow_compat import task_store
from airflow_provider_glueray.core.errors import SpecError
from airflow_provider_glueray.core.follow import FollowPolicy
from airflow_provider_glueray.core.logs import SCRIPT
from airflow_provider_glueray.core.runs import GLUE_JOB, GLUE_STATEMENT, Outcome, RunRef
from airflow_provider_glueray.core.validation import items_of
from airflow_provider_glueray.hooks.registry import backend_for_connection
from airflow_provider_glueray.task.life import Start
from airflow_provider_glueray.task.operator import GlueRayRunOperator, check_rendered
from airflow_provider_glueray.task.outcome import fail_without_retry
from airflow_provider_glueray.task.record import SESSION_KEY, STORE_KEY, RunRecord
from airflow_provider_glueray.task.sessions import session_capacity

if TYPE_CHECKING:
    from airflow_provider_glueray.notebooks.as_job import JobNotebookRunner
    from airflow_provider_glueray.notebooks.executed import ExecutedNotebook, NotebookPlan
    from airflow_provider_glueray.notebooks.in_session import SessionNotebookRunner

#: Settings of a session or a run that are words of the operator too.
_OWN_SETTINGS = (
    *("role", "number_of_workers", "min_workers", "idle_timeout", "session_timeout"),
    *("pip", "py_modules", "working_dir", "tags"),
)


class GlueRayNotebookOperator(GlueRayRunOperator):
    """Run a notebook, cell by cell, and write the executed notebook back. Returns where it is.

    On AWS Glue the cells run in a session, which is made for the notebook and stopped after it, or is one that exists.
    What a cell printed stands in the task log when the cell has ended, and in the executed notebook, which is written
    after every cell, with outputs, errors and times, also when a cell fails. A retry goes on where a try that was
    killed has stopped, as long as the session lives.

    On a Ray cluster and on KubeRay the whole notebook is one job: what the cells print is in the task log as it comes,
    and the executed notebook is written when the run has ended, however it ended.

    Either has the settings that the notebook's magics name (``%glue_ray``, ``%number_of_workers``, ``%%configure`` … as
    in the last Glue kernel that knew Ray) and those given here, which win. Also pushes ``glueray_value``: the value of
    the last cell's last expression, if it has a JSON form.

    :param notebook: an ``.ipynb`` of nbformat 4: a path, relative to the DAG's file, or an S3 URI. (templated)
    :param output_notebook: where to write the executed notebook, likewise. (templated)
    :param parameters: assigned in a cell after the one tagged ``parameters``, as papermill does. (templated)
    :param session_id: run in this session and leave it up, usually ``create.output``; on AWS Glue. (templated)
    :param cluster: run in this cluster, as in :class:`GlueRayJobOperator`; on KubeRay. (templated)
    :param role: name or ARN of the IAM role of the notebook's own session. (templated)
    :param number_of_workers, min_workers, pip, py_modules, working_dir, tags: of the notebook's own session or of its
        run, as in :class:`GlueRayJobOperator`. (templated)
    :param idle_timeout, session_timeout: of the notebook's own session, as in :class:`GlueRayCreateSessionOperator`.
        (templated)
    :param staging_uri: ``s3://bucket/prefix`` for local files; needed for a job, whose cells and outputs pass through
        it. (templated)
    :param overrides: as in :class:`GlueRayJobOperator`, for a job. (templated)
    :param run_timeout: how long one cell may take, of a job all cells together; then it is stopped and the task fails.
        Default: 48 hours.

    Further parameters: see :class:`GlueRayRunOperator`.

    :raises StatementFailed: a cell raised an exception; the error names the cell and shows it.
    """

    template_fields: Sequence[str] = (
        "notebook",
        "output_notebook",
        "parameters",
        "session_id",
        "cluster",
        *_OWN_SETTINGS,
        "staging_uri",
        "overrides",
        "conn_id",
        "region_name",
    )
    template_fields_renderers = {"parameters": "json", "tags": "json", "overrides": "json"}  # noqa: RUF012
    ui_color = "#fcf3cf"

    def __init__(
        self,
        *,
        notebook: str | PurePath,
        output_notebook: str | PurePath,
        parameters: Mapping[str, Any] | None = None,
        session_id: str | XComArg | None = None,
        cluster: str | XComArg | None = None,
        role: str | None = None,
        number_of_workers: int | str | None = None,
        min_workers: int | str | None = None,
        idle_timeout: timedelta | float | str | None = None,
        session_timeout: timedelta | float | str | None = None,
        pip: Sequence[str] | str | None = None,
        py_modules: Sequence[str] | str | None = None,
        working_dir: str | None = None,
        tags: Mapping[str, str] | None = None,
        staging_uri: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.notebook = str(notebook)
        self.output_notebook = str(output_notebook)
        self.parameters = dict(parameters or {})
        self.session_id = session_id
        self.cluster = cluster
        self.role = role
        self.number_of_workers = number_of_workers
        self.min_workers = min_workers
        self.idle_timeout = idle_timeout
        self.session_timeout = session_timeout
        self.pip = pip
        self.py_modules = py_modules
        self.working_dir = working_dir
        self.tags = tags
        self.staging_uri = staging_uri
        self.overrides = dict(overrides or {})
        check_rendered(self._settings() | self._given("staging_uri", "cluster", "overrides"))

    @cached_property
    def backend(self) -> str:  # type: ignore[override]
        """Of its cells where they run in a session, else of its job."""
        backend = backend_for_connection(self.conn_id)
        return GLUE_STATEMENT if backend == GLUE_JOB else backend

    # -- the notebook -----------------------------------------------------------------------------------------

    def _read(self) -> ExecutedNotebook:
        """Read the notebook, and see that it can be run before anything is started."""
        storage = self.hook.storage
        notebook = self._parse(storage.read_text(self._relative_to_dag(self.notebook)), storage.write_text)
        if self._is_in_session and self.region_name is None and "region_name" in notebook.settings:
            self.region_name = notebook.settings["region_name"]
            del self.hook
        return notebook

    def _parse(self, text: str, write: Callable[[str, str], None]) -> ExecutedNotebook:
        """Return the notebook of a text with the task's parameters; ``write`` writes a text to a path."""
        from airflow_provider_glueray.notebooks.executed import ExecutedNotebook

        return ExecutedNotebook(
            text,
            name=self.notebook,
            output_path=self._relative_to_dag(self.output_notebook),
            parameters=self.parameters,
            write=write,
        )

    def _settings(self) -> dict[str, Any]:
        """Return the settings that the task gives, rendered or not."""
        return {name: value for name, value in self._given(*_OWN_SETTINGS).items() if value is not None}

    def _plan(self, notebook: ExecutedNotebook) -> NotebookPlan:
        """Return where and how the notebook runs; the task's own settings win over those of its magics."""
        from airflow_provider_glueray.notebooks.executed import NotebookPlan

        given = self._settings()
        if "py_modules" in given:
            given["py_modules"] = [self._relative_to_dag(str(path)) for path in items_of(self.py_modules)]
        if "working_dir" in given:
            given["working_dir"] = self._relative_to_dag(given["working_dir"])
        return NotebookPlan(
            notebook=notebook,
            settings={**notebook.settings, **given},
            job_name=f"{self.dag_id}-{self.task_id}",
            staging_uri=self.staging_uri,
            run_timeout=self.run_timeout,
            session_id=self.session_id,  # type: ignore[arg-type]  # rendered by now
            cluster=self.cluster,  # type: ignore[arg-type]
            overrides=self.overrides,
            ineffective=tuple(self._ineffective_settings()),
        )

    # -- its run: as one job like every other, in a session one for the session and one per cell -----------------

    def execute(self, context: Context) -> Any:
        """Run the notebook, or go on with it."""
        self._check_target()
        self._stop_run_of_other_mode(context)
        if not self._is_in_session:
            return super().execute(context)
        with fail_without_retry():
            return self._in_session.go(context, None)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Take over from the trigger: the run, the session's start or a cell has ended."""
        if not self._is_in_session:
            return super().execute_complete(context, event)
        with fail_without_retry():
            return self._in_session.go(context, Outcome.from_json(event))

    def on_kill(self) -> None:
        """Stop the run, the notebook's own session, or the cell that runs in a session of others."""
        if not self._is_in_session:
            super().on_kill()
        elif "_in_session" in self.__dict__:  # else nothing has been started
            self._in_session.kill()

    def _current_run(self, context: Context) -> RunRef | None:
        return self._in_session.current_run(context) if self._is_in_session else super()._current_run(context)

    def _end_overdue(self, outcome: Outcome, context: Context) -> Any:
        with fail_without_retry():
            if self._is_in_session:
                return self._in_session.go(context, outcome)
            return self._as_job.finish(outcome, context)

    def _name(self, client_token: str, context: Context) -> str:
        return f"{self.dag_id}-{self.task_id}"

    def _prepare(self, context: Context) -> Start:
        return self._as_job.prepare(context)

    def _finish(self, outcome: Outcome, context: Context) -> str:
        return self._as_job.finish(outcome, context)

    def _policy(self, record: RunRecord) -> FollowPolicy:
        policy = super()._policy(record)
        return policy if self._is_in_session else policy._replace(sources=(SCRIPT,), min_poll_interval=1.0)

    def _required_capacity(self) -> str:
        workers = self.number_of_workers or 2
        return session_capacity(workers) if self._is_in_session else f"The run asks for {workers} workers"

    @property
    def _is_in_session(self) -> bool:
        return self.backend == GLUE_STATEMENT

    @cached_property
    def _in_session(self) -> SessionNotebookRunner:
        from airflow_provider_glueray.notebooks.in_session import SessionNotebookRunner

        plan = self._plan(self._read())
        defer = self._defer if self.deferrable else None
        return SessionNotebookRunner(plan, self.hook, self.log, self._make_life, defer)

    @cached_property
    def _as_job(self) -> JobNotebookRunner:
        from airflow_provider_glueray.notebooks.as_job import JobNotebookRunner

        return JobNotebookRunner(self._plan(self._read()), self.hook, self.log)

    def _stop_run_of_other_mode(self, context: Context) -> None:
        """Stop what an earlier try ran in the other mode: its connection led elsewhere."""
        key = STORE_KEY if self._is_in_session else SESSION_KEY
        record = RunRecord.load(context, key)
        if record is not None:
            self._make_life(self.backend, key, None).abandon(record)
            task_store(context).set(key, {})

    def _check_target(self) -> None:
        """Refuse a session or a cluster that the connection does not lead to."""
        self._note_foreign(self.overrides)
        problems = []
        if self._is_in_session and self.cluster:
            problems = [f"cluster={self.cluster!r}: on AWS Glue a notebook runs in a session; use session_id"]
        elif not self._is_in_session and self.session_id:
            problems = [
                f"session_id={self.session_id!r}: sessions are AWS Glue's, and {self.conn_id!r} leads elsewhere; there "
                "a notebook is a job"
            ]
        if problems:
            with fail_without_retry():
                raise SpecError(problems)
