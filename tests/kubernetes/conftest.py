"""Fixtures of the tests of KubeRay itself, on a Kubernetes of our own: `make test-kuberay`."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.kubernetes.cluster import Cluster
from tests.kubernetes.connection import make_namespace
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
    name = f"t-{uuid4().hex[:8]}"
    make_namespace(cluster, name)
    yield Namespace(cluster, name)
    cluster.api.delete(f"/api/v1/namespaces/{name}")
