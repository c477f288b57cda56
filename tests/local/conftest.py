"""Clients of the endpoint. The Glue client checks every raw response against botocore's output shapes."""

from __future__ import annotations

import contextlib
import functools
import json
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import boto3
import pytest
from botocore.config import Config

from airflow_provider_glueray.local import client as local_client

T = TypeVar("T")
#: For what lasts seconds: a machine that is busy with other things must not make a test red.
PATIENCE_SECONDS = 120.0

RAY_JOB = {
    "Role": local_client.ROLE_ARN,
    "GlueVersion": "4.0",
    "WorkerType": "Z.2X",
    "NumberOfWorkers": 2,
    "Command": {
        "Name": "glueray",
        "Runtime": "Ray2.4",
        "PythonVersion": "3.9",
        "ScriptLocation": "s3://glueray-local/absent.py",
    },
}
#: The model gives it the states of a statement; the last kernel that knew Ray reads "ok" there.
_STATUS = ".Output.Status"
_JSON_TYPES: dict[str, type | tuple[type, ...]] = {
    "structure": dict,
    "map": dict,
    "list": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "long": int,
    "float": (int, float),
    "double": (int, float),
    "timestamp": (int, float),
}


def check_shape(shape: Any, value: Any, path: str) -> None:
    """Fail on a member the model does not know, on a wrong JSON type and on a missing required member."""
    assert isinstance(value, _JSON_TYPES[shape.type_name]), (path, value)
    assert isinstance(value, bool) == (shape.type_name == "boolean"), (path, value)
    if shape.type_name == "structure":
        assert set(value) <= set(shape.members), (path, set(value) - set(shape.members))
        assert set(shape.required_members) <= set(value), path
        for name, item in value.items():
            check_shape(shape.members[name], item, f"{path}.{name}")
    elif shape.type_name == "list":
        for item in value:
            check_shape(shape.member, item, f"{path}[]")
    elif shape.type_name == "map":
        for key, item in value.items():
            check_shape(shape.key, key, f"{path}.key")
            check_shape(shape.value, item, f"{path}.{key}")
    elif shape.type_name == "string" and shape.enum and not path.endswith(_STATUS):
        assert value in shape.enum, (path, value)


def until(seen: Callable[[], T], wanted: Callable[[T], Any] = bool) -> T:
    """Look until what is seen is what is wanted, and return it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not wanted(last := seen()):
        assert time.monotonic() < deadline, f"after {PATIENCE_SECONDS:.0f} s still {last}"
        time.sleep(0.05)
    return last


def make_client(endpoint: local_client.Endpoint, service: str, region: str | None = None, attempts: int = 1) -> Any:
    return boto3.client(
        service,
        region_name=region or endpoint.region,
        endpoint_url=endpoint.url,
        aws_access_key_id="local",
        aws_secret_access_key="local",
        config=Config(retries={"total_max_attempts": attempts, "mode": "standard"}),
    )


@pytest.fixture
def glue(clean_endpoint: local_client.Endpoint) -> Any:
    client = make_client(clean_endpoint, "glue")

    def check(operation_model: Any, response_dict: dict[str, Any], **_: Any) -> None:
        answer = json.loads(response_dict["body"])
        if response_dict["status_code"] == 200:
            check_shape(operation_model.output_shape, answer, operation_model.name)
        else:
            assert set(answer) == {"__type", "Message"}

    client.meta.events.register("before-parse.glue", check)
    return client


@pytest.fixture
def client(clean_endpoint: local_client.Endpoint) -> Callable[..., Any]:
    """Return a function which makes unchecked clients: `client(service, region=..., attempts=...)`."""
    return lambda service, **options: make_client(clean_endpoint, service, **options)


@pytest.fixture
def s3(clean_endpoint: local_client.Endpoint) -> Any:
    return make_client(clean_endpoint, "s3")


@pytest.fixture
def logs(clean_endpoint: local_client.Endpoint) -> Any:
    return make_client(clean_endpoint, "logs")


@pytest.fixture
def make_job(glue: Any, s3: Any) -> Callable[..., str]:
    """Return a function which creates a job from a script's text and returns its name."""

    def make(script: str = "", **changes: Any) -> str:
        name = f"job-{uuid.uuid4().hex[:12]}"
        s3.put_object(Bucket=local_client.BUCKET, Key=f"{name}.py", Body=script.encode())
        command = {**RAY_JOB["Command"], "ScriptLocation": f"s3://{local_client.BUCKET}/{name}.py"}
        glue.create_job(**{**RAY_JOB, "Command": command, "Name": name, **changes})
        return name

    return make


