"""A Kubernetes cluster with KubeRay in it, and the hook for its RayJobs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from airflow_provider_glueray.hooks.kuberay.jobs import KubeRayHook
from tests.hooks.kuberay import kubernetes_api


@pytest.fixture
def cluster(monkeypatch) -> Iterator[Any]:
    """Return a Kubernetes cluster with KubeRay in it, where the connection `kubernetes_default` leads."""
    with kubernetes_api.serving() as running:
        monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps(running.config(kuberay={"image": "i"})))
        yield running


@pytest.fixture
def hook(cluster) -> KubeRayHook:
    return KubeRayHook()
