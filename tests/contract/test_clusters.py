"""Several steps on one cluster: shared on KubeRay, and the same DAG where each run has a cluster or one is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
from airflow.sdk import DAG, task
from nbformat.v4 import new_code_cell, new_notebook

from airflow_provider_glueray.core.errors import RunStopped
from airflow_provider_glueray.operators.cluster_group import glue_ray_cluster


def test_steps_on_one_cluster(place, dag: DAG, make_task, tmp_path: Path):
    """A script, a function and a notebook between setup and teardown; what they print and return is their own."""

    def add(one: int, other: str) -> Any:
        import os

        return [one + 1, other, os.environ["airflow_task_id"]]  # noqa: SIM112

    (tmp_path / "step.py").write_text("import os\nprint('day', os.environ['day'], '$HOME `x` \"q\"')\n")
    (tmp_path / "walk.ipynb").write_text(nbformat.writes(new_notebook(cells=[new_code_cell("day + '!'")])))
    shared = {
        "conn_id": "where",
        "deferrable": False,
        "poll_interval": 1,
        "role": place.role,
        "staging_uri": place.staging_uri,
    }
    with dag, glue_ray_cluster(**shared) as cluster:
        script = cluster.script("script", tmp_path / "step.py", arguments={"day": "{{ ds }}", "odd": "$HOME 'x' `y`"})
        function = task.glue_ray(cluster=cluster.id, conn_id="where", role=place.role, staging_uri=place.staging_uri)(
            add
        )
        called = function(1, "$x `y`").operator
        walk = cluster.notebook(
            "walk", tmp_path / "walk.ipynb", output_notebook=tmp_path / "out.ipynb", parameters={"day": "{{ ds }}"}
        )
    made = make_task(cluster.create).run_to_end()
    assert made.state == "success", made.error
    where = made.xcoms["return_value"]
    assert bool(where) == (place.backend == "kuberay-job")
    for operator in (script, called, walk, cluster.delete):
        operator.cluster = where

    assert make_task(script).run().state == "success"
    assert make_task(called).run().xcoms["return_value"] == [2, "$x `y`", "cluster.add"]
    assert make_task(walk).run().xcoms["glueray_value"] == "2026-11-21!"
    if place.kubernetes is not None:
        rayjobs = list(place.kubernetes.rayjobs.values())
        assert len(rayjobs) == 3
        assert {each["spec"]["clusterSelector"]["ray.io/cluster"] for each in rayjobs} == {where.split("/")[1]}
    ended = make_task(cluster.delete).run_to_end()
    assert ended.state == "success", ended.error
    if place.kubernetes is not None:
        assert place.kubernetes.rayclusters == {}


def test_a_kill_in_a_shared_cluster(place, dag: DAG, make_task, tmp_path: Path):
    """The run ends, the cluster stays."""
    (tmp_path / "step.py").write_text("import time\nprint('begun', flush=True)\ntime.sleep(120)\n")
    shared = {
        "conn_id": "where",
        "deferrable": False,
        "poll_interval": 1,
        "role": place.role,
        "staging_uri": place.staging_uri,
    }
    with dag, glue_ray_cluster(**shared) as cluster:
        step = cluster.script("script", tmp_path / "step.py")
    where = make_task(cluster.create).run().xcoms["return_value"]
    step.cluster = cluster.delete.cluster = where
    one = make_task(step)
    one.kill_when(lambda: "glueray_run" in one.supervisor.xcoms)

    assert isinstance(one.run().error, RunStopped)
    if place.kubernetes is not None:
        assert len(place.kubernetes.rayclusters) == 1
    assert make_task(cluster.delete).run().state == "success"
