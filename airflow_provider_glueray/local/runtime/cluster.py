"""Run the Ray cluster of one endpoint: a head and its workers as separate nodes with addresses of their own.

Every node offers the logical shape of a Z.2X worker (8 CPUs), whatever the host has. Token authentication is on; a Ray
without it listens on 127.0.0.1 only (see `compat_shim`). This module imports nothing of Glue. It needs Linux, where all
of 127.0.0.0/8 is loopback.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any

import httpx
import psutil

from airflow_provider_glueray.local.runtime import compat_shim, processes
from airflow_provider_glueray.local.runtime.environments import COMPAT_SHIM, Runtime

#: A Z.2X worker has so many vCPUs [botocore].
CPUS_PER_NODE = 8
#: The head has this address.
HEAD = "127.0.0.2"
#: How often in a row worker nodes are started again before the cluster is given up.
MOST_RESTARTS = 5


class RayUnavailable(Exception):
    """The Jobs API of the cluster did not respond, or responded with an error."""


@dataclass
class Node:
    """One `ray start --block`; `directory` holds its temp dir and `session` is its process session.

    Log streams and nodes are named by `address`, which is unique, also where all nodes listen on 127.0.0.1.
    """

    address: str
    directory: Path
    process: Popen[bytes]

    @property
    def session(self) -> int:
        """The session id, which is the pid of `ray start`."""
        return self.process.pid

    @property
    def logs(self) -> Path:
        """The directory of this node's logs."""
        return self.directory / "session_latest" / "logs"


