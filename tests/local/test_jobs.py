"""Job definitions: storage, refusals with the service's messages, responses in botocore's shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_glueray.local import client as local_client
from tests.local.conftest import refused

RAY_JOB: dict[str, Any] = {
    "Role": local_client.ROLE_ARN,
    "GlueVersion": "4.0",
    "WorkerType": "Z.2X",
    "NumberOfWorkers": 2,
    "Command": {"Name": "glueray", "Runtime": "Ray2.4", "ScriptLocation": "s3://glueray-local/x.py"},
}
WORKER_TYPE = "Worker type cannot be null and only [Z.2X] worker types are supported for glueray jobs"


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in RAY_JOB.items() if key != name}


def arguments(**values: str) -> dict[str, Any]:
    return {**RAY_JOB, "DefaultArguments": {"--" + key: value for key, value in values.items()}}


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        (without("WorkerType"), WORKER_TYPE),
        ({**RAY_JOB, "WorkerType": "G.2X"}, WORKER_TYPE),
        ({**RAY_JOB, "Timeout": 60}, "Timeout not supported for Ray jobs"),
        (
            {**RAY_JOB, "Command": {"Name": "glueray", "ScriptLocation": "s3://b/k"}},
            "Runtime parameter is required for GlueRay command",
        ),
        ({**RAY_JOB, "Command": {"Name": "glueray", "Runtime": "Ray9"}}, "Runtime Ray9 is not supported"),
        ({**RAY_JOB, "AllocatedCapacity": 4}, "Please do not set Allocated Capacity if using Worker Type"),
        ({**RAY_JOB, "MaxCapacity": 4.0}, "Please do not set Max Capacity if using Worker Type"),
        (without("NumberOfWorkers"), "Number of workers cannot be null"),
        ({**RAY_JOB, "NumberOfWorkers": 0}, "Number of workers must be at least 1"),
        ({**RAY_JOB, "ExecutionClass": "FLEX"}, "Execution class FLEX is not supported for glueray jobs"),
        ({**RAY_JOB, "Connections": {"Connections": ["vpc"]}}, "Connections are not supported"),
        ({**RAY_JOB, "MaintenanceWindow": "Mon:1"}, "MaintenanceWindow is supported for streaming jobs only"),
        ({**RAY_JOB, "GlueVersion": "3.0"}, "GlueVersion 3.0 is not supported for glueray jobs"),
        (
            {"Role": "r", "Command": {"Name": "glueetl", "Runtime": "Ray2.4"}},
            "Runtime parameter is not supported for glueetl command",
        ),
        (
            {"Role": "r", "Command": {"Name": "glueetl"}, "WorkerType": "Z.2X", "NumberOfWorkers": 2},
            "Worker type Z.2X is supported for glueray jobs only",
        ),
        ({"Role": "r", "Command": {"Name": "glueetl"}, "WorkerType": "G.1X"}, "must be set together"),
        (arguments(object_store_memory_head="0"), "must be a whole number from 1 to 100"),
        (arguments(object_store_memory_worker="lots"), "must be a whole number from 1 to 100"),
        (arguments(**{"min-workers": "3"}), "--min-workers must be a whole number from 0 to 2"),
        (arguments(object_spilling_config="{"), "--object_spilling_config must be a JSON object"),
        (
            arguments(object_spilling_config='{"type": ["filesystem", "smart_open"]}'),
            "cannot spill to local disk and to Amazon S3 at once",
        ),
        (arguments(logging_configuration='{"LOGS": {}}'), "has an unknown key 'LOGS'"),
        (arguments(logging_configuration='{"S3": {"IS_ENABLED": "no"}}'), "IS_ENABLED True or False"),
        (arguments(**{"s3-py-modules": "s3://b/x.whl"}), "--s3-py-modules must be an S3 path ending with .zip"),
        (arguments(**{"working-dir": "s3://b/x.zip,s3://b/y.zip"}), "must be exactly one S3 path"),
        (arguments(**{"working-dir": "/x.zip"}), "--working-dir must be an S3 path ending with .zip"),
    ],
)
def test_create_and_update_refuse_invalid_definitions(
    glue: Any, make_job: Callable[..., str], definition: dict[str, Any], words: str
) -> None:
    """The same rules hold for CreateJob and UpdateJob, and a refused definition is not stored."""
    code, message = refused(glue.create_job, Name="refused", **definition)
    assert code == "InvalidInputException"
    assert words in message
    assert refused(glue.get_job, JobName="refused")[0] == "EntityNotFoundException"

    code, message = refused(glue.update_job, JobName=make_job(), JobUpdate=definition)
    assert code == "InvalidInputException"
    assert words in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"WorkerType": "Q.9"},
            "1 validation error detected: Value 'Q.9' at 'workerType' failed to satisfy constraint: "
            "Member must satisfy enum value set: [",
        ),
        (
            {"Name": "n" * 256},
            "at 'name' failed to satisfy constraint: Member must have length less than or equal to 255",
        ),
        (
            {"Command": {**RAY_JOB["Command"], "PythonVersion": "4"}},
            "at 'command.pythonVersion' failed to satisfy constraint: "
            "Member must satisfy regular expression pattern: ^([2-3]|3[.]9)$",
        ),
        ({"Name": "n" * 256, "WorkerType": "Q.9"}, "2 validation errors detected: "),
    ],
)
def test_the_models_constraints_hold(glue: Any, changes: dict[str, Any], words: str) -> None:
    """The endpoint checks constraints that botocore's client does not check, with the messages of AWS's front end."""
    code, message = refused(glue.create_job, **{"Name": "constrained", **RAY_JOB, **changes})
    assert code == "ValidationException"
    assert words in message


def test_a_name_is_taken_once(glue: Any, client: Callable[..., Any], regions: tuple[str, str]) -> None:
    """The same definition gives AlreadyExists, another one gives a mismatch; another Region accepts the name."""
    glue.create_job(Name="taken", **RAY_JOB)
    assert refused(glue.create_job, Name="taken", **RAY_JOB)[0] == "AlreadyExistsException"
    other = {**RAY_JOB, "NumberOfWorkers": 3}
    assert refused(glue.create_job, Name="taken", **other)[0] == "IdempotentParameterMismatchException"
    elsewhere = client("glue", region=regions[1])
    assert refused(elsewhere.get_job, JobName="taken")[0] == "EntityNotFoundException"
    assert elsewhere.create_job(Name="taken", **other)["Name"] == "taken"
    elsewhere.delete_job(JobName="taken")
    assert glue.delete_job(JobName="taken")["JobName"] == "taken"
    assert glue.delete_job(JobName="taken")["JobName"] == "taken"


def test_get_job_reports_a_timeout_that_update_refuses(glue: Any, make_job: Callable[..., str]) -> None:
    """Clients that read, modify and write a job have to remove it (terraform-provider-aws#35013)."""
    name = make_job()
    job = glue.get_job(JobName=name)["Job"]
    assert (job["Timeout"], job["MaxCapacity"], job["MaxRetries"]) == (2880, 4.0, 0)
    assert job["ExecutionProperty"] == {"MaxConcurrentRuns": 1}
    drop = {"Name", "CreatedOn", "LastModifiedOn", "AllocatedCapacity", "MaxCapacity"}
    update = {key: value for key, value in job.items() if key not in drop}
    assert refused(glue.update_job, JobName=name, JobUpdate=update)[1] == "Timeout not supported for Ray jobs"
    del update["Timeout"]
    assert glue.update_job(JobName=name, JobUpdate=update)["JobName"] == name


def test_update_replaces_everything_but_the_glue_version(glue: Any, make_job: Callable[..., str]) -> None:
    """An update removes the members that it does not have, except GlueVersion."""
    name = make_job(Description="old", GlueVersion="5.0", DefaultArguments={"--a": "1"})
    glue.update_job(JobName=name, JobUpdate=without("GlueVersion"))
    job = glue.get_job(JobName=name)["Job"]
    assert job["GlueVersion"] == "5.0"
    assert not {"Description", "DefaultArguments"} & set(job)
    assert "Role cannot be null" in refused(glue.update_job, JobName=name, JobUpdate=without("Role"))[1]


def test_lists_are_paged_and_batches_name_missing_jobs(glue: Any, make_job: Callable[..., str]) -> None:
    """GetJobs and ListJobs return pages; tags filter; BatchGetJobs names the missing jobs."""
    mine = sorted(make_job(Tags={"team": "paging"}) for _ in range(3))
    pages = glue.get_paginator("get_jobs").paginate(PaginationConfig={"PageSize": 2})
    assert set(mine) <= {job["Name"] for page in pages for job in page["Jobs"]}
    assert glue.list_jobs(Tags={"team": "paging"})["JobNames"] == mine
    first = glue.list_jobs(Tags={"team": "paging"}, MaxResults=2)
    assert glue.list_jobs(Tags={"team": "paging"}, NextToken=first["NextToken"])["JobNames"] == mine[2:]
    assert refused(glue.list_jobs, NextToken="?")[0] == "InvalidInputException"
    batch = glue.batch_get_jobs(JobNames=[mine[0], "absent"])
    assert [job["Name"] for job in batch["Jobs"]] == mine[:1]
    assert batch["JobsNotFound"] == ["absent"]


def test_tags(glue: Any, make_job: Callable[..., str]) -> None:
    """The tag operations add, return and remove the tags of a job ARN."""
    arn = f"arn:aws:glue:{glue.meta.region_name}:123456789012:job/{make_job(Tags={'a': '1'})}"
    glue.tag_resource(ResourceArn=arn, TagsToAdd={"b": "2"})
    glue.untag_resource(ResourceArn=arn, TagsToRemove=["a"])
    assert glue.get_tags(ResourceArn=arn)["Tags"] == {"b": "2"}
    assert refused(glue.get_tags, ResourceArn=arn + "x")[0] == "EntityNotFoundException"


def test_other_operations_go_to_moto_or_get_an_aws_error(client: Callable[..., Any], regions: tuple[str, str]) -> None:
    """Databases go to moto, per Region; an operation that moto does not have gives an AWS error, not a page of HTML."""
    glue = client("glue")
    glue.create_database(DatabaseInput={"Name": "sales"})
    assert glue.get_database(Name="sales")["Database"]["Name"] == "sales"
    elsewhere = client("glue", region=regions[1])
    assert refused(elsewhere.get_database, Name="sales")[0] == "EntityNotFoundException"
    code, message = refused(glue.list_blueprints)
    assert (code, message) == (
        "UnknownOperationException",
        "ListBlueprints is not supported by this local endpoint",
    )
