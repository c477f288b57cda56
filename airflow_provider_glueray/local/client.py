"""Start, find, query and stop endpoints from the outside, for the command line, the tests and the demo.

This module imports no boto3, moto or Ray; only the daemon (`python -m airflow_provider_glueray.local`) does. One state
file per endpoint, readable by its owner only, connects client and daemon.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from airflow_provider_glueray.local.runtime import environments, processes

_DISTRIBUTION = "airflow-provider-glueray"
DEFAULT_NAME = "default"
DEFAULT_PORT = 4577
DEFAULT_NODES = 2
DEFAULT_OBJECT_STORE_MB = 300
REGION = "us-east-1"
#: The daemon creates bucket and role at start, so that a first job needs no other resources.
BUCKET = "glueray-local"
ROLE_ARN = "arn:aws:iam::123456789012:role/GlueRayRole"
#: The endpoint checks no credentials. Airflow masks a connection's password wherever it occurs in a log, so the secret
#: is a text that occurs nowhere else.
ACCESS_KEY, SECRET_KEY = "glueray-local", "no-secret-Ee4Ku2wahs"
#: Amazon's hooks look these services up by name in a connection's `service_config`.
_SERVICES = ("glue", "s3", "logs", "sts", "iam")


class EndpointError(RuntimeError):
    """The endpoint did not start or does not respond; the message gives the remedy."""


class Endpoint:
    """A running endpoint. As a context manager, it stops at the end of the block."""

    def __init__(
        self,
        state: dict[str, Any],
        path: Path,
        child: subprocess.Popen[bytes] | None = None,
        only_region: str | None = None,
    ) -> None:
        self._state, self._path, self._child, self._only_region = state, path, child, only_region

    @property
    def name(self) -> str:
        """The name that `start` got."""
        return str(self._state["name"])

    @property
    def runtime(self) -> str:
        """The runtime of scripts: "newest" or "Ray2.4"."""
        return str(self._state["runtime"])

    @property
    def url(self) -> str:
        """The one URL for Glue, CloudWatch Logs, S3, IAM and STS."""
        return str(self._state["url"])

    @property
    def pid(self) -> int:
        """The daemon's process id."""
        return int(self._state["pid"])

    @property
    def log_path(self) -> Path:
        """The path of the daemon's own log."""
        return self._path.with_suffix(".log")

    @property
    def region(self) -> str:
        """The default Region of `env` and `airflow_connection`."""
        return self._only_region or REGION

    def at(self, region: str) -> Endpoint:
        """Return the same endpoint for one Region: its faults and counters are those of that Region alone."""
        return Endpoint(self._state, self._path, self._child, region)

    def ray(self) -> dict[str, str]:
        """Return `address` (GCS), `dashboard` (URL of the Jobs API) and `token` of the Ray cluster."""
        return {key: str(self._state[key]) for key in ("address", "dashboard", "token")}

    def env(self, region: str | None = None) -> dict[str, str]:
        """Return the environment variables that point any AWS SDK at the endpoint, with arbitrary credentials."""
        region = region or self.region
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": region,
            "AWS_REGION": region,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def airflow_connection(self, region: str | None = None) -> dict[str, Any]:
        """Return the JSON form of an Airflow `aws` connection, for AIRFLOW_CONN_AWS_DEFAULT."""
        return {
            "conn_type": "aws",
            "login": ACCESS_KEY,
            "password": SECRET_KEY,
            "extra": {
                "region_name": region or self.region,
                "endpoint_url": self.url,
                "service_config": {service: {"endpoint_url": self.url} for service in _SERVICES},
            },
        }

    def ray_connection(self) -> dict[str, Any]:
        """Return the JSON form of an Airflow `ray` connection to the Ray cluster, for AIRFLOW_CONN_RAY_DEFAULT."""
        ray = self.ray()
        return {"conn_type": "ray", "host": ray["dashboard"], "password": ray["token"]}

    def status(self) -> dict[str, Any]:
        """Return `nodes_alive`, `nodes`, `ready`, `problem`, and counts of runs and sessions by state.

        `unanswered` says why Ray could not tell how many nodes are alive.
        """
        return self._request("GET", "status")

    def calls(self) -> dict[str, int]:
        """Return the number of requests per Glue and Logs operation, in all Regions or in that of `at`."""
        return self._request("GET", "calls")

    def reset_calls(self) -> None:
        """Reset all counts to 0."""
        self._request("DELETE", "calls")

    def faults(self, **changes: Any) -> dict[str, Any]:
        """Change the given faults (see `faults.Faults`) and return all; raises EndpointError for an unknown one.

        Faults hold in all Regions; on an endpoint from `at`, they hold in that Region.
        """
        return self._request("PUT" if changes else "GET", "faults", changes or None)

    def reset_faults(self) -> None:
        """Remove all faults."""
        self._request("DELETE", "faults")

    def wait_ready(self, timeout_seconds: float = 120.0, report: Callable[[str], None] | None = None) -> None:
        """Return when every Ray node is alive; `report` gets progress messages. Raises EndpointError otherwise."""
        deadline = time.monotonic() + timeout_seconds
        reported = -1
        while True:
            status = self.status()
            if status["problem"]:
                raise EndpointError(f"{status['problem']}; see {self.log_path}")
            if report and status["nodes_alive"] != reported and status["nodes_alive"]:
                reported = status["nodes_alive"]
                report(f"Ray nodes {reported}/{status['nodes']}")
            if status["ready"]:
                return
            if time.monotonic() > deadline:
                why = status["unanswered"] or f"{status['nodes_alive']} of {status['nodes']} nodes are alive"
                raise EndpointError(f"Ray was not ready after {timeout_seconds:.0f} s: {why}; see {self.log_path}")
            time.sleep(0.2)

    def stop(self) -> None:
        """Stop the daemon and its Ray cluster, and remove their files and processes; a second call does nothing."""
        created = self._state.get("created")
        if processes.alive(self.pid, created):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
            _wait_until(lambda: not processes.alive(self.pid, created), 20)
            if processes.alive(self.pid, created):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)
        if self._child is not None:
            self._child.wait(timeout=10)
        state = _read_state(self._path) or self._state
        if state.get("pid") == self.pid:
            if state["boot"] == processes.boot():
                processes.end_sessions(state["sessions"])
            shutil.rmtree(state["root"], ignore_errors=True)
            self._path.unlink(missing_ok=True)

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        query = {} if self._only_region is None else {"region": self._only_region}
        try:
            # Plain HTTP on loopback needs no proxy and no certificates, which take 30 ms to load.
            with httpx.Client(timeout=30, trust_env=False, verify=False) as client:
                response = client.request(method, f"{self.url}/_glueray/{path}", params=query, json=body)
        except httpx.HTTPError as error:
            raise EndpointError(f"the endpoint at {self.url} does not answer: {error}") from error
        values: dict[str, Any] = response.json()
        if not response.is_success:
            raise EndpointError(values["message"])
        return values


