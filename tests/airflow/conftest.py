"""DAGs in an Airflow of their own."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_glueray.local import control

EXAMPLES = Path(__file__).parents[2] / "example_dags"


@pytest.fixture(scope="module")
def play_dags(endpoint: control.Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Return what runs DAGs by `dag.test()`, in an Airflow of their own; the examples find their data."""
    dags = tmp_path_factory.mktemp("dags")
    for folder in (EXAMPLES, Path(__file__).with_name("dags")):
        shutil.copytree(folder, dags, dirs_exist_ok=True)
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")},
        **endpoint.env(),
        "AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow")),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__GLUERAY__WAITS": os.environ["AIRFLOW__GLUERAY__WAITS"],
        "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(endpoint.airflow_connection()),
    }

    def run(*command: str, **more: str) -> str:
        done = subprocess.run(
            [sys.executable, *command],
            env={**environment, **more},
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    run("-m", "airflow", "db", "migrate")

    @functools.cache
    def lay_input() -> None:
        run(str(EXAMPLES / "datasets.py"), "reviews", "s3://glueray-local/reviews/raw", "--rows", "5000")
        run(str(EXAMPLES / "datasets.py"), "movies", "s3://glueray-local/movies/raw")

    def play(dags: Mapping[str, Mapping[str, Any]], **more: str) -> dict[str, Any]:
        """Run DAGs with the configurations of their runs; return the state and all XComs of each."""
        if not all(dag_id.startswith("small_") for dag_id in dags):
            lay_input()
        asked = [f"{dag_id}:{json.dumps(conf)}" for dag_id, conf in dags.items()]
        said = run(str(Path(__file__).with_name("play_dags.py")), *asked, **more)
        print(said)  # pytest shows it when a DAG has failed
        (line,) = (line for line in said.splitlines() if line.startswith("PLAYED "))
        return json.loads(line.removeprefix("PLAYED "))  # type: ignore[no-any-return]

    return play
