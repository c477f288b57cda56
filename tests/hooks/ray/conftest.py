"""Real Ray clusters for the Ray hook, at both ends of what it speaks to, and what stands before them."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from airflow_provider_glueray.core.drivers import run_sync
from airflow_provider_glueray.core.follow import FollowPolicy, follow
from airflow_provider_glueray.core.runs import Outcome, RunRef
from airflow_provider_glueray.core.spec import RayJobSpec
from airflow_provider_glueray.hooks.ray.jobs import RayJobsHook
from airflow_provider_glueray.local import client as local_client
from airflow_provider_glueray.local.runtime import processes
from airflow_provider_glueray.local.runtime.cluster import free_ports

#: `make test-full` makes the second.
NEWEST, OLD = (Path(__file__).parents[3] / name for name in (".venv", ".venv-ray29"))
TOKEN = "a-token-of-the-tests"


class Head:
    """A head node of its own, on free ports that it keeps when it is started anew."""

    def __init__(self, venv: Path, cpus: int = 8) -> None:
        self.gcs, self.port, self.client, self.agent = free_ports("127.0.0.1", 4)
        self.url = f"http://127.0.0.1:{self.port}"
        assert (venv / "bin" / "ray").exists(), f"there is no Ray in {venv.name}; `make {venv.name}/.ready` makes it"
        self.venv, self.cpus = venv, cpus
        self.has_tokens = venv == NEWEST
        # With 0, an old Ray registers a driver without its port, and the Jobs API may wait for it without an answer
        # (ray-project/ray#40922; seen on 2.9.3). Which of these ports are free, Ray looks itself.
        self.workers = random.randrange(20_000, 32_000, 200)

    def connection(self) -> dict[str, Any]:
        """Return the JSON of a connection to it."""
        return {"conn_type": "ray", "host": self.url, **({"password": TOKEN} if self.has_tokens else {})}

    def start(self, *options: str, **environment: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="ray-"))  # short: a socket path has 107 characters
        command = [
            str(self.venv / "bin" / "ray"), "start", "--head", "--block", "--node-ip-address", "127.0.0.2",
            "--dashboard-host", "127.0.0.1", "--dashboard-port", str(self.port), "--port", str(self.gcs),
            "--ray-client-server-port", str(self.client), "--dashboard-agent-listen-port", str(self.agent),
            "--min-worker-port", str(self.workers), "--max-worker-port", str(self.workers + 199),
            "--num-cpus", str(self.cpus), "--object-store-memory", "100000000", "--disable-usage-stats",
            "--temp-dir", str(self.directory), *options,
        ]  # fmt: skip
        plain = processes.plain_environment()
        tokens = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN} if self.has_tokens else {}
        few = {"RAY_worker_maximum_startup_concurrency": str(os.cpu_count() or 2)}
        path = f"{self.venv / 'bin'}{os.pathsep}{os.environ['PATH']}"
        self.process = processes.spawn(
            command, {**plain, **tokens, **few, "PATH": path, **environment}, self.directory / "start.log"
        )
        for _ in range(300):
            # It answers before it knows its own node, and takes jobs a moment later still.
            with contextlib.suppress(httpx.TransportError):
                answer = httpx.get(f"{self.url}/api/v0/nodes", headers={"Authorization": f"Bearer {TOKEN}"})
                if answer.is_success and answer.json()["data"]["result"]["result"]:
                    return
            time.sleep(0.2)
        raise AssertionError((self.directory / "start.log").read_text())

    def kill(self) -> None:
        """End it and what it has started, without a word to anybody."""
        self.remove(patience_seconds=0)

    def remove(self, patience_seconds: float = 5.0) -> None:
        processes.end_sessions([self.process.pid], patience_seconds)
        self.process.wait(timeout=10)
        shutil.rmtree(self.directory, ignore_errors=True)


@pytest.fixture(scope="session")
def make_head() -> Iterator[Callable[..., Head]]:
    """Return what makes a head node; `start` starts it, and at the end all are removed."""
    heads: list[Head] = []

    def make(version: str = "newest", cpus: int = 8) -> Head:
        heads.append(Head(OLD if version == "2.9" else NEWEST, cpus))
        return heads[-1]

    yield make
    for head in heads:
        head.remove()


@pytest.fixture(scope="session")
def old_cluster(once: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Return the connection to a cluster of the oldest Ray, which knows no tokens; all workers share it."""

    def make() -> dict[str, Any]:
        head = Head(OLD)
        head.start()
        return {"connection": head.connection(), "sessions": [head.process.pid], "folders": [str(head.directory)]}

    return once("old-ray", make)["connection"]  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def new_cluster(endpoint: local_client.Endpoint) -> dict[str, Any]:
    """Return the connection to the endpoint's cluster."""
    ray = endpoint.ray()
    return {"conn_type": "ray", "host": ray["dashboard"], "password": ray["token"]}


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., RayJobsHook]:
    """Return what makes the hook of a connection."""

    def hook(**fields: Any) -> RayJobsHook:
        monkeypatch.setenv("AIRFLOW_CONN_RAY_DEFAULT", json.dumps({"conn_type": "ray", **fields}))
        return RayJobsHook()

    return hook


