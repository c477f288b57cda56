"""Speak Glue's API of interactive sessions: wire to validation to ledger and back.

INFERRED: StopSession and DeleteSession answer EntityNotFoundException for an unknown session (as moto does; the model
does not list it); a known Id is always AlreadyExistsException, whatever else the request says; what CreateSession
leaves out is filled in with what the last Ray-capable kernel and the API's text for Spark have; ListSessions shows the
newest first and ListStatements the oldest, 50 a page; cancelling a finished statement does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from airflow_provider_glueray.local.api.jobs import TAG_OPERATIONS, Request, Response, page, tag_operations
from airflow_provider_glueray.local.api.request_validation import check_input
from airflow_provider_glueray.local.engine import rules
from airflow_provider_glueray.local.engine.errors import GlueError
from airflow_provider_glueray.local.engine.faults import Faults
from airflow_provider_glueray.local.engine.sessions import (
    ENDED,
    FINISHED,
    READY,
    STOPPED,
    STOPPING,
    TIMEOUT,
    Session,
    Statement,
)
from airflow_provider_glueray.local.engine.state import Ledger

#: The default for Spark sessions, 48 hours, and IdleTimeout is as long [botocore].
_TIMEOUT_MINUTES = 2880
_STATEMENTS_A_PAGE = 50
_SHOWN = ("Description", "Role", "Connections", "SecurityConfiguration", "GlueVersion", "WorkerType", "SessionType")


class Opener(Protocol):
    """What the API needs of the host."""

    def open(self, session: Session) -> None:
        """Begin the life of a session; returns at once."""


class SessionApi:
    """The part of Glue's face that is about sessions."""

    def __init__(self, ledger: Ledger, host: Opener, faults: Faults) -> None:
        self._ledger, self._host, self._faults = ledger, host, faults
        self._operations: dict[str, Callable[[Request, str], Response]] = {
            "CreateSession": self._create_session,
            "GetSession": self._get_session,
            "ListSessions": self._list_sessions,
            "StopSession": self._stop_session,
            "DeleteSession": self._delete_session,
            "RunStatement": self._run_statement,
            "GetStatement": self._get_statement,
            "ListStatements": self._list_statements,
            "CancelStatement": self._cancel_statement,
            **tag_operations("session", lambda region, name: self._session(region, name).tags),
        }

    def handles(self, operation: str, request: Request) -> bool:
        """Tell whether the operation is ours; tag calls are for session ARNs only."""
        if operation in TAG_OPERATIONS:
            return ":session/" in str(request.get("ResourceArn", ""))
        return operation in self._operations

    def call(self, operation: str, request: Request, region: str) -> Response:
        """Answer one request, or raise GlueError."""
        check_input(operation, request)
        with self._ledger.lock:
            return self._operations[operation](request, region)

    def _create_session(self, request: Request, region: str) -> Response:
        faults = self._faults.values(region)
        if rules.is_ray(request) and faults["account_closed"]:
            raise rules.invalid(rules.SESSION_REFUSED)
        definition = _filled(request)
        rules.check_session(definition)
        if (region, request["Id"]) in self._ledger.sessions:
            raise GlueError("AlreadyExistsException", f"Session {request['Id']} already exists")
        full = self._ledger.over_quota(region, definition["NumberOfWorkers"], faults["quota_mdpu"])
        if full is not None:
            raise GlueError(*full)
        session = Session(
            id=request["Id"],
            region=region,
            workers=definition["NumberOfWorkers"],
            arguments=dict(request.get("DefaultArguments", {})),
            timeout_minutes=definition["Timeout"],
            idle_minutes=definition["IdleTimeout"],
            tags=dict(request.get("Tags", {})),
            fields={key: definition[key] for key in ("Command", *_SHOWN) if definition.get(key) is not None},
        )
        self._ledger.sessions[region, session.id] = session
        self._host.open(session)
        return {"Session": session.wire()}

    def _session(self, region: str, session_id: str) -> Session:
        try:
            return self._ledger.sessions[region, session_id]
        except KeyError:
            raise GlueError("EntityNotFoundException", f"Session {session_id} not found.") from None

    def _get_session(self, request: Request, region: str) -> Response:
        return {"Session": self._session(region, request["Id"]).wire()}

    def _list_sessions(self, request: Request, region: str) -> Response:
        wanted: Mapping[str, str] = request.get("Tags") or {}
        known = reversed(self._ledger.sessions.values())
        found = [each for each in known if each.region == region and wanted.items() <= each.tags.items()]
        sessions, token = page(found, request, 100)
        return {
            "Ids": [session.id for session in sessions],
            "Sessions": [session.wire() for session in sessions],
            **token,
        }

    def _stop_session(self, request: Request, region: str) -> Response:
        session = self._session(region, request["Id"])
        if session.status in {STOPPING, *ENDED}:
            raise _illegal(session)
        session.condemn(STOPPED, None)
        return {"Id": session.id}

    def _delete_session(self, request: Request, region: str) -> Response:
        session = self._session(region, request["Id"])
        session.condemn(STOPPED, None)
        del self._ledger.sessions[region, session.id]
        return {"Id": session.id}

    def _run_statement(self, request: Request, region: str) -> Response:
        session = self._session(region, request["SessionId"])
        if session.status == TIMEOUT:
            raise rules.invalid(f"Session {session.id} has timed out")  # the code as [kernel 1.0.5] expects it
        _refuse_unless_ready(session)
        if session.open_statement is not None:
            message = f"Session {session.id} is busy with statement {session.open_statement.id}"
            raise GlueError("SessionBusyException", message)
        return {"Id": session.add(request["Code"]).id}

    def _statement(self, session: Session, statement_id: int) -> Statement:
        if not 0 <= statement_id < len(session.statements):
            message = f"Statement {statement_id} of session {session.id} not found."
            raise GlueError("EntityNotFoundException", message)
        return session.statements[statement_id]

    def _get_statement(self, request: Request, region: str) -> Response:
        session = self._session(region, request["SessionId"])
        return {"Statement": self._statement(session, request["Id"]).wire()}

    def _list_statements(self, request: Request, region: str) -> Response:
        session = self._session(region, request["SessionId"])
        statements, token = page(session.statements, request, _STATEMENTS_A_PAGE)
        return {"Statements": [statement.wire() for statement in statements], **token}

    def _cancel_statement(self, request: Request, region: str) -> Response:
        session = self._session(region, request["SessionId"])
        statement = self._statement(session, request["Id"])
        _refuse_unless_ready(session)
        if statement.state not in FINISHED:
            statement.state = "CANCELLING"
            session.wake.set()
        return {}


def _filled(request: Request) -> dict[str, Any]:
    given = {key: value for key, value in request.items() if value is not None}
    timeout = given.get("Timeout", _TIMEOUT_MINUTES)
    return {
        "GlueVersion": "4.0",
        "WorkerType": rules.WORKER_TYPE,
        "NumberOfWorkers": rules.SESSION_WORKERS,
        "Timeout": timeout,
        "IdleTimeout": timeout,
        **given,
        "Command": {"PythonVersion": "3.9", **given["Command"]},
    }


def _refuse_unless_ready(session: Session) -> None:
    if session.status != READY or session.state != READY:
        raise _illegal(session)


def _illegal(session: Session) -> GlueError:
    return GlueError("IllegalSessionStateException", f"Session {session.id} is in {session.status} status")
