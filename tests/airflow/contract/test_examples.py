"""Every example DAG by `dag.test()`: in the worker, deferred, and unchanged by another connection; with equal XComs."""

from __future__ import annotations

import json
import re
from typing import Any

import boto3
import nbformat
import pytest

#: The first of them waits for seven DAGs, minutes on a machine that has other things to do.
pytestmark = pytest.mark.timeout(1200)
NOTEBOOK = "customer_reviews_notebook"
CONF = {
    "customer_reviews_nightly": {"marketplace": "US", "max_votes": 40, "workers": 3},
    "movie_ratings_nightly": {},
    "customer_reviews_session": {"workers": 3},
    NOTEBOOK: {},
}


@pytest.fixture(scope="module")
def played(play_examples) -> dict[bool, dict[str, Any]]:
    """Return what came of the DAGs, by whether they were deferred."""
    # Deferred, the notebook is run by `make demo`.
    short = {dag_id: conf for dag_id, conf in CONF.items() if dag_id != NOTEBOOK}
    return {
        deferrable: play_examples(dags, AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE=str(deferrable))
        for deferrable, dags in ((False, CONF), (True, short))
    }


def lasting(xcoms: dict[str, Any]) -> Any:
    """Strip what differs between any two runs: ids, seconds, and what is reckoned from seconds."""
    passing = ("id", "seconds", "mdpu_hours", "estimated_cost_usd", "steps", "output")
    if isinstance(xcoms, dict):
        return {key: lasting(value) for key, value in xcoms.items() if key not in passing}
    return re.sub(r"jr_[0-9a-f]+|(?<=-)[0-9a-f]{12}(?=$|/)", "…", xcoms) if isinstance(xcoms, str) else xcoms


@pytest.mark.parametrize("dag_id", sorted(set(CONF) - {NOTEBOOK}))
def test_it_succeeds_in_both_modes_with_equal_xcoms(played, dag_id):
    """Who waits, the worker or the triggerer, makes no difference to what comes out."""
    in_worker, deferred = played[False][dag_id], played[True][dag_id]

    assert in_worker["state"] == deferred["state"] == "success"
    assert lasting(in_worker["xcoms"]) == lasting(deferred["xcoms"])
    assert in_worker["xcoms"]["report"]["return_value"]["rows_out"] > 0


def test_the_notebook_of_the_announcement(played, endpoint):
    """Every cell has run, and says what the same steps say as a job."""
    played_once = played[False][NOTEBOOK]
    report = played_once["xcoms"]["report"]["return_value"]
    credentials = endpoint.airflow_connection()
    s3 = boto3.client(
        "s3", endpoint_url=endpoint.url, region_name=endpoint.region,
        aws_access_key_id=credentials["login"], aws_secret_access_key=credentials["password"],
    )  # fmt: skip
    bucket, _, key = report["notebook"].removeprefix("s3://").partition("/")
    notebook = nbformat.reads(s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode(), as_version=4)
    nbformat.validate(notebook)

    assert played_once["state"] == "success"
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert {cell.metadata.papermill.status for cell in cells} == {"completed"}
    assert len(cells) >= 16
    assert 0 < report["rows_out"] < report["rows_in"]
    pages = s3.list_objects_v2(Bucket=bucket, Prefix=report["target"].removeprefix(f"s3://{bucket}/"))
    written = [found["Key"] for found in pages["Contents"] if found["Size"]]
    assert written
    assert all(key.endswith(".parquet") for key in written)


def test_the_form_reaches_the_script(played, endpoint):
    """Params of the trigger form become arguments and workers of the run."""
    xcoms = played[True]["customer_reviews_nightly"]["xcoms"]
    ref = xcoms["clean"]["glueray_run"]
    credentials = endpoint.airflow_connection()
    glue = boto3.client(
        "glue", endpoint_url=endpoint.url, region_name=endpoint.region,
        aws_access_key_id=credentials["login"], aws_secret_access_key=credentials["password"],
    )  # fmt: skip
    run = glue.get_job_run(JobName=ref["name"], RunId=ref["id"])["JobRun"]

    assert run["NumberOfWorkers"] == 3
    assert run["Arguments"]["--max_votes"] == "40"
    assert xcoms["clean"]["glueray_usage"]["workers"] == 3


@pytest.mark.only("ray", "kuberay", local=True)
def test_the_dag_stays(place, play_examples, played):
    """By another connection every task succeeds, and the numbers are those of Glue."""
    dags = {dag_id: CONF[dag_id] for dag_id in ("customer_reviews_nightly", NOTEBOOK)}
    where = {"AIRFLOW__GLUERAY__CONN_ID": "where", "AIRFLOW_CONN_WHERE": json.dumps(place.conn)}
    elsewhere = play_examples(dags, **where)

    for dag_id in dags:
        glue, here = played[False][dag_id], elsewhere[dag_id]
        assert (glue["state"], here["state"]) == ("success", "success")
        assert set(glue["xcoms"]) == set(here["xcoms"])
        for name in ("rows_in", "rows_out"):
            assert here["xcoms"]["report"]["return_value"][name] == glue["xcoms"]["report"]["return_value"][name] > 0
    step = elsewhere["customer_reviews_nightly"]["xcoms"]["clean"]
    assert step["glueray_run"]["backend"] == place.backend
    walk = elsewhere[NOTEBOOK]["xcoms"]["walk"]
    assert walk["glueray_run"]["backend"] == place.backend
    assert played[False][NOTEBOOK]["xcoms"]["walk"]["glueray_run"]["backend"] == "glue-session"
