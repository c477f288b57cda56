"""Provide clients of the endpoint; the Glue client checks every raw response against botocore's output shapes."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from airflow_provider_glueray.local import client as local_client

T = TypeVar("T")
#: A test waits up to so many seconds for an event of some seconds, so that a busy machine does not fail it.
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
#: The model lists the states of a statement for this member; the last Ray-capable kernel reads "ok" there.
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
    """Fail on a member that the model does not have, a wrong JSON type or a missing required member."""
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


def until(read: Callable[[], T], accept: Callable[[T], Any] = bool) -> T:
    """Call `read` until `accept` is true for its result, and return the result."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not accept(last := read()):
        assert time.monotonic() < deadline, f"after {PATIENCE_SECONDS:.0f} s still {last}"
        time.sleep(0.05)
    return last


def refused(call: Callable[..., Any], **request: Any) -> tuple[str, str]:
    """Return code and message of the error that a call of a client raises."""
    with pytest.raises(ClientError) as caught:
        call(**request)
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]


def error_code(call: Callable[..., Any], **request: Any) -> str:
    """Return the code of the error that a call of a client raises."""
    return refused(call, **request)[0]


def zipped(**files: str) -> bytes:
    """Return a zip with the given files."""
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return body.getvalue()


def write_wheel(directory: Path, name: str, version: str, code: str) -> str:
    """Write a wheel with one module and return the requirement for it."""
    path = directory / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    path.write_bytes(zipped(**files))
    return f"{name} @ {path.as_uri()}"


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
        response = json.loads(response_dict["body"])
        if response_dict["status_code"] == 200:
            check_shape(operation_model.output_shape, response, operation_model.name)
        else:
            assert set(response) == {"__type", "Message"}

    client.meta.events.register("before-parse.glue", check)
    return client


@pytest.fixture
def client(clean_endpoint: local_client.Endpoint) -> Callable[..., Any]:
    """Return a function that makes unchecked clients: `client(service, region=..., attempts=...)`."""
    return lambda service, **options: make_client(clean_endpoint, service, **options)


@pytest.fixture
def s3(clean_endpoint: local_client.Endpoint) -> Any:
    return make_client(clean_endpoint, "s3")


@pytest.fixture
def logs(clean_endpoint: local_client.Endpoint) -> Any:
    return make_client(clean_endpoint, "logs")


@pytest.fixture
def make_job(glue: Any, s3: Any) -> Callable[..., str]:
    """Return a function that creates a job from a script's text and returns its name."""

    def make(script: str = "", **changes: Any) -> str:
        name = f"job-{uuid.uuid4().hex[:12]}"
        s3.put_object(Bucket=local_client.BUCKET, Key=f"{name}.py", Body=script.encode())
        command = {**RAY_JOB["Command"], "ScriptLocation": f"s3://{local_client.BUCKET}/{name}.py"}
        glue.create_job(**{**RAY_JOB, "Command": command, "Name": name, **changes})
        return name

    return make


@pytest.fixture
def wait_for(glue: Any) -> Callable[..., dict[str, Any]]:
    """Return a function that waits until a run has one of the states, and returns the run."""

    def wait(job: str, run: str, *states: str) -> dict[str, Any]:
        def arrived(found: dict[str, Any]) -> bool:
            assert found["JobRunState"] in states or "CompletedOn" not in found, found
            return found["JobRunState"] in states

        return until(lambda: glue.get_job_run(JobName=job, RunId=run)["JobRun"], arrived)

    return wait


@pytest.fixture
def held(clean_endpoint: local_client.Endpoint) -> local_client.Endpoint:
    """Return the endpoint with a provisioning delay of an hour, so that runs stay in STARTING."""
    clean_endpoint.faults(provisioning_seconds=3600)
    return clean_endpoint


@pytest.fixture
def elsewhere(clean_endpoint: local_client.Endpoint, regions: tuple[str, str]) -> Iterator[local_client.Endpoint]:
    """Return the endpoint for another Region, without faults and with empty counters."""
    other = clean_endpoint.at(regions[1])
    for reset in (other.reset_faults, other.reset_calls):
        reset()
    yield other
    for reset in (other.reset_faults, other.reset_calls):
        reset()


@pytest.fixture(scope="module")
def ready_session(endpoint: local_client.Endpoint) -> Iterator[str]:
    """Return the id of a READY session; the tests of a file share it."""
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
    """Return a function that creates a session, waits for one of `states` if given, and returns its id."""
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
    """Return a function that waits until a session has one of the states, and returns the session."""
    return functools.partial(wait_for_session, glue)


@pytest.fixture
def statement_becomes(glue: Any) -> Callable[..., dict[str, Any]]:
    """Return a function that waits until a statement has one of the states, and returns the statement."""

    def wait(session: str, statement: int, *states: str) -> dict[str, Any]:
        def arrived(found: dict[str, Any]) -> bool:
            unfinished = (found["CompletedOn"], "Output" in found) == (0, False)
            assert found["State"] in states or unfinished, found
            return found["State"] in states

        return until(lambda: glue.get_statement(SessionId=session, Id=statement)["Statement"], arrived)

    return wait


@pytest.fixture
def run_code(glue: Any, statement_becomes: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Return a function that runs code in a session and returns the statement when it is AVAILABLE."""

    def run(session: str, code: str) -> dict[str, Any]:
        return statement_becomes(session, glue.run_statement(SessionId=session, Code=code)["Id"], "AVAILABLE")

    return run
