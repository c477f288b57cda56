"""Move every session through its states: a thread for each, from PROVISIONING to the end of its kernel.

The thread is also the one which starts the kernel, so the kernel cannot outlive it, and it is the only one that talks
with it. Whoever wants something of a session changes its record and wakes the thread.

INFERRED: Timeout counts from READY; a session is idle while no statement runs; ErrorMessage of a timeout.
"""

from __future__ import annotations

import itertools
import logging
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from airflow_provider_glueray.local.engine.faults import Faults
from airflow_provider_glueray.local.engine.job_inputs import CannotPrepare, prepare_session
from airflow_provider_glueray.local.engine.kernels import Execution, Kernel, plain_lines
from airflow_provider_glueray.local.engine.sessions import FAILED, READY, STOPPED, TIMEOUT, Session, Statement
from airflow_provider_glueray.local.engine.state import Ledger
from airflow_provider_glueray.local.runtime import processes
from airflow_provider_glueray.local.runtime.cluster import Cluster
from airflow_provider_glueray.local.runtime.overlay import Overlays

_LOOK_SECONDS = 0.1
_START_SECONDS = 60.0

_logger = logging.getLogger(__name__)


class Over(Exception):
    """The session ends, with this state and message."""

    def __init__(self, state: str, message: str | None) -> None:
        super().__init__(state)
        self.state, self.message = state, message


class SessionHost:
    """All sessions of one endpoint. `client(service, region)` returns a boto3 client of it."""

    def __init__(
        self,
        ledger: Ledger,
        cluster: Cluster,
        faults: Faults,
        client: Callable[[str, str], Any],
        overlays: Overlays,
    ) -> None:
        self.ledger, self.cluster, self.faults, self.client, self.overlays = ledger, cluster, faults, client, overlays
        self._numbers = itertools.count()
        self._lives: list[Life] = []
        self._closed = False

    @property
    def process_sessions(self) -> list[int]:
        """The process sessions of all kernels there are."""
        return [kernel.session for life in list(self._lives) if (kernel := life.kernel) is not None]

    def open(self, session: Session) -> None:
        """Begin the life of a new session; returns at once. Hold the ledger's lock."""
        if self._closed:
            session.condemn(STOPPED, None)
        life = Life(session, self, self.cluster.root / "sessions" / str(next(self._numbers)))
        self._lives = [*(life for life in self._lives if life.is_alive()), life]
        life.start()

    def end(self, patience_seconds: float = 5.0) -> None:
        """Stop all sessions, wait a little for them, then end their kernels."""
        with self.ledger.lock:
            self._closed = True
            for life in self._lives:
                life.session.condemn(STOPPED, None)
        deadline = time.monotonic() + patience_seconds
        for life in self._lives:
            life.join(max(0.0, deadline - time.monotonic()))
        processes.end_sessions(self.process_sessions, patience_seconds=0.0)


