"""Fixtures of the tests of KubeRay itself, on a Kubernetes of our own: `make test-kuberay`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.contract.conftest import BACKENDS, Place
from tests.contract.test_runs import Bench
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.namespace import Namespace
from tests.kubernetes.turns import turn


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Return the cluster; a test with the mark `alone` has it alone, and may take parts of it away."""
    found = Cluster()
    alone = request.node.get_closest_marker("alone") is not None
    with turn(found.layout, alone=alone):
        try:
            yield found
        finally:
            if alone:
                found.make_whole()


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[Namespace]:
    """Return a namespace for one test; it goes with all that is in it."""
    made = Namespace(cluster, f"t-{uuid4().hex[:8]}")
    yield made
    cluster.api.delete(made.path)


@pytest.fixture
def make_bench(namespace: Namespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Bench]:
    """Return what makes the bench of the contract in the namespace, with settings of the connection `where`."""

    def make(**settings: Any) -> Bench:
        conn = namespace.connection(**settings)
        monkeypatch.setenv("AIRFLOW_CONN_WHERE", json.dumps(conn))
        place = Place("real-kuberay", BACKENDS["kuberay"], conn, conn["extra"]["staging_uri"], role=None)
        return Bench(place, tmp_path)

    return make
