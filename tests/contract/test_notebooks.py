"""Notebooks as jobs: where the connection leads to Ray or KubeRay, all cells are one run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from airflow_provider_glueray.airflow_compat import AirflowFailException
from airflow_provider_glueray.core.errors import RunFailed, RunStopped, SpecError, StatementFailed
from airflow_provider_glueray.core.spec import RaySessionSpec
from airflow_provider_glueray.hooks.glue.sessions import GlueRaySessionHook
from airflow_provider_glueray.operators.notebooks import GlueRayNotebookOperator
from tests.runner import HAS_STORE, capture_logs

PARAMETERS = new_code_cell("day = 'never'\nlimit = 1", metadata={"tags": ["parameters"]})
JOBS = pytest.mark.only("ray", "kuberay")


@pytest.fixture
def make(dag, tmp_path: Path, place, fresh):
    """Return a factory of operators that run a notebook with the given cells; texts are code."""

    def make(*cells: Any, **kwargs: Any) -> GlueRayNotebookOperator:
        coded = [new_code_cell(cell) if isinstance(cell, str) else cell for cell in cells]
        (tmp_path / "walk.ipynb").write_text(nbformat.writes(new_notebook(cells=coded)))
        given = {
            "task_id": f"notebook-{fresh()}", "notebook": tmp_path / "walk.ipynb",
            "output_notebook": tmp_path / "out.ipynb", "role": place.role, "staging_uri": place.staging_uri,
            "conn_id": "where", "deferrable": False, "poll_interval": 2, "dag": dag,
        }  # fmt: skip
        return GlueRayNotebookOperator(**{**given, **kwargs})

    return make


def executed(operator: GlueRayNotebookOperator) -> Any:
    """Return the executed notebook's code cells, which have to be valid nbformat."""
    notebook = nbformat.read(operator.output_notebook, as_version=4)
    nbformat.validate(notebook)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def statuses(operator: GlueRayNotebookOperator) -> list[str]:
    return [cell.metadata["papermill"]["status"] for cell in executed(operator)]


def test_the_same_notebook_everywhere(place, make, make_task):
    """On Glue in a session, elsewhere as a job: the same outputs, value and metadata."""
    operator = make(
        new_markdown_cell("# A walk"),
        "%glue_ray\n%number_of_workers 3\n%%tags\n{'team': 'data'}",
        PARAMETERS,
        "import ray\nray.init('auto', ignore_reinit_error=True)\n\n"
        "def double(n):\n    return 2 * n\n\nprint('day', day)",
        "ray.get([ray.remote(double).remote(n) for n in range(3)])",
        "class Table:\n    def _repr_html_(self): return '<table/>'\nTable()",
        "import asyncio\nawait asyncio.sleep(0.01, result='waited')",
        "return_value = {'day': day, 'limit': limit * 2}\nprint('done')",
        parameters={"day": "{{ ds }}", "limit": 21},
        deferrable=True,
    )
    result = make_task(operator).run_to_end()

    assert result.state == "success", result.error
    assert result.xcoms["return_value"] == operator.output_notebook
    assert result.xcoms["glueray_value"] == {"day": "2026-11-21", "limit": 42}
    assert result.xcoms["glueray_usage"]["seconds"] > 0
    assert result.xcoms["_link_GlueRayRunLink"].startswith("http")
    magics, _, injected, greeting, doubled, table, waited, last = executed(operator)
    assert (magics.outputs, magics.metadata["papermill"]["status"]) == ([], "completed")
    assert injected.source == "# Parameters\nday = '2026-11-21'\nlimit = 21"
    assert greeting.outputs[0].text.endswith("day 2026-11-21\n")
    assert greeting.metadata["papermill"]["duration"] > 0
    assert doubled.outputs[-1].data["text/plain"] == "[0, 2, 4]"
    assert table.outputs[0].data["text/html"] == "<table/>"
    assert waited.outputs[0].data["text/plain"] == "'waited'"
    assert [output.text for output in last.outputs] == ["done\n"]


@JOBS
def test_a_cell_that_fails(place, make, make_task):
    """The error shows the cell and its traceback without our frames; the executed notebook has all that has run."""
    operator = make("1 + 1", "def f():\n    raise ValueError('odd')", "print('so far')\nf()", "4", retries=1)
    result = make_task(operator).run()

    assert result.state == "up_for_retry"
    assert isinstance(result.error, StatementFailed)
    assert (result.error.error_name, result.error.error_value) == ("ValueError", "odd")
    assert f"Cell 3 of {operator.notebook} failed" in str(result.error)
    frames = [line for line in result.error.traceback if line.startswith("  File")]
    assert [frame.split(", ", 1)[1] for frame in frames] == ["line 2, in <module>", "line 2, in f"]
    assert "    raise ValueError('odd')" in result.error.traceback
    assert statuses(operator) == ["completed", "completed", "failed", "pending"]
    one, _, three, four = executed(operator)
    assert one.outputs[0].data["text/plain"] == "2"
    assert [output.output_type for output in three.outputs] == ["stream", "error"]
    assert (four.outputs, four.execution_count) == ([], None)


