"""The example with hundreds of sources, on a real scheduler: both ways, and where the account has little room."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
import pytest

from .conftest import EXAMPLE, House, until

SOURCES = 24


@pytest.fixture(scope="module", autouse=True)
def tables(endpoint: Any) -> None:
    """Lay the sources into S3."""
    command = [str(Path(EXAMPLE).with_name("datasets.py")), "tables", "s3://glueray-local/tables/raw", "--count"]
    subprocess.run([sys.executable, *command, str(SOURCES)], env={**os.environ, **endpoint.env()}, check=True)


def run(house: House, dag: str) -> dict[str, Any]:
    """Run a DAG to its end; return its report."""
    house.call("PATCH", f"/dags/{dag}", {"is_paused": False})
    body = {"logical_date": None, "conf": {"sources": SOURCES}}
    path = f"/dags/{dag}/dagRuns/" + quote(house.call("POST", f"/dags/{dag}/dagRuns", body)["dag_run_id"], safe="")
    ended = until(lambda: house.call("GET", path), lambda run: run["state"] in {"success", "failed"}, 280)
    tasks = house.call("GET", f"{path}/taskInstances", limit=100)["task_instances"]
    states = {(each["task_id"], each["map_index"]): (each["state"], each["try_number"]) for each in tasks}
    assert ended["state"] == "success", states
    assert {tries for _, tries in states.values()} == {1}, states
    return house.call("GET", f"{path}/taskInstances/report/xcomEntries/return_value")["value"]  # type: ignore[no-any-return]


def read(house: House, uri: str) -> pd.DataFrame:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return pd.read_parquet(io.BytesIO(house.s3.get_object(Bucket=bucket, Key=key)["Body"].read()))


def test_both_ways_give_the_same_table(house):
    """24 sources mapped, where the account has room for three runs: they queue, and not one try fails."""
    house.endpoint.faults(quota_mdpu=12)
    mapped = run(house, "sources_mapped")
    calls = house.endpoint.calls()
    refused = calls["StartJobRun"] - (SOURCES + 1)
    assert refused > 0
    assert len(house.glue.get_job_runs(JobName="sources_mapped-profile")["JobRuns"]) == SOURCES

    house.endpoint.reset_calls()
    fanned_out = run(house, "sources_fanned_out")
    assert house.endpoint.calls()["StartJobRun"] == 1

    one, other = read(house, mapped["table"]), read(house, fanned_out["table"])
    assert mapped["columns"] == fanned_out["columns"] == len(one)
    assert one["source"].nunique() == SOURCES
    pd.testing.assert_frame_equal(one, other)
    titanic = one[one["source"] == "COUNT-titanic.csv"].set_index("column")
    assert set(titanic["rows"]) == {1316}
    assert list(titanic.index) == ["class", "age", "sex", "survived"]
    assert (titanic.loc["class", "least"], titanic.loc["class", "greatest"]) == ("1st class", "3rd class")
