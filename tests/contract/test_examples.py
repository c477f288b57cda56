"""DAGs by `dag.test()`: a small one in both modes and at all places, each example once.

`make demo` runs the examples deferred, by a real scheduler.
"""

from __future__ import annotations

import json
import re
from typing import Any

import boto3
import nbformat
import pytest

from tests.contract import kuberay_player
from tests.hooks.kuberay import kubernetes_api

#: Several processes that import Airflow, and minutes on a machine that has other things to do.
pytestmark = pytest.mark.timeout(1200)
NOTEBOOK = "customer_reviews_notebook"


def lasting(xcoms: Any) -> Any:
    """Strip what differs between any two runs: ids, seconds, and what is reckoned from seconds."""
    passing = ("id", "seconds", "mdpu_hours", "estimated_cost_usd", "uri", "bytes")
    if isinstance(xcoms, dict):
        return {key: lasting(value) for key, value in xcoms.items() if key not in passing}
    return (
        re.sub(r"jr_[0-9a-f]+|(?<=-)[0-9a-f]{12}(?=$|/)|small_[a-z]+", "…", xcoms) if isinstance(xcoms, str) else xcoms
    )


@pytest.fixture(scope="module")
def small(play_dags, endpoint) -> dict[str, Any]:
    """Return what came of the small DAG in both modes and at all places."""
    ray = endpoint.ray()
    with kubernetes_api.serving() as kubernetes:
        settings = {"image": "ours/ray:2.60.0", "ray_version": "2.60.0"}
        connections = {
            "AIRFLOW_CONN_RAY_DEFAULT": json.dumps(endpoint.ray_connection()),
            "AIRFLOW_CONN_KUBERNETES_DEFAULT": json.dumps(kubernetes.config(kuberay=settings)),
        }
        playing = kuberay_player.KubeRayPlayer(kubernetes, ray["dashboard"], ray["token"])
        with playing.playing():
            played = play_dags({f"small_{name}": {"most": 4} for name in BACKENDS}, **connections)
        assert playing.problems == []
    return played


#: Where the small DAGs run.
BACKENDS = {"worker": "glue-job", "deferred": "glue-job", "ray": "ray-job", "kuberay": "kuberay-job"}


@pytest.mark.parametrize("name", BACKENDS)
def test_the_dag_stays(small, name):
    """Whoever waits, and wherever the connection leads: every way to write a step brings what it should."""
    played = small[f"small_{name}"]

    assert played["state"] == "success"
    xcoms = played["xcoms"]
    assert xcoms["total"]["return_value"] == 0 + 1 + 4 + 9
    assert xcoms["walk"]["glueray_value"] == 0 + 1 + 2 + 3
    assert xcoms["walk"]["return_value"].endswith("/out.ipynb")
    assert xcoms["counted"]["glueray_usage"]["seconds"] > 0
    assert xcoms["counted"]["glueray_run"]["backend"] == BACKENDS[name]


def test_the_mode_makes_no_difference(small):
    """Who waits, the worker or the triggerer, makes none to what comes out."""
    assert lasting(small["small_deferred"]["xcoms"]) == lasting(small["small_worker"]["xcoms"])


@pytest.mark.full
def test_the_form_reaches_the_script(play_dags, endpoint):
    """Params of the trigger form of an example become arguments and workers of the run."""
    conf = {"marketplace": "US", "max_votes": 40, "workers": 3}
    played = play_dags({"customer_reviews_nightly": conf})["customer_reviews_nightly"]
    assert played["state"] == "success"
    assert played["xcoms"]["report"]["return_value"]["rows_out"] > 0
    ref = played["xcoms"]["clean"]["glueray_run"]
    run = client_of(endpoint, "glue").get_job_run(JobName=ref["name"], RunId=ref["id"])["JobRun"]

    assert run["NumberOfWorkers"] == 3
    assert run["Arguments"]["--max_votes"] == "40"
    assert played["xcoms"]["clean"]["glueray_usage"]["workers"] == 3


@pytest.mark.full
def test_the_other_examples(play_dags):
    """Each succeeds, and says what it has written; `make demo` shows them deferred."""
    played = play_dags({"movie_ratings_nightly": {}, "customer_reviews_session": {"workers": 3}})

    for dag_id, each in played.items():
        assert each["state"] == "success", dag_id
        assert each["xcoms"]["report"]["return_value"]["rows_out"] > 0, dag_id


@pytest.mark.full
def test_the_notebook_of_the_announcement(play_dags, endpoint):
    """Every cell has run, and says what the same steps say as a job."""
    played = play_dags({NOTEBOOK: {}})[NOTEBOOK]
    report = played["xcoms"]["report"]["return_value"]
    s3 = client_of(endpoint, "s3")
    bucket, _, key = report["notebook"].removeprefix("s3://").partition("/")
    notebook = nbformat.reads(s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode(), as_version=4)
    nbformat.validate(notebook)

    assert played["state"] == "success"
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert {cell.metadata.papermill.status for cell in cells} == {"completed"}
    assert len(cells) >= 16
    assert 0 < report["rows_out"] < report["rows_in"]
    pages = s3.list_objects_v2(Bucket=bucket, Prefix=report["target"].removeprefix(f"s3://{bucket}/"))
    written = [found["Key"] for found in pages["Contents"] if found["Size"]]
    assert written
    assert all(key.endswith(".parquet") for key in written)


@pytest.mark.full
@pytest.mark.only("ray", "kuberay", local=True)
def test_the_notebook_stays(place, play_dags):
    """By another connection the notebook of the announcement is one job."""
    where = {"AIRFLOW__GLUERAY__CONN_ID": "where", "AIRFLOW_CONN_WHERE": json.dumps(place.conn)}
    played = play_dags({NOTEBOOK: {}}, **where)[NOTEBOOK]

    assert played["state"] == "success"
    assert played["xcoms"]["walk"]["glueray_run"]["backend"] == place.backend
    report = played["xcoms"]["report"]["return_value"]
    assert 0 < report["rows_out"] < report["rows_in"]


def client_of(endpoint: Any, service: str) -> Any:
    """Return a client of the endpoint, in the region of this worker."""
    given = endpoint.airflow_connection()
    return boto3.client(
        service, endpoint_url=endpoint.url, region_name=endpoint.region,
        aws_access_key_id=given["login"], aws_secret_access_key=given["password"],
    )  # fmt: skip
