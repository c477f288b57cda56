"""The DAG stays: example DAGs, whole and unchanged, with nothing but `[glueray] conn_id` set to another connection."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

DAGS = {"customer_reviews_nightly": {"max_votes": 40, "workers": 3}, "customer_reviews_notebook": {}}


@pytest.fixture(scope="module")
def play(play_examples) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return what plays the DAGs by a connection, and returns what came of each."""
    return lambda conn: play_examples(DAGS, AIRFLOW__GLUERAY__CONN_ID="where", AIRFLOW_CONN_WHERE=json.dumps(conn))


@pytest.fixture(scope="module")
def on_glue(endpoint, play) -> dict[str, Any]:
    """Return what came of the DAGs on Glue."""
    return play(endpoint.airflow_connection())  # type: ignore[no-any-return]


@pytest.mark.only("ray", "kuberay", local=True)
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
