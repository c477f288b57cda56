"""Create a cluster that runs share, and delete it: one Ray cluster on KubeRay for several steps of a DAG.

The start of a cluster is a run, and lives like one (``task/operator.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from airflow.sdk import Context, XComArg

from airflow_provider_glueray.core.backend import ClusterBackend
from airflow_provider_glueray.core.errors import StopError
from airflow_provider_glueray.core.runs import KUBERAY_CLUSTER, KUBERAY_JOB, RAY_JOB, Outcome, RunRef
from airflow_provider_glueray.core.spec import RayClusterSpec
from airflow_provider_glueray.core.validation import seconds_of
from airflow_provider_glueray.hooks.registry import backend_for_connection
from airflow_provider_glueray.task.life import Start
from airflow_provider_glueray.task.operator import (
    WORKER_FIELDS,
    GlueRayClusterOperator,
    GlueRayEndOperator,
    GlueRayStartOperator,
    check_rendered,
)
from airflow_provider_glueray.task.outcome import fail_without_retry, push_usage
from airflow_provider_glueray.task.record import owner_of


class GlueRayCreateClusterOperator(GlueRayClusterOperator, GlueRayStartOperator):
    """Create a Ray cluster and wait until its head and the fewest workers are ready. Returns its id, namespace/name.

    Give the id to the runs that shall share it as ``cluster``. Use this as a setup task with
    :class:`GlueRayDeleteClusterOperator` as its teardown, or both at once through ``glue_ray_cluster``. A retry takes
    the cluster of the failed try up again; clearing the task makes a new one and deletes the old one. If the cluster
    does not become ready, the task deletes it.

    Where the connection leads to AWS Glue, each run has a cluster of its own, and where it leads to a Ray cluster, that
    is there: then nothing is made, and the id is empty, so that the same DAG runs there.

    The head comes on top of the workers; by default an idle cluster keeps the head alone. Each pod asks for 7 CPU and
    56Gi, unless the settings say otherwise.

    :param cluster_name: what people recognise it by; by default ``<dag_id>-<task_id>``. (templated)
    :param max_lifetime: how long its pods may live, whoever still knows of them; then Kubernetes ends them, and what
        runs in the cluster fails. None for ever. Default: 48 hours.
    :param overrides: ``{"kuberay": {…}}``, as in :class:`GlueRayJobOperator`. (templated)
    :param run_timeout: how long it may take until the cluster is ready; then it is deleted. Default: 30 minutes.

    Further parameters: see :class:`GlueRayClusterOperator` and :class:`GlueRayRunOperator`.

    :raises SpecError: while the DAG is parsed, for each value that is not a template and breaks a rule.
    """

    hook: ClusterBackend
    backend = KUBERAY_CLUSTER
    template_fields: Sequence[str] = (
        *WORKER_FIELDS,
        "object_spilling_config",
        "cluster_name",
        "tags",
        "overrides",
        "conn_id",
        "region_name",
    )
    template_fields_renderers = {"tags": "json", "overrides": "json", "object_spilling_config": "json"}  # noqa: RUF012

    def __init__(
        self,
        *,
        cluster_name: str | None = None,
        max_lifetime: timedelta | float | None = timedelta(hours=48),
        overrides: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.cluster_name = cluster_name
        self.max_lifetime = seconds_of(max_lifetime)
        self.overrides = dict(overrides or {})
        given = self._given(*WORKER_FIELDS, "object_spilling_config", "tags", "overrides")
        given |= {"max_lifetime": max_lifetime, **({"name": cluster_name} if cluster_name else {})}
        check_rendered(given)

    def execute(self, context: Context) -> Any:
        """Create the cluster or take it up again, and wait for it; where none is made, say why."""
        with fail_without_retry():
            kind = backend_for_connection(self.conn_id)
        if kind != KUBERAY_JOB:
            why = "the cluster is there already" if kind == RAY_JOB else "each run has a cluster of its own"
            self.log.info("No cluster is made: where the connection %r leads, %s", self.conn_id, why)
            return ""
        return super().execute(context)

    def _name(self, client_token: str, context: Context) -> str:
        return self.cluster_name or f"{self.dag_id}-{self.task_id}"

    def _prepare(self, context: Context) -> Start:
        ti = context["ti"]
        spec = RayClusterSpec(
            name=self._name("", context),
            workers=self._workers(),
            object_spilling_config=self.object_spilling_config,
            tags={**owner_of(ti), "airflow_run_id": ti.run_id, **self.tags},
            description=f"Airflow: {ti.dag_id}.{ti.task_id}, {ti.run_id}",
            overrides=self.overrides,
        )
        return self.hook.prepare(spec, self.max_lifetime)

    def _required_capacity(self) -> str:
        return f"The cluster asks for a head and {self.number_of_workers} workers"


class GlueRayDeleteClusterOperator(GlueRayEndOperator):
    """Delete a cluster and wait until it is gone, pods and all. One that is gone, or was never made, is no error.

    Pushes ``glueray_usage``: seconds, workers, M-DPU hours and the estimated cost of the whole cluster; those of its
    runs are seconds only.

    :param cluster: its id, usually ``create.output``; nothing is done for an empty one. (templated)
    :param run_timeout: how long it may take; then the task fails, and a retry asks again. Default: 10 minutes.

    Further parameters: see :class:`GlueRayRunOperator`.
    """

    hook: ClusterBackend
    backend = KUBERAY_CLUSTER
    template_fields: Sequence[str] = ("cluster", "conn_id", "region_name")

    def __init__(self, *, cluster: str | XComArg | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cluster = cluster
        check_rendered({"cluster": cluster})

    def _refs(self) -> tuple[RunRef, ...]:
        return (RunRef(KUBERAY_CLUSTER, str(self.cluster), str(self.cluster)),) if self.cluster else ()

    def _begin(self, outcome: Outcome, context: Context) -> None:
        if outcome.snapshot.usage is not None:
            # Known now: who sees it gone may not have seen it before.
            push_usage(outcome.snapshot._replace(raw_state="by deletion"), context, self.log)

    def _finish(self, outcome: Outcome, context: Context) -> None:
        snapshot = outcome.snapshot
        if not snapshot.is_over:
            raise StopError(f"{snapshot.ref.title} was to be deleted and is still there, {snapshot.raw_state}")
        self.log.info("%s is gone", snapshot.ref.title)