@pytest.fixture(params=["newest", "2.9"])
def hook(request: pytest.FixtureRequest, at: Callable[..., RayJobsHook]) -> RayJobsHook:
    """Return the hook, at both ends of what it speaks to."""
    return at(**request.getfixturevalue("new_cluster" if request.param == "newest" else "old_cluster"))


@pytest.fixture
def new_hook(new_cluster: dict[str, Any], at: Callable[..., RayJobsHook]) -> RayJobsHook:
    """Return the hook on the newest Ray only."""
    return at(**new_cluster)


@pytest.fixture
def make_spec(tmp_path: Path, fresh: Callable[[], int]) -> Callable[..., RayJobSpec]:
    """Return a factory of specs for a script given as text."""

    def make(source: str = "print('hello')\n", **fields: Any) -> RayJobSpec:
        script = tmp_path / f"step-{fresh()}.py"
        script.write_text(source)
        return RayJobSpec(**{"name": "tried", "script": str(script), "role": None, **fields})

    return make


@pytest.fixture
def start(fresh: Callable[[], int]) -> Callable[..., RunRef]:
    """Return what starts a run."""

    def start(hook: RayJobsHook, spec: RayJobSpec, client_token: str | None = None, **arguments: str) -> RunRef:
        return hook.prepare(spec).start(client_token or f"mark{os.getpid()}n{fresh()}", arguments)

    return start


@pytest.fixture
def told() -> list[str]:
    """Return what has been written to the task's log."""
    return []


@pytest.fixture
def follow_to_end(told: list[str]) -> Callable[..., tuple[Outcome, list[str]]]:
    """Return what follows a run to its end, and gives the lines of its script too."""
    writer = SimpleNamespace(log=lambda level, text, *values: told.append(text % values))
    writer.info = lambda text, *values: told.append(text % values)

    def follow_to_end(hook: RayJobsHook, ref: RunRef, **policy: Any) -> tuple[Outcome, list[str]]:
        outcome = run_sync(follow(ref, FollowPolicy(poll_interval=1.0, **policy)), hook, ref, writer)
        return outcome, [line.removeprefix("[script] ") for line in told if line.startswith("[script]")]

    return follow_to_end


@pytest.fixture
def answering() -> Iterator[Callable[..., str]]:
    """Return what starts a server that answers as a test says, in TLS if it is given a context, and gives its URL."""
    servers = []

    def serve(answer: Callable[[BaseHTTPRequestHandler], None], tls: Any = None) -> str:
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            do_GET = do_POST = do_PUT = answer  # noqa: N815

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                pass  # a client that hangs up is no error of the test

        server = Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def forward(new_cluster: dict[str, Any]) -> Callable[[BaseHTTPRequestHandler], httpx.Response]:
    """Return what hands a request on to the newest Ray, and gives its answer."""

    def forward(handler: BaseHTTPRequestHandler) -> httpx.Response:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        kept = {name: text for name, text in handler.headers.items() if name.lower() not in ("host", "content-length")}
        url = new_cluster["host"] + handler.path
        return httpx.request(handler.command, url, content=body, headers=kept, timeout=30)

    return forward


def reply(handler: BaseHTTPRequestHandler, status: int, content: bytes, **headers: str) -> None:
    """Answer a request."""
    handler.send_response(status)
    for name, text in headers.items():
        handler.send_header(name.replace("_", "-"), text)
    handler.end_headers()
    handler.wfile.write(content)


@pytest.fixture(name="reply")
def _reply() -> Callable[..., None]:
    """Return what answers a request: `reply(handler, status, content, **headers)`."""
    return reply
