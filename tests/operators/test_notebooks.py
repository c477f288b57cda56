"""The notebook operator through Airflow's real task runner, on local sessions: real kernels, real Ray."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from airflow_provider_glueray.airflow_compat import AirflowFailException
from airflow_provider_glueray.core.errors import RunFailed, RunStopped, RunTimedOut, SpecError, StatementFailed
from airflow_provider_glueray.core.runs import RunRef
from airflow_provider_glueray.hooks.glue.sessions import GlueRaySessionHook
from airflow_provider_glueray.operators.notebooks import GlueRayNotebookOperator
from tests.gates import waits_for
from tests.runner import capture_logs, serialize, stored_id

PARAMETERS = new_code_cell("day = 'never'\nlimit = 1", metadata={"tags": ["parameters"]})


@pytest.fixture(autouse=True)
def defer_at_once(set_waits: Any) -> None:
    """So that a test which is deferred is deferred for every cell."""
    set_waits(linger=0)


class WorkerDied(BaseException):
    """Stands for SIGKILL: nothing after it runs."""


@pytest.fixture
def hook(connected) -> GlueRaySessionHook:
    return GlueRaySessionHook()


@pytest.fixture(scope="module")
def session(live_session: RunRef) -> str:
    """Return the id of a session that is up; no test may end it."""
    return live_session.id


@pytest.fixture
def make(dag, tmp_path: Path, fresh):
    """Return a factory of operators that run a notebook with the given cells; texts are code."""

    def make(*cells: Any, **kwargs: Any) -> GlueRayNotebookOperator:
        number = fresh()
        source = tmp_path / f"walk-{number}.ipynb"
        coded = [new_code_cell(cell) if isinstance(cell, str) else cell for cell in cells]
        source.write_text(nbformat.writes(new_notebook(cells=coded)))
        given = {
            "task_id": f"notebook-{number}", "notebook": source, "output_notebook": tmp_path / f"out-{number}.ipynb",
            "role": "GlueRayRole", "deferrable": False, "poll_interval": 1, "dag": dag, **kwargs,
        }  # fmt: skip
        return GlueRayNotebookOperator(**given)

    return make


def executed(operator: GlueRayNotebookOperator) -> Any:
    """Return the executed notebook's code cells, which have to be valid nbformat."""
    notebook = nbformat.read(operator.output_notebook, as_version=4)
    nbformat.validate(notebook)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def statuses(operator: GlueRayNotebookOperator) -> list[str]:
    return [cell.metadata["papermill"]["status"] for cell in executed(operator)]


def sessions_of(hook: GlueRaySessionHook, operator: GlueRayNotebookOperator) -> list[dict[str, Any]]:
    return list(hook.list_sessions({"airflow_task_id": operator.task_id}))


def assert_stopped(hook: GlueRaySessionHook, operator: GlueRayNotebookOperator, count: int = 1) -> None:
    made = sessions_of(hook, operator)
    assert len(made) == count
    for session in made:
        ref = RunRef("glue-session", session["Id"], session["Id"])
        for _ in range(100):
            if hook.describe([ref])[ref].is_over:
                break
            asyncio.run(asyncio.sleep(0.1))
        else:
            raise AssertionError(session)


def said(logs: list[dict[str, Any]]) -> list[str]:
    return [line["event"] % tuple(line.get("positional_args", ())) for line in logs]


