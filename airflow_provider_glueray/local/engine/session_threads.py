"""Move every session through its states, in one thread per session, from PROVISIONING to the end of its kernel.

The same thread starts the kernel, so the kernel cannot outlive it, and no other thread uses the kernel. To act on a
session, other threads change its record and wake its thread.

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
from airflow_provider_glueray.local.engine.state import State
from airflow_provider_glueray.local.runtime import processes
from airflow_provider_glueray.local.runtime.cluster import Cluster
from airflow_provider_glueray.local.runtime.overlay import Overlays

_POLL_SECONDS = 0.1
_START_TIMEOUT_SECONDS = 60.0

_logger = logging.getLogger(__name__)


class SessionEnd(Exception):
    """The session ends with this state and message."""

    def __init__(self, state: str, message: str | None) -> None:
        super().__init__(state)
        self.state, self.message = state, message


class SessionHost:
    """The threads of all sessions of one endpoint. `client(service, region)` returns a boto3 client of the endpoint."""

    def __init__(
        self,
        state: State,
        cluster: Cluster,
        faults: Faults,
        client: Callable[[str, str], Any],
        overlays: Overlays,
    ) -> None:
        self.state, self.cluster, self.faults, self.client, self.overlays = state, cluster, faults, client, overlays
        self._numbers = itertools.count()
        self._threads: list[SessionThread] = []
        self._closed = False

    @property
    def process_sessions(self) -> list[int]:
        """The ids of the process sessions of all kernels."""
        return [kernel.session for thread in list(self._threads) if (kernel := thread.kernel) is not None]

    def start_session(self, session: Session) -> None:
        """Start the thread of a new session and return at once. Hold the lock of `State`."""
        if self._closed:
            session.request_end(STOPPED, None)
        thread = SessionThread(session, self, self.cluster.root / "sessions" / str(next(self._numbers)))
        self._threads = [*(thread for thread in self._threads if thread.is_alive()), thread]
        thread.start()

    def end(self, patience_seconds: float = 5.0) -> None:
        """Stop all sessions, wait up to `patience_seconds` for them, then end their kernels."""
        with self.state.lock:
            self._closed = True
            for thread in self._threads:
                thread.session.request_end(STOPPED, None)
        deadline = time.monotonic() + patience_seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        processes.end_sessions(self.process_sessions, patience_seconds=0.0)


class SessionThread(threading.Thread):
    """The thread of one session; the kernel's files are in `directory`."""

    def __init__(self, session: Session, host: SessionHost, directory: Path) -> None:
        super().__init__(name=f"session-{directory.name}", daemon=True)
        self.session = session
        self.kernel: Kernel | None = None
        self._host, self._state, self._directory = host, host.state, directory
        self._idle_since = 0.0

    def run(self) -> None:
        """Run until the session ends, then clean up."""
        try:
            self.kernel = self._provision()
            while True:
                self._check()
                statement = self._take_statement()
                if statement is not None:
                    self._run_statement(self.kernel, statement)
                else:
                    self.session.wake.wait(_POLL_SECONDS)
                    self.session.wake.clear()
                    self.kernel.receive(0.0)
        except SessionEnd as end:
            self._close_session(end)
        except CannotPrepare as error:
            self._close_session(SessionEnd(*(self.session.requested_end or (FAILED, str(error)))))
        except Exception as error:
            _logger.exception("unexpected error in session %s", self.session.id)
            self._close_session(SessionEnd(FAILED, f"{type(error).__name__}: {error}"))

    def _provision(self) -> Kernel:
        session, cluster = self.session, self._host.cluster
        while not cluster.ready or time.time() < session.created + self._faults()["provisioning_seconds"]:
            self._check()
            session.wake.wait(_POLL_SECONDS)
        self._directory.mkdir(parents=True)
        s3 = self._host.client("s3", session.region)
        python, working, variables = prepare_session(session, s3, self._host.overlays, self._directory)
        self._check()
        environment = {**cluster.driver_environment, **variables}
        launch = cluster.runtime.kernel_command(python)
        self.kernel = kernel = Kernel(launch, self._directory, working, environment, session.log.add)
        deadline = time.monotonic() + _START_TIMEOUT_SECONDS
        while not kernel.responds():
            self._check()
            if time.monotonic() > deadline:
                raise SessionEnd(FAILED, f"The session's Python did not start: {kernel.last_log_line()}")
        with self._state.lock:
            if session.requested_end is None:
                session.state, session.ready = READY, time.time()
        self._idle_since = time.time()
        return kernel

    def _faults(self) -> dict[str, Any]:
        return self._host.faults.values(self.session.region)

    def _check(self) -> None:
        """Raise SessionEnd if the session has to end."""
        session, now = self.session, time.time()
        if session.requested_end is not None:
            raise SessionEnd(*session.requested_end)
        if self._host.cluster.lost:
            raise SessionEnd(FAILED, "The Ray cluster of this endpoint has died")
        if self.kernel is not None and self.kernel.exit_reason is not None:
            if session.ready is None:
                raise SessionEnd(FAILED, f"The session's Python did not start: {self.kernel.last_log_line()}")
            raise SessionEnd(FAILED, f"The session's Python process has died: {self.kernel.exit_reason}")
        if session.ready is None:
            return
        minute = self._faults()["minute_seconds"]
        if now > session.ready + session.timeout_minutes * minute:
            raise SessionEnd(TIMEOUT, f"Session timed out after {session.timeout_minutes} minutes")
        if session.open_statement is None and now > self._idle_since + session.idle_minutes * minute:
            raise SessionEnd(TIMEOUT, f"Session timed out after {session.idle_minutes} minutes without a statement")

    def _take_statement(self) -> Statement | None:
        with self._state.lock:
            statement = self.session.open_statement
            if statement is None or self.session.requested_end is not None:
                return None
            if statement.state == "CANCELLING":
                statement.finish("CANCELLED")
                return None
            statement.state, statement.started = "RUNNING", time.time()
            return statement

    def _run_statement(self, kernel: Kernel, statement: Statement) -> None:
        execution = kernel.execute(statement.code)
        while not execution.finished:
            self._check()
            if statement.state == "CANCELLING":
                kernel.interrupt(execution)
            kernel.receive(_POLL_SECONDS)
        output = _output(execution)
        with self._state.lock:
            if statement.state == "CANCELLING":
                statement.finish("CANCELLED")
            else:
                statement.finish("AVAILABLE", output)
        self._idle_since = time.time()

    def _close_session(self, end: SessionEnd) -> None:
        session = self.session
        with self._state.lock:
            if session.open_statement is not None:
                session.open_statement.finish("ERROR")
            if end.state != STOPPED:
                session.close(end.state, end.message)
        if self.kernel is not None:
            self.kernel.receive(0.0)  # the last output before it died
            self.kernel.end()
            self.kernel = None
        shutil.rmtree(self._directory, ignore_errors=True)
        with self._state.lock:
            if end.state == STOPPED:
                session.close(end.state, end.message)


def _output(execution: Execution) -> dict[str, Any]:
    """Return the output of an execution in the shape of botocore's `StatementOutput`."""
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
