"""The endpoint injects faults and counts requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

from airflow_provider_glueray.local import client as local_client
from tests.local.conftest import error_code, until


def test_calls_are_counted(glue: Any, logs: Any, s3: Any, clean_endpoint: local_client.Endpoint) -> None:
    """Glue and Logs requests are counted by operation, S3 requests are not."""
    glue.list_jobs()
    glue.list_jobs()
    logs.describe_log_groups()
    s3.list_buckets()
    assert clean_endpoint.calls() == {"ListJobs": 2, "DescribeLogGroups": 1}
    clean_endpoint.reset_calls()
    assert clean_endpoint.calls() == {}


def test_counted_faults_run_out(glue: Any, clean_endpoint: local_client.Endpoint) -> None:
    """Throttling, refusals and service errors apply to the next requests of the named operation."""
    clean_endpoint.faults(
        throttle_next={"ListJobs": 2},
        refuse_next={"GetJobs": 1},
        error_next={"GetJobRuns": ["InternalServiceException", 1]},
    )
    assert [error_code(glue.list_jobs), error_code(glue.list_jobs)] == ["ThrottlingException"] * 2
    glue.list_jobs()
    assert error_code(glue.get_jobs) == "AccessDeniedException"
    glue.get_jobs()
    assert error_code(glue.get_job_runs, JobName="x") == "InternalServiceException"
    assert error_code(glue.get_job_runs, JobName="x") == "EntityNotFoundException"
    assert clean_endpoint.faults()["throttle_next"] == {"ListJobs": 0}


def test_a_rate_of_one_throttles_every_request(
    glue: Any, client: Callable[..., Any], clean_endpoint: local_client.Endpoint
) -> None:
    """The retries of botocore treat the error as throttling."""
    clean_endpoint.faults(throttle_rate=1.0)
    assert error_code(glue.list_jobs) == "ThrottlingException"
    clean_endpoint.faults(throttle_rate=0.0, throttle_next={"ListJobs": 1})
    assert "JobNames" in client("glue", attempts=2).list_jobs()


def test_a_dropped_response_hides_a_started_run(
    glue: Any, make_job: Callable[..., str], clean_endpoint: local_client.Endpoint
) -> None:
    """The run exists although the caller gets no id."""
    clean_endpoint.faults(provisioning_seconds=3600, drop_next={"StartJobRun": 1})
    job = make_job()
    with pytest.raises(ConnectionClosedError):
        glue.start_job_run(JobName=job)
    assert len(glue.get_job_runs(JobName=job)["JobRuns"]) == 1
    glue.delete_job(JobName=job)


def test_a_closed_account(glue: Any, make_job: Callable[..., str], clean_endpoint: local_client.Endpoint) -> None:
    """Accounts without Glue for Ray get the message that users have reported."""
    job = make_job()
    clean_endpoint.faults(account_closed=True)
    for call in (lambda: make_job(), lambda: glue.start_job_run(JobName=job)):
        with pytest.raises(ClientError, match="Account not allowed to submit Glue Ray job Post Deprecation"):
            call()


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"{", {}, 400, "SerializationException"),
        (b"[]", {}, 400, "SerializationException"),
        (b"{}", {"Origin": "https://example.com"}, 403, "AccessDeniedException"),
    ],
)
def test_broken_bodies_and_web_pages_get_aws_errors(
    clean_endpoint: local_client.Endpoint, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    """A broken body and a request of a web page get AWS errors, and no CORS headers."""
    target = {"X-Amz-Target": "AWSGlue.ListJobs", "Content-Type": "application/x-amz-json-1.1"}
    response = httpx.post(clean_endpoint.url, content=body, headers={**target, **headers})
    assert (response.status_code, response.json()["__type"]) == (status, code)
    preflight = {"Origin": "https://example.com", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in httpx.options(clean_endpoint.url, headers=preflight).headers


@pytest.mark.parametrize(
    "changes",
    [{"throttle_nxt": {}}, {"throttle_rate": 2}, {"drop_next": {"StartJobRun": -1}}, {"force_state": "EXPIRED"}],
)
def test_a_misspelt_fault_is_refused(clean_endpoint: local_client.Endpoint, changes: dict[str, Any]) -> None:
    """An unknown or malformed fault changes no fault."""
    before = clean_endpoint.faults()
    with pytest.raises(local_client.EndpointError, match="fault"):
        clean_endpoint.faults(**changes)
    assert clean_endpoint.faults() == before


@pytest.fixture
def glue_elsewhere(client: Callable[..., Any], elsewhere: local_client.Endpoint) -> Any:
    return client("glue", region=elsewhere.region)


def test_a_region_has_faults_and_counts_of_its_own(
    glue: Any, glue_elsewhere: Any, clean_endpoint: local_client.Endpoint, elsewhere: local_client.Endpoint
) -> None:
    """Faults and counts of one Region have no effect on another Region."""
    elsewhere.faults(throttle_next={"ListJobs": 1}, throttle_rate=0.0, quota_mdpu=4)
    glue.list_jobs()
    assert error_code(glue_elsewhere.list_jobs) == "ThrottlingException"
    glue_elsewhere.list_jobs()
    assert (elsewhere.calls(), clean_endpoint.calls()) == ({"ListJobs": 2}, {"ListJobs": 1})
    assert (elsewhere.faults()["quota_mdpu"], clean_endpoint.faults()["quota_mdpu"]) == (4, 50)
    assert (elsewhere.faults()["throttle_next"], clean_endpoint.faults()["throttle_next"]) == ({"ListJobs": 0}, {})
    clean_endpoint.reset_faults()
    clean_endpoint.reset_calls()
    assert (elsewhere.calls(), clean_endpoint.calls()) == ({"ListJobs": 2}, {})
    assert elsewhere.faults()["quota_mdpu"] == 4
    elsewhere.reset_calls()
    assert elsewhere.calls() == {}


def test_the_quota_of_a_region(
    glue: Any,
    glue_elsewhere: Any,
    make_job: Callable[..., str],
    held: local_client.Endpoint,
    elsewhere: local_client.Endpoint,
) -> None:
    """The quota of one Region refuses and queues runs there, whatever the quota of another Region is."""
    elsewhere.faults(quota_mdpu=2, provisioning_seconds=3600)
    job = make_job()
    command = glue.get_job(JobName=job)["Job"]["Command"]
    glue_elsewhere.create_job(Name=job, Role="r", Command=command, WorkerType="Z.2X", NumberOfWorkers=2)
    glue.start_job_run(JobName=job)
    assert error_code(glue_elsewhere.start_job_run, JobName=job) == "ResourceNumberLimitExceededException"
    waiting = glue_elsewhere.start_job_run(JobName=job, JobRunQueuingEnabled=True)["JobRunId"]
    held.faults(quota_mdpu=100)
    assert glue_elsewhere.get_job_run(JobName=job, RunId=waiting)["JobRun"]["JobRunState"] == "WAITING"
    elsewhere.faults(force_state={waiting: "EXPIRED"})
    until(
        lambda: glue_elsewhere.get_job_run(JobName=job, RunId=waiting)["JobRun"]["JobRunState"],
        lambda state: state == "EXPIRED",
    )
    for each in (glue, glue_elsewhere):
        each.delete_job(JobName=job)


def test_every_region_has_the_bucket_and_the_role(client: Callable[..., Any], regions: tuple[str, str]) -> None:
    """The daemon creates both at start, for every partition."""
    for region in (*regions, "cn-north-1"):
        s3 = client("s3", region=region)
        s3.put_object(Bucket=local_client.BUCKET, Key="from-elsewhere", Body=region.encode())
        assert s3.get_object(Bucket=local_client.BUCKET, Key="from-elsewhere")["Body"].read() == region.encode()
        role = client("iam", region=region).get_role(RoleName="GlueRayRole")["Role"]
        assert role["Arn"].endswith(":iam::123456789012:role/GlueRayRole")


def test_a_misspelt_region_is_refused(clean_endpoint: local_client.Endpoint) -> None:
    """No client uses such a Region, so its faults would have no effect."""
    for query in ("region=eu-west1", "region=", "regoin=eu-west-1"):
        response = httpx.put(f"{clean_endpoint.url}/_glueray/faults?{query}", json={"account_closed": True})
        assert response.status_code == 400, query
    with pytest.raises(local_client.EndpointError, match="'eu-west1' is not an AWS region"):
        clean_endpoint.at("eu-west1").calls()
