"""What boto3 raises for Glue, as exceptions of our own tree. No call is made here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError

from airflow_provider_glueray.core.errors import (
    AccessDenied,
    AccountNotEligible,
    CapacityExceeded,
    ConnectionConfigError,
    InvalidRequest,
    SubmitError,
)
from airflow_provider_glueray.core.runs import RunRef


class NotFoundError(SubmitError):
    """EntityNotFoundException, before a caller has said what it means."""


class WrongStateError(SubmitError):
    """IllegalSessionStateException, before a caller has looked which state it is."""


class ChangedMeanwhileError(SubmitError):
    """Somebody else created or changed the job between our read and our write."""


_KINDS: Mapping[str, type[SubmitError]] = {
    "AccessDeniedException": AccessDenied,
    "AlreadyExistsException": ChangedMeanwhileError,
    "ConcurrentModificationException": ChangedMeanwhileError,
    "ConcurrentRunsExceededException": CapacityExceeded,
    "EntityNotFoundException": NotFoundError,
    "IdempotentParameterMismatchException": ChangedMeanwhileError,
    "IllegalSessionStateException": WrongStateError,
    "InvalidInputException": InvalidRequest,
    "ResourceNumberLimitExceededException": CapacityExceeded,
    "SessionBusyException": CapacityExceeded,
    "ThrottlingException": CapacityExceeded,
    "ValidationException": InvalidRequest,
}
#: Where the words of the service decide, because its code is another one at times (glue-for-ray facts, section 6).
_NOT_ELIGIBLE = "not allowed to submit Glue Ray"


def error_code(error: ClientError) -> str:
    """Return the service's name for an error."""
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def aws_errors(operation: str, run: RunRef | None = None) -> Iterator[None]:
    """Turn what boto3 raises into our own tree.

    :param operation: begins the message, such as ``job 'etl'``.
    :param run: the run that the request is about.
    """
    try:
        yield
    except (NoCredentialsError, NoRegionError) as error:
        raise ConnectionConfigError(
            f"{operation}: {str(error).rstrip('.')}. Add it to the Airflow connection, or to boto3's own (AWS_REGION, "
            "AWS_PROFILE and the like)"
        ) from error
    except ClientError as error:
        raise _error_for(operation, error, run) from error
    except BotoCoreError as error:
        raise SubmitError(f"{operation}: {error}", run=run) from error


def _error_for(operation: str, error: ClientError, run: RunRef | None) -> SubmitError:
    code, message = error_code(error), str(error.response["Error"].get("Message", ""))
    text = f"{operation}: {message} ({code})"
    kind = _KINDS.get(code, SubmitError)
    if _NOT_ELIGIBLE in message:
        kind = AccountNotEligible
        text += (
            ". AWS closed Glue for Ray to accounts that did not use it before 2026-04-30 "
            "(dg/awsglue-ray-jobs-availability-change). Use an account that did, or another backend: the "
            "same script runs on `glueray local`, and AWS points new users to EKS with KubeRay"
        )
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return kind(text, code=code, status=status, run=run)