class Life(threading.Thread):
    """The thread of one session; its kernel's files are in `directory`."""

    def __init__(self, session: Session, host: SessionHost, directory: Path) -> None:
        super().__init__(name=f"session-{directory.name}", daemon=True)
        self.session = session
        self.kernel: Kernel | None = None
        self._host, self._ledger, self._directory = host, host.ledger, directory
        self._idle_since = 0.0

    def run(self) -> None:
        """Live until the session is over for one reason or another, then clean up."""
        try:
            self.kernel = self._provision()
            while True:
                self._check()
                statement = self._take()
                if statement is not None:
                    self._perform(self.kernel, statement)
                else:
                    self.session.wake.wait(_LOOK_SECONDS)
                    self.session.wake.clear()
                    self.kernel.listen(0.0)
        except Over as over:
            self._wind_up(over)
        except CannotPrepare as error:
            self._wind_up(Over(*(self.session.verdict or (FAILED, str(error)))))
        except Exception as error:
            _logger.exception("session %s stumbled", self.session.id)
            self._wind_up(Over(FAILED, f"{type(error).__name__}: {error}"))

    def _provision(self) -> Kernel:
        session, cluster = self.session, self._host.cluster
        while not cluster.ready or time.time() < session.created + self._faults()["provisioning_seconds"]:
            self._check()
            session.wake.wait(_LOOK_SECONDS)
        self._directory.mkdir(parents=True)
        s3 = self._host.client("s3", session.region)
        setting = prepare_session(session, s3, self._host.overlays, self._directory)
        self._check()
        environment = {**cluster.driver_environment, **setting.variables}
        launch = cluster.runtime.kernel_command(setting.python)
        self.kernel = kernel = Kernel(launch, self._directory, setting.working, environment, session.log.add)
        deadline = time.monotonic() + _START_SECONDS
        while not kernel.answers():
            self._check()
            if time.monotonic() > deadline:
                raise Over(FAILED, f"The session's Python did not start: {kernel.last_words()}")
        with self._ledger.lock:
            if session.verdict is None:
                session.state, session.ready = READY, time.time()
        self._idle_since = time.time()
        return kernel

    def _faults(self) -> dict[str, Any]:
        return self._host.faults.values(self.session.region)

    def _check(self) -> None:
        """Raise Over if the session has to end."""
        session, now = self.session, time.time()
        if session.verdict is not None:
            raise Over(*session.verdict)
        if self._host.cluster.lost:
            raise Over(FAILED, "The Ray cluster of this endpoint has died")
        if self.kernel is not None and self.kernel.death is not None:
            if session.ready is None:
                raise Over(FAILED, f"The session's Python did not start: {self.kernel.last_words()}")
            raise Over(FAILED, f"The session's Python process has died: {self.kernel.death}")
        if session.ready is None:
            return
        minute = self._faults()["minute_seconds"]
        if now > session.ready + session.timeout_minutes * minute:
            raise Over(TIMEOUT, f"Session timed out after {session.timeout_minutes} minutes")
        if session.open_statement is None and now > self._idle_since + session.idle_minutes * minute:
            raise Over(TIMEOUT, f"Session timed out after {session.idle_minutes} minutes without a statement")

    def _take(self) -> Statement | None:
        with self._ledger.lock:
            statement = self.session.open_statement
            if statement is None or self.session.verdict is not None:
                return None
            if statement.state == "CANCELLING":
                statement.finish("CANCELLED")
                return None
            statement.state, statement.started = "RUNNING", time.time()
            return statement

    def _perform(self, kernel: Kernel, statement: Statement) -> None:
        execution = kernel.execute(statement.code)
        while not execution.finished:
            self._check()
            if statement.state == "CANCELLING":
                kernel.interrupt(execution)
            kernel.listen(_LOOK_SECONDS)
        output = _output(execution)
        with self._ledger.lock:
            if statement.state == "CANCELLING":
                statement.finish("CANCELLED")
            else:
                statement.finish("AVAILABLE", output)
        self._idle_since = time.time()

    def _wind_up(self, over: Over) -> None:
        session = self.session
        with self._ledger.lock:
            if session.open_statement is not None:
                session.open_statement.finish("ERROR")
            if over.state != STOPPED:
                session.close(over.state, over.message)
        if self.kernel is not None:
            self.kernel.listen(0.0)  # what it had to say before it died
            self.kernel.end()
            self.kernel = None
        shutil.rmtree(self._directory, ignore_errors=True)
        with self._ledger.lock:
            if over.state == STOPPED:
                session.close(over.state, over.message)


def _output(execution: Execution) -> dict[str, Any]:
    """Return what an execution said in the shape of botocore's `StatementOutput`."""
    reply = execution.reply
    output = {
        "Data": {"TextPlain": "".join([*execution.printed, execution.value])},
        "ExecutionCount": reply.get("execution_count", 0),
        "Status": "ok",
    }
    if reply.get("status") == "ok":
        return output
    error = {
        "ErrorName": reply.get("ename", "KeyboardInterrupt"),
        "ErrorValue": reply.get("evalue", ""),
        "Traceback": plain_lines(reply.get("traceback", ())),
    }
    return {**output, "Status": "error", **error}
