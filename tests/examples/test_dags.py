"""The example DAGs parse, stay light, and mean what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.examples.conftest import EXAMPLES

HEAVY = ("boto3", "botocore", "ray", "pandas", "pyarrow", "moto", "kubernetes")

PROBE = f"""
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("example", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
heavy = [name for name in {HEAVY!r} if name in sys.modules]
dag = getattr(module, sys.argv[2])()
params = {{name: dag.params.get_param(name) for name in dag.params}}
print(json.dumps({{
    "heavy": heavy,
    "dag_id": dag.dag_id,
    "schedule": dag.schedule,
    "catchup": dag.catchup,
    "max_active_runs": dag.max_active_runs,
    "retries": {{task.task_id: task.retries for task in dag.tasks}},
    "downstream": {{task.task_id: sorted(task.downstream_task_ids) for task in dag.tasks}},
    "form": {{name: {{**param.schema, "description": param.description}} for name, param in params.items()}},
    "defaults": dag.params.dump(),
}}))
"""


def probe(name: str, tmp_path: Path, **environment: str) -> dict[str, object]:
    """Import an example in a fresh interpreter and describe its DAG."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(EXAMPLES / f"{name}.py"), name],
        env={
            **os.environ,
            "AIRFLOW_HOME": str(tmp_path),
            "AIRFLOW__CORE__UNIT_TEST_MODE": "True",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    described: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return described


@pytest.mark.parametrize(
    ("name", "downstream", "params"),
    [
        (
            "customer_reviews_nightly",
            {"check_input": ["clean"], "clean": ["verify"], "verify": ["report"], "report": []},
            {"input", "output", "marketplace", "max_votes", "workers"},
        ),
        (
            "movie_ratings_nightly",
            {"check_input": ["start"], "start": ["wait"], "wait": ["verify"], "verify": ["report"], "report": []},
            {"input", "output", "prior_votes", "workers"},
        ),
    ],
)
def test_dag(name: str, downstream: dict[str, list[str]], params: set[str], tmp_path: Path) -> None:
    dag = probe(name, tmp_path)
    assert dag["heavy"] == []
    assert dag["dag_id"] == name
    assert dag["schedule"] == "0 2 * * *"
    assert dag["catchup"] is False
    assert dag["max_active_runs"] == 1
    assert dag["downstream"] == downstream
    assert set(dag["retries"].values()) == {2}  # type: ignore[attr-defined]
    form = dag["form"]
    assert isinstance(form, dict)
    assert set(form) == params
    for schema in form.values():
        assert all(schema[key] for key in ("type", "title", "description"))
    assert (form["workers"]["minimum"], form["workers"]["maximum"]) == (1, 25)


def test_bucket_comes_from_the_environment(tmp_path: Path) -> None:
    defaults = probe("movie_ratings_nightly", tmp_path, GLUERAY_EXAMPLE_BUCKET="mine")["defaults"]
    assert isinstance(defaults, dict)
    assert defaults["input"] == "s3://mine/movies/raw"
    assert defaults["output"] == "s3://mine/movies/ranked"


@pytest.mark.parametrize("name", ["customer_reviews_nightly", "movie_ratings_nightly"])
def test_snippets_for_the_docs_are_marked(name: str) -> None:
    text = (EXAMPLES / f"{name}.py").read_text()
    starts = [line.split("[START ")[1] for line in text.splitlines() if "[START " in line]
    ends = [line.split("[END ")[1] for line in text.splitlines() if "[END " in line]
    assert starts == ends
    assert starts
