"""Distributed Python ETL as Ray steps inside scheduled Airflow DAGs.

The public names stand here too, imported when they are asked for: the dag processor pays for what a DAG uses.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # "X as X" tells type checkers that the name is meant for others.
    from airflow_provider_glueray.decorators.glue_ray import glue_ray_task as glue_ray_task
    from airflow_provider_glueray.hooks.glue.jobs import GlueRayJobHook as GlueRayJobHook
    from airflow_provider_glueray.hooks.glue.sessions import GlueRaySessionHook as GlueRaySessionHook
    from airflow_provider_glueray.hooks.kuberay.clusters import KubeRayClusterHook as KubeRayClusterHook
    from airflow_provider_glueray.hooks.kuberay.jobs import KubeRayHook as KubeRayHook
    from airflow_provider_glueray.hooks.ray.jobs import RayJobsHook as RayJobsHook
    from airflow_provider_glueray.operators.cluster_group import glue_ray_cluster as glue_ray_cluster
    from airflow_provider_glueray.operators.glue_jobs import GlueRayJobOperator as GlueRayJobOperator
    from airflow_provider_glueray.operators.glue_sessions import (
        GlueRayCreateSessionOperator as GlueRayCreateSessionOperator,
    )
    from airflow_provider_glueray.operators.glue_sessions import GlueRayStatementOperator as GlueRayStatementOperator
    from airflow_provider_glueray.operators.glue_sessions import (
        GlueRayStopSessionOperator as GlueRayStopSessionOperator,
    )
    from airflow_provider_glueray.operators.notebooks import GlueRayNotebookOperator as GlueRayNotebookOperator
    from airflow_provider_glueray.operators.ray_clusters import (
        GlueRayCreateClusterOperator as GlueRayCreateClusterOperator,
    )
    from airflow_provider_glueray.operators.ray_clusters import (
        GlueRayDeleteClusterOperator as GlueRayDeleteClusterOperator,
    )
    from airflow_provider_glueray.operators.session_group import glue_ray_session as glue_ray_session
    from airflow_provider_glueray.sensors.glue_jobs import GlueRayJobSensor as GlueRayJobSensor
    from airflow_provider_glueray.sensors.glue_sessions import GlueRaySessionSensor as GlueRaySessionSensor

__version__ = "0.1.0"

#: Where each public name is defined; that path is the documented one.
_MODULES = {
    "GlueRayCreateClusterOperator": "operators.ray_clusters",
    "GlueRayCreateSessionOperator": "operators.glue_sessions",
    "GlueRayDeleteClusterOperator": "operators.ray_clusters",
    "GlueRayJobHook": "hooks.glue.jobs",
    "GlueRayJobOperator": "operators.glue_jobs",
    "GlueRayJobSensor": "sensors.glue_jobs",
    "GlueRayNotebookOperator": "operators.notebooks",
    "GlueRaySessionHook": "hooks.glue.sessions",
    "GlueRaySessionSensor": "sensors.glue_sessions",
    "GlueRayStatementOperator": "operators.glue_sessions",
    "GlueRayStopSessionOperator": "operators.glue_sessions",
    "KubeRayClusterHook": "hooks.kuberay.clusters",
    "KubeRayHook": "hooks.kuberay.jobs",
    "RayJobsHook": "hooks.ray.jobs",
    "glue_ray_cluster": "operators.cluster_group",
    "glue_ray_session": "operators.session_group",
    "glue_ray_task": "decorators.glue_ray",
}

__all__ = sorted(_MODULES)


if not TYPE_CHECKING:  # which has to refuse names that are not above

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
