"""Which hook knows the runs of which backend.

Floor 3, although it names the doors of floor 2: it imports one only when it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from airflow_provider_glueray.errors import SpecError
from airflow_provider_glueray.runs import GLUE_JOB, GLUE_SESSION, GLUE_STATEMENT, KUBERAY_CLUSTER, KUBERAY_JOB, RAY_JOB

_HOOKS = {
    GLUE_JOB: ("glue_jobs", "GlueRayJobHook"),
    GLUE_SESSION: ("glue_sessions", "GlueRaySessionHook"),
    GLUE_STATEMENT: ("glue_sessions", "GlueRaySessionHook"),
    RAY_JOB: ("ray_jobs", "RayJobsHook"),
    KUBERAY_JOB: ("kuberay", "KubeRayHook"),
    KUBERAY_CLUSTER: ("kuberay_clusters", "KubeRayClusterHook"),
}
#: Where a job runs, by the type of its connection.
_JOBS = {"aws": GLUE_JOB, "ray": RAY_JOB, "kubernetes": KUBERAY_JOB}
#: What knobs each of them reads in ``overrides``.
KNOBS = {GLUE_JOB: "glue", RAY_JOB: "ray", KUBERAY_JOB: "kuberay"}


def default_conn_id() -> str:
    """Return the connection that a whole deployment runs its jobs by, unless a task names another."""
    from airflow.sdk import conf

    return conf.get("glueray", "conn_id", fallback="aws_default")


def job_backend(conn_id: str | None) -> str:
    """Return the backend of jobs that a connection leads to: *the DAG stays, the connection changes*.

    One that is missing is taken for one to AWS, whose hook says so in words.

    :raises SpecError: the connection is of a type that runs no Ray jobs.
    """
    if conn_id is None:
        return GLUE_JOB
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        conn_type = BaseHook.get_connection(conn_id).conn_type
    except AirflowNotFoundException:
        return GLUE_JOB
    if conn_type not in _JOBS:
        raise SpecError(
            [f"conn_id={conn_id!r}: a connection of type {conn_type!r} runs no Ray jobs; there are {', '.join(_JOBS)}"]
        )
    return _JOBS[conn_type]


def hook_kwargs(
    backend: str,
    conn_id: str | None,
    region_name: str | None,
    verify: bool | str | None,
    config: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return the arguments of a backend's hook; the same ones build it in a worker and travel into the trigger."""
    if backend == RAY_JOB:
        return {"ray_conn_id": conn_id}
    if backend in (KUBERAY_JOB, KUBERAY_CLUSTER):
        return {"conn_id": conn_id}
    rest = {"region_name": region_name, "verify": verify, "config": config}
    return {"aws_conn_id": conn_id, **{key: value for key, value in rest.items() if value is not None}}


def make_hook(backend: str, kwargs: Mapping[str, Any]) -> Any:
    """Return the hook of a backend; the same ``kwargs`` make it in a worker and in a trigger."""
    module, name = _HOOKS[backend]
    return getattr(import_module(f"airflow_provider_glueray.hooks.{module}"), name)(**kwargs)


def sharing_key(backend: str) -> str:
    """Return what the runs of two backends have in common when one poll can answer for both: their hook."""
    return ".".join(_HOOKS[backend])
