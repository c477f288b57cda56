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
from airflow_provider_glueray.runs import GLUE_JOB_RUN, RunRef, RunSnapshot, Usage, read_state
from airflow_provider_glueray.spec import MDPU_PER_WORKER

#: The name of the Glue jobs backend in a :class:`RunRef`.
BACKEND = "glue-job"
#: Every run is billed for at least a minute. Source: dg/interactive-sessions-session-pricing, Glue FAQ.
LEAST_BILLED_SECONDS = 60


def snapshot_of(name: str, run: Mapping[str, Any]) -> RunSnapshot:
    """Read a ``JobRun`` (botocore shape) of the job ``name``."""
    raw = run["JobRunState"]
    completed = run.get("CompletedOn")
    started = run.get("StartedOn")
    return RunSnapshot(
        ref=RunRef(BACKEND, name, run["Id"]),
        state=read_state(GLUE_JOB_RUN, raw, completed=completed is not None),
        raw_state=raw,
        message=run.get("ErrorMessage") or run.get("StateDetail") or "",
        started=started.timestamp() if started else None,
        completed=completed.timestamp() if completed else None,
        usage=_usage(run),
        recognised=raw in GLUE_JOB_RUN,
    )


def _usage(run: Mapping[str, Any]) -> Usage:
    """Reckon M-DPU hours: from DPUSeconds where Glue fills it (autoscaled runs), else from the full size."""
    seconds = float(run.get("ExecutionTime") or 0)
    workers = int(run.get("NumberOfWorkers") or 0)
    measured = run.get("DPUSeconds")
    least = LEAST_BILLED_SECONDS if seconds else 0
    mdpu_seconds = measured or max(seconds, least) * workers * MDPU_PER_WORKER
    return Usage(seconds, workers, mdpu_seconds / 3600)


class NotFoundError(SubmitError):
    """EntityNotFoundException, before a caller has said what it means."""


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


_FULL = ("ConcurrentRunsExceededException", "ResourceNumberLimitExceededException", "ThrottlingException")
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
    if code in ("InvalidInputException", "ValidationException", "AccessDeniedException"):
        return RequestRefused(text)
    return SubmitError(text)
