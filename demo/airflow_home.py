"""A throw-away Airflow: scheduler, triggerer, DAG processor and API server, in a home that is deleted again."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import httpx
import psutil
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from airflow_provider_glueray.local.runtime import processes

if TYPE_CHECKING:
    from typing_extensions import Self

#: Airflow takes a twentieth of it on two cores that have nothing else to do.
START_SECONDS = 300
#: A busy machine may let Airflow answer late.
ANSWER_SECONDS = 120
#: Processes that the kernel is busy with die a little later than they are told to.
KILL_SECONDS = 30


class AirflowError(RuntimeError):
    """Airflow did not do what it was asked; the message ends with its log."""


class Airflow:
    """`airflow standalone` on free ports of 127.0.0.1, in its own session, with sqlite.

    :param dags: the folder of the DAGs.
    :param connections: connection id to its JSON.
    """

    def __init__(self, dags: Path, connections: dict[str, dict[str, Any]], **settings: str) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="glueray-airflow-"))
        self.url = f"http://127.0.0.1:{_free_port()}"
        self._process: subprocess.Popen[bytes] | None = None
        passwords = self.home / "passwords.json"
        passwords.write_text(json.dumps({"admin": "admin"}))
        self.env = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "AWS_"))},
            **{f"AIRFLOW_CONN_{name.upper()}": json.dumps(value) for name, value in connections.items()},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": self.url.rpartition(":")[2],
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(_free_port()),
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(_free_port()),
            "AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE": "True",
            # A deferral lasts a heartbeat of the worker and three seconds at least.
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
            # Each task waits for the scheduler twice, and again when it resumes.
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.3",
            # No DAG changes while this Airflow lives, so none is read twice.
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "NO_COLOR": "1",
            **settings,
        }
        self._client = httpx.Client(base_url=f"{self.url}/api/v2", timeout=ANSWER_SECONDS)

    def __enter__(self) -> Self:
        try:
            self.start()
            self.wait_until_healthy()
        except BaseException:
            self.stop()
            raise
        return self

    def start(self) -> None:
        """Start all components; `wait_until_healthy` tells when they are up. `stop` is due even if this fails."""
        with (self.home / "standalone.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["airflow", "standalone"],
                env=self.env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=self.home,
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Kill every process of it and delete its home: nothing in there is worth an orderly end."""
        self._client.close()
        if self._process is not None:
            kill_session(self._process)
        shutil.rmtree(self.home, ignore_errors=True)

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """Call the REST API and return what it answers; sqlite may be locked for a moment, so 5xx is tried again."""
        patience = Retrying(
            retry=retry_if_result(lambda answer: answer.is_server_error),
            stop=stop_after_delay(20),
            wait=wait_fixed(0.5),
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
        )
        answer: httpx.Response = patience(self._client.request, method, path, json=body, params=query)
        if answer.is_error:
            raise AirflowError(f"Airflow answered {answer.status_code} to {method} {path}: {answer.text[:500]}")
        return answer.json() if answer.content else None

    def log_tail(self, lines: int = 30) -> str:
        """Return the end of the log of all components."""
        return "\n".join((self.home / "standalone.log").read_text(errors="replace").splitlines()[-lines:])

    def wait_until_healthy(self) -> None:
        """Return when every component is up and calls are allowed."""
        end = time.monotonic() + START_SECONDS
        while any(state != "healthy" for state in self.health().values()):
            if self._process is not None and self._process.poll() is not None:
                raise AirflowError(f"Airflow ended while it was starting:\n{self.log_tail()}")
            if time.monotonic() > end:
                raise AirflowError(f"Airflow was not healthy after {START_SECONDS} s:\n{self.log_tail()}")
            time.sleep(0.2)
        answer = httpx.post(
            f"{self.url}/auth/token", json={"username": "admin", "password": "admin"}, timeout=ANSWER_SECONDS
        )
        self._client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def health(self) -> dict[str, str | None]:
        """Return what the API server says of each component."""
        try:
            said = self._client.get("/monitor/health").json()
        except (httpx.HTTPError, ValueError):
            said = {}
        parts = ("metadatabase", "scheduler", "triggerer", "dag_processor")
        return {part: said.get(part, {}).get("status") for part in parts}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def kill_session(leader: subprocess.Popen[bytes]) -> None:
    """Kill a process that leads a session, and all in that session; each task of Airflow has a group of its own."""
    end = time.monotonic() + KILL_SECONDS
    while (left := processes.in_sessions([leader.pid])) and time.monotonic() < end:
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        leader.poll()
        time.sleep(0.1)
