"""What an error tells a handler besides its words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from kubernetes.client.exceptions import ApiException

from airflow_provider_glueray.core import errors
from airflow_provider_glueray.core.errors import (
    AccessDenied,
    AccountNotEligible,
    CapacityExceeded,
    GlueRayError,
    InvalidRequest,
    RunFailed,
    ServiceError,
    SubmitOutcomeUnknown,
)
from airflow_provider_glueray.core.runs import GLUE_JOB, KUBERAY_JOB, Outcome, RunRef, RunSnapshot, RunState
from airflow_provider_glueray.hooks.glue.errors import aws_errors
from airflow_provider_glueray.hooks.kuberay.errors import kubernetes_errors

RUN = RunRef(GLUE_JOB, "etl", "jr_1")


def aws_error(code: str, message: str = "m", status: int = 400) -> ClientError:
    response: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "StartJobRun")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("AccessDeniedException", AccessDenied),
        ("InvalidInputException", InvalidRequest),
        ("ValidationException", InvalidRequest),
        ("ConcurrentRunsExceededException", CapacityExceeded),
        ("ThrottlingException", CapacityExceeded),
        ("SomethingNew", errors.SubmitError),
    ],
)
def test_an_error_of_aws(code, kind):
    """A value that is refused is not a right that is missing; either carries the service's own words."""
    with pytest.raises(ServiceError) as caught, aws_errors("start of etl", RUN):
        raise aws_error(code)

    assert type(caught.value) is kind
    assert (caught.value.code, caught.value.status, caught.value.run) == (code, 400, RUN)
    assert str(caught.value) == f"start of etl: m ({code})"


@given(st.sampled_from(["AccessDeniedException", "InvalidInputException", "X"]), st.text(), st.integers(400, 599))
def test_an_account_that_may_not_is_known_by_the_words(code, words, status):
    """The service's code for it is another one at times."""
    with pytest.raises(AccountNotEligible) as caught, aws_errors("start"):
        raise aws_error(code, f"{words} Account 1 is not allowed to submit Glue Ray jobs {words}", status)

    assert (caught.value.code, caught.value.status, caught.value.run) == (code, status, None)


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (401, "Unauthorized", AccessDenied),
        (403, "Forbidden", AccessDenied),
        (404, "NotFound", InvalidRequest),
        (422, "Invalid", InvalidRequest),
        (429, "TooManyRequests", CapacityExceeded),
        (500, "InternalError", SubmitOutcomeUnknown),
    ],
)
def test_an_error_of_kubernetes(status, reason, kind):
    """The same two kinds, with the API server's reason as the code."""
    run = RunRef(KUBERAY_JOB, "etl", "ns/etl-1")
    error = ApiException(status=status)
    error.body = json.dumps({"kind": "Status", "reason": reason, "message": "m"})
    with pytest.raises(ServiceError) as caught, kubernetes_errors("start of etl", run):
        raise error

    assert type(caught.value) is kind
    assert (caught.value.code, caught.value.status, caught.value.run) == (reason, status, run)


def test_a_failed_run_names_itself():
    """So that a handler need not read the message."""
    error = RunFailed(Outcome(RunSnapshot(RUN, RunState.FAILED, "FAILED")))

    assert error.run == RUN


def test_every_error_is_in_the_tree():
    """And in the picture of it at the head of the module."""
    kinds = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)]
    picture = [line for line in open(errors.__file__, encoding="utf-8") if line.startswith("# ")]  # noqa: SIM115

    assert all(issubclass(kind, GlueRayError) for kind in kinds)
    assert all(
        any(f"{kind.__name__} " in line or line.strip().endswith(kind.__name__) for line in picture) for kind in kinds
    )
