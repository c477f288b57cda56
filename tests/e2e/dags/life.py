"""One DAG per kind of task whose life the tests play with. All of them run the script beside this file."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG

from airflow_provider_glueray.operators.glue_jobs import GlueRayJobOperator
from airflow_provider_glueray.operators.session_group import glue_ray_session

STEP: dict[str, Any] = {
    "task_id": "step",
    "script": "gated.py",
    "role": "GlueRayRole",
    "staging_uri": "s3://glueray-local/code",
    "poll_interval": 1,
    "retry_delay": timedelta(seconds=1),
}
CROWD = 12
KINDS: dict[str, dict[str, Any]] = {
    "deferred": {"max_concurrent_runs": 20, "arguments": {"use_ray": "yes"}},
    "marked": {},
    "cleared": {},
    "in_worker": {"deferrable": False},
    "retried": {"deferrable": False, "retries": 1, "max_concurrent_runs": 2},
    "timed_out": {"run_timeout": 2},
    # Long enough for a busy worker to start the run and let go: Airflow has other words for a worker that is late.
    "overdue": {"run_timeout": None, "execution_timeout": timedelta(seconds=30)},
    "alone": {"max_concurrent_runs": 1},
    "on_ray": {"conn_id": "ray_default", "arguments": {"use_ray": "yes"}},
}

for kind, own in KINDS.items():
    with DAG(f"e2e_{kind}", schedule=None):
        GlueRayJobOperator(**{**STEP, **own})

with DAG("e2e_crowd", schedule=None, max_active_tasks=100):
    GlueRayJobOperator.partial(**STEP, max_concurrent_runs=100).expand(arguments=[{"number": n} for n in range(CROWD)])

with DAG("e2e_session", schedule=None), glue_ray_session(role="GlueRayRole", poll_interval=1) as session:
    session.statement("step", "import time\nwhile True: time.sleep(0.05)")
