"""The endpoint misbehaves exactly as told, and counts calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

from airflow_provider_glueray.local import client as local_client
from tests.local.conftest import until


def code(call: Callable[..., Any], **request: Any) -> str:
    with pytest.raises(ClientError) as caught:
        call(**request)
    return str(caught.value.response["Error"]["Code"])


def test_calls_are_counted(glue: Any, logs: Any, s3: Any, clean_endpoint: local_client.Endpoint) -> None:
    """Glue and Logs calls are counted by name, S3 is not."""
    glue.list_jobs()
    glue.list_jobs()
    logs.describe_log_groups()
    s3.list_buckets()
    assert clean_endpoint.calls() == {"ListJobs": 2, "DescribeLogGroups": 1}
    clean_endpoint.reset_calls()
    assert clean_endpoint.calls() == {}


def test_counted_faults_run_out(glue: Any, clean_endpoint: local_client.Endpoint) -> None:
    """Throttling, refusal and service errors hit the operation named, as often as asked."""
    clean_endpoint.faults(
        throttle_next={"ListJobs": 2},
        refuse_next={"GetJobs": 1},
        error_next={"GetJobRuns": ["InternalServiceException", 1]},
    )
    assert [code(glue.list_jobs), code(glue.list_jobs)] == ["ThrottlingException"] * 2
    glue.list_jobs()
    assert code(glue.get_jobs) == "AccessDeniedException"
    glue.get_jobs()
    assert code(glue.get_job_runs, JobName="x") == "InternalServiceException"
    assert code(glue.get_job_runs, JobName="x") == "EntityNotFoundException"
    assert clean_endpoint.faults()["throttle_next"] == {"ListJobs": 0}


def test_a_rate_of_one_throttles_everything(
    glue: Any, client: Callable[..., Any], clean_endpoint: local_client.Endpoint
) -> None:
    """And botocore's own retries see it as throttling."""
    clean_endpoint.faults(throttle_rate=1.0)
    assert code(glue.list_jobs) == "ThrottlingException"
    clean_endpoint.faults(throttle_rate=0.0, throttle_next={"ListJobs": 1})
    assert "JobNames" in client("glue", attempts=2).list_jobs()


def test_a_dropped_answer_hides_work_which_was_done(
    glue: Any, make_job: Callable[..., str], clean_endpoint: local_client.Endpoint
) -> None:
    """The run exists although the caller never learned its id."""
    clean_endpoint.faults(provisioning_seconds=3600, drop_next={"StartJobRun": 1})
    job = make_job()
    with pytest.raises(ConnectionClosedError):
        glue.start_job_run(JobName=job)
    assert len(glue.get_job_runs(JobName=job)["JobRuns"]) == 1
    glue.delete_job(JobName=job)


def test_a_closed_account(glue: Any, make_job: Callable[..., str], clean_endpoint: local_client.Endpoint) -> None:
    """After the closure other accounts are refused with the words seen in the wild."""
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
def test_strangers_get_clean_refusals(
    clean_endpoint: local_client.Endpoint, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    """A broken body, and a web page which tries its luck on loopback."""
    target = {"X-Amz-Target": "AWSGlue.ListJobs", "Content-Type": "application/x-amz-json-1.1"}
    answer = httpx.post(clean_endpoint.url, content=body, headers={**target, **headers})
    assert (answer.status_code, answer.json()["__type"]) == (status, code)
    preflight = {"Origin": "https://example.com", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in httpx.options(clean_endpoint.url, headers=preflight).headers


@pytest.mark.parametrize(
    "changes",
    [{"throttle_nxt": {}}, {"throttle_rate": 2}, {"drop_next": {"StartJobRun": -1}}, {"force_state": "EXPIRED"}],
)
def test_a_misspelt_fault_is_refused(clean_endpoint: local_client.Endpoint, changes: dict[str, Any]) -> None:
    """So that it cannot make a test pass."""
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
    """What is put for one does not show in another, neither does what was asked there."""
    elsewhere.faults(throttle_next={"ListJobs": 1}, throttle_rate=0.0, quota_mdpu=4)
    glue.list_jobs()
    assert code(glue_elsewhere.list_jobs) == "ThrottlingException"
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
    """A small one there refuses what fits here, and a run that waits there is not let in by room here."""
    elsewhere.faults(quota_mdpu=2, provisioning_seconds=3600)
    job = make_job()
    command = glue.get_job(JobName=job)["Job"]["Command"]
    glue_elsewhere.create_job(Name=job, Role="r", Command=command, WorkerType="Z.2X", NumberOfWorkers=2)
    glue.start_job_run(JobName=job)
    assert code(glue_elsewhere.start_job_run, JobName=job) == "ResourceNumberLimitExceededException"
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


def test_what_is_there_from_the_start_is_there_in_every_region(
    client: Callable[..., Any], regions: tuple[str, str]
) -> None:
    """The bucket and the role."""
    for region in (*regions, "cn-north-1"):
        s3 = client("s3", region=region)
        s3.put_object(Bucket=local_client.BUCKET, Key="from-elsewhere", Body=region.encode())
        assert s3.get_object(Bucket=local_client.BUCKET, Key="from-elsewhere")["Body"].read() == region.encode()
        role = client("iam", region=region).get_role(RoleName="GlueRayRole")["Role"]
        assert role["Arn"].endswith(":iam::123456789012:role/GlueRayRole")


def test_a_misspelt_region_is_refused(clean_endpoint: local_client.Endpoint) -> None:
    """Its faults would hit nobody."""
    for question in ("region=eu-west1", "region=", "regoin=eu-west-1"):
        answer = httpx.put(f"{clean_endpoint.url}/_glueray/faults?{question}", json={"account_closed": True})
        assert answer.status_code == 400, question
    with pytest.raises(local_client.EndpointError, match="'eu-west1' is not an AWS region"):
        clean_endpoint.at("eu-west1").calls()
