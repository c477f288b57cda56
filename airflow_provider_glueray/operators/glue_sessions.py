"""Create a session, run statements in it, stop it: one Ray cluster for several steps of a DAG.

How a run lives is the same as for jobs (``task/operator.py``): the start of a session is a run, and so
is a statement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import XComArg

from airflow_provider_glueray.core.backend import SessionBackend
from airflow_provider_glueray.core.errors import SessionEnded, StopError
from airflow_provider_glueray.core.runs import (
    GLUE_SESSION,
    GLUE_STATEMENT,
    Outcome,
    RunRef,
)
from airflow_provider_glueray.core.spec import IDLE_TIMEOUT, SESSION_TIMEOUT, RaySessionSpec, Workers
from airflow_provider_glueray.core.validation import check_fields, items_of
from airflow_provider_glueray.hooks.glue.requests import replacement_session_id, session_id_for
from airflow_provider_glueray.hooks.glue.statements import check_code, prepare
from airflow_provider_glueray.task.life import Start
from airflow_provider_glueray.task.operator import (
    GlueRayEndOperator,
    GlueRayRunOperator,
    GlueRayStartOperator,
    is_unrendered,
)
from airflow_provider_glueray.task.outcome import push_usage
from airflow_provider_glueray.task.record import RunRecord
from airflow_provider_glueray.task.sessions import finish_statement, session_capacity, session_spec

if TYPE_CHECKING:
    from airflow.sdk import Context

_WORKER_FIELDS = tuple(field.name for field in fields(Workers))
#: The description is made by the operator; the versions are those of the only runtime.
_SPEC_FIELDS = tuple(
    field.name
    for field in fields(RaySessionSpec)
    if field.name not in ("workers", "description", "python_version", "glue_version")
)


class GlueRayCreateSessionOperator(GlueRayStartOperator):
    """Create a session and wait until it is READY. Returns its id.

    Use it as a setup task with :class:`GlueRayStopSessionOperator` as its teardown, or both at once through
    ``glue_ray_session``. A retry takes the session of the failed try up again; clearing the task makes a new one
    and stops the old one. If the session does not become READY, the task stops it.

    :param role: name or ARN of the IAM role the session assumes. (templated)
    :param number_of_workers: the most Z.2X workers (8 vCPU, 64 GB each). (templated)
    :param min_workers: the fewest workers. (templated)
    :param idle_timeout: the session ends by itself when it has run nothing for so long: a timedelta, or seconds; the
        service counts whole minutes. Default: 30 minutes. (templated)
    :param session_timeout: the session ends in any case after so long, likewise. Default: 48 hours. (templated)
    :param pip: requirements, with one bound each. (templated)
    :param py_modules: for the import path: local folders, ``.py`` files or archives, or archives in S3. (templated)
    :param working_dir: folder or zip archive unpacked on every node, likewise. (templated)
    :param staging_uri: ``s3://bucket/prefix`` for local files; needed when any file is local. (templated)
    :param object_spilling_config: Ray's object spilling configuration. (templated)
    :param logging_configuration: switches of the service, such as ``{"CLOUDWATCH_METRICS": False}``. (templated)
    :param arguments: further default arguments of the session. (templated)
    :param object_store_memory_head, object_store_memory_worker: percent of free memory. (templated)
    :param tags: of the session; the ids of the DAG, the task and the run are added. (templated)
    :param session_id: the id to use; by default one is made of the DAG's and the task's id. (templated)
    :param run_timeout: how long it may take until the session is READY; then it is stopped. Default: 30 minutes.

    Further parameters: see :class:`GlueRayRunOperator`.

    :raises SpecError: while the DAG is parsed, for each value that is not a template and breaks a rule.
    """

    hook: SessionBackend
    backend = GLUE_SESSION
    template_fields: Sequence[str] = (
        *_WORKER_FIELDS,
        *_SPEC_FIELDS,
        "staging_uri",
        "session_id",
        "conn_id",
        "region_name",
    )
    template_fields_renderers = {"arguments": "json", "tags": "json"}  # noqa: RUF012

    def __init__(
        self,
        *,
        role: str,
        number_of_workers: int | str = 2,
        min_workers: int | str | None = None,
        worker_type: str = "Z.2X",
        idle_timeout: timedelta | float | str = IDLE_TIMEOUT,
        session_timeout: timedelta | float | str = SESSION_TIMEOUT,
        pip: Sequence[str] | str = (),
        py_modules: Sequence[str] | str = (),
        working_dir: str | None = None,
        staging_uri: str | None = None,
        object_spilling_config: Mapping[str, Any] | str | None = None,
        logging_configuration: Mapping[str, bool] | None = None,
        arguments: Mapping[str, Any] | None = None,
        object_store_memory_head: int | str | None = None,
        object_store_memory_worker: int | str | None = None,
        tags: Mapping[str, str] | None = None,
        session_id: str | None = None,
        run_timeout: timedelta | float | None = timedelta(minutes=30),
        **kwargs: Any,
    ) -> None:
        super().__init__(run_timeout=run_timeout, **kwargs)
        self.role = role
        self.number_of_workers = number_of_workers
        self.min_workers = min_workers
        self.worker_type = worker_type
        self.idle_timeout = idle_timeout
        self.session_timeout = session_timeout
        self.pip = pip
        self.py_modules = py_modules
        self.working_dir = working_dir
        self.staging_uri = staging_uri
        self.object_spilling_config = object_spilling_config
        self.logging_configuration = logging_configuration
        self.arguments = dict(arguments or {})
        self.object_store_memory_head = object_store_memory_head
        self.object_store_memory_worker = object_store_memory_worker
        self.tags = dict(tags or {})
        self.session_id = session_id
        given = {name: getattr(self, name) for name in (*_WORKER_FIELDS, *_SPEC_FIELDS, "staging_uri", "session_id")}
        check_fields({name: value for name, value in given.items() if not is_unrendered(value)})

    def _name(self, client_token: str, context: Context) -> str:
        ti = context["ti"]
        return self.session_id or session_id_for(ti.dag_id, ti.task_id, client_token)

    def _prepare(self, context: Context) -> Start:
        spec = self.hook.stage(self._spec(context), self.staging_uri)
        return lambda client_token: self.hook.create(spec, self._name(client_token, context), client_token)

    def _spec(self, context: Context) -> RaySessionSpec:
        given = {name: getattr(self, name) for name in _SPEC_FIELDS}
        return session_spec(
            context["ti"],
            Workers(**{name: getattr(self, name) for name in _WORKER_FIELDS}),
            given
            | {
                "py_modules": [self._relative_to_dag(str(path)) for path in items_of(self.py_modules)],
                "working_dir": self._relative_to_dag(self.working_dir) if self.working_dir else None,
            },
        )

    def _required_capacity(self) -> str:
        return session_capacity(self.number_of_workers)


class GlueRayStatementOperator(GlueRayRunOperator):
    """Run Python code in a session and return its value.

    The value is that of the last expression, or of the variable ``return_value`` if the code assigns one; it has
    to have a JSON form. Without one, nothing is returned. What the code prints stands in the task log when it
    has ended. A retry takes the statement of the failed try up again if it is active or has succeeded. A session
    that is busy with another statement, or not READY yet, is waited for.

    :param session_id: the session, usually ``create.output``. (templated)
    :param code: Python 3.9 code, or the path of a ``.py`` file beside the DAG, whose text is then templated too.
        (templated)
    :param recreate_on_timeout: if the session has timed out, make it again once, with the same settings. What earlier
        statements left in it is gone, so this is for statements that stand alone.
    :param run_timeout: how long the statement may take; then it is cancelled. Default: 48 hours.

    Further parameters: see :class:`GlueRayRunOperator`.

    :raises SpecError, SourceFileError: while the DAG is parsed, for code that is not a template and is no Python.
    """

    hook: SessionBackend
    backend = GLUE_STATEMENT
    template_fields: Sequence[str] = ("session_id", "code", "conn_id", "region_name")
    template_ext: Sequence[str] = (".py",)
    template_fields_renderers = {"code": "python"}  # noqa: RUF012
    ui_color = "#e8daef"

    def __init__(
        self, *, session_id: str | XComArg, code: str, recreate_on_timeout: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.session_id = session_id
        self.code = code
        self.recreate_on_timeout = recreate_on_timeout
        if not is_unrendered(code) and not code.endswith(".py"):
            check_code(code, f"The code of {self.task_id}")

    def _name(self, client_token: str, context: Context) -> str:
        return str(self.session_id)

    def _prepare(self, context: Context) -> Start:
        if not self.session_id:
            raise SessionEnded("There is no session: the task that was to make it returned no id")

        def start(client_token: str) -> RunRef:
            sent = prepare(self.code, client_token, f"The code of {self.task_id}")
            session_id = self._usable_session()
            if session_id != self.session_id and (found := self.hook.find_runs(session_id, client_token)):
                return found[0].ref
            return self.hook.run_statement(session_id, sent, client_token)

        return start

    def _usable_session(self) -> str:
        """Return the session to use: the one given, or its replacement if that is wanted and needed."""
        session = self.hook.session(str(self.session_id)) if self.recreate_on_timeout else None
        if session is None or session["Status"] != "TIMEOUT":
            return str(self.session_id)
        ref = self.hook.recreate(str(self.session_id))
        self.log.warning("Session %s has timed out; using %s, where nothing is left of it", self.session_id, ref.id)
        return str(ref.id)

    def _finish(self, outcome: Outcome, context: Context) -> Any:
        record = RunRecord.load(context)
        return finish_statement(outcome, self.hook, record.client_token if record else "", self.log)

    def _required_capacity(self) -> str:
        return "A session runs one statement at a time, and those before this one did not end in time"


class GlueRayStopSessionOperator(GlueRayEndOperator):
    """Stop a session and wait until it is over. A session that is over, or was never made, is no error.

    Also stops the successor that ``recreate_on_timeout`` may have made. Pushes ``glueray_usage``: seconds, workers,
    M-DPU hours and the estimated cost. Returns the session's last state.

    :param session_id: the session, usually ``create.output``. (templated)
    :param delete: also delete the session, and with it the outputs of its statements.
    :param run_timeout: how long it may take; then the task fails, and a retry asks again. Default: 10 minutes.

    Further parameters: see :class:`GlueRayRunOperator`.
    """

    hook: SessionBackend
    backend = GLUE_SESSION
    template_fields: Sequence[str] = ("session_id", "conn_id", "region_name")

    def __init__(
        self,
        *,
        session_id: str | XComArg,
        delete: bool = False,
        run_timeout: timedelta | float | None = timedelta(minutes=10),
        **kwargs: Any,
    ) -> None:
        super().__init__(run_timeout=run_timeout, **kwargs)
        self.session_id = session_id
        self.delete = delete

    def _refs(self) -> tuple[RunRef, ...]:
        if not self.session_id:
            return ()
        names = str(self.session_id), replacement_session_id(str(self.session_id))
        return tuple(RunRef(GLUE_SESSION, name, name) for name in names)

    def _finish(self, outcome: Outcome, context: Context) -> str:
        snapshot = outcome.snapshot
        if not snapshot.is_over:
            raise StopError(f"{snapshot.ref.title} was asked to stop and is still {snapshot.raw_state}")
        push_usage(snapshot, context, self.log)
        if self.delete:
            for name in (snapshot.ref.id, replacement_session_id(snapshot.ref.id)):
                self.hook.delete(name)
        return snapshot.raw_state
