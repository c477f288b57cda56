"""Run the daemon: bind the URL, start and watch Ray, clean up on SIGTERM. Only `client` starts it."""

from __future__ import annotations

import functools
import json
import logging
import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import boto3
import psutil
from botocore.config import Config

from airflow_provider_glueray.local.api.jobs import GlueApi
from airflow_provider_glueray.local.api.server import OWN_AGENT, Application, make_endpoint
from airflow_provider_glueray.local.api.sessions import SessionApi
from airflow_provider_glueray.local.api.web_pages import Pages
from airflow_provider_glueray.local.client import ACCESS_KEY, BUCKET, REGION, ROLE_ARN, SECRET_KEY, Endpoint
from airflow_provider_glueray.local.engine.faults import Faults
from airflow_provider_glueray.local.engine.runs import Engine
from airflow_provider_glueray.local.engine.session_threads import SessionHost
from airflow_provider_glueray.local.engine.state import State
from airflow_provider_glueray.local.runtime import processes
from airflow_provider_glueray.local.runtime.cluster import Cluster, RayUnavailable
from airflow_provider_glueray.local.runtime.environments import Runtime
from airflow_provider_glueray.local.runtime.overlay import Overlays

#: One Region of each other partition, since moto keeps IAM per partition.
_OTHER_PARTITIONS = ("cn-north-1", "us-gov-west-1")
_logger = logging.getLogger("glueray.local")
_client_lock = threading.Lock()


class Daemon:
    """One endpoint, in its own process."""

    def __init__(self, arguments: SimpleNamespace) -> None:
        self._arguments = arguments
        self._state_file = Path(arguments.state)
        self._problem: str | None = None
        self._unanswered: str | None = None
        self._state = State()
        self._faults = Faults(arguments.provisioning_seconds, arguments.quota_mdpu)
        runtime = Runtime(arguments.runtime, Path(arguments.python))
        self._cluster = Cluster(arguments.nodes, arguments.object_store_mb * 1024 * 1024, runtime)
        overlays = Overlays(self._cluster.root / "overlays", runtime)
        self._engine = Engine(self._state, self._cluster, self._faults, self.client, overlays)
        self._sessions = SessionHost(self._state, self._cluster, self._faults, self.client, overlays)
        apis = (
            GlueApi(self._state, self._engine, self._faults),
            SessionApi(self._state, self._sessions, self._faults),
        )
        application = Application(apis, self._faults, Pages(self._state, self.client), self.status)
        try:
            self._server = make_endpoint(application, arguments.port)
        except BaseException:  # werkzeug exits when the port is taken
            self._cluster.stop()
            raise
        self._url = f"http://127.0.0.1:{self._server.server_port}"

    @functools.cache  # noqa: B019
    def client(self, service: str, region: str) -> Any:
        """Return a boto3 client of this endpoint; faults and counters ignore its requests."""
        config = Config(user_agent_extra=OWN_AGENT, retries={"max_attempts": 3}, s3={"addressing_style": "path"})
        with _client_lock:  # boto3's default session is not thread-safe while it creates clients
            return boto3.client(
                service,
                region_name=region,
                endpoint_url=self._url,
                aws_access_key_id=ACCESS_KEY,
                aws_secret_access_key=SECRET_KEY,
                config=config,
            )

    def status(self) -> dict[str, Any]:
        """Return the state of Ray, and the number of runs and sessions by state."""
        with self._state.lock:
            runs = Counter(run.forced or run.state for run in self._state.runs.values())
            sessions = Counter(session.status for session in self._state.sessions.values())
        return {
            "nodes": self._cluster.size,
            "nodes_alive": self._cluster.nodes_alive,
            "ready": self._cluster.ready,
            "problem": self._problem,
            "unanswered": self._unanswered,
            "runs": dict(runs),
            "sessions": dict(sessions),
            "rss_mib": round(psutil.Process().memory_info().rss / 2**20),
        }

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then remove all processes and files."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: sys.exit(0))
        try:
            threading.Thread(target=self._server.serve_forever, name="http", daemon=True).start()
            self._create_default_resources()
            self._write_state_file()
            self._engine.start()
            self._watch()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            self._sessions.end()
            self._engine.end()
            self._cluster.stop()
            self._state_file.unlink(missing_ok=True)

    def _create_default_resources(self) -> None:
        self.client("s3", REGION).create_bucket(Bucket=BUCKET)
        trust = {
            "Effect": "Allow",
            "Principal": {"Service": "glue.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
        for region in (REGION, *_OTHER_PARTITIONS):
            self.client("iam", region).create_role(
                RoleName=ROLE_ARN.rpartition("/")[2],
                AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]}),
            )

    def _write_state_file(self) -> None:
        """Write the state file atomically and readable by its owner only, since it holds Ray's token."""
        state = {
            "name": self._arguments.name,
            "runtime": self._arguments.runtime,
            "pid": os.getpid(),
            "created": psutil.Process().create_time(),
            "boot": processes.boot(),
            "started": time.time(),
            "url": self._url,
            "address": self._cluster.address,
            "dashboard": self._cluster.dashboard,
            "token": self._cluster.token,
            "nodes": self._cluster.size,
            "root": str(self._cluster.root),
            "sessions": self._process_sessions(),
        }
        draft = self._state_file.with_suffix(".draft")
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(state, file)
        draft.replace(self._state_file)

    def _process_sessions(self) -> list[int]:
        return [*self._cluster.sessions, *self._sessions.process_sessions]

    def _look_after_nodes(self) -> None:
        try:
            self._cluster.replace_ended_workers()
        except RayUnavailable as error:
            self._problem = str(error)
        if not self._cluster.ready:
            try:
                self._cluster.count_nodes()
                self._unanswered = None
            except RayUnavailable as error:
                self._unanswered = str(error)

    def _watch(self) -> NoReturn:
        """Start Ray from this thread, which runs as long as the daemon, and watch it."""
        environment = Endpoint({"url": self._url}, self._state_file).env()
        try:
            self._cluster.start(environment)
        except RayUnavailable as error:
            self._problem = str(error)
        recorded: list[int] = []
        while True:
            if recorded != self._process_sessions():
                recorded = self._process_sessions()
                self._write_state_file()
            if self._cluster.lost:
                self._problem = "the Ray head has died; stop and start this endpoint"
            elif self._problem is None:
                self._look_after_nodes()
            if self._faults.take_fail_node():
                self._cluster.replace_worker()
            time.sleep(0.25)


def main() -> None:
    """Serve with the options from `client.start`, which are one JSON object on the command line."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    daemon = Daemon(SimpleNamespace(**json.loads(sys.argv[1])))
    try:
        daemon.run()
    finally:
        sys.stdout.flush()
        os._exit(0)  # a request thread may wait for a client without end


if __name__ == "__main__":
    main()
