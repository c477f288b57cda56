"""The registry: one row per backend says which hook knows its runs.

Floor 3, although it names the hooks of floor 2: it imports one only when it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

from airflow_provider_glueray.core.errors import SpecError
from airflow_provider_glueray.core.runs import (
    GLUE_JOB,
    GLUE_SESSION,
    GLUE_STATEMENT,
    KUBERAY_CLUSTER,
    KUBERAY_JOB,
    RAY_JOB,
)


class Backend(NamedTuple):
    """What the package knows of a backend besides its hook.

    :param hook: the class path of the hook.
    :param conn_arg: the argument of the hook that takes the connection's id.
    :param conn_type: the type of the connections that lead jobs there; empty for what is no job.
    :param override: what it reads in ``overrides``.
    :param has_client: whether its hook takes ``region_name``, ``verify`` and ``config``, as boto3's do.
    """

    hook: str
    conn_arg: str = "conn_id"
    conn_type: str = ""
    override: str = ""
    has_client: bool = False


def _of_glue(hook: str, **kwargs: str) -> Backend:
    return Backend(f"airflow_provider_glueray.hooks.{hook}", "aws_conn_id", has_client=True, **kwargs)


BACKENDS: dict[str, Backend] = {
    GLUE_JOB: _of_glue("glue.jobs.GlueRayJobHook", conn_type="aws", override="glue"),
    GLUE_SESSION: _of_glue("glue.sessions.GlueRaySessionHook"),
    GLUE_STATEMENT: _of_glue("glue.sessions.GlueRaySessionHook"),
    RAY_JOB: Backend("airflow_provider_glueray.hooks.ray.jobs.RayJobsHook", "ray_conn_id", "ray", "ray"),
    KUBERAY_JOB: Backend(
        "airflow_provider_glueray.hooks.kuberay.jobs.KubeRayHook", conn_type="kubernetes", override="kuberay"
    ),
    KUBERAY_CLUSTER: Backend("airflow_provider_glueray.hooks.kuberay.clusters.KubeRayClusterHook"),
}


def backend_for_connection(conn_id: str | None) -> str:
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
    known = {row.conn_type: backend for backend, row in BACKENDS.items() if row.conn_type}
    if conn_type not in known:
        raise SpecError(
            [f"conn_id={conn_id!r}: a connection of type {conn_type!r} runs no Ray jobs; there are {', '.join(known)}"]
        )
    return known[conn_type]


def hook_kwargs(
    backend: str,
    conn_id: str | None,
    region_name: str | None,
    verify: bool | str | None,
    config: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return the arguments of a backend's hook; the same ones build it in a worker and travel into the trigger."""
    row = BACKENDS[backend]
    client = {"region_name": region_name, "verify": verify, "config": config} if row.has_client else {}
    return {row.conn_arg: conn_id, **{key: value for key, value in client.items() if value is not None}}


def make_hook(backend: str, kwargs: Mapping[str, Any]) -> Any:
    """Return the hook of a backend; the same ``kwargs`` make it in a worker and in a trigger."""
    module, _, name = BACKENDS[backend].hook.rpartition(".")
    return getattr(import_module(module), name)(**kwargs)


def poll_key(backend: str) -> str:
    """Return what the runs of two backends have in common when one poll can answer for both: their hook."""
    return BACKENDS[backend].hook
