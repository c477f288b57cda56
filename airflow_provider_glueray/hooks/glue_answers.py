"""What AWS answers, in our words: runs become snapshots, failures become the exceptions of our own tree.

Floor 2. No call is made here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError

from airflow_provider_glueray.errors import (
    AccountRefused,
    ConnectionMissing,
    RequestRefused,
    ServiceFull,
    SubmitError,
)
from airflow_provider_glueray.runs import (
    GLUE_JOB,
    GLUE_JOB_STATE,
    GLUE_SESSION,
    GLUE_SESSION_STATE,
    GLUE_STATEMENT,
    GLUE_STATEMENT_STATE,
    RunRef,
    RunSnapshot,
    RunState,
    Usage,
    read_state,
)
from airflow_provider_glueray.spec import MDPU_PER_WORKER
from airflow_provider_glueray.statements import plain, seconds_of

#: Every run is billed for at least a minute. Source: dg/interactive-sessions-session-pricing, Glue FAQ.
LEAST_BILLED_SECONDS = 60


def snapshot_of(name: str, run: Mapping[str, Any]) -> RunSnapshot:
    """Read a ``JobRun`` (botocore shape) of the job ``name``."""
    raw = run["JobRunState"]
    completed = run.get("CompletedOn")
    started = run.get("StartedOn")
    return RunSnapshot(
        ref=RunRef(GLUE_JOB, name, run["Id"]),
        state=read_state(GLUE_JOB_STATE, raw, completed=completed is not None),
        raw_state=raw,
        message=run.get("ErrorMessage") or run.get("StateDetail") or "",
        started=started.timestamp() if started else None,
        completed=completed.timestamp() if completed else None,
        usage=_usage(run),
        recognised=raw in GLUE_JOB_STATE,
    )


def _usage(run: Mapping[str, Any]) -> Usage:
    """Reckon M-DPU hours: from DPUSeconds where Glue fills it (autoscaled runs), else from the full size."""
    seconds = float(run.get("ExecutionTime") or 0)
    workers = int(run.get("NumberOfWorkers") or 0)
    measured = run.get("DPUSeconds")
    least = LEAST_BILLED_SECONDS if seconds else 0
    mdpu_seconds = measured or max(seconds, least) * workers * MDPU_PER_WORKER
    return Usage(seconds, workers, mdpu_seconds / 3600)


def snapshot_of_session(session: Mapping[str, Any]) -> RunSnapshot:
    """Read a ``Session`` (botocore shape): how its start went, and what has become of it since."""
    raw = session["Status"]
    completed = session.get("CompletedOn")
    started = session.get("CreatedOn")
    return RunSnapshot(
        ref=RunRef(GLUE_SESSION, session["Id"], session["Id"]),
        state=read_state(GLUE_SESSION_STATE, raw, completed=completed is not None),
        raw_state=raw,
        message=session.get("ErrorMessage") or "",
        started=started.timestamp() if started else None,
        completed=completed.timestamp() if completed else None,
        usage=_usage(session),
        recognised=raw in GLUE_SESSION_STATE,
    )


def snapshot_of_statement(session_id: str, statement: Mapping[str, Any]) -> RunSnapshot:
    """Read a ``Statement`` (botocore shape): AVAILABLE is a success only with the output's status "ok"."""
    raw = statement["State"]
    output = statement.get("Output") or {}
    completed = seconds_of(statement.get("CompletedOn"))
    state = read_state(GLUE_STATEMENT_STATE, raw, completed=completed is not None)
    if state is RunState.SUCCEEDED and output.get("Status") != "ok":
        state = RunState.FAILED
    error = f"{output['ErrorName']}: {output.get('ErrorValue', '')}" if output.get("ErrorName") else ""
    return RunSnapshot(
        ref=RunRef(GLUE_STATEMENT, session_id, str(statement["Id"])),
        state=state,
        raw_state=raw,
        # Only the beginning: an exception may say a lot, and this is kept with the task.
        message=plain(error)[:1000],
        started=seconds_of(statement.get("StartedOn")),
        completed=completed,
        recognised=raw in GLUE_STATEMENT_STATE,
    )


class NotFoundError(SubmitError):
    """EntityNotFoundException, before a caller has said what it means."""


class WrongStateError(SubmitError):
    """IllegalSessionStateException, before a caller has looked which state it is."""


class ChangedMeanwhileError(SubmitError):
    """Somebody else created or changed the job between our read and our write."""


def code_of(error: ClientError) -> str:
    """Return the service's name for an error."""
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn what boto3 raises into our own tree; ``what`` names the thing that was being done."""
    try:
        yield
    except (NoCredentialsError, NoRegionError) as error:
        raise ConnectionMissing(f"{what}: {error}. Add it to the Airflow connection") from error
    except ClientError as error:
        raise _error_for(what, code_of(error), str(error.response["Error"].get("Message", ""))) from error
    except BotoCoreError as error:
        raise SubmitError(f"{what}: {error}") from error


_FULL = (
    "ConcurrentRunsExceededException",
    "ResourceNumberLimitExceededException",
    "SessionBusyException",
    "ThrottlingException",
)
_CHANGED = (
    "AlreadyExistsException",
    "IdempotentParameterMismatchException",
    "ConcurrentModificationException",
)


def _error_for(what: str, code: str, message: str) -> SubmitError:
    text = f"{what}: {message} ({code})"
    if re.search(r"not allowed to submit Glue Ray", message):
        return AccountRefused(
            f"{text}. AWS closed Glue for Ray to accounts that did not use it before 2026-04-30 "
            "(dg/awsglue-ray-jobs-availability-change). Use an account that did, or another backend: the "
            "same script runs on `glueray local`, and AWS points new users to EKS with KubeRay"
        )
    if code in _FULL:
        return ServiceFull(text)
    if code in _CHANGED:
        return ChangedMeanwhileError(text)
    if code == "EntityNotFoundException":
        return NotFoundError(text)
    if code == "IllegalSessionStateException":
        return WrongStateError(text)
    if code in ("InvalidInputException", "ValidationException", "AccessDeniedException"):
        return RequestRefused(text)
    return SubmitError(text)
