"""Runs without Ray: refusals, limits, queueing, paging, stopping, forced states."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_glueray.local import client as local_client
from tests.local.conftest import refused, until

pytestmark = pytest.mark.usefixtures("held")


def started(glue: Any, **request: Any) -> str | None:
    """Start a run and return its id; None while MaxConcurrentRuns is reached."""
    try:
        return str(glue.start_job_run(**request)["JobRunId"])
    except glue.exceptions.ConcurrentRunsExceededException:
        return None


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"Timeout": 5}, "Timeout not supported for Ray jobs"),
        ({"WorkerType": "G.1X", "NumberOfWorkers": 2}, "only [Z.2X] worker types are supported"),
        ({"NumberOfWorkers": 2}, "Worker Type and Number of Workers must be set together"),
        ({"AllocatedCapacity": 4}, "Please do not set Allocated Capacity"),
        ({"ExecutionClass": "FLEX"}, "Execution class FLEX is not supported"),
        ({"Arguments": {"--min-workers": "9"}}, "--min-workers must be a whole number from 0 to 2"),
    ],
)
def test_start_is_refused_with_the_services_messages(
    glue: Any, make_job: Callable[..., str], request_: dict[str, Any], words: str
) -> None:
    """The rules of a job hold for the sizes and arguments of a run too."""
    code, message = refused(glue.start_job_run, JobName=make_job(), **request_)
    assert code == "InvalidInputException"
    assert words in message


def test_unknown_names_are_not_found(glue: Any, make_job: Callable[..., str]) -> None:
    """Unknown jobs and runs give EntityNotFoundException."""
    code, message = refused(glue.start_job_run, JobName="absent")
    assert (code, message) == (
        "EntityNotFoundException",
        "Failed to start job run due to missing metadata",
    )
    code, _ = refused(glue.get_job_run, JobName=make_job(), RunId="jr_0")
    assert code == "EntityNotFoundException"
    assert refused(glue.get_job_runs, JobName="absent")[0] == "EntityNotFoundException"


def test_only_ray_jobs_run(glue: Any) -> None:
    """The endpoint stores a Spark job but refuses to run it."""
    glue.create_job(Name="spark", Role="r", Command={"Name": "glueetl", "ScriptLocation": "s3://b/k"})
    code, message = refused(glue.start_job_run, JobName="spark")
    assert code == "InvalidInputException"
    assert "runs glueray jobs only; the job's command is glueetl" in message


def test_a_new_run(glue: Any, make_job: Callable[..., str]) -> None:
    """Arguments merge per key, non-overridable ones take precedence, and the run has no completion time."""
    job = make_job(
        DefaultArguments={"--a": "job", "--b": "job"}, NonOverridableArguments={"--c": "fixed"}, Description="x"
    )
    run_id = glue.start_job_run(JobName=job, Arguments={"--b": "run", "--c": "run"})["JobRunId"]
    assert re.fullmatch("jr_[0-9a-f]{64}", run_id)

    run = glue.get_job_run(JobName=job, RunId=run_id)["JobRun"]
    assert run["Arguments"] == {"--a": "job", "--b": "run", "--c": "fixed"}
    assert (run["JobRunState"], run["Attempt"], run["NumberOfWorkers"]) == ("STARTING", 0, 2)
    assert not {"CompletedOn", "ErrorMessage", "PreviousRunId"} & set(run)


def test_max_concurrent_runs(glue: Any, make_job: Callable[..., str], wait_for: Callable[..., dict[str, Any]]) -> None:
    """MaxConcurrentRuns is 1 by default; a run can start again after the other one has ended."""
    job = make_job()
    run = glue.start_job_run(JobName=job)["JobRunId"]
    code, message = refused(glue.start_job_run, JobName=job)
    assert (code, message) == ("ConcurrentRunsExceededException", f"Concurrent runs exceeded for {job}")

    glue.batch_stop_job_run(JobName=job, JobRunIds=[run])
    wait_for(job, run, "STOPPED")
    again = until(lambda: started(glue, JobName=job, JobRunId=run))
    retried = glue.get_job_run(JobName=job, RunId=again)["JobRun"]
    assert (retried["PreviousRunId"], retried["Attempt"]) == (run, 1)

    glue.update_job(
        JobName=job,
        JobUpdate={
            **{
                key: value
                for key, value in glue.get_job(JobName=job)["Job"].items()
                if key in {"Role", "Command", "WorkerType", "NumberOfWorkers"}
            },
            "ExecutionProperty": {"MaxConcurrentRuns": 2},
        },
    )
    glue.start_job_run(JobName=job)


def test_a_queued_run_waits_and_then_starts(
    glue: Any, make_job: Callable[..., str], wait_for: Callable[..., dict[str, Any]]
) -> None:
    """A queued run is WAITING and has a StateDetail; it starts when the limit allows it, or stops at once."""
    job = make_job(JobRunQueuingEnabled=True)
    first, second, third = (glue.start_job_run(JobName=job)["JobRunId"] for _ in range(3))
    waiting = glue.get_job_run(JobName=job, RunId=second)["JobRun"]
    assert (waiting["JobRunState"], waiting["StateDetail"]) == (
        "WAITING",
        f"Concurrent runs exceeded for {job}",
    )
    glue.batch_stop_job_run(JobName=job, JobRunIds=[first, third])
    assert glue.get_job_run(JobName=job, RunId=third)["JobRun"]["JobRunState"] == "STOPPED"
    assert "StateDetail" not in wait_for(job, second, "STARTING")


def test_the_accounts_quota_counts_two_per_worker(
    glue: Any, make_job: Callable[..., str], elsewhere: local_client.Endpoint, client: Callable[..., Any]
) -> None:
    """The quota is 50 M-DPU per Region; a run beyond the quota is refused or waits."""
    elsewhere.faults(provisioning_seconds=3600)
    region = client("glue", region=elsewhere.region)
    job = make_job()
    definition = glue.get_job(JobName=job)["Job"]
    keep = {"Role", "Command", "WorkerType", "GlueVersion"}
    small = {key: value for key, value in definition.items() if key in keep}
    for name, workers in (("big", 20), ("more", 6), ("rest", 5)):
        region.create_job(Name=name, **small, NumberOfWorkers=workers)
    region.start_job_run(JobName="big")
    code, message = refused(region.start_job_run, JobName="more")
    assert code == "ResourceNumberLimitExceededException"
    assert "40 in use, 12 requested, quota 50" in message
    region.start_job_run(JobName="rest")
    queued = region.start_job_run(JobName="more", JobRunQueuingEnabled=True)["JobRunId"]
    assert region.get_job_run(JobName="more", RunId=queued)["JobRun"]["JobRunState"] == "WAITING"

    elsewhere.faults(quota_mdpu=62)
    until(
        lambda: region.get_job_run(JobName="more", RunId=queued)["JobRun"]["JobRunState"],
        lambda state: state == "STARTING",
    )
    for name in ("big", "more", "rest"):
        region.delete_job(JobName=name)


def test_runs_are_listed_newest_first_and_paged(glue: Any, make_job: Callable[..., str]) -> None:
    """GetJobRuns returns pages of at most 200 runs, the newest run first."""
    job = make_job(ExecutionProperty={"MaxConcurrentRuns": 10})
    started = [glue.start_job_run(JobName=job, WorkerType="Z.2X", NumberOfWorkers=1)["JobRunId"] for _ in range(5)]
    pages = list(glue.get_paginator("get_job_runs").paginate(JobName=job, PaginationConfig={"PageSize": 2}))
    assert [len(page["JobRuns"]) for page in pages] == [2, 2, 1]
    assert [run["Id"] for page in pages for run in page["JobRuns"]] == started[::-1]
    assert refused(glue.get_job_runs, JobName=job, MaxResults=201)[0] == "ValidationException"
    glue.delete_job(JobName=job)


def test_stop_reports_run_by_run(
    glue: Any, make_job: Callable[..., str], wait_for: Callable[..., dict[str, Any]]
) -> None:
    """Stopping is asynchronous; a run that cannot be stopped is an entry of Errors, not an exception."""
    job = make_job()
    run = glue.start_job_run(JobName=job)["JobRunId"]
    response = glue.batch_stop_job_run(JobName=job, JobRunIds=[run, "jr_0"])
    assert response["SuccessfulSubmissions"] == [{"JobName": job, "JobRunId": run}]
    assert response["Errors"][0]["ErrorDetail"]["ErrorCode"] == "EntityNotFoundException"
    assert "CompletedOn" in wait_for(job, run, "STOPPED")
    (error,) = glue.batch_stop_job_run(JobName=job, JobRunIds=[run])["Errors"]
    assert error["ErrorDetail"]["ErrorCode"] == "JobRunInTerminalStateException"


@pytest.mark.parametrize("state", ["TIMEOUT", "ERROR", "EXPIRED"])
def test_every_terminal_state_can_be_forced(
    glue: Any, make_job: Callable[..., str], held: local_client.Endpoint, wait_for: Callable[..., Any], state: str
) -> None:
    """A forced terminal state ends the run."""
    job = make_job()
    run = glue.start_job_run(JobName=job)["JobRunId"]
    held.faults(force_state={run: state})
    assert "CompletedOn" in wait_for(job, run, state)


def test_an_unknown_state_can_be_shown(
    make_job: Callable[..., str], held: local_client.Endpoint, client: Callable[..., Any]
) -> None:
    """A response has a forced state that the model does not have until the fault is removed; the run goes on."""
    glue = client("glue")
    job = make_job()
    run = glue.start_job_run(JobName=job)["JobRunId"]

    def shows(state: str) -> Any:
        return until(
            lambda: glue.get_job_run(JobName=job, RunId=run)["JobRun"], lambda found: found["JobRunState"] == state
        )

    held.faults(force_state={run: "PAUSED"})
    assert "CompletedOn" not in shows("PAUSED")
    held.faults(force_state={run: None})
    shows("STARTING")


@pytest.fixture(autouse=True)
def _leave_nothing_open(glue: Any, held: local_client.Endpoint) -> Any:
    yield
    for job in glue.list_jobs()["JobNames"]:
        glue.delete_job(JobName=job)