def start(
    name: str = DEFAULT_NAME,
    *,
    port: int = DEFAULT_PORT,
    nodes: int = DEFAULT_NODES,
    home: Path | None = None,
    quiet: bool = True,
    provisioning_seconds: float = 0.0,
    quota_mdpu: int = 50,
    object_store_mb: int = DEFAULT_OBJECT_STORE_MB,
    runtime: str = environments.NEWEST,
    wait: bool = True,
) -> Endpoint:
    """Start an endpoint, or return the one that already runs under `name`.

    `nodes` counts the head; `port` 0 takes any free port; `Endpoint.faults` can change `quota_mdpu` and
    `provisioning_seconds` later. Scripts run on `runtime` (`environments.NAMES`), built first if it is missing. With
    `wait`, this returns when all Ray nodes are alive, else as soon as the URL responds. Raises EndpointError if the
    endpoint does not start, and leaves no process running then.
    """
    missing = sorted(set(_missing(("local",))))
    if missing:
        raise EndpointError(f"{', '.join(missing)} not installed: pip install 'airflow-provider-glueray[local]'")
    report: Callable[[str], None] = (lambda _: None) if quiet else functools.partial(print, flush=True)
    path = _state_path(name, home)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    options = {"state": str(path), "name": name, "port": port, "nodes": nodes, "quota_mdpu": quota_mdpu}
    options |= {"provisioning_seconds": provisioning_seconds, "object_store_mb": object_store_mb}
    with _exclusive(path):
        running = find(name, home)
        if running is not None:
            if running.runtime != runtime:
                message = f"{name} is already running on {running.runtime}, not on {runtime}"
                raise EndpointError(f"{message}; stop it first or start another one under another name")
            return running
        try:
            provided = environments.provide(runtime, report)
        except environments.CannotProvide as error:
            raise EndpointError(str(error)) from error
        remove(name, home)
        options |= {"runtime": provided.name, "python": str(provided.python)}
        endpoint = _launch([sys.executable, "-m", __package__, json.dumps(options)], path)
    report(f"endpoint {endpoint.url}")
    if wait:
        try:
            endpoint.wait_ready(report=report)
        except BaseException:
            endpoint.stop()
            raise
    return endpoint


def _missing(extras: Sequence[str]) -> Iterator[str]:
    """Yield the distributions of extras of this package that are not installed."""
    for text in importlib.metadata.requires(_DISTRIBUTION) or ():
        requirement = Requirement(text)
        if requirement.marker is None or not any(requirement.marker.evaluate({"extra": name}) for name in extras):
            continue
        if canonicalize_name(requirement.name) == _DISTRIBUTION:
            yield from _missing(tuple(requirement.extras))
            continue
        try:
            importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield requirement.name


def _launch(command: list[str], path: Path) -> Endpoint:
    """Start the daemon, detached, and wait for its state file."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    log_path = path.with_suffix(".log")
    with log_path.open("wb") as log:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )
    _wait_until(lambda: child.poll() is not None or (_read_state(path) or {}).get("pid") == child.pid, 60)
    state = _read_state(path)
    if state is None or child.poll() is not None:
        child.kill()
        tail = log_path.read_text(errors="replace").strip().splitlines()[-1:]
        raise EndpointError(f"the endpoint did not start: {' '.join(tail)} (see {log_path})")
    return Endpoint(state, path, child)


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold the lock that allows one start per name at a time."""
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def find(name: str = DEFAULT_NAME, home: Path | None = None) -> Endpoint | None:
    """Return the endpoint that runs under `name`, or None."""
    path = _state_path(name, home)
    state = _read_state(path)
    if state is None or not processes.alive(state["pid"], state["created"]):
        return None
    return Endpoint(state, path)


def remove(name: str = DEFAULT_NAME, home: Path | None = None) -> bool:
    """Stop the endpoint `name` and remove its files, also after a crash; return False if there was none."""
    path = _state_path(name, home)
    state = _read_state(path)
    if state is None:
        return False
    Endpoint(state, path).stop()
    return True


def _state_path(name: str, home: Path | None) -> Path:
    if not name.replace("-", "").replace("_", "").isalnum():
        raise EndpointError(f"an endpoint's name has letters, digits, - and _ only, not '{name}'")
    root = home or Path(os.environ.get("GLUERAY_HOME") or Path.home() / ".glueray" / "local")
    return root / f"{name}.json"


def _read_state(path: Path) -> dict[str, Any] | None:
    try:
        state: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return state


def _wait_until(condition: Callable[[], bool], timeout_seconds: float) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