@pytest.fixture
def wait_for(glue: Any) -> Callable[..., dict[str, Any]]:
    """Return a function which waits until a run shows one of the states, and returns the run."""

    def wait(job: str, run: str, *states: str) -> dict[str, Any]:
        def arrived(found: dict[str, Any]) -> bool:
            assert found["JobRunState"] in states or "CompletedOn" not in found, found
            return found["JobRunState"] in states

        return until(lambda: glue.get_job_run(JobName=job, RunId=run)["JobRun"], arrived)

    return wait


@pytest.fixture
def held(clean_endpoint: local_client.Endpoint) -> local_client.Endpoint:
    """Return the endpoint with runs held in STARTING, so that Ray is not involved."""
    clean_endpoint.faults(provisioning_seconds=3600)
    return clean_endpoint


@pytest.fixture
def elsewhere(clean_endpoint: local_client.Endpoint, regions: tuple[str, str]) -> Iterator[local_client.Endpoint]:
    """Return the endpoint as another region has it, without faults and with empty counters."""
    there = clean_endpoint.at(regions[1])
    for reset in (there.reset_faults, there.reset_calls):
        reset()
    yield there
    for reset in (there.reset_faults, there.reset_calls):
        reset()


@pytest.fixture(scope="module")
def ready_session(endpoint: local_client.Endpoint) -> Iterator[str]:
    """Return the id of a session that is READY, shared by the tests of a file."""
    glue = make_client(endpoint, "glue")
    session = f"shared-{uuid.uuid4().hex[:8]}"
    arguments = {"--my-arg": "it's 1 = $HOME", "--object_store_memory_head": "50"}
    glue.create_session(Id=session, Role=local_client.ROLE_ARN, Command={"Name": "glueray"}, DefaultArguments=arguments)
    wait_for_session(glue, session, "READY")
    yield session
    glue.delete_session(Id=session)


def wait_for_session(glue: Any, session: str, *states: str) -> dict[str, Any]:
    def arrived(found: dict[str, Any]) -> bool:
        assert found["Status"] in states or "CompletedOn" not in found, found
        return found["Status"] in states

    return until(lambda: glue.get_session(Id=session)["Session"], arrived)


@pytest.fixture
def make_session(glue: Any) -> Iterator[Callable[..., str]]:
    """Return a function which creates a session, waits for one of `states` if given, and returns its id."""
    made: list[str] = []

    def make(*states: str, **request: Any) -> str:
        made.append(f"session-{uuid.uuid4().hex[:12]}")
        glue.create_session(
            **{
                "Id": made[-1],
                "Role": local_client.ROLE_ARN,
                "Command": {"Name": "glueray"},
                "NumberOfWorkers": 2,
                **request,
            }
        )
        if states:
            wait_for_session(glue, made[-1], *states)
        return made[-1]

    yield make
    for session in made:
        with contextlib.suppress(glue.exceptions.EntityNotFoundException):
            glue.delete_session(Id=session)


@pytest.fixture
def session_becomes(glue: Any) -> Callable[..., dict[str, Any]]:
    """Return a function which waits until a session shows one of the states, and returns the session."""
    return functools.partial(wait_for_session, glue)


@pytest.fixture
def statement_becomes(glue: Any) -> Callable[..., dict[str, Any]]:
    """Return a function which waits until a statement shows one of the states, and returns the statement."""

    def wait(session: str, statement: int, *states: str) -> dict[str, Any]:
        def arrived(found: dict[str, Any]) -> bool:
            unfinished = (found["CompletedOn"], "Output" in found) == (0, False)
            assert found["State"] in states or unfinished, found
            return found["State"] in states

        return until(lambda: glue.get_statement(SessionId=session, Id=statement)["Statement"], arrived)

    return wait


@pytest.fixture
def run_code(glue: Any, statement_becomes: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Return a function which runs code in a session and returns the statement when it is AVAILABLE."""

    def run(session: str, code: str) -> dict[str, Any]:
        return statement_becomes(session, glue.run_statement(SessionId=session, Code=code)["Id"], "AVAILABLE")

    return run
