"""What AWS answers, in our words: runs become snapshots, failures become the exceptions of our own tree.

No call is made here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_glueray.core.runs import (
    GLUE_JOB,
    GLUE_SESSION,
    GLUE_STATEMENT,
    RunRef,
    RunSnapshot,
    RunState,
    Usage,
    read_state,
)
from airflow_provider_glueray.core.spec import MDPU_PER_WORKER
from airflow_provider_glueray.hooks.glue.statements import plain, seconds_of

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


#: AWS Glue ``JobRunState`` (botocore, all ten). ERROR and EXPIRED end a run that did not do its work;
#: what EXPIRED means for Ray is undocumented, so it fails closed.
GLUE_JOB_STATE: Mapping[str, RunState] = {
    "WAITING": RunState.QUEUED,
    "STARTING": RunState.STARTING,
    "RUNNING": RunState.RUNNING,
    "STOPPING": RunState.STOPPING,
    "STOPPED": RunState.STOPPED,
    "SUCCEEDED": RunState.SUCCEEDED,
    "FAILED": RunState.FAILED,
    "TIMEOUT": RunState.TIMED_OUT,
    "ERROR": RunState.FAILED,
    "EXPIRED": RunState.FAILED,
}


#: AWS Glue ``SessionStatus`` (botocore, all six). What is followed is a session's *start*: READY is its success.
GLUE_SESSION_STATE: Mapping[str, RunState] = {
    "PROVISIONING": RunState.STARTING,
    "READY": RunState.SUCCEEDED,
    "STOPPING": RunState.STOPPING,
    "STOPPED": RunState.STOPPED,
    "FAILED": RunState.FAILED,
    "TIMEOUT": RunState.TIMED_OUT,
}


#: AWS Glue ``StatementState`` (botocore, all six). AVAILABLE is a success only if ``Output.Status`` is "ok"
#: (kernel 1.0.5); whoever reads a statement looks at both.
GLUE_STATEMENT_STATE: Mapping[str, RunState] = {
    "WAITING": RunState.QUEUED,
    "RUNNING": RunState.RUNNING,
    "AVAILABLE": RunState.SUCCEEDED,
    "CANCELLING": RunState.STOPPING,
    "CANCELLED": RunState.STOPPED,
    "ERROR": RunState.FAILED,
}
