"""What the pods of a run's own cluster have requested while they ran, in vCPU-hours and GiB-hours.

KubeRay says how many pods of a cluster are up, so looking at runs is enough to add it up. No clock and no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from airflow_provider_glueray.core.runs import Usage
from airflow_provider_glueray.hooks.kuberay.settings import amount_of

GIB = 1024**3
#: The ``RayClusterStatus`` of a cluster that has no pods.
NO_PODS: Mapping[str, Any] = {"availableWorkerReplicas": 0}
#: What KubeRay gives its autoscaler, which runs in the head's pod (kuberay/…/common/pod.go BuildAutoscalerContainer).
_AUTOSCALER = {"cpu": "500m", "memory": "512Mi"}


class Size(NamedTuple):
    """What pods request: how many they are, their vCPU and their GiB."""

    pods: int = 0
    vcpu: float = 0.0
    gib: float = 0.0

    def plus(self, other: Size, times: int = 1) -> Size:
        """Return both together."""
        return Size(self.pods + other.pods * times, self.vcpu + other.vcpu * times, self.gib + other.gib * times)


class Meter:
    """Adds up what one run uses, from one look at it to the next."""

    def __init__(self) -> None:
        self._at: float | None = None
        self._began = 0.0
        self._size = Size()
        self._most = 0
        self._vcpu_seconds = self._gib_seconds = 0.0

    def look(self, cluster: Mapping[str, Any], status: Mapping[str, Any], began: float, until: float) -> None:
        """Add what has been used since the last look; what is up now is taken to have been up since then.

        :param cluster, status: a ``RayClusterSpec``, and the ``RayClusterStatus``; empty where KubeRay says nothing.
        :param began: epoch seconds at which KubeRay began with the run; of use at the first look.
        :param until: epoch seconds of the look, or of the end of the run.
        """
        if self._at is None:
            self._at = self._began = began
        self._size = running_size(cluster, status) if status else self._size
        seconds = max(until - self._at, 0.0)
        self._most = max(self._most, self._size.pods)
        self._vcpu_seconds += self._size.vcpu * seconds
        self._gib_seconds += self._size.gib * seconds
        self._at = max(until, self._at)

    @property
    def usage(self) -> Usage | None:
        """What was used up to the last look; None before the first."""
        if self._at is None:
            return None
        return Usage(self._at - self._began, self._most, 0.0, self._vcpu_seconds / 3600, self._gib_seconds / 3600)


def running_size(cluster: Mapping[str, Any], status: Mapping[str, Any]) -> Size:
    """Return what the pods request that KubeRay says are up."""
    workers = int(status.get("availableWorkerReplicas") or 0)
    has_head = bool((status.get("head") or {}).get("podIP"))
    return _size_of(cluster, workers) if has_head else Size().plus(_worker_of(cluster), workers)


def full_usage(cluster: Mapping[str, Any], seconds: float) -> Usage:
    """Return what a cluster of full size, its head among it, requests in a time."""
    groups = cluster.get("workerGroupSpecs") or ()
    size = _size_of(cluster, sum(int(group.get("maxReplicas") or 0) for group in groups))
    return Usage(seconds, size.pods, 0.0, size.vcpu * seconds / 3600, size.gib * seconds / 3600)


def _size_of(cluster: Mapping[str, Any], workers: int) -> Size:
    """Return the size of a head and so many workers."""
    head = _pod_of(cluster["headGroupSpec"]["template"])
    if cluster.get("enableInTreeAutoscaling"):
        over = (cluster.get("autoscalerOptions") or {}).get("resources") or {}
        head = head.plus(_requested({"requests": _AUTOSCALER, **over}))
    return head.plus(_worker_of(cluster), workers)


def _worker_of(cluster: Mapping[str, Any]) -> Size:
    groups = cluster.get("workerGroupSpecs") or ()
    return _pod_of(groups[0]["template"]) if groups else Size()


def _pod_of(template: Mapping[str, Any]) -> Size:
    size = Size(pods=1)
    for container in template["spec"]["containers"]:
        size = size.plus(_requested(container.get("resources") or {}))
    return size


def _requested(resources: Mapping[str, Any]) -> Size:
    """Return what a container requests; where only its limits are given, these are its requests."""
    asked = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return Size(vcpu=amount_of(asked.get("cpu", 0)) or 0.0, gib=(amount_of(asked.get("memory", 0)) or 0.0) / GIB)
