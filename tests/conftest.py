"""Fixtures for the whole suite: one local endpoint, because Ray takes seconds to start.

All workers of pytest-xdist share it, and each has an AWS region of its own there, hence jobs, sessions, faults and
counters of its own. Shared are Ray, the bucket and what `status` counts.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest

# Before anything imports Airflow.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="glueray-airflow-"))
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__UNIT_TEST_MODE"] = "True"
# The pauses of the whole suite: none is there for the comfort of a real service.
os.environ["AIRFLOW__GLUERAY__WAITS"] = json.dumps(
    {"least_poll": 0.2, "least_poll_in_session": 0.1, "quiet": 0.1, "queue_first": 0.3, "look_again": 0.02}
)

from airflow.sdk import DAG
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from airflow_provider_glueray.core import clock
from airflow_provider_glueray.core.runs import RunRef
from airflow_provider_glueray.core.spec import RaySessionSpec
from airflow_provider_glueray.core.validation import RAY_REGIONS
from airflow_provider_glueray.local import client as local_client
from airflow_provider_glueray.local.runtime import environments, processes
from tests.runner import START, Task

# How long an example takes says how busy the machine is.
hypothesis_settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("suite")

#: Names the folder of an endpoint that somebody else has started: this Python may have no Ray, or one too old.
ENDPOINT_HOME = "GLUERAY_TEST_ENDPOINT_HOME"
#: The endpoints' names, and where the process that starts the workers keeps the folder of their state files.
SHARED, RAY24, HOME = "tests", "tests-ray24", pytest.StashKey[Path]()


#: The most tests that may be skipped: three real places that nobody has named, and a package index out of reach,
#: which is asked by pip, by uv and by both.
MOST_SKIPPED = 6
#: The fixtures that need Ray.
SERVICES = {"endpoint", "ray24", "place", "make_head", "new_cluster", "old_cluster"}


@pytest.fixture
def set_waits(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return what changes some of the waits of the suite for a test."""

    def change(**waits: float) -> None:
        of_the_suite = json.loads(os.environ["AIRFLOW__GLUERAY__WAITS"] or "{}")
        monkeypatch.setenv("AIRFLOW__GLUERAY__WAITS", json.dumps({**of_the_suite, **waits}))

    return change


@pytest.fixture(scope="session")
def worker_number(request: pytest.FixtureRequest) -> int:
    """Return which of the workers of pytest-xdist this is, from 0; 0 without it."""
    given: dict[str, Any] = getattr(request.config, "workerinput", {"workerid": "gw0"})
    return int(given["workerid"].removeprefix("gw"))


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return what puts a clock in the place of the package's: how to tell epoch seconds, and how to wait."""

    def change(now: Callable[[], float], sleep: Callable[[float], None]) -> None:
        monkeypatch.setattr(clock, "now", now)
        monkeypatch.setattr(clock, "sleep", sleep)

    return change


@pytest.fixture(scope="session")
def fresh(worker_number: int) -> Callable[[], int]:
    """Return what gives a new number each time: neither files nor workers that share Ray may count for themselves."""
    return itertools.count(worker_number * 1_000_000).__next__


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the local endpoint or a cluster, which `make check` does without, and what is for the whole."""
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        ends = {params.get(name) for name in ("hook", "version")} & {"newest", "2.9"}
        if (SERVICES & set(getattr(item, "fixturenames", ())) and params.get("place") != "scripted") or ends:
            item.add_marker(pytest.mark.service)
        if params.get("place") == "real-kuberay":
            item.add_marker(pytest.mark.kubernetes)
        if "2.9" in ends or {"old_cluster", "make_head"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.full)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Let a run fail that has left out more than it may: what is missing is an error, not a skip."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = len(reporter.stats.get("skipped", ())) if reporter else 0
    if skipped > MOST_SKIPPED and not session.exitstatus:
        reporter.write_line(f"{skipped} tests were skipped; there may be {MOST_SKIPPED}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist, in the process that starts it, where the endpoint of all of them is."""
    if HOME not in node.config.stash:
        node.config.stash[HOME] = Path(tempfile.mkdtemp(prefix="glueray-tests-"))
    node.workerinput["glueray_home"] = str(node.config.stash[HOME])


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the endpoint of the workers when the last one has ended, however it did."""
    if HOME in config.stash:
        _clear(config.stash[HOME])


def _clear(home: Path) -> None:
    """End what the workers have shared, and remove its folder."""
    for name in (SHARED, RAY24):
        local_client.remove(name, home)
    for made in home.glob("*.once"):
        left = json.loads(made.read_text())
        processes.end_sessions(left["sessions"])
        for folder in left["folders"]:
            shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def shared_home(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Return the folder of what all workers of a run share."""
    if hasattr(request.config, "workerinput"):
        yield Path(request.config.workerinput["glueray_home"])
        return
    home = Path(tempfile.mkdtemp(prefix="glueray-tests-"))
    yield home
    _clear(home)


