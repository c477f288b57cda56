"""Create a session, run statements in it, stop it: one Ray cluster for several steps of a DAG.

How a run lives is the same as for jobs (``task/operator.py``): the start of a session is a run, and so
is a statement.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from airflow.sdk import Context, XComArg

from airflow_provider_glueray.core.backend import SessionBackend
from airflow_provider_glueray.core.errors import SessionEnded, StopError
from airflow_provider_glueray.core.runs import GLUE_SESSION, GLUE_STATEMENT, Outcome, RunRef
from airflow_provider_glueray.core.spec import IDLE_TIMEOUT, SESSION_TIMEOUT, RaySessionSpec
from airflow_provider_glueray.hooks.glue.requests import replacement_session_id, session_id_for
from airflow_provider_glueray.hooks.glue.statements import check_code, prepare
from airflow_provider_glueray.task.life import Start
from airflow_provider_glueray.task.operator import (
    WORKER_FIELDS,
    GlueRayEndOperator,
    GlueRayRunOperator,
    GlueRayStartOperator,
    GlueRayStepOperator,
    check_rendered,
    is_unrendered,
    parameters_of,
)
from airflow_provider_glueray.task.outcome import push_usage
from airflow_provider_glueray.task.record import RunRecord
from airflow_provider_glueray.task.sessions import finish_statement, session_capacity, session_spec

_SPEC_FIELDS = parameters_of(RaySessionSpec)


class GlueRayCreateSessionOperator(GlueRayStepOperator, GlueRayStartOperator):
    """Create a session and wait until it is READY. Returns its id.

    Use it as a setup task with :class:`GlueRayStopSessionOperator` as its teardown, or both at once through
    ``glue_ray_session``. A retry takes the session of the failed try up again; clearing the task makes a new one
    and stops the old one. If the session does not become READY, the task stops it.

    :param role: name or ARN of the IAM role the session assumes. (templated)
    :param idle_timeout: the session ends by itself when it has run nothing for so long: a timedelta, or seconds; the
        service counts whole minutes. Default: 30 minutes. (templated)
    :param session_timeout: the session ends in any case after so long, likewise. Default: 48 hours. (templated)
    :param session_id: the id to use; by default one is made of the DAG's and the task's id. (templated)
    :param run_timeout: how long it may take until the session is READY; then it is stopped. Default: 30 minutes.

    Further parameters, all of the cluster templated: see :class:`GlueRayStepOperator`, :class:`GlueRayClusterOperator`
    and :class:`GlueRayRunOperator`.

    :raises SpecError: while the DAG is parsed, for each value that is not a template and breaks a rule.
    """

    hook: SessionBackend
    backend = GLUE_SESSION
    template_fields: Sequence[str] = (
        *WORKER_FIELDS,
        *_SPEC_FIELDS,
        *("staging_uri", "session_id", "conn_id", "region_name"),
    )
    template_fields_renderers = {"arguments": "json", "tags": "json"}  # noqa: RUF012

    def __init__(
        self,
        *,
        role: str,
        idle_timeout: timedelta | float | str = IDLE_TIMEOUT,
        session_timeout: timedelta | float | str = SESSION_TIMEOUT,
        session_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.role = role
        self.idle_timeout = idle_timeout
        self.session_timeout = session_timeout
        self.session_id = session_id
        check_rendered(self._given(*WORKER_FIELDS, *_SPEC_FIELDS, "staging_uri", "session_id"))

    def _name(self, client_token: str, context: Context) -> str:
        ti = context["ti"]
        return self.session_id or session_id_for(ti.dag_id, ti.task_id, client_token)

    def _prepare(self, context: Context) -> Start:
        spec = self.hook.stage(self._spec(context), self.staging_uri)
        return lambda client_token: self.hook.create(spec, self._name(client_token, context), client_token)

    def _spec(self, context: Context) -> RaySessionSpec:
        given = {**self._given(*_SPEC_FIELDS), **self._placed_files(), "workers": self._workers()}
        return session_spec(context["ti"], given)

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

    def __init__(self, *, session_id: str | XComArg, delete: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
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