def test_a_whole_notebook(hook, make, make_task):
    """Parameters in; outputs, times and the value out; the session has the magics' settings and is stopped."""
    operator = make(
        new_markdown_cell("# A walk"),
        "%glue_ray\n%number_of_workers 3\n%idle_timeout 7\n%%tags\n{'team': 'data'}",
        PARAMETERS,
        "import ray\nray.init('auto', ignore_reinit_error=True)\nprint('on', len(ray.nodes()), 'nodes, day', day)",
        "class Table:\n    def _repr_html_(self): return '<table/>'\nTable()",
        "%%time\nreturn_value = {'day': day, 'limit': limit * 2}",
        parameters={"day": "{{ ds }}", "limit": 21},
    )
    with capture_logs() as logs:
        result = make_task(operator).run_to_end()

    assert result.state == "success"
    assert result.xcoms["return_value"] == operator.output_notebook
    assert result.xcoms["glueray_value"] == {"day": "2026-11-21", "limit": 42}
    assert result.xcoms["glueray_usage"]["workers"] == 3
    assert "/_glueray/sessions/" in result.xcoms["_link_GlueRayRunLink"]
    magics, _, injected, greeting, table, last = executed(operator)
    assert (magics.outputs, magics.metadata["papermill"]["status"]) == ([], "completed")
    assert injected.source == "# Parameters\nday = '2026-11-21'\nlimit = 21"
    assert greeting.outputs[0].text.endswith("on 2 nodes, day 2026-11-21\n")
    assert greeting.metadata["papermill"]["duration"] > 0
    assert table.outputs[0].data["text/html"] == "<table/>"
    assert last.outputs == []
    assert said(logs).count("on 2 nodes, day 2026-11-21") == 1
    (made,) = sessions_of(hook, operator)
    assert (made["NumberOfWorkers"], made["IdleTimeout"]) == (3, 7)
    assert [one["Id"] for one in hook.list_sessions({"team": "data"})].count(made["Id"]) == 1
    assert_stopped(hook, operator)


def test_short_cells_are_waited_for_in_the_worker(hook, make, make_task, session, set_waits, tmp_path):
    """A deferral costs more than they take; only what is long is handed to the triggerer."""
    set_waits(linger=1)
    operator = make("1", f"{waits_for(tmp_path / 'gate')}\n2", "3", session_id=session, deferrable=True)
    task = make_task(operator)
    result = task.run()

    assert (result.state, statuses(operator)) == ("deferred", ["completed", "pending", "pending"])
    (tmp_path / "gate").touch()
    result = task.to_end(result)
    assert (result.state, statuses(operator)) == ("success", ["completed"] * 3)


def test_a_look_that_is_throttled_is_no_end_of_a_cell(make, make_task, session, set_waits, connected):
    """Neither while it is waited for in the worker nor afterwards."""
    set_waits(linger=60)
    operator = make("1", "2", session_id=session, deferrable=True)
    connected.faults(throttle_next={"GetStatement": 12})
    result = make_task(operator).run()

    assert (result.state, statuses(operator)) == ("success", ["completed"] * 2), result.error
    assert connected.faults()["throttle_next"].get("GetStatement", 0) == 0


def test_a_cell_that_fails(hook, make, make_task):
    """The error shows the cell; the executed notebook has all that has run, and the error; nothing is left up."""
    operator = make("1 + 1", "print('so far')\nraise ValueError('odd')", "3", deferrable=True, retries=1)
    result = make_task(operator).run_to_end()

    assert result.state == "up_for_retry"
    assert isinstance(result.error, StatementFailed)
    assert f"Cell 2 of {operator.notebook} failed" in str(result.error)
    assert "  raise ValueError('odd')" in str(result.error)
    assert statuses(operator) == ["completed", "failed", "pending"]
    one, two, three = executed(operator)
    assert one.outputs[0].data["text/plain"] == "2"
    assert [output.output_type for output in two.outputs] == ["stream", "error"]
    assert (two.outputs[1].ename, two.outputs[1].evalue) == ("ValueError", "odd")
    assert (three.outputs, three.execution_count) == ([], None)
    assert_stopped(hook, operator)


def test_in_a_session_of_others(hook, make, make_task, session):
    """Two notebooks share what is in it, and leave it up."""
    first = make("shared = 40", session_id=session, role=None)
    second = make("%number_of_workers 9\nshared + 2", session_id=session, role=None)

    assert make_task(first).run_to_end().state == "success"
    assert make_task(second).run_to_end().xcoms["glueray_value"] == 42
    assert hook.session(session)["Status"] == "READY"
    assert sessions_of(hook, second) == []


