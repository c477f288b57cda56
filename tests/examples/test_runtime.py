"""The walkthrough's script on the newest Ray and on AWS's: the same file, the same data, the same result."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import boto3
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from airflow_provider_glueray.local import control, runtimes

from .conftest import EXAMPLES

RAW = f"s3://{control.BUCKET}/walkthrough/raw"
CLEAN = "walkthrough/clean"


@pytest.fixture(scope="module", params=runtimes.NAMES)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[control.Endpoint]:
    """Return an endpoint on each runtime; the shared one is on the newest."""
    if request.param == runtimes.NEWEST:
        yield request.getfixturevalue("endpoint")
        return
    try:
        runtimes.find_python(runtimes.RECIPES[request.param])
    except runtimes.NoPython as error:
        pytest.skip(str(error))
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
