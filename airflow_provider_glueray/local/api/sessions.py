"""Implement Glue's API of interactive sessions on the records of `State`.

INFERRED: StopSession and DeleteSession return EntityNotFoundException for an unknown session (as moto does; the model
does not list it); CreateSession returns AlreadyExistsException for every known Id, whatever its other members are; the
defaults of CreateSession come from the last Ray-capable kernel and from the API's text for Spark; ListSessions returns
the newest first and ListStatements the oldest, 50 per page; CancelStatement has no effect on a finished statement.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_glueray.local.api.operations import Api, Request, Response, page
from airflow_provider_glueray.local.engine import rules
from airflow_provider_glueray.local.engine.errors import GlueError
from airflow_provider_glueray.local.engine.faults import Faults
from airflow_provider_glueray.local.engine.session_threads import SessionHost
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
from airflow_provider_glueray.local.engine.state import State

#: The default for Spark sessions, which is 48 hours; the default IdleTimeout equals the Timeout [botocore].
_TIMEOUT_MINUTES = 2880
_STATEMENTS_PER_PAGE = 50
_SHOWN = ("Description", "Role", "Connections", "SecurityConfiguration", "GlueVersion", "WorkerType", "SessionType")


class SessionApi(Api):
    """The session API of one endpoint."""

    kind = "session"

    def __init__(self, state: State, host: SessionHost, faults: Faults) -> None:
        super().__init__(state, faults)
        self._host = host

    def _tags(self, region: str, name: str) -> dict[str, str]:
        return self._session(region, name).tags

    def _create_session(self, request: Request, region: str) -> Response:
        faults = self._faults.values(region)
        if rules.is_ray(request) and faults["account_closed"]:
            raise rules.invalid(rules.SESSION_REFUSED)
        definition = _with_defaults(request)
        rules.check_session(definition)
        if (region, request["Id"]) in self._state.sessions:
            raise GlueError("AlreadyExistsException", f"Session {request['Id']} already exists")
        exceeded = self._state.over_quota(region, definition["NumberOfWorkers"], faults["quota_mdpu"])
        if exceeded is not None:
            raise GlueError(*exceeded)
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
        self._state.sessions[region, session.id] = session
        self._host.start_session(session)
        return {"Session": session.to_response()}

    def _session(self, region: str, session_id: str) -> Session:
        try:
            return self._state.sessions[region, session_id]
        except KeyError:
            raise GlueError("EntityNotFoundException", f"Session {session_id} not found.") from None

    def _get_session(self, request: Request, region: str) -> Response:
        return {"Session": self._session(region, request["Id"]).to_response()}

    def _list_sessions(self, request: Request, region: str) -> Response:
        wanted: Mapping[str, str] = request.get("Tags") or {}
        known = reversed(self._state.sessions.values())
        found = [each for each in known if each.region == region and wanted.items() <= each.tags.items()]
        sessions, token = page(found, request, 100)
        return {
            "Ids": [session.id for session in sessions],
            "Sessions": [session.to_response() for session in sessions],
            **token,
        }

    def _stop_session(self, request: Request, region: str) -> Response:
        session = self._session(region, request["Id"])
        if session.status in {STOPPING, *ENDED}:
            raise _illegal(session)
        session.request_end(STOPPED, None)
        return {"Id": session.id}

    def _delete_session(self, request: Request, region: str) -> Response:
        session = self._session(region, request["Id"])
        session.request_end(STOPPED, None)
        del self._state.sessions[region, session.id]
        return {"Id": session.id}

    def _run_statement(self, request: Request, region: str) -> Response:
        session = self._session(region, request["SessionId"])
        if session.status == TIMEOUT:
            raise rules.invalid(f"Session {session.id} has timed out")  # [kernel 1.0.5] expects this error code
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
        return {"Statement": self._statement(session, request["Id"]).to_response()}

    def _list_statements(self, request: Request, region: str) -> Response:
        session = self._session(region, request["SessionId"])
        statements, token = page(session.statements, request, _STATEMENTS_PER_PAGE)
        return {"Statements": [statement.to_response() for statement in statements], **token}

    def _cancel_statement(self, request: Request, region: str) -> Response:
        session = self._session(region, request["SessionId"])
        statement = self._statement(session, request["Id"])
        _refuse_unless_ready(session)
        if statement.state not in FINISHED:
            statement.state = "CANCELLING"
            session.wake.set()
        return {}


def _with_defaults(request: Request) -> dict[str, Any]:
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
