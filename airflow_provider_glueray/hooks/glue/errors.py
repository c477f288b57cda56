"""What boto3 raises for Glue, as exceptions of our own tree.

No call is made here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError

from airflow_provider_glueray.core.errors import (
    AccountNotEligible,
    CapacityExceeded,
    ConnectionConfigError,
    RequestRefused,
    SubmitError,
)


class NotFoundError(SubmitError):
    """EntityNotFoundException, before a caller has said what it means."""


class WrongStateError(SubmitError):
    """IllegalSessionStateException, before a caller has looked which state it is."""


class ChangedMeanwhileError(SubmitError):
    """Somebody else created or changed the job between our read and our write."""


def error_code(error: ClientError) -> str:
    """Return the service's name for an error."""
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def aws_errors(what: str) -> Iterator[None]:
    """Turn what boto3 raises into our own tree; ``what`` names the thing that was being done."""
    try:
        yield
    except (NoCredentialsError, NoRegionError) as error:
        raise ConnectionConfigError(f"{what}: {error}. Add it to the Airflow connection") from error
    except ClientError as error:
        raise _error_for(what, error_code(error), str(error.response["Error"].get("Message", ""))) from error
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
        return AccountNotEligible(
            f"{text}. AWS closed Glue for Ray to accounts that did not use it before 2026-04-30 "
            "(dg/awsglue-ray-jobs-availability-change). Use an account that did, or another backend: the "
            "same script runs on `glueray local`, and AWS points new users to EKS with KubeRay"
        )
    if code in _FULL:
        return CapacityExceeded(text)
    if code in _CHANGED:
        return ChangedMeanwhileError(text)
    if code == "EntityNotFoundException":
        return NotFoundError(text)
    if code == "IllegalSessionStateException":
        return WrongStateError(text)
    if code in ("InvalidInputException", "ValidationException", "AccessDeniedException"):
        return RequestRefused(text)
    return SubmitError(text)