@pytest.mark.only("ray")
def test_a_cell_that_ends_the_run(place, make, make_task):
    """By itself, with 0 or not: the notebook has not done its work."""
    operator = make("1", "import os\nos._exit(0)", "3")
    result = make_task(operator).run()

    assert isinstance(result.error, AirflowFailException)
    assert f"Cell 2 of {operator.notebook} has left the interpreter by itself" in str(result.error)
    assert statuses(operator) == ["completed", "failed", "pending"]
    operator = make("1", "import sys\nsys.exit(0)")
    result = make_task(operator).run()
    assert isinstance(result.error, StatementFailed)
    assert result.error.error_name == "SystemExit"


@JOBS
def test_a_kill(place, make, make_task):
    """In the middle of its second cell."""
    endless = "import time\nwhile True: time.sleep(0.05)"
    killed = make("'first'", endless)
    one = make_task(killed)
    folder = None

    def second_cell_runs() -> bool:
        nonlocal folder
        record = one.supervisor.store.get("glueray_run") or {}
        if not record.get("run_id"):
            return False
        folder = one.running.hook.storage.folder(
            f"{place.staging_uri}/calls/walk-{killed.task_id}/{record['client_token']}"
        )
        return folder.read("cell-2.json") is not None

    one.kill_when(second_cell_runs)
    assert isinstance(one.run().error, RunStopped)


@pytest.mark.only("ray", "kuberay", local=True)
def test_settings_reach_the_run(place, make, make_task):
    """Those of the magics and those of the operator, which win."""
    operator = make(
        "%number_of_workers 3\n%object_memory_head 20\n%idle_timeout 7", "1", number_of_workers=4, tags={"team": "etl"}
    )
    result = make_task(operator).run()

    if place.backend == "ray-job":
        # A cluster that runs has its object store already.
        assert "object_store_memory_head: it is set when a Ray cluster is started" in str(result.error)
    else:
        assert result.state == "success", result.error
        [rayjob] = place.kubernetes.rayjobs.values()
        [workers] = rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        assert workers["maxReplicas"] == 4
        assert "object-store-memory" in rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]
        assert '"team": "etl"' in rayjob["metadata"]["annotations"]["glueray/tags"]


@pytest.mark.only("ray", "kuberay", local=True)
def test_what_means_nothing_to_a_job_is_said(place, make, make_task):
    """What is a session's, and another way to wait or ask, in one line and once."""
    operator = make("%idle_timeout 7\n%region us-east-1", "1", verify=True, region_name="us-east-1", queue_timeout=60)
    with capture_logs() as logs:
        result = make_task(operator).run()

    assert result.state == "success", result.error
    said = [line["event"] % tuple(line.get("positional_args", ())) for line in logs]
    (idle,) = (line.partition("no effect: ")[2] for line in said if line.startswith("A notebook is one job here"))
    names = {"idle_timeout", "region_name", "verify", *(["queue_timeout"] if place.name == "ray" else [])}
    assert sorted(idle.split(", ")) == sorted(names)


@JOBS
@pytest.mark.parametrize(
    ("cells", "more", "words"),
    [
        (["%number_of_workers 2", "%number_of_workers 3\n1"], {}, "number_of_workers"),
        (["x = = 1"], {}, "Cell 1 of .* is not Python 3.9"),
        (["1"], {"output_notebook": "s3://no-such-bucket-here/x.ipynb"}, "no-such-bucket-here"),
        (["1"], {"notebook": "s3://glueray-local/missing.ipynb"}, "missing.ipynb"),
        (["1"], {"staging_uri": None}, "staging_uri=None: the cells of a notebook"),
        (["1"], {"session_id": "mine"}, "session_id='mine': sessions are AWS Glue's"),
    ],
)
def test_before_anything_is_started(place, make, make_task, cells, more, words):
    result = make_task(make(*cells, retries=1, **more)).run()

    assert isinstance(result.error, AirflowFailException)
    assert re.search(words, str(result.error)), str(result.error)


@pytest.mark.only("ray", local=True)
def test_the_connection_changes_from_glue(place, make, make_task):
    """The session of an earlier try is stopped, and the notebook runs as a job."""
    hook = GlueRaySessionHook()
    session = hook.create(RaySessionSpec(role="GlueRayRole"), f"left-{uuid4().hex[:8]}", uuid4().hex)
    one = make_task(make("40 + 2", retries=1))
    one.supervisor.store["glueray_session"] = {
        "first_try": 1, "client_token": "m", "name": session.name, "submitted": 1.0, "run_id": session.id,
        "backend": "glue-session", "connection": {"aws_conn_id": "aws_default"},
    }  # fmt: skip
    result = one.run()

    assert result.state == "success", result.error
    assert result.xcoms["glueray_value"] == 42
    # Without a store that outlives a try, nobody knows of the session.
    assert hook.session(session.id)["Status"] in (("STOPPING", "STOPPED") if HAS_STORE else ("READY",))
    hook.stop(session)


@pytest.mark.only("glue")
def test_a_cluster_on_glue(place, make, make_task):
    result = make_task(make("1", cluster="etl/shared")).run()

    assert "on AWS Glue a notebook runs in a session; use session_id" in str(result.error)


@pytest.mark.only("ray")
def test_a_run_that_fails_before_its_first_cell(place, make, make_task):
    """No cell is to blame."""
    result = make_task(make("1", py_modules=[f"{place.staging_uri}/never-there.zip"])).run()

    assert type(result.error) is RunFailed
    assert "Cell 1" not in str(result.error)


@pytest.mark.only("glue")
def test_while_the_dag_is_parsed(place, make):
    with pytest.raises(SpecError, match="number_of_workers=0"):
        make("1", number_of_workers=0)
