"""Each right-hand side of the tables in ``docs/coming.md``, rendered; a new row needs its request here."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_provider_glueray import (
    GlueRayCreateClusterOperator,
    GlueRayDeleteClusterOperator,
    GlueRayJobOperator,
    RayJobsHook,
)
from airflow_provider_glueray.cli.main import main

PAGE = (Path(__file__).parents[2] / "docs" / "coming.md").read_text(encoding="utf-8")
#: What comes of each right-hand side: a path into the rendered requests and the value there; or an attribute of the
#: operator, where the request has nothing of it.
ON_RAY = {
    'conn_id="ray"': ("operator.conn_id", "ray"),
    'script="step.py", arguments={"day": "1"}': ("POST /api/jobs/.entrypoint", "--day 1"),
    'pip=["pandas"]': ("POST /api/jobs/.runtime_env.pip", ["pandas"]),
    'working_dir="s3://my-bucket/code.zip"': ("POST /api/jobs/.runtime_env.working_dir", "s3://my-bucket/code.zip"),
    'arguments={"MODE": "fast"}': ("POST /api/jobs/.runtime_env.env_vars.MODE", "fast"),
    'overrides={"ray": {"runtime_env": {"conda": "env.yml"}}}': ("POST /api/jobs/.runtime_env.conda", "env.yml"),
    'overrides={"ray": {"entrypoint_num_cpus": 2}}': ("POST /api/jobs/.entrypoint_num_cpus", 2),
    'overrides={"ray": {"entrypoint_num_gpus": 1}}': ("POST /api/jobs/.entrypoint_num_gpus", 1),
    'overrides={"ray": {"entrypoint_memory": 1024}}': ("POST /api/jobs/.entrypoint_memory", 1024),
    'overrides={"ray": {"entrypoint_resources": {"disk": 1}}}': ("POST /api/jobs/.entrypoint_resources", {"disk": 1}),
    "run_timeout=600": ("operator.run_timeout", 600.0),
    "poll_interval=60": ("operator.poll_interval", 60.0),
    "wait_for_completion=False": ("operator.wait_for_completion", False),
    "deferrable=True": ("operator.deferrable", True),
}
ON_GLUE = {
    'job_name="nightly"': ("CreateJob.Name", "nightly"),
    'script="step.py", staging_uri="s3://my-bucket/staging"': (
        "CreateJob.Command.ScriptLocation",
        "s3://my-bucket/staging/",
    ),
    'script="s3://my-bucket/step.py"': ("CreateJob.Command.ScriptLocation", "s3://my-bucket/step.py"),
    'arguments={"day": "1"}': ("StartJobRun.Arguments.--day", "1"),
    'pip=["pandas==1.5.3"]': ("CreateJob.DefaultArguments.--pip-install", "pandas==1.5.3"),
    "min_workers=2, number_of_workers=5": ("CreateJob.DefaultArguments.--min-workers", "2"),
    'role="GlueRayRole"': ("CreateJob.Role", "GlueRayRole"),
    'role="arn:aws:iam::123456789012:role/R"': ("CreateJob.Role", "arn:aws:iam::123456789012:role/R"),
    "number_of_workers=5": ("CreateJob.NumberOfWorkers", 5),
    'overrides={"glue": {"job": {"SecurityConfiguration": "x"}}}': ("CreateJob.SecurityConfiguration", "x"),
    'overrides={"glue": {"run": {"NotificationProperty": {"NotifyDelayAfter": 5}}}}': (
        "StartJobRun.NotificationProperty",
        {"NotifyDelayAfter": 5},
    ),
    "max_concurrent_runs=3": ("CreateJob.ExecutionProperty.MaxConcurrentRuns", 3),
    'conn_id="aws"': ("operator.conn_id", "aws"),
    "poll_interval=6": ("operator.poll_interval", 6.0),
    "deferrable=True": ("operator.deferrable", True),
    "wait_for_completion=False": ("operator.wait_for_completion", False),
    "retries=1": ("operator.retries", 1),
}


def rows(heading: str) -> list[str]:
    """Return the right-hand sides of the table under a heading, without those that are empty."""
    _, _, after = PAGE.partition(f"{heading}\n")
    table = re.search(r"(?:^\|.*\n)+", after, re.MULTILINE)
    assert table, heading
    sides = [line.strip("|").split(" | ")[-1].strip().strip("`").strip() for line in table[0].splitlines()[2:]]
    return [side for side in sides if side and side != "|"]


def test_every_row_has_its_request():
    assert set(rows("### SubmitRayJob")) == set(ON_RAY)
    assert set(rows("## From GlueJobOperator with a glueray command")) == set(ON_GLUE)
    assert set(rows("### @ray.task")) <= set(ON_RAY)


def rendered(tmp_path: Path, text: str, to: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return the requests of a step with these parameters, as `glueray render` prints them."""
    (tmp_path / "step.py").write_text("print('hello')\n")
    given = eval(f"dict({text})", {})
    defaults = {"script": "step.py", "role": "R", "staging_uri": "s3://my-bucket/staging"}
    arguments = ", ".join(f"{name}={value!r}" for name, value in {**defaults, **given}.items())
    (tmp_path / "dag.py").write_text(
        "from datetime import datetime\nfrom airflow.sdk import DAG\n"
        "from airflow_provider_glueray import GlueRayJobOperator\n"
        f"with DAG('d', schedule=None, start_date=datetime(2026, 1, 1)):\n"
        f"    GlueRayJobOperator(task_id='step', {arguments})\n"
    )
    assert main(["render", str(tmp_path / "dag.py"), "step", "--to", to, "--json"]) == 0
    operator = GlueRayJobOperator(task_id="step", dag=DAG("e", schedule=None), **{**defaults, **given})
    return {"operator": vars(operator), **json.loads(capsys.readouterr().out)}


@pytest.mark.parametrize(
    ("to", "text", "where", "value"),
    [
        *(("ray", text, *expected) for text, expected in ON_RAY.items()),
        *(("glue", text, *expected) for text, expected in ON_GLUE.items()),
    ],
)
def test_a_row_becomes_its_request(tmp_path, capsys, to, text, where, value):
    found: Any = rendered(tmp_path, text, to, capsys)
    for name in where.split("."):
        found = found[name]

    if isinstance(value, str) and where.endswith(("entrypoint", "ScriptLocation")):
        assert value in found
    else:
        assert found == value


def test_a_cluster_of_its_own_is_made_and_deleted():
    with DAG("clusters", schedule=None):
        assert GlueRayCreateClusterOperator(task_id="make", number_of_workers=3).number_of_workers == 3
        assert GlueRayDeleteClusterOperator(task_id="end", cluster="default/c").cluster == "default/c"


def test_the_methods_of_the_hook_are_there():
    names = {side.partition("(")[0] for side in rows("### RayHook")}
    assert names == {"prepare", "describe", "read_logs", "stop"}
    assert all(callable(getattr(RayJobsHook, name)) for name in names)
