"""The DAG stays: example DAGs, whole and unchanged, with nothing but `[glueray] conn_id` set to another connection."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
PLAYER = Path(__file__).parents[1] / "play_dags.py"
DAGS = {"customer_reviews_nightly": {"max_votes": 40, "workers": 3}, "customer_reviews_notebook": {}}


@pytest.fixture(scope="module")
def play(endpoint, tmp_path_factory) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return what plays the DAGs by a connection, and returns what came of each."""
    home = tmp_path_factory.mktemp("airflow")
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")},
        **endpoint.env(),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "example_dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__GLUERAY__CONN_ID": "where",
        "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(endpoint.airflow_connection()),
    }

    def run(*command: str, **more: str) -> str:
        done = subprocess.run(
            [sys.executable, *command],
            env={**environment, **more},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    data = str(ROOT / "example_dags" / "datasets.py")
    run(data, "reviews", "s3://glueray-local/reviews/raw", "--rows", "5000")
    run("-m", "airflow", "db", "migrate")

    def play(conn: dict[str, Any]) -> dict[str, Any]:
        asked = [f"{dag_id}:{json.dumps(conf)}" for dag_id, conf in DAGS.items()]
        said = run(str(PLAYER), *asked, AIRFLOW_CONN_WHERE=json.dumps(conn))
        (line,) = (line for line in said.splitlines() if line.startswith("PLAYED "))
        return json.loads(line.removeprefix("PLAYED "))  # type: ignore[no-any-return]

    return play


@pytest.fixture(scope="module")
def on_glue(endpoint, play) -> dict[str, Any]:
    """Return what came of the DAGs on Glue."""
    return play(endpoint.airflow_connection())  # type: ignore[no-any-return]


@pytest.mark.only("ray", "kuberay")
def test_the_dag_stays(place, play, on_glue):
    """Every task succeeds, and the numbers are those of Glue."""
    played = play(place.conn)

    for dag_id in DAGS:
        glue, here = on_glue[dag_id], played[dag_id]
        assert (glue["state"], here["state"]) == ("success", "success")
        assert set(glue["xcoms"]) == set(here["xcoms"])
        for name in ("rows_in", "rows_out"):
            assert here["xcoms"]["report"]["return_value"][name] == glue["xcoms"]["report"]["return_value"][name] > 0
    step = played["customer_reviews_nightly"]["xcoms"]["clean"]
    assert step["glueray_run"]["backend"] == place.backend
    walk = played["customer_reviews_notebook"]["xcoms"]["walk"]
    assert walk["glueray_run"]["backend"] == place.backend
    assert on_glue["customer_reviews_notebook"]["xcoms"]["walk"]["glueray_run"]["backend"] == "glue-session"
