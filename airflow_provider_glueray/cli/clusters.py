"""`glueray clusters`: list the Ray clusters on KubeRay that are left over, and delete them.

A teardown deletes a cluster, and its maximum lifetime ends its pods; this is for clusters that cost money in the
meantime, and for RayClusters without pods.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from airflow_provider_glueray.cli.leftovers import Leftovers, Resource
from airflow_provider_glueray.core.errors import ConnectionConfigError
from airflow_provider_glueray.core.extras import KUBERAY
from airflow_provider_glueray.hooks.kuberay.manifests.pods import DAG
from airflow_provider_glueray.hooks.kuberay.status import cluster_snapshot


class Clusters(Leftovers):
    """RayClusters that tasks have made."""

    group, noun, live = "clusters", "clusters", "there"
    end, ending = "delete", "deleting"
    needs = KUBERAY
    help = "Ray clusters on KubeRay: list them, delete those that are left over"
    description = (
        "RayClusters that tasks have made in the connection's namespace. Those of others, and those which RayJobs make "
        "for themselves, are never shown and never touched."
    )
    ids_help, all_help = "ids of clusters: namespace/name", "every cluster that tasks have made"
    conn_id_help = "Airflow connection ([glueray] conn_id)"

    def connect(self, arguments: argparse.Namespace) -> Any:
        """Return a hook by the connection."""
        from airflow_provider_glueray.airflow_compat import AirflowNotFoundException
        from airflow_provider_glueray.hooks.kuberay.clusters import KubeRayClusterHook
        from airflow_provider_glueray.hooks.settings import default_conn_id

        conn_id = default_conn_id() if arguments.conn_id is None else arguments.conn_id
        advice = "Name one of type 'kubernetes' with --conn-id, or in [glueray] conn_id"
        try:
            conn_type = KubeRayClusterHook.get_connection(conn_id).conn_type if conn_id else None
        except AirflowNotFoundException as error:
            raise ConnectionConfigError(f"There is no connection {conn_id!r}. {advice}") from error
        if conn_type in ("aws", "ray"):
            raise ConnectionConfigError(f"The connection {conn_id!r} is of type {conn_type!r}. {advice}")
        return KubeRayClusterHook(conn_id)

    def find(self, hook: Any, dag: str | None, tags: Mapping[str, str]) -> Iterator[Resource]:
        """Yield clusters; tags are annotations, which Kubernetes does not select by."""
        now = time.time()
        for raycluster in hook.list_clusters({DAG: dag} if dag else {}):
            annotations = raycluster["metadata"]["annotations"]
            if tags.items() <= json.loads(annotations.get("glueray/tags", "{}")).items():
                snapshot = cluster_snapshot(raycluster, now)
                columns = {
                    "pods": snapshot.usage.workers if snapshot.usage else None,
                    "description": annotations.get("glueray/description", ""),
                }
                age = timedelta(seconds=now - (snapshot.started or now))
                yield Resource(snapshot.ref, snapshot.raw_state, age, columns)
