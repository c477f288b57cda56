"""The registry: from a connection to a backend, and from a backend to its hook.

Its rows are ``core.runs.BACKENDS``. A hook is imported when it is asked for: the dag processor imports this module in
every parse.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from airflow_provider_glueray.core.errors import SpecError
from airflow_provider_glueray.core.runs import BACKENDS, GLUE_JOB


def backend_for_connection(conn_id: str | None) -> str:
    """Return the backend of jobs that a connection leads to: *the DAG stays, the connection changes*.

    One that is missing is taken for one to AWS, whose hook says so in words.

    :raises SpecError: the connection is of a type that runs no Ray jobs.
    """
    if conn_id is None:
        return GLUE_JOB
    from airflow_provider_glueray.airflow_compat import AirflowNotFoundException, BaseHook

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
    """Return the arguments of a backend's hook; the same ones build it in a worker and in the triggerer."""
    row = BACKENDS[backend]
    client = {"region_name": region_name, "verify": verify, "config": config} if row.has_client else {}
    return {row.conn_arg: conn_id, **{key: value for key, value in client.items() if value is not None}}


def make_hook(backend: str, kwargs: Mapping[str, Any]) -> Any:
    """Return the hook of a backend; the same ``kwargs`` make it in a worker and in a trigger.

    :raises ExtraMissing: what the backend needs is not installed.
    """
    from airflow_provider_glueray.core.extras import extra

    row = BACKENDS[backend]
    module, _, name = row.hook.rpartition(".")
    with extra(row.extra, name):
        hook = getattr(import_module(module), name)
    return hook(**kwargs)


if TYPE_CHECKING:
    # A type checker sees here that each hook is what its operators expect.
    from airflow_provider_glueray.core.backend import ClusterBackend, JobBackend, SessionBackend
    from airflow_provider_glueray.hooks.glue.jobs import GlueRayJobHook
    from airflow_provider_glueray.hooks.glue.sessions import GlueRaySessionHook
    from airflow_provider_glueray.hooks.kuberay.clusters import KubeRayClusterHook
    from airflow_provider_glueray.hooks.kuberay.jobs import KubeRayHook
    from airflow_provider_glueray.hooks.ray.jobs import RayJobsHook

    JOB_BACKENDS: tuple[type[JobBackend], ...] = (GlueRayJobHook, RayJobsHook, KubeRayHook)
    SESSION_BACKENDS: tuple[type[SessionBackend], ...] = (GlueRaySessionHook,)
    CLUSTER_BACKENDS: tuple[type[ClusterBackend], ...] = (KubeRayClusterHook,)
