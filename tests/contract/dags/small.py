"""One small DAG with every way to write a step: the tests run it in both modes, and wherever a connection leads."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from airflow.sdk import Asset, Param, dag, task

from airflow_provider_glueray.operators.glue_jobs import GlueRayJobOperator
from airflow_provider_glueray.operators.notebooks import GlueRayNotebookOperator

STAGING = "s3://glueray-local/small/staging"


def make(dag_id: str, conn_id: str, *, deferrable: bool) -> None:
    """Make the DAG for a connection and a mode: a script, a function that takes the table of another, a notebook."""
    given: dict[str, Any] = {"role": "GlueRayRole", "staging_uri": STAGING, "poll_interval": 1}
    given |= {"conn_id": conn_id, "deferrable": deferrable}

    @dag(
        dag_id=dag_id,
        schedule=None,
        start_date=datetime(2026, 1, 1, tzinfo=timezone.utc),
        params={"most": Param(4, type="integer")},
    )
    def small() -> None:
        counted = GlueRayJobOperator(
            task_id="counted",
            script="small_step.py",
            arguments={"most": "{{ params.most }}"},
            outlets=[Asset("s3://glueray-local/small/out")],
            **given,
        )

        @task.glue_ray(**given)
        def squares(most):
            import pandas as pd
            import ray

            ray.init("auto", ignore_reinit_error=True)
            square = ray.remote(lambda number: number * number)
            return pd.DataFrame({"n": ray.get([square.remote(number) for number in range(int(most))])})

        @task.glue_ray(**given)
        def total(frame):
            return int(frame["n"].sum())

        walk = GlueRayNotebookOperator(
            task_id="walk",
            notebook="small.ipynb",
            output_notebook="s3://glueray-local/small/{{ dag.dag_id }}/out.ipynb",
            parameters={"most": "{{ params.most }}"},
            **given,
        )
        counted >> walk
        total(squares("{{ params.most }}"))

    small()


make("small_worker", "aws_default", deferrable=False)
make("small_deferred", "aws_default", deferrable=True)
make("small_ray", "ray_default", deferrable=True)
make("small_kuberay", "kubernetes_default", deferrable=True)
