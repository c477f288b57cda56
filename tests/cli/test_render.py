"""`glueray render`: what is printed is what is sent, and nothing is sent."""

from __future__ import annotations

import importlib.util
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_glueray.cli.main import main

EXAMPLES = Path(__file__).parents[2] / "example_dags"
DAG = """
from airflow.sdk import DAG, Param, task
from airflow_provider_glueray.operators.glue_jobs import GlueRayJobOperator

with DAG("rendered", schedule=None, params={"workers": Param(3, type="integer")}) as dag:
    GlueRayJobOperator(
        task_id="step", script="step.py", role="GlueRayRole", staging_uri="s3://glueray-local/render",
        arguments={"day": "{{ ds }}"}, number_of_workers="{{ params.workers }}", conn_id="aws_default",
        overrides={"ray": {"entrypoint_num_cpus": 1}, "kuberay": {"image": "ours/ray:1"}}, wait_for_completion=False,
    )
    GlueRayJobOperator(task_id="late", script="step.py", arguments={"of": "{{ ti.xcom_pull('step') }}"})

    @task
    def plain():
        pass

    @task.glue_ray(role="GlueRayRole", staging_uri="s3://glueray-local/render")
    def mapped(one):
        return one

    plain()
    mapped.expand(one=[1, 2])
"""


@pytest.fixture
def dag_file(tmp_path: Path) -> str:
    (tmp_path / "step.py").write_text("print('hello')\n")
    (tmp_path / "rendered.py").write_text(DAG)
    return str(tmp_path / "rendered.py")


@pytest.fixture
def render(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Return what renders and gives the JSON that was printed."""

    def run(*arguments: str) -> Any:
        assert main(["render", *arguments, "--json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    return run


def test_what_is_printed_is_what_is_sent(connected, dag_file, render, make_task):
    """Rendered without a connection, then run on the endpoint: but for the mark and the run's id, the same."""
    said = render(dag_file, "step")
    assert connected.calls() == {}
    spec = importlib.util.spec_from_file_location("rendered_dag", dag_file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    step = module.dag.get_task("step")
    step.arguments, step.number_of_workers = {"day": "2026-01-01"}, 3
    run_id = make_task(step).run().xcoms["return_value"]
    hook = step.hook
    job = hook.get_job("rendered-step")
    run = hook._client_for("glue").get_job_run(JobName="rendered-step", RunId=run_id)["JobRun"]

    sent = {name: job[name] for name in said["CreateJob"] if name != "Tags"}
    assert sent == {name: value for name, value in said["CreateJob"].items() if name != "Tags"}
    passing = ("--glueray_client_token", "--airflow_run_id")
    assert {name: text for name, text in run["Arguments"].items() if name not in passing} == {
        name: text for name, text in said["StartJobRun"]["Arguments"].items() if name not in passing
    }
    assert run["NumberOfWorkers"] == said["StartJobRun"]["NumberOfWorkers"] == 3


def test_the_commands_say_the_same(dag_file, capsys):
    """They can be pasted into a shell: JSON and all."""
    assert main(["render", dag_file, "step"]) == 0
    out = capsys.readouterr().out
    lines = [shlex.split(line) for line in out.splitlines() if line.startswith("aws ")]

    assert [words[:3] for words in lines] == [["aws", "s3", "cp"], ["aws", "glue", "create-job"],
                                              ["aws", "glue", "start-job-run"]]  # fmt: skip
    assert json.loads(lines[1][-1])["Command"]["ScriptLocation"] == lines[0][-1]
    assert main(["render", dag_file, "step", "--to", "ray"]) == 0
    command = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("ray job submit"))
    words = shlex.split(command)
    body = json.loads(words[words.index("--runtime-env-json") + 1])
    assert body["env_vars"]["day"] == "2026-01-01"
    assert words[words.index("--entrypoint-num-cpus") + 1] == "1"
    assert words[words.index("--") + 1 : words.index("--") + 3] == ["python", "-m"]


def test_every_example_renders_everywhere(render):
    """Its jobs and functions, also mapped ones."""
    for file, task in (
        ("customer_reviews_nightly", "clean"), ("movie_ratings_nightly", "start"), ("hundreds_of_sources", "profile"),
        ("hundreds_of_sources", "profile_all"),
    ):  # fmt: skip
        said = {to: render(str(EXAMPLES / f"{file}.py"), task, "--to", to) for to in ("glue", "ray", "kuberay")}
        assert said["glue"]["CreateJob"]["Command"]["Name"] == "glueray"
        assert said["ray"]["POST /api/jobs/"]["submission_id"].startswith("glueray-")
        assert said["kuberay"]["RayJob"]["kind"] == "RayJob"
        calls = said["glue"]["StartJobRun"]["Arguments"].get("--glueray_call", "")
        assert calls.startswith("s3://glueray-local/staging/calls/") == task.startswith("profile")


def test_a_notebook(render):
    """A session with its statements, or one job with the cells beside it."""
    task = (str(EXAMPLES / "customer_reviews_notebook.py"), "walk")
    glue, ray, kuberay = (render(*task, "--to", to) for to in ("glue", "ray", "kuberay"))

    assert glue["CreateSession"]["Command"]["Name"] == "glueray"
    cells = [name for name in glue if name.startswith("RunStatement")]
    assert [cell["number"] for cell in ray["cells.json"]] == [int(name.split()[-1]) for name in cells]
    assert all(cell["code"] in glue[f"RunStatement of cell {cell['number']}"]["Code"] for cell in ray["cells.json"][:3])
    folder = ray["POST /api/jobs/"]["runtime_env"]["env_vars"]["glueray_call"]
    assert folder.startswith("s3://glueray-local/staging/calls/customer_reviews_notebook-walk/")
    assert kuberay["cells.json"] == ray["cells.json"]
    assert kuberay["RayJob"]["metadata"]["labels"]["glueray/task"] == "walk"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nobody"], "has a task 'nobody'; there are rendered: "),
        (["plain"], "only GlueRayJobOperator, GlueRayNotebookOperator and @task.glue_ray can be rendered"),
        (["late"], "cannot be rendered without a run"),
        (["step", "--dag-id", "other"], "no DAG of"),
    ],
)
def test_what_cannot_be_rendered(dag_file, capsys, arguments, words):
    assert main(["render", dag_file, *arguments]) == 1
    said = capsys.readouterr()
    assert words in said.err
    assert said.out == ""


def test_a_file_that_is_not_there(tmp_path, capsys):
    """Airflow would find no DAG in it, and say no more."""
    path = tmp_path / "none.py"

    assert main(["render", str(path), "step"]) == 1
    assert capsys.readouterr() == ("", f"glueray render: there is no file {path}\n")


def test_a_file_that_does_not_parse(tmp_path, capsys):
    (tmp_path / "broken.py").write_text("from airflow.sdk import DAG\n1 / 0\n")

    assert main(["render", str(tmp_path / "broken.py"), "step"]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
