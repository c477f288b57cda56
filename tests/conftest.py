"""Fixtures for the whole suite: one local endpoint, shared, because Ray takes seconds to start."""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest

# Before anything imports Airflow.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="glueray-airflow-"))
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "True"
# The pauses of the whole suite: none is there for the comfort of a real service.
os.environ["AIRFLOW__GLUERAY__WAITS"] = json.dumps(
    {"least_poll": 0.2, "least_poll_in_session": 0.1, "quiet": 0.1, "queue_first": 0.3, "look_again": 0.02}
)

from airflow_provider_glueray.local import control
from airflow_provider_glueray.runs import RunRef
from airflow_provider_glueray.sessions import RaySessionSpec


@pytest.fixture
def set_waits(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return what changes some of the waits of the suite for a test."""

    def change(**waits: float) -> None:
        of_the_suite = json.loads(os.environ["AIRFLOW__GLUERAY__WAITS"])
        monkeypatch.setenv("AIRFLOW__GLUERAY__WAITS", json.dumps({**of_the_suite, **waits}))

    return change


@pytest.fixture(scope="session")
def fresh() -> Callable[[], int]:
    """Return what gives a new number each time: files that share an endpoint may not each count for themselves."""
    return itertools.count().__next__


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


@pytest.fixture(scope="module")
def live_session(endpoint: control.Endpoint) -> Iterator[RunRef]:
    """Return a Ray session that is up for a file of tests; none of them may end it."""
    from airflow_provider_glueray.hooks.glue_sessions import GlueRaySessionHook

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(endpoint.airflow_connection()))
        hook = GlueRaySessionHook()
        # Tests make minutes short; this one is to outlive them.
        ages = {"idle_timeout": 100_000, "session_timeout": 100_000}
        spec = RaySessionSpec("GlueRayRole", **ages, tags={"team": "data"}, description="for the tests")
        ref = hook.create(spec, f"tests-{uuid4().hex[:8]}", "m-live")
        hook.wait_ready(ref)
        yield ref
        hook.stop(ref)
