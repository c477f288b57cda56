"""What pods have requested is added up from what KubeRay says is up."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_glueray.core.runs import Usage
from airflow_provider_glueray.hooks.kuberay.usage import Meter, full_usage


def pod(cpu: Any, memory: Any, kind: str = "requests", **more: Any) -> dict[str, Any]:
    """Return a pod template that requests so much."""
    return {"spec": {"containers": [{"resources": {kind: {"cpu": cpu, "memory": memory}, **more}}]}}


def cluster(worker: dict[str, Any], most: int = 4, **more: Any) -> dict[str, Any]:
    """Return the spec of a cluster whose head requests 1 vCPU and 2 GiB."""
    workers = [{"maxReplicas": most, "template": worker}]
    return {"headGroupSpec": {"template": pod(1, "2Gi")}, "workerGroupSpecs": workers, **more}


def up(workers: int, *, head: bool = True) -> dict[str, Any]:
    return {"availableWorkerReplicas": workers, "head": {"podIP": "10.0.0.1"} if head else {}}


@pytest.mark.parametrize(
    ("looks", "usage"),
    [
        # nothing came up: nothing is paid for
        ([(600, {})], Usage(600, 0, 0.0, 0.0, 0.0)),
        # what is seen at the first look was so from the beginning: the follower may be a later one
        ([(3600, up(2))], Usage(3600, 3, 0.0, 9.0, 18.0)),
        # workers come and go
        ([(1800, up(0)), (3600, up(4)), (5400, up(0))], Usage(5400, 5, 0.0, 1.5 + 8.0, 3.0 + 16.0)),
        # nothing is added twice, and time does not run back
        ([(3600, up(2)), (3600, up(2)), (1800, up(2))], Usage(3600, 3, 0.0, 9.0, 18.0)),
        # the head is gone, its workers still run
        ([(3600, up(2, head=False))], Usage(3600, 2, 0.0, 8.0, 16.0)),
    ],
)
def test_looks_are_added_up(looks, usage):
    meter = Meter()
    assert meter.usage is None
    for at, status in looks:
        meter.look(cluster(pod("4", "8Gi")), status, 1000.0, 1000.0 + at)

    assert meter.usage == usage


@pytest.mark.parametrize(
    ("template", "vcpu", "gib"),
    [
        (pod("500m", "512Mi"), 0.5, 0.5),
        (pod("7", "56Gi", "limits"), 7, 56),
        (pod(2, "8Gi", limits={"cpu": "4", "memory": "16Gi"}), 2, 8),
        (pod(0.25, 1024**3), 0.25, 1),
        ({"spec": {"containers": [{}, *pod("1", "1Gi")["spec"]["containers"]]}}, 1, 1),
    ],
)
def test_what_a_pod_requests(template, vcpu, gib):
    """A limit is a request where there is none (kubernetes.io, Resource Management for Pods and Containers)."""
    meter = Meter()
    meter.look(cluster(template), up(1, head=False), 0.0, 3600.0)

    assert meter.usage == Usage(3600, 1, 0.0, vcpu, gib)


def test_the_autoscaler_counts():
    """It is a container of the head's pod that KubeRay adds, of its own size or of the one that is asked for."""
    sized = {"resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}
    for more, vcpu, gib in (({}, 1.5, 2.5), ({"autoscalerOptions": sized}, 2, 3)):
        meter = Meter()
        meter.look(cluster(pod(4, "8Gi"), enableInTreeAutoscaling=True, **more), up(0), 0.0, 3600.0)
        assert meter.usage == Usage(3600, 1, 0.0, vcpu, gib)


def test_a_cluster_of_full_size():
    assert full_usage(cluster(pod(4, "8Gi")), 1800.0) == Usage(1800, 5, 0.0, 8.5, 17.0)
