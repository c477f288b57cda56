"""Fixtures for the whole suite: one local endpoint, shared, because Ray takes seconds to start."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from airflow_provider_glueray.local import control


@pytest.fixture(scope="session")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[control.Endpoint]:
    """Return a running local endpoint with two Ray nodes; use `clean_endpoint` beside it to change faults."""
    home = tmp_path_factory.mktemp("glueray")
    with control.start(f"test-{os.getpid()}", port=0, home=home) as running:
        yield running


@pytest.fixture
def clean_endpoint(endpoint: control.Endpoint) -> Iterator[control.Endpoint]:
    """Return the shared endpoint without faults and with empty counters; both are reset again afterwards."""
    for reset in (endpoint.reset_faults, endpoint.reset_calls):
        reset()
    yield endpoint
    for reset in (endpoint.reset_faults, endpoint.reset_calls):
        reset()