class Cluster:
    """A head and `size - 1` workers. Call `start` and the `replace_…` methods from one long-lived thread only."""

    def __init__(self, size: int, object_store_bytes: int, runtime: Runtime) -> None:
        self.size, self.runtime = size, runtime
        self.root = Path(tempfile.mkdtemp(prefix="glueray-"))  # short: a socket path has 107 characters
        self.token = secrets.token_hex(16)
        self.nodes: list[Node] = []
        self.nodes_alive = 0
        self._nodes_started = 0
        self._restarts = 0
        self._object_store_bytes = object_store_bytes
        inherited = processes.plain_environment()
        self._environment = {
            **inherited,
            "PATH": os.pathsep.join([str(runtime.python.parent), inherited.get("PATH", os.defpath)]),
            "RAY_USAGE_STATS_ENABLED": "0",
            # A node ends if its agent takes longer to start than this; the default is 30 s, too few on a busy machine.
            "RAY_agent_register_timeout_ms": "120000",
            **(self._token_variables() if runtime.is_newest else self._compat_shim_variables()),
        }
        self._gcs_port, self.dashboard_port, self._client_port = free_ports("127.0.0.1", 3)
        self.address = f"{self._bound_to(HEAD)}:{self._gcs_port}"
        self.dashboard = f"http://127.0.0.1:{self.dashboard_port}"
        self._http = httpx.Client(
            base_url=self.dashboard,
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
            timeout=30,
            trust_env=False,  # loopback needs no proxy
            verify=False,  # plain HTTP needs no certificates, which take 30 ms to load
        )

    def _token_variables(self) -> dict[str, str]:
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            # Without it, eight logical CPUs on a small host start eight interpreters at once.
            "RAY_worker_maximum_startup_concurrency": str(os.cpu_count() or 2),
        }

    def _compat_shim_variables(self) -> dict[str, str]:
        return {
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_START_HOOK": f"{COMPAT_SHIM}.{compat_shim.start_node.__name__}",
            compat_shim.HEAD_VARIABLE: HEAD,
            "RAY_TMPDIR": str(self.root),  # without it, a worker node writes the cluster's address to /tmp/ray
        }

    def _bound_to(self, address: str) -> str:
        return address if self.runtime.is_newest else "127.0.0.1"

    @property
    def sessions(self) -> list[int]:
        """Session ids of all nodes."""
        return [node.session for node in self.nodes]

    @property
    def driver_environment(self) -> dict[str, str]:
        """The environment that attaches a process to this cluster when Ray has not started the process."""
        return {**self._environment, "RAY_ADDRESS": self.address}

    @property
    def ready(self) -> bool:
        """Whether Ray has reported every node as alive."""
        return self.nodes_alive >= self.size

    @property
    def lost(self) -> bool:
        """Whether the head has died."""
        return bool(self.nodes) and self.nodes[0].process.poll() is not None

    def start(self, environment: Mapping[str, str]) -> None:
        """Start the head and, once it accepts connections, the workers; return before the workers are alive.

        Every Ray process, hence every script, gets the variables of `environment`.
        """
        self._environment |= environment
        self._add_node(
            "--head",
            *("--port", str(self._gcs_port)),
            *("--dashboard-host", "127.0.0.1", "--dashboard-port", str(self.dashboard_port)),
            *("--ray-client-server-port", str(self._client_port), "--include-dashboard", "true"),
        )
        deadline = time.monotonic() + 60
        while not _accepts(self._bound_to(HEAD), self._gcs_port):
            if self.lost or time.monotonic() > deadline:
                raise RayUnavailable(f"the Ray head did not start{self._why()}")
            time.sleep(0.1)
        for _ in range(self.size - 1):
            self._add_node("--address", self.address)

    def replace_worker(self) -> None:
        """Kill the newest worker node without warning and start another, at an address of its own."""
        if self.size < 2:
            return
        self._replace(self.nodes[-1])

    def replace_ended_workers(self) -> None:
        """Start another worker node for each that has ended by itself.

        :raises RayUnavailable: they do so again and again.
        """
        for node in self.nodes[1:]:
            if node.process.poll() is not None:
                if self._restarts == MOST_RESTARTS:
                    raise RayUnavailable(f"a worker node of Ray has ended {MOST_RESTARTS} times in a row{self._why()}")
                self._restarts += 1
                self._replace(node)

    def _replace(self, node: Node) -> None:
        for process in processes.in_sessions([node.session]):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        node.process.wait()
        self.nodes.remove(node)
        self.nodes_alive = len(self.nodes)
        self._add_node("--address", self.address)

    def _why(self) -> str:
        """Return the last line that Ray has written."""
        written = (self.root / "ray.log").read_text(errors="replace").strip()
        return f": {written.splitlines()[-1]}" if written else ""

    def _add_node(self, *options: str) -> None:
        address = f"127.0.0.{2 + self._nodes_started}"
        bound_to = self._bound_to(address)
        directory = self.root / str(self._nodes_started)
        directory.mkdir()
        command = [
            str(self.runtime.python.parent / "ray"),
            *("start", "--block", *options, "--node-ip-address", bound_to, "--node-name", address),
            *("--dashboard-agent-listen-port", str(free_ports(bound_to, 1)[0]), "--temp-dir", str(directory)),
            *("--num-cpus", str(CPUS_PER_NODE), "--num-gpus", "0"),
            *("--object-store-memory", str(self._object_store_bytes), "--disable-usage-stats"),
            *("--min-worker-port", "0", "--max-worker-port", "0"),
        ]
        self._nodes_started += 1
        environment = {**self._environment, compat_shim.DIRECTORY_VARIABLE: str(directory)}
        self.nodes.append(Node(address, directory, processes.spawn(command, environment, self.root / "ray.log")))

    def count_nodes(self) -> int:
        """Ask Ray for the number of nodes that are alive, store it and return it."""
        response = self._request("GET", "/api/v0/nodes")
        nodes = response["data"]["result"]["result"]
        self.nodes_alive = sum(1 for node in nodes if node["state"] == "ALIVE")
        self._restarts *= not self.ready
        return self.nodes_alive

    def submit(self, submission_id: str, entrypoint: str, runtime_env: Mapping[str, Any]) -> None:
        """Submit a Ray job."""
        body = {"entrypoint": entrypoint, "submission_id": submission_id, "runtime_env": dict(runtime_env)}
        self._request("POST", "/api/jobs/", body)

    def job(self, submission_id: str) -> dict[str, Any]:
        """Return one Ray job: `status`, `message`, `driver_exit_code`, `job_id`.

        This asks for one job, because Ray's list costs over a millisecond for every job that the cluster ever had.
        """
        job: dict[str, Any] = self._request("GET", f"/api/jobs/{submission_id}")
        return job

    def stop_job(self, submission_id: str) -> None:
        """Ask Ray to stop a job: SIGTERM now, SIGKILL three seconds later [ray]."""
        self._request("POST", f"/api/jobs/{submission_id}/stop")

    def stop(self) -> None:
        """Stop Ray and remove its files."""
        processes.end_sessions(self.sessions)
        for node in self.nodes:
            node.process.wait(timeout=5)
        shutil.rmtree(self.root, ignore_errors=True)

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        try:
            response = self._http.request(method, path, json=body)
            if not response.is_success:
                raise RayUnavailable(f"{method} {path}: {response.status_code} {response.text[:2000]}")
            return response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise RayUnavailable(f"{method} {path}: {error}") from error


def free_ports(address: str, count: int) -> list[int]:
    """Return `count` different TCP ports that are free at `address` now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((address, 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _accepts(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=0.5).close()
    except OSError:
        return False
    return True
