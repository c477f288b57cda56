"""One task for each thing that a task may ask for; for the snapshots of `glueray render`."""

from __future__ import annotations

from airflow.sdk import DAG, task

from airflow_provider_glueray.operators.cluster_group import glue_ray_cluster
from airflow_provider_glueray.operators.glue_jobs import GlueRayJobOperator

SPILLING = {"type": "smart_open", "params": {"uri": "s3://glueray-local/spilled"}}

with DAG("everything", schedule=None) as dag:
    GlueRayJobOperator(
        task_id="fixed",
        script="s3://glueray-local/scripts/step.py",
        role="arn:aws:iam::123456789012:role/service-role/GlueRayRole",
        staging_uri="s3://glueray-local/staging",
        job_name="everything of a job",
        arguments={"day": "{{ ds }}", "limits": [1, 2], "price": "5 $HOME", "on": True, "a-b": 1.5},
        number_of_workers=5,
        min_workers=2,
        pip=["polars==1.2.0", "requests~=2.32"],
        py_modules=["s3://glueray-local/modules/one.zip", "s3://glueray-local/modules/two.zip"],
        working_dir="s3://glueray-local/work.zip",
        logging_configuration={"CLOUDWATCH_METRICS": False},
        max_concurrent_runs=3,
        tags={"team": "etl", "tier": "nightly"},
        overrides={
            "glue": {"job": {"NonOverridableArguments": {"--a": "b"}}, "run": {"NotificationProperty": {}}},
            "ray": {"entrypoint_memory": 1000, "metadata": {"owner": "us"}, "runtime_env": {"env_vars": {"A": "1"}}},
            "kuberay": {"image": "ours/ray:1", "labels": {"kueue.x-k8s.io/queue-name": "etl"}},
        },
    )
    GlueRayJobOperator(
        task_id="sized",
        script="s3://glueray-local/scripts/step.py",
        role="GlueRayRole",
        number_of_workers=4,
        min_workers=4,
        object_spilling_config=SPILLING,
        object_store_memory_head=40,
        object_store_memory_worker=60,
        run_timeout=3600,
    )

    @task.glue_ray(role="GlueRayRole", staging_uri="s3://glueray-local/staging", pip=["polars==1.2.0"])
    def function(rows: int) -> int:
        """Return twice the rows."""
        return rows * 2

    function(21)

    with glue_ray_cluster(number_of_workers=3, role="GlueRayRole", staging_uri="s3://glueray-local/staging") as cluster:
        cluster.script("shared", script="s3://glueray-local/scripts/step.py", arguments={"day": "{{ ds }}"})