@pytest.fixture(scope="session")
def once(shared_home: Path) -> Callable[..., dict[str, Any]]:
    """Return what makes something once for all workers; it gives ``sessions`` to end and ``folders`` to remove."""

    def once(name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        made = shared_home / f"{name}.once"
        with (shared_home / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                made.write_text(json.dumps(make()))
        return json.loads(made.read_text())  # type: ignore[no-any-return]

    return once


@pytest.fixture(scope="session")
def regions(worker_number: int) -> tuple[str, str]:
    """Return the region of this worker, and another one that no other worker uses either."""
    known = boto3.session.Session().get_available_regions("glue")
    known = [*RAY_REGIONS, *(region for region in known if region not in RAY_REGIONS)]
    assert worker_number < len(known) // 2, f"there are no two regions for worker {worker_number}"
    return known[worker_number], known[-1 - worker_number]


@pytest.fixture(scope="session")
def endpoint(shared_home: Path, regions: tuple[str, str]) -> local_client.Endpoint:
    """Return a running local endpoint with two Ray nodes, in the region of this worker.

    Use `clean_endpoint` beside it to change faults.
    """
    given = os.environ.get(ENDPOINT_HOME)
    running = (
        local_client.find(SHARED, Path(given))
        if given
        else local_client.start(SHARED, port=0, home=shared_home, wait=False)
    )
    assert running is not None, f"no endpoint {SHARED!r} runs in {given}"
    running.wait_ready(240)  # also where another worker has started it
    return running.at(regions[0])


@pytest.fixture(scope="session")
def ray24(shared_home: Path, regions: tuple[str, str]) -> local_client.Endpoint:
    """Return the same on Ray 2.4 and Python 3.9, as AWS has them."""
    runtime = environments.RAY24
    running = local_client.start(RAY24, port=0, home=shared_home, runtime=runtime, quiet=False, wait=False)
    running.wait_ready(240)
    return running.at(regions[0])


@pytest.fixture
def clean_endpoint(endpoint: local_client.Endpoint) -> Iterator[local_client.Endpoint]:
    """Return the endpoint without faults and with empty counters in its region; both are reset again afterwards."""
    for reset in (endpoint.reset_faults, endpoint.reset_calls):
        reset()
    yield endpoint
    for reset in (endpoint.reset_faults, endpoint.reset_calls):
        reset()


@pytest.fixture
def connected(clean_endpoint: local_client.Endpoint, monkeypatch: pytest.MonkeyPatch) -> local_client.Endpoint:
    """Point the connection `aws_default` at the local endpoint."""
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(clean_endpoint.airflow_connection()))
    return clean_endpoint


@pytest.fixture
def dag() -> DAG:
    """Return a DAG to put a task in."""
    return DAG("walk", schedule=None, start_date=START)


@pytest.fixture
def make_task() -> type[Task]:
    """Return the class that plays a task through its tries."""
    return Task


@pytest.fixture(scope="module")
def live_session(endpoint: local_client.Endpoint) -> Iterator[RunRef]:
    """Return a Ray session that is up for a file of tests; none of them may end it."""
    from airflow_provider_glueray.hooks.glue.sessions import GlueRaySessionHook

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(endpoint.airflow_connection()))
        hook = GlueRaySessionHook()
        # Tests make minutes short; this one is to outlive them.
        ages = {"idle_timeout": 6_000_000, "session_timeout": 6_000_000}
        spec = RaySessionSpec(role="GlueRayRole", **ages, tags={"team": "data"}, description="for the tests")
        ref = hook.create(spec, f"tests-{uuid4().hex[:8]}", "m-live")
        hook.wait_ready(ref)
        yield ref
        hook.stop(ref)
