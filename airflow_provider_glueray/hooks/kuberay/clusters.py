"""Clusters that runs share as RayClusters of KubeRay: create, describe, delete.

What is followed is the start of one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from airflow_provider_glueray.core.runs import KUBERAY_CLUSTER, RunRef, RunSnapshot, RunState
from airflow_provider_glueray.core.spec import RayClusterSpec
from airflow_provider_glueray.hooks.kuberay.manifests.pods import RAYCLUSTER, label_value, rayjob_name
from airflow_provider_glueray.hooks.kuberay.manifests.raycluster import PLURAL, to_raycluster
from airflow_provider_glueray.hooks.kuberay.reasons import PendingReason
from airflow_provider_glueray.hooks.kuberay.resource import KubeRayResourceHook
from airflow_provider_glueray.hooks.kuberay.status import cluster_snapshot


class KubeRayClusterHook(KubeRayResourceHook):
    """Talk to a Kubernetes cluster about RayClusters. Its connection: see :class:`KubeRayConnectionHook`."""

    kind, plural, label = "RayCluster", PLURAL, RAYCLUSTER

    def _snapshot_of(self, resource: Mapping[str, Any], reason: PendingReason | None = None) -> RunSnapshot:
        return cluster_snapshot(resource, time.time(), reason)

    def _unseen(self, ref: RunRef) -> RunSnapshot:
        """Take one that is not there for deleted: no RayCluster ends in another way, and lists do not lag."""
        return super()._unseen(ref)._replace(state=RunState.STOPPED, raw_state="deleted")

    def prepare(self, spec: RayClusterSpec, max_lifetime: float | None) -> Callable[[str], RunRef]:
        """Return what creates a cluster that carries a given client token; twice with one token makes one.

        :param max_lifetime: seconds after which Kubernetes ends its pods; None for never.
        :raises SpecError: a setting is unknown or wrong.
        """
        settings = self._settings(spec)
        seconds = math.ceil(max_lifetime) if max_lifetime else None

        def manifest(client_token: str) -> dict[str, Any]:
            return to_raycluster(spec, client_token, settings=settings, max_lifetime_seconds=seconds)

        def create(client_token: str) -> RunRef:
            ref = RunRef(KUBERAY_CLUSTER, spec.name, f"{settings.namespace}/{rayjob_name(spec.name, client_token)}")
            return self._create(ref, manifest(client_token))

        # Refused now, not when there is room at last.
        manifest("")
        return create

    def find_runs(self, name: str, client_token: str) -> list[RunSnapshot]:
        """Return the cluster of ``name`` that carries the client token, if there is one: its name is made of both."""
        ref = RunRef(KUBERAY_CLUSTER, name, f"{self._namespace}/{rayjob_name(name, client_token)}")
        return self._with_token(ref, client_token)

    def list_clusters(self, labels: Mapping[str, str]) -> list[Mapping[str, Any]]:
        """Return the clusters that tasks have made in the connection's namespace and that have these labels."""
        wanted = (RAYCLUSTER, *(f"{key}={label_value(text)}" for key, text in labels.items()))
        return self._list_by(self._namespace, ",".join(wanted))