@pytest.mark.parametrize("is_stored", [True, False])
def test_a_retry_goes_on_where_the_worker_died(hook, make, make_task, is_stored):
    """In the same session, with what is in it; no cell runs twice, and all outputs are in the notebook."""
    operator = make("ran = []", "ran.append(2)", "ran.append(3)", "ran", retries=2, deferrable=True)
    task = make_task(operator)

    def die(message: Any) -> None:
        if stored_id(message, "glueray_cell_3"):
            raise WorkerDied

    task.supervisor.before = die
    result = task.run()
    while result.state == "deferred":
        result = task.resume(result)
    assert isinstance(result.error, WorkerDied)
    assert statuses(operator) == ["completed", "completed", "pending", "pending"]
    task.supervisor.before = lambda message: None
    if not is_stored:
        task.lose_store()
    result = task.retry()
    while result.state == "deferred":
        result = task.resume(result)

    assert result.xcoms["glueray_value"] == [2, 3]
    assert statuses(operator) == ["completed"] * 4
    assert_stopped(hook, operator)
    assert task.retry().xcoms["return_value"] == operator.output_notebook
    assert len(sessions_of(hook, operator)) == 1
    assert task.clear().state in {"success", "deferred"}
    assert len(sessions_of(hook, operator)) == 2
    for made in sessions_of(hook, operator):
        hook.stop(RunRef("glue-session", made["Id"], made["Id"]))


def test_a_session_that_dies_in_the_middle(hook, make, make_task):
    """Which cells ran is not lost; a retry begins anew in a new session."""
    operator = make("print('first')", "import os\nos._exit(9)", "3", retries=1)
    task = make_task(operator)
    result = task.run()

    assert isinstance(result.error, RunFailed)
    assert f"Cell 2 of {operator.notebook} failed" in str(result.error)
    assert statuses(operator) == ["completed", "failed", "pending"]
    assert executed(operator)[0].outputs[0].text == "first\n"
    task.retry()
    assert [len(hook.statements(made["Id"])) for made in sessions_of(hook, operator)] == [2, 2]
    assert_stopped(hook, operator, 2)


def test_kill_and_deadline(hook, make, make_task):
    """Killed in the worker or in the triggerer, or too slow: the notebook's session is stopped."""
    endless = "import time\nwhile True: time.sleep(0.05)"
    killed = make("1", endless)
    task = make_task(killed)
    task.kill_when(lambda: any(len(hook.statements(made["Id"])) == 2 for made in sessions_of(hook, killed)))
    assert isinstance(task.run().error, RunStopped)
    assert statuses(killed) == ["completed", "failed"]

    deferred = make("1", endless, deferrable=True)
    task = make_task(deferred)
    result = task.run()
    for _ in range(2):
        result = task.resume(result)
    assert result.message.trigger_kwargs
    asyncio.run(task.trigger_of(result).on_kill())

    late = make(endless, run_timeout=1)
    assert isinstance(make_task(late).run().error, RunTimedOut)
    for operator in (killed, deferred, late):
        assert_stopped(hook, operator)


def test_a_deferral_timeout(hook, make, make_task, connected):
    """Airflow's own end of a deferral ends the cell, or the session that was not ready; the notebook says so."""
    operator = make("1", "import time\nwhile True: time.sleep(0.05)", deferrable=True, retries=1)
    task = make_task(operator)
    result = task.run()
    for _ in range(2):
        result = task.resume(result)
    result = task.run("__fail__", serialize({"error": "Trigger timeout"}))
    assert isinstance(result.error, RunTimedOut)
    assert statuses(operator) == ["completed", "failed"]
    assert_stopped(hook, operator)

    connected.faults(provisioning_seconds=3600)
    operator = make("1", deferrable=True)
    task = make_task(operator)
    task.run()
    assert isinstance(task.run("__fail__", serialize({"error": "Trigger timeout"})).error, RunTimedOut)
    assert_stopped(hook, operator)


