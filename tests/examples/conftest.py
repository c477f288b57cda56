"""The example scripts as modules, their data in the endpoint's S3, and runs of them through plain boto3."""

from __future__ import annotations

import importlib.util
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import boto3
import pytest
from pyarrow import fs

from airflow_provider_glueray.local import client as local_client
from airflow_provider_glueray.packaging.upload import read_local

EXAMPLES = Path(__file__).parents[2] / "example_dags"


def load(path: str) -> ModuleType:
    """Import a file of the examples, which are no package."""
    name = Path(path).stem
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def datasets() -> ModuleType:
    return load("datasets.py")


@pytest.fixture(scope="session")
def steps() -> ModuleType:
    """Import the module that the scripts share, under the name by which they import it."""
    return load("modules/steps.py")


@pytest.fixture(scope="session")
def reviews_script(steps: ModuleType) -> ModuleType:
    return load("scripts/customer_reviews_etl.py")


@pytest.fixture(scope="session")
def movies_script(steps: ModuleType) -> ModuleType:
    return load("scripts/movie_ratings_etl.py")


@pytest.fixture(scope="session")
def aws_env(endpoint: local_client.Endpoint) -> Iterator[dict[str, str]]:
    """Point Arrow and boto3 of this process at the endpoint, as a shell would."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in endpoint.env().items():
            patch.setenv(name, value)
        yield endpoint.env()


@pytest.fixture(scope="session")
def s3(aws_env: dict[str, str]) -> fs.S3FileSystem:
    return fs.FileSystem.from_uri(f"s3://{local_client.BUCKET}")[0]


@pytest.fixture(scope="session")
def run_script(aws_env: dict[str, str]) -> Callable[..., dict[str, Any]]:
    """Return a function that runs a script as a Glue job and returns the finished run."""
    glue, store = boto3.client("glue"), boto3.client("s3")
    modules = read_local(str(EXAMPLES / "modules" / "steps.py"), "3.9", module=True)
    store.put_object(Bucket=local_client.BUCKET, Key="scripts/steps.zip", Body=modules.content)

    def run(script: str, **arguments: Any) -> dict[str, Any]:
        name = f"{Path(script).stem}-{uuid.uuid4().hex[:8]}"
        store.upload_file(str(EXAMPLES / "scripts" / script), local_client.BUCKET, f"scripts/{name}.py")
        glue.create_job(
            Name=name,
            Role=local_client.ROLE_ARN,
            GlueVersion="4.0",
            WorkerType="Z.2X",
            NumberOfWorkers=2,
            Command={
                "Name": "glueray",
                "Runtime": "Ray2.4",
                "PythonVersion": "3.9",
                "ScriptLocation": f"s3://{local_client.BUCKET}/scripts/{name}.py",
            },
            DefaultArguments={"--s3-py-modules": f"s3://{local_client.BUCKET}/scripts/steps.zip"},
        )
        given = {f"--{key}": str(value) for key, value in arguments.items()}
        run_id = glue.start_job_run(JobName=name, Arguments=given)["JobRunId"]
        deadline = time.monotonic() + 120
        while True:
            seen: dict[str, Any] = glue.get_job_run(JobName=name, RunId=run_id)["JobRun"]
            if "CompletedOn" in seen:
                return seen
            assert time.monotonic() < deadline, seen
            time.sleep(0.1)

    return run
