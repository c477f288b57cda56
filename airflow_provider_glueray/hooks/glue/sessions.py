"""Glue for Ray sessions: create, wait, describe, stop, delete, and run statements in them.

The runs here are of two backends: the start of a session, and a statement in one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from botocore.exceptions import ClientError

from airflow_provider_glueray.core import clock
from airflow_provider_glueray.core.drivers import run_sync
from airflow_provider_glueray.core.errors import (
    AccessDenied,
    CapacityExceeded,
    InvalidRequest,
    SessionConflict,
    SessionEnded,
    SubmitError,
    raise_failure,
)
from airflow_provider_glueray.core.follow import FollowPolicy, follow
from airflow_provider_glueray.core.logs import LogCursor, LogPage
from airflow_provider_glueray.core.runs import (
    GLUE_SESSION,
    GLUE_STATEMENT,
    RunRef,
    RunSnapshot,
    RunState,
    StatementOutput,
)
from airflow_provider_glueray.core.spec import RaySessionSpec
from airflow_provider_glueray.core.validation import CLIENT_TOKEN_ARGUMENT, seconds_of
from airflow_provider_glueray.hooks.glue.connection import GlueConnectionHook
from airflow_provider_glueray.hooks.glue.errors import (
    ChangedMeanwhileError,
    NotFoundError,
    WrongStateError,
    aws_errors,
    error_code,
)
from airflow_provider_glueray.hooks.glue.requests import to_glue_session, to_glue_session_again
from airflow_provider_glueray.hooks.glue.responses import snapshot_of_session, snapshot_of_statement
from airflow_provider_glueray.hooks.glue.statements import carries_token, read_output
from airflow_provider_glueray.packaging.upload import stage

#: Sessions per page of ListSessions (botocore: at most 1,000).
PAGE = 100


class GlueRaySessionHook(GlueConnectionHook):
    """Talk to AWS Glue about Ray sessions and their statements. Parameters: see :class:`GlueConnectionHook`."""

    # -- sessions -----------------------------------------------------------------------------------------------

    def stage(self, spec: RaySessionSpec, staging_uri: str | None) -> RaySessionSpec:
        """Upload what is local; see :func:`packaging.upload.stage`."""
        return stage(spec, staging_uri, self.storage, self.log)

    def create(self, spec: RaySessionSpec, session_id: str, client_token: str) -> RunRef:
        """Create a session, or return the one with this id if it carries the client token: asking twice makes one.

        :raises SessionConflict: a session of that id exists, and is not the one with the client token.
        :raises CapacityExceeded: the account's capacity is in use.
        :raises AccountNotEligible: the account may not make Ray sessions.
        """
        self.warn_of_region()
        return self._create(to_glue_session(spec, session_id, client_token, self.role_arn(spec.role)))

    def recreate(self, session_id: str) -> RunRef:
        """Make the successor of a session that has ended, with its settings; the same one however often asked.

        :raises SessionEnded: there is no session whose settings could be taken.
        """
        session = self.session(session_id)
        if session is None:
            raise SessionEnded(f"There is no session {session_id!r} to take the settings of")
        tags: Mapping[str, str] = {}
        try:
            with aws_errors(f"tags of session {session_id!r}"):
                tags = self._client_for("glue").get_tags(ResourceArn=self._arn(f"session/{session_id}"))["Tags"]
        except SubmitError as error:
            self.log.warning("The new session will have no tags: %s", error)
        return self._create(to_glue_session_again(session, tags))

    def _create(self, request: Mapping[str, Any]) -> RunRef:
        session_id = request["Id"]
        ref = RunRef(GLUE_SESSION, session_id, session_id)
        try:
            # An answer that is lost does no harm: asked again, the service says that the session is there.
            with aws_errors(f"session {session_id!r}"):
                self._client_for("glue").create_session(**request)
        except ChangedMeanwhileError as error:
            session = self.session(session_id) or {}
            client_token = request["DefaultArguments"].get(CLIENT_TOKEN_ARGUMENT)
            if not client_token or (session.get("DefaultArguments") or {}).get(CLIENT_TOKEN_ARGUMENT) != client_token:
                raise SessionConflict(
                    f"Session {session_id!r} exists ({session.get('Status', 'unknown')}) and was made by somebody "
                    f"else: {session.get('Description') or 'it has no description'}. It is left alone; choose another "
                    "session_id, or leave it out"
                ) from error
        return ref

    def wait_ready(self, ref: RunRef, timeout: timedelta | float = 1800.0) -> None:
        """Return when a session is READY; at the timeout, a timedelta or seconds, it is stopped.

        :raises RunFailed: or one of its kinds, when it does not become READY.
        """
        policy = FollowPolicy(deadline=clock.now() + (seconds_of(timeout) or 0.0), sources=())
        raise_failure(run_sync(follow(ref, policy), self, ref, self.log), self.url(ref))

    def session(self, session_id: str) -> dict[str, Any] | None:
        """Return a session as the service holds it (botocore ``Session``), or None."""
        try:
            with aws_errors(f"session {session_id!r}"):
                return self._client_for("glue").get_session(Id=session_id)["Session"]  # type: ignore[no-any-return]
        except NotFoundError:
            return None

    def list_sessions(self, tags: Mapping[str, str] | None = None) -> Iterator[dict[str, Any]]:
        """Yield the account's Ray sessions (botocore ``Session``), those with all of ``tags``; Spark's are left out."""
        wanted = {"Tags": dict(tags)} if tags else {}
        for answer in self._answers("list_sessions", "sessions", MaxResults=PAGE, **wanted):
            for session in answer.get("Sessions", ()):
                if (session.get("Command") or {}).get("Name") == "glueray":
                    yield session

    def delete(self, session_id: str) -> None:
        """Delete a session. One that is not there is no error."""
        try:
            with aws_errors(f"deletion of session {session_id!r}"):
                self._client_for("glue").delete_session(Id=session_id)
        except NotFoundError:
            self.log.info("There is no session %s to delete", session_id)

    def role_arn(self, role: str) -> str:
        """Return the ARN of a role, which is what sessions take (botocore); a name is looked up in IAM.

        :raises InvalidRequest: there is no such role.
        """
        if role.startswith("arn:"):
            return role
        try:
            answer = self._client_for("iam").get_role(RoleName=role)
        except ClientError as error:
            if error_code(error) in ("NoSuchEntity", "NoSuchEntityException"):
                raise InvalidRequest(f"There is no IAM role {role!r} in the account of this connection") from error
            self.log.info("Role %s cannot be looked up (%s); taking it to have no path", role, error_code(error))
            return f"arn:{self.conn_partition}:iam::{self.account_id}:role/{role}"
        return str(answer["Role"]["Arn"])

    # -- statements ---------------------------------------------------------------------------------------------

    def run_statement(self, session_id: str, code: str, client_token: str) -> RunRef:
        """Run code that carries the client token (see ``statements.prepare``), and never twice.

        :raises CapacityExceeded: the session is busy with another statement, or not READY yet.
        :raises SessionEnded: it is over, or was never there.
        """

        def send(glue: Any) -> RunRef:
            answer = glue.run_statement(SessionId=session_id, Code=code)
            return RunRef(GLUE_STATEMENT, session_id, str(answer["Id"]))

        try:
            return self.start_once(
                f"a statement in session {session_id!r}",
                send,
                lambda: self._statements_with_token(session_id, client_token),
            )
        except (InvalidRequest, AccessDenied, WrongStateError, NotFoundError) as error:
            raise self._refusal_reason(session_id, error) from error

    def _refusal_reason(self, session_id: str, error: SubmitError) -> SubmitError:
        session = self.session(session_id)
        if session is None:
            return SessionEnded(
                f"There is no session {session_id!r}: it was deleted, or is in another account or region"
            )
        status = session["Status"]
        # It may have become READY since it refused for its state.
        if status == "PROVISIONING" or (status == "READY" and isinstance(error, WrongStateError)):
            return CapacityExceeded(f"Session {session_id!r} was still PROVISIONING")
        if status == "READY":
            return error
        return SessionEnded(f"Session {session_id!r} can run nothing any more: it is {status}. {_reason(session)}")

    def statements(self, session_id: str) -> list[dict[str, Any]]:
        """Return all statements of a session with their outputs (botocore ``Statement``).

        :raises SubmitError: there is no such session.
        """
        answers = self._answers("list_statements", f"statements of session {session_id!r}", SessionId=session_id)
        return [statement for answer in answers for statement in answer["Statements"]]

    def succeeded(self, session_id: str) -> dict[str, dict[str, Any]]:
        """Return those statements of a session that have succeeded, by id."""
        found = ((snapshot_of_statement(session_id, one), one) for one in self.statements(session_id))
        return {snapshot.ref.id: one for snapshot, one in found if snapshot.state is RunState.SUCCEEDED}

    def get_statement(self, ref: RunRef) -> dict[str, Any]:
        """Return one statement with its output (botocore ``Statement``).

        :raises SubmitError: there is no such session or statement.
        """
        with aws_errors(ref.title, ref):
            answer = self._client_for("glue").get_statement(SessionId=ref.name, Id=int(ref.id))
        return answer["Statement"]  # type: ignore[no-any-return]

    def output(self, ref: RunRef, client_token: str = "") -> StatementOutput:
        """Return what a statement printed and returned; the value needs the client token it was run with."""
        return read_output(self.get_statement(ref), client_token)

    def _statements_with_token(self, session_id: str, client_token: str) -> list[RunSnapshot]:
        try:
            found = [one for one in self.statements(session_id) if carries_token(one.get("Code", ""), client_token)]
        except (NotFoundError, WrongStateError):
            return []
        return [snapshot_of_statement(session_id, statement) for statement in found]

    # -- both, as ``RunHook`` wants them --------------------------------------------------------------------------

    def find_runs(self, name: str, client_token: str) -> list[RunSnapshot]:
        """Return the session ``name`` if it carries the client token, and its statements that do."""
        session = self.session(name)
        if session is None:
            return []
        if (session.get("DefaultArguments") or {}).get(CLIENT_TOKEN_ARGUMENT) == client_token:
            return [snapshot_of_session(session)]
        return self._statements_with_token(name, client_token)

    def describe(self, refs: Collection[RunRef]) -> dict[RunRef, RunSnapshot]:
        """Describe sessions one by one, and many statements of a session with one call. See ``RunBackend``."""
        found = {ref: self._describe_session(ref) for ref in refs if ref.backend == GLUE_SESSION}
        statements = [ref for ref in refs if ref.backend == GLUE_STATEMENT]
        for name in {ref.name for ref in statements}:
            found |= self._describe_statements(name, [ref for ref in statements if ref.name == name])
        return found

    def _describe_session(self, ref: RunRef) -> RunSnapshot:
        session = self.session(ref.id)
        if session is None:
            return RunSnapshot(ref, RunState.LOST, "LOST", message=f"There is no session {ref.id!r}")
        snapshot = snapshot_of_session(session)
        return snapshot if snapshot.message or not snapshot.is_over else snapshot._replace(message=_reason(session))

    def _describe_statements(self, session_id: str, refs: Sequence[RunRef]) -> dict[RunRef, RunSnapshot]:
        try:
            listed = [self.get_statement(refs[0])] if len(refs) == 1 else self.statements(session_id)
        except (NotFoundError, WrongStateError):
            listed = []
        known = {str(one["Id"]): snapshot_of_statement(session_id, one) for one in listed}
        found = {ref: known[ref.id] for ref in refs if ref.id in known}
        pending = [ref for ref in refs if ref not in found or not found[ref].state.is_terminal]
        if not pending:
            return found
        # Whether the service ends the statements of a session that ends is not documented: look at both.
        session = self._describe_session(RunRef(GLUE_SESSION, session_id, session_id))
        for ref in pending:
            if session.is_over:
                found[ref] = session._replace(ref=ref, usage=None, message=f"Its session ended: {session.message}")
            elif ref not in found:
                found[ref] = RunSnapshot(ref, RunState.LOST, "LOST", message=f"There is no {ref.title}")
        return found

    def read_logs(self, cursors: Mapping[RunRef, LogCursor], sources: Sequence[str]) -> dict[RunRef, LogPage]:
        """Return nothing: what a statement prints comes with its output. See ``RunBackend``."""
        return {ref: LogPage((), cursor) for ref, cursor in cursors.items()}

    def stop(self, *refs: RunRef) -> None:
        """Stop sessions, cancel statements. What has ended, is ending or is not there is no error."""
        for ref in refs:
            try:
                with aws_errors(f"stop of {ref.title}", ref):
                    if ref.backend == GLUE_SESSION:
                        self._client_for("glue").stop_session(Id=ref.id)
                    else:
                        self._client_for("glue").cancel_statement(SessionId=ref.name, Id=int(ref.id))
            except (NotFoundError, WrongStateError, InvalidRequest, AccessDenied) as error:
                snapshot = self.describe([ref])[ref]
                if not snapshot.is_over and snapshot.state is not RunState.STOPPING:
                    raise
                self.log.info("%s is %s already (%s)", ref.title, snapshot.raw_state, error)

    def url(self, ref: RunRef) -> str:
        """Return the page of a session: in the AWS console, or of the endpoint the connection points at."""
        return self._page(f"sessions/{ref.name}", "gluestudio", "/interactive-sessions")

    def logs_url(self, ref: RunRef) -> str:
        """Return the page of a session's logs; in CloudWatch, of all groups of Ray sessions."""
        fragment = "logsV2:log-groups$3FlogGroupNameFilter$3D$252Faws-glue$252Fray$252Fsessions"
        return self._page(f"sessions/{ref.name}/log", "cloudwatch", fragment)


def _reason(session: Mapping[str, Any]) -> str:
    """Say why a session is over, and what to do."""
    message = (session.get("ErrorMessage") or "").rstrip(".")
    if session["Status"] != "TIMEOUT":
        otherwise = {"STOPPED": "Somebody or something stopped it", "STOPPING": "It is being stopped"}
        return message or otherwise.get(session["Status"], "The service gave no reason")
    minutes = f" of {session['IdleTimeout']} minutes" if session.get("IdleTimeout") else ""
    cause = f"It was idle for longer than its idle_timeout{minutes}, or older than its session_timeout"
    cure = "Raise them, or set recreate_on_timeout=True for statements that stand alone"
    return ". ".join(part for part in (message, cause, cure) if part)