@pytest.mark.full
def test_a_cell_that_prints_a_lot(hook, make, make_task, session, connected):
    """Bounded in the log and in the notebook; whole in a file beside it. In S3 as on disk."""
    s3 = boto3.client(
        "s3", endpoint_url=connected.url, region_name=connected.region, aws_access_key_id="x", aws_secret_access_key="x"
    )
    place = f"s3://glueray-local/notebooks/{uuid4().hex}/walk.ipynb"
    operator = make("print('x' * 50_000_000)\n5", session_id=session, output_notebook=place)
    with capture_logs() as logs:
        result = make_task(operator).run()

    assert result.xcoms["return_value"] == place
    assert result.xcoms["glueray_value"] == 5
    assert sum(map(len, said(logs))) < 300_000
    key = place.removeprefix("s3://glueray-local/")
    notebook = nbformat.reads(s3.get_object(Bucket="glueray-local", Key=key)["Body"].read().decode(), as_version=4)
    nbformat.validate(notebook)
    assert "walk-cell-1.txt" in notebook.cells[0].outputs[0].text
    assert len(notebook.cells[0].outputs[0].text) < 200_000
    whole = s3.head_object(Bucket="glueray-local", Key=key.replace("walk.ipynb", "walk-cell-1.txt"))
    assert whole["ContentLength"] == 50_000_001


def test_all_settings_of_the_magics_arrive(hook, make, make_task, connected):
    """Nothing that a notebook asks for is left out; the operator's own words win."""
    connected.faults(provisioning_seconds=3600)
    operator = make(
        "%number_of_workers 3\n%min_workers 1\n%timeout 77\n%session_id_prefix walk\n%object_memory_head 20",
        "%%configure\n{'pip-install': 'emoji==2.0', 'working-dir': 's3://b/w.zip', 'enable-glue-datacatalog': 'true',"
        " 'logging_configuration': {'CLOUDWATCH_METRICS': {'IS_ENABLED': 'False'}}}",
        "1",
        number_of_workers=4,
        deferrable=True,
    )
    task = make_task(operator)
    result = task.run()

    (made,) = sessions_of(hook, operator)
    assert made["Id"].startswith(f"walk-{operator.task_id}-")
    assert made["NumberOfWorkers"] == 4
    assert (
        made["DefaultArguments"].items()
        >= {
            "--auto-scaling-ray-min-workers": "1",
            "--object_store_memory_head": "20",
            "--pip-install": "emoji==2.0",
            "--working-dir": "s3://b/w.zip",
            "--enable-glue-datacatalog": "true",
            "--logging_configuration": '{"CLOUDWATCH_METRICS": {"IS_ENABLED": "False"}}',
        }.items()
    )
    asyncio.run(task.trigger_of(result).on_kill())


class TestBadInput:
    """Nothing is started for a notebook that cannot be run."""

    @pytest.mark.parametrize(
        ("cells", "more", "words"),
        [
            (["%number_of_workers 2", "%number_of_workers 3\n1"], {}, "number_of_workers"),
            (["%glue_ray", "%spark_conf x=y\n1"], {}, "%spark_conf x=y"),
            (["%%sql\nselect 1"], {}, "%%sql"),
            (["x = = 1"], {}, "Cell 1 of .* is not Python 3.9"),
            (["1"], {"parameters": {"not a name": 1}}, "not a name"),
            (["1"], {"output_notebook": "s3://no-such-bucket-here/x.ipynb"}, "no-such-bucket-here"),
            (["1"], {"notebook": "missing.ipynb"}, "missing.ipynb"),
            (["1"], {"notebook": "s3://glueray-local/missing.ipynb"}, "missing.ipynb"),
            (["1"], {"role": None}, "role"),
            (["%%configure\n{'working-dir': 'here.zip'}", "1"], {}, "here.zip"),
            (["#" + "x" * 70_000 + "\n1"], {}, "at most 68000"),
        ],
    )
    def test_before_anything_is_started(self, hook, make, make_task, cells, more, words):
        operator = make(*cells, retries=1, **more)
        result = make_task(operator).run()

        assert isinstance(result.error, AirflowFailException)
        assert re.search(words, str(result.error)), str(result.error)
        assert sessions_of(hook, operator) == []

    def test_a_notebook_of_another_format(self, hook, make, make_task, tmp_path):
        (tmp_path / "old.ipynb").write_text('{"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": []}')
        result = make_task(make("1", notebook=tmp_path / "old.ipynb", retries=1)).run()

        assert isinstance(result.error, AirflowFailException)
        assert "format 3" in str(result.error)

    def test_while_the_dag_is_parsed(self, make):
        with pytest.raises(SpecError, match="number_of_workers=0"):
            make("1", number_of_workers=0)
