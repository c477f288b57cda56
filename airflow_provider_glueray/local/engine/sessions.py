"""Keep the records of interactive sessions and their statements, and return them in the service's shapes.

Hold the lock of `State` to read or change a record. `session_threads` decides the next step of a session, the API in
`api.sessions` decides whether a request is allowed.

INFERRED: the times of a statement are milliseconds, and 0 before the event (its fields and states are those of Apache
Livy, which counts that way; the model says "unix time"); a statement without a result has an empty Output (the last
kernel reads the member, never its content); a value follows the printed output without a line break between; Progress
is 0 or 1. `Output.Status` is "ok" or "error", as the last kernel reads it, although the model lists the states of a
statement there.
"""

from __future__ import annotations

import collections
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_glueray.local.engine.rules import MDPU_PER_WORKER

PROVISIONING, READY, STOPPING, STOPPED = "PROVISIONING", "READY", "STOPPING", "STOPPED"
FAILED, TIMEOUT = "FAILED", "TIMEOUT"
#: A session in one of these states never changes its state again.
ENDED = frozenset({STOPPED, FAILED, TIMEOUT})
#: A statement in one of these states never changes its state again.
FINISHED = frozenset({"AVAILABLE", "CANCELLED", "ERROR"})
#: An ErrorMessage of a session has at most so many characters [botocore].
_MESSAGE_CHARACTERS = 2048


class OutputBuffer:
    """The last `limit` characters of a session's output, safe to read while it grows."""

    def __init__(self, limit: int = 1_000_000) -> None:
        self._limit, self._size, self._cut = limit, 0, False
        self._lock = threading.Lock()
        self._pieces: collections.deque[str] = collections.deque()

    def add(self, text: str) -> None:
        """Append text, and drop the oldest characters beyond the limit."""
        with self._lock:
            self._cut = self._cut or len(text) > self._limit
            self._pieces.append(text[-self._limit :])
            self._size += len(self._pieces[-1])
            while self._size > self._limit and len(self._pieces) > 1:
                self._size -= len(self._pieces.popleft())
                self._cut = True

    def text(self) -> str:
        """Return the text, after a note as its first line if older characters were dropped."""
        with self._lock:
            text = "".join(self._pieces)
            return f"(the beginning is left out)\n{text}" if self._cut else text


@dataclass
class Statement:
    """One piece of code, its state and its output. Times are epoch seconds."""

    id: int
    code: str
    state: str = "WAITING"
    started: float | None = None
    completed: float | None = None
    output: dict[str, Any] = field(default_factory=dict)

    def finish(self, state: str, output: dict[str, Any] | None = None) -> None:
        """Set the last state and the output."""
        self.state, self.completed, self.output = state, time.time(), output or {}

    def to_response(self) -> dict[str, Any]:
        """Return the statement in the shape of botocore's `Statement`."""
        response = {
            "Id": self.id,
            "Code": self.code,
            "State": self.state,
            "Progress": 1.0 if self.state in FINISHED else 0.0,
            "StartedOn": round((self.started or 0) * 1000),
            "CompletedOn": round((self.completed or 0) * 1000),
        }
        return response | {"Output": self.output} if self.state in FINISHED else response


@dataclass
class Session:
    """One session; `requested_end` (state, message) is the end that was requested. Times are epoch seconds."""

    id: str
    region: str
    workers: int
    arguments: dict[str, str]
    timeout_minutes: int
    idle_minutes: int
    tags: dict[str, str]
    fields: dict[str, Any]
    state: str = PROVISIONING
    message: str | None = None
    created: float = field(default_factory=time.time)
    ready: float | None = None
    completed: float | None = None
    forced: str | None = None
    requested_end: tuple[str, str | None] | None = None
    statements: list[Statement] = field(default_factory=list)
    log: OutputBuffer = field(default_factory=OutputBuffer)
    #: Setting it wakes the session's thread, so that a statement need not wait for the next poll.
    wake: threading.Event = field(default_factory=threading.Event)

    @property
    def status(self) -> str:
        """The state in responses: the forced state, if there is one."""
        return self.forced or self.state

    @property
    def open_statement(self) -> Statement | None:
        """The statement that is not finished; a session never has more than one."""
        last = self.statements[-1] if self.statements else None
        return last if last is not None and last.state not in FINISHED else None

    def add(self, code: str) -> Statement:
        """Append a statement with the state WAITING."""
        statement = Statement(len(self.statements), code)
        self.statements.append(statement)
        self.wake.set()
        return statement

    def request_end(self, state: str, message: str | None) -> None:
        """Request the end of the session, unless an earlier request exists; the session's thread ends it soon after."""
        if self.state not in ENDED and self.requested_end is None:
            self.requested_end = (state, message)
            if state == STOPPED:
                self.state = STOPPING
            self.wake.set()

    def close(self, state: str, message: str | None) -> None:
        """Set the last state and the ErrorMessage."""
        self.state, self.completed = state, time.time()
        self.message = message[:_MESSAGE_CHARACTERS] if message else None

    def to_response(self) -> dict[str, Any]:
        """Return the session in the shape of botocore's `Session`."""
        capacity = float(self.workers * MDPU_PER_WORKER)
        seconds = round((self.completed or time.time()) - self.ready, 3) if self.ready else 0.0
        optional = {"CompletedOn": self.completed, "ErrorMessage": self.message}
        return {
            **self.fields,
            **{key: value for key, value in optional.items() if value is not None},
            "Id": self.id,
            "Status": self.status,
            "CreatedOn": self.created,
            "DefaultArguments": dict(self.arguments),
            "Progress": 0.0 if self.ready is None else 1.0,
            "NumberOfWorkers": self.workers,
            "MaxCapacity": capacity,
            "ExecutionTime": seconds,
            "DPUSeconds": seconds * capacity,
            "IdleTimeout": self.idle_minutes,
        }
