"""Wait for a session or a statement that was started elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import Context

from airflow_provider_glueray.core.errors import raise_failure
from airflow_provider_glueray.core.runs import GLUE_SESSION, GLUE_STATEMENT, Outcome, RunRef
from airflow_provider_glueray.task.sensor import GlueRayRunSensor
from airflow_provider_glueray.task.sessions import finish_statement


class GlueRaySessionSensor(GlueRayRunSensor):
    """Wait until a session is READY, or until a statement in it has succeeded; fail when that cannot be any more.

    Returns the id of what it has waited for. What a statement printed stands in the task log; its value is the
    XCom of the task that has run it.

    :param session_id: the session. (templated)
    :param statement_id: the statement; None to wait for the session. (templated)

    Further parameters: see :class:`GlueRayRunSensor`.
    """

    template_fields: Sequence[str] = ("session_id", "statement_id", "conn_id", "region_name")

    def __init__(self, *, session_id: str, statement_id: int | str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.session_id = session_id
        self.statement_id = statement_id

    @property
    def backend(self) -> str:  # type: ignore[override]
        """That of sessions or of statements."""
        return GLUE_SESSION if self.statement_id is None else GLUE_STATEMENT

    def _look(self) -> RunRef | None:
        return RunRef(
            self.backend, self.session_id, str(self.session_id if self.statement_id is None else self.statement_id)
        )

    def _finish(self, outcome: Outcome, context: Context) -> str:
        if self.statement_id is not None:
            finish_statement(outcome, self.hook, "", self.log)
            return str(self.statement_id)
        raise_failure(outcome, self.hook.url(outcome.snapshot.ref))
        return self.session_id
