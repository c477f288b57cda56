"""The walkthrough's script, and a function, on the newest Ray and on AWS's: the same in, the same out."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import boto3
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from airflow.sdk import DAG, task
from airflow.sdk.serde import deserialize

from airflow_provider_glueray.hooks.glue_jobs import GlueRayJobHook
from airflow_provider_glueray.local import control, runtimes

EXAMPLES = Path(__file__).parents[2] / "example_dags"

RAW = f"s3://{control.BUCKET}/walkthrough/raw"
CLEAN = "walkthrough/clean"


@pytest.fixture(scope="module")
def datasets() -> ModuleType:
    """Return the module that makes the examples' data."""
    spec = importlib.util.spec_from_file_location("example_datasets", EXAMPLES / "datasets.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


#: AWS's own versions: the newest Ray runs the same script in `tests/examples`, and such a function beside this file.
pytestmark = pytest.mark.full


@pytest.fixture(scope="module", params=[name for name in runtimes.NAMES if name != runtimes.NEWEST])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[control.Endpoint]:
    """Return an endpoint on each runtime; the shared one is on the newest."""
    home = tmp_path_factory.mktemp("glueray")
    with control.start(f"walkthrough-{os.getpid()}", port=0, home=home, runtime=request.param) as endpoint:
        yield endpoint


def test_the_walkthrough(running: control.Endpoint, datasets: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row that should be there is, with its ratio, and nothing else."""
    for name, value in running.env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(datasets, "ROWS_PER_FILE", 500)
    datasets.write_reviews(RAW, rows=2_000, seed=11)
    glue, store = (boto3.client(service, endpoint_url=running.url) for service in ("glue", "s3"))

    def frames(prefix: str) -> pd.DataFrame:
        found = store.list_objects_v2(Bucket=control.BUCKET, Prefix=prefix)["Contents"]
        keys = [each["Key"] for each in found if each["Size"]]  # Arrow marks directories with empty objects
        bodies = [store.get_object(Bucket=control.BUCKET, Key=key)["Body"].read() for key in keys]
        return pd.concat(pq.ParquetFile(io.BytesIO(body)).read().to_pandas() for body in bodies)

    script = EXAMPLES / "scripts" / "customer_reviews_etl.py"
    store.upload_file(str(script), control.BUCKET, "walkthrough/etl.py")
    command = {"Name": "glueray", "Runtime": "Ray2.4", "ScriptLocation": f"s3://{control.BUCKET}/walkthrough/etl.py"}
    glue.create_job(Name="walkthrough", Role="r", Command=command, WorkerType="Z.2X", NumberOfWorkers=2)
    given = {"--input": f"{RAW}/product_category=Wireless", "--output": f"s3://{control.BUCKET}/{CLEAN}"}
    run_id = glue.start_job_run(JobName="walkthrough", Arguments=given)["JobRunId"]
    run = _ended(glue, run_id)
    assert run["JobRunState"] == "SUCCEEDED", run

    raw = frames("walkthrough/raw/product_category=Wireless/")
    wanted = raw.query("0 < total_votes < 100 and marketplace == 'US'").sort_values("review_id")
    written = frames(f"{CLEAN}/parquet/").sort_values("review_id")
    assert len(wanted) > 20
    assert written["review_id"].tolist() == wanted["review_id"].tolist()
    ratio = wanted["helpful_votes"] / wanted["total_votes"]
    np.testing.assert_allclose(written["helpful_votes_ratio"].astype(float), ratio)
    summary = json.load(store.get_object(Bucket=control.BUCKET, Key=f"{CLEAN}/_summary.json")["Body"])
    assert (summary["rows_in"], summary["rows_out"]) == (len(raw), len(wanted))


def _ended(glue: Any, run_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 180
    while True:
        seen: dict[str, Any] = glue.get_job_run(JobName="walkthrough", RunId=run_id)["JobRun"]
        if "CompletedOn" in seen:
            return seen
        assert time.monotonic() < deadline, seen
        time.sleep(0.2)


def halves(frame: pd.DataFrame, moment: datetime) -> dict[str, Any]:
    """Tell where it runs, and give back tables of three kinds."""
    import sys

    import ray

    @ray.remote
    def half(part: pd.DataFrame) -> pd.DataFrame:
        return part.assign(n=part["n"] / 2)

    halved = ray.get(half.remote(frame))
    where = [ray.__version__, sys.version.split(" ", maxsplit=1)[0]]
    return {"where": where, "when": moment, "frame": halved, "dataset": ray.data.from_pandas([halved])}


def test_a_function_with_tables(running: control.Endpoint, dag: DAG, make_task: Any, monkeypatch: Any) -> None:
    """What brings arguments and values runs on Python 3.9 and with Arrow 11 too; its Parquet is read here."""
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(running.airflow_connection()))
    frame = pd.DataFrame({"n": [1, 2], "s": ["a", "b"]}, index=pd.to_datetime(["2026-11-21", "2026-11-22"]))
    moment = datetime(2026, 11, 21, 2, tzinfo=UTC)
    given = {"role": "GlueRayRole", "staging": f"s3://{control.BUCKET}/functions", "dag": dag, "deferrable": False}
    step = task.glue_ray(**given)(halves)(frame, moment).operator

    result = make_task(step).run()

    assert result.state == "success", result.error
    value = deserialize(result.xcoms["return_value"])
    assert value["where"][0].startswith("2.4." if value["where"][1].startswith("3.9") else "2.6")
    assert value["when"] == moment
    assert value["dataset"]["rows"] == 2
    pd.testing.assert_frame_equal(GlueRayJobHook().load(value["frame"]), frame.assign(n=[0.5, 1.0]), check_freq=False)
