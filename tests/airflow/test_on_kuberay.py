"""The same tasks where the connection leads to Kubernetes: a stand-in for its API, and the driver's part is played."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, task

from airflow_provider_glueray.errors import FunctionFailed, RunFailed, RunStopped
from airflow_provider_glueray.operators.glue_jobs import GlueRayJobOperator

_api = importlib.util.spec_from_file_location(
    "kubernetes_api", Path(__file__).parents[1] / "hooks" / "kubernetes_api.py"
)
assert _api is not None
assert _api.loader is not None
kubernetes_api = importlib.util.module_from_spec(_api)
sys.modules["kubernetes_api"] = kubernetes_api
_api.loader.exec_module(kubernetes_api)

pytestmark = pytest.mark.skipif(not kubernetes_api.CRDS.is_dir(), reason=kubernetes_api.NO_CRDS)

START, END = "2026-03-01T02:00:00Z", "2026-03-01T02:10:00Z"
RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING", "startTime": START}
DONE = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED", "startTime": START, "endTime": END}
BROKEN = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "AppFailed", "message": "exit code 7"}


@pytest.fixture
def cluster(connected, monkeypatch) -> Iterator[Any]:
    """Return a cluster with KubeRay in it, where the connection `where` leads."""
    with kubernetes_api.serving() as running:
        conn = running.config(kuberay={"image": "ours/ray:2.60.0", "ray_version": "2.60.0"})
        monkeypatch.setenv("AIRFLOW_CONN_WHERE", json.dumps(conn))
        yield running


@pytest.fixture
def make_step(dag: DAG, tmp_path: Path) -> Callable[..., GlueRayJobOperator]:
    def make(**kwargs: Any) -> GlueRayJobOperator:
        (tmp_path / "step.py").write_text("print('never run')\n")
        settings = {"role": "GlueRayRole", "staging": "s3://glueray-local/kuberay", "deferrable": False, "dag": dag}
        settings |= {"conn_id": "where", "task_id": "step", "script": str(tmp_path / "step.py"), "poll_seconds": 1}
        return GlueRayJobOperator(**{**settings, **kwargs})

    return make


def play(cluster: Any, *statuses: dict[str, Any], then: Callable[[dict[str, Any]], None] = lambda rayjob: None) -> None:
    """Let the first RayJob that is made go through statuses, and do something before its end."""

    def go() -> None:
        while not cluster.rayjobs:
            time.sleep(0.05)
        [(place, rayjob)] = cluster.rayjobs.items()
        then(rayjob)
        cluster.play("/".join(place), *statuses)

    threading.Thread(target=go, daemon=True).start()


@pytest.mark.parametrize("deferrable", [False, True])
def test_it_runs(cluster, make_step, make_task, deferrable):
    play(cluster, RUNNING, DONE)
    result = make_task(make_step(deferrable=deferrable, arguments={"day": "{{ ds }}"})).run_to_end()

    assert result.state == "success", result.error
    [((namespace, name), rayjob)] = cluster.rayjobs.items()
    assert result.xcoms["return_value"] == f"{namespace}/{name}"
    assert result.xcoms["glueray_run"]["backend"] == "kuberay-job"
    assert rayjob["metadata"]["labels"]["glueray/dag"] == "walk"
    assert rayjob["spec"]["activeDeadlineSeconds"] == 48 * 3600
    head = rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    env = {each["name"]: each["value"] for each in head["env"] if "value" in each}
    assert env["GLUERAY_SCRIPT"].startswith("s3://glueray-local/kuberay/step-")
    assert env["day"] == "2026-11-21"


@pytest.mark.parametrize("deferrable", [False, True])
def test_it_fails_in_words(cluster, make_step, make_task, deferrable):
    play(cluster, RUNNING, BROKEN)
    result = make_task(make_step(deferrable=deferrable)).run_to_end()

    assert type(result.error) is RunFailed
    assert "exit code 7" in str(result.error)


def test_a_retry_takes_up_the_run(cluster, make_step, make_task):
    one = make_task(make_step(retries=1))

    def die(message):
        if getattr(message, "key", "") == "_link_GlueRayRunLink":
            raise ConnectionError("the worker is gone")

    one.supervisor.before = die
    one.run()
    one.supervisor.before = lambda message: None
    play(cluster, RUNNING, DONE)
    result = one.retry()

    assert result.state == "success", result.error
    assert len(cluster.rayjobs) == 1


def test_a_kill_suspends_it(cluster, make_step, make_task):
    one = make_task(make_step())
    one.kill_when(lambda: "glueray_run" in one.supervisor.xcoms)

    assert isinstance(one.run().error, RunStopped)
    [rayjob] = cluster.rayjobs.values()
    assert rayjob["spec"]["suspend"] is True


def test_a_function(cluster, dag, make_task):
    """Its arguments lie in S3 when the RayJob is made; what the driver leaves there comes back."""

    def add(one, other):
        return one + other

    def work(rayjob: dict[str, Any]) -> None:
        head = rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
        env = {each["name"]: each["value"] for each in head["env"] if "value" in each}
        folder = step.hook.storage.folder(env["glueray_call"])
        call = json.loads(folder.read("call.json"))
        with folder.write("result.json") as file:
            file.write(json.dumps({"value": sum(call["args"]) + call["kwargs"]["other"]}).encode())

    given = {"role": "GlueRayRole", "staging": "s3://glueray-local/kuberay", "dag": dag, "deferrable": False}
    step = task.glue_ray(conn_id="where", **given)(add)(1, other=2).operator
    play(cluster, RUNNING, DONE, then=work)
    result = make_task(step).run()

    assert result.state == "success", result.error
    assert result.xcoms["return_value"] == 3


def test_a_function_that_raises(cluster, dag, make_task):
    def odd():
        raise ValueError

    def work(rayjob: dict[str, Any]) -> None:
        head = rayjob["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
        env = {each["name"]: each["value"] for each in head["env"] if "value" in each}
        with step.hook.storage.folder(env["glueray_call"]).write("result.json") as file:
            error = {"name": "ValueError", "value": "odd", "traceback": "Traceback …\nValueError: odd"}
            file.write(json.dumps({"error": error}).encode())

    given = {"role": "GlueRayRole", "staging": "s3://glueray-local/kuberay", "dag": dag, "deferrable": False}
    step = task.glue_ray(conn_id="where", **given)(odd)().operator
    play(cluster, RUNNING, BROKEN, then=work)
    result = make_task(step).run()

    assert isinstance(result.error, FunctionFailed)
    assert result.error.error_name == "ValueError"
