"""One small DAG with every way to write a step: the tests run it in both modes, and wherever a connection leads."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from airflow.sdk import Asset, Param, dag, task

from airflow_provider_glueray.operators.glue_jobs import GlueRayJobOperator
from airflow_provider_glueray.operators.notebooks import GlueRayNotebookOperator

STAGING = "s3://glueray-local/small/staging"
GIVEN: dict[str, Any] = {"role": "GlueRayRole", "staging": STAGING, "poll_seconds": 1}


@dag(
    dag_id="small",
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    params={"most": Param(4, type="integer")},
)
def small() -> None:
    """A script, a function that takes a table of another one, and a notebook."""
    counted = GlueRayJobOperator(
        task_id="counted",
        script="small_step.py",
        arguments={"most": "{{ params.most }}"},
        outlets=[Asset("s3://glueray-local/small/out")],
        **GIVEN,
    )

    @task.glue_ray(**GIVEN)
    def squares(most):
        import pandas as pd
        import ray

        ray.init("auto", ignore_reinit_error=True)
        square = ray.remote(lambda number: number * number)
        return pd.DataFrame({"n": ray.get([square.remote(number) for number in range(int(most))])})

    @task.glue_ray(**GIVEN)
    def total(frame):
        return int(frame["n"].sum())

    walk = GlueRayNotebookOperator(
        task_id="walk",
        notebook="small.ipynb",
        executed_notebook="s3://glueray-local/small/{{ run_id }}/out.ipynb",
        parameters={"most": "{{ params.most }}"},
        **GIVEN,
    )
    counted >> walk
    total(squares("{{ params.most }}"))


small()
