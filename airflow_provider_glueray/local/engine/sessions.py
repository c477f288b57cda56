"""Keep what is known of interactive sessions and their statements, and show it in the service's shapes.

Plain records: hold the ledger's lock to change one, or to show one. What a session does next is decided in
`session_life`, what may be asked of it in `session_api`.

INFERRED: the times of a statement are milliseconds, and 0 as long as there is none (its fields and states are those of
Apache Livy, which counts that way; the model says "unix time"); a statement that did not get to its end has an empty
Output (the last kernel reads the member, never its content); a value follows what was printed without a line break
between; Progress is 0 or 1. `Output.Status` is "ok" or "error", as the last kernel reads it, although the model lists
the states of a statement there.
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
#: The states after which a session never moves again.
ENDED = frozenset({STOPPED, FAILED, TIMEOUT})
#: The states after which a statement never moves again.
FINISHED = frozenset({"AVAILABLE", "CANCELLED", "ERROR"})
#: The longest ErrorMessage of a session [botocore].
_MESSAGE_CHARACTERS = 2048


class Tape:
    """The end of everything that was printed, safe to read while it grows."""

    def __init__(self, limit: int = 1_000_000) -> None:
        self._limit, self._size, self._cut = limit, 0, False
        self._lock = threading.Lock()
        self._pieces: collections.deque[str] = collections.deque()

    def add(self, text: str) -> None:
        """Append to the end, and forget at the beginning what is too much."""
        with self._lock:
            self._cut = self._cut or len(text) > self._limit
            self._pieces.append(text[-self._limit :])
            self._size += len(self._pieces[-1])
            while self._size > self._limit and len(self._pieces) > 1:
                self._size -= len(self._pieces.popleft())
                self._cut = True

    def text(self) -> str:
        """Return what is there, with a first line that says so if the beginning is lost."""
        with self._lock:
            text = "".join(self._pieces)
            return f"(the beginning is left out)\n{text}" if self._cut else text


@dataclass
class Statement:
    """One piece of code and what became of it; epoch seconds."""

    id: int
    code: str
    state: str = "WAITING"
    started: float | None = None
    completed: float | None = None
    output: dict[str, Any] = field(default_factory=dict)

    def finish(self, state: str, output: dict[str, Any] | None = None) -> None:
        """Show the last state, and with it the output."""
        self.state, self.completed, self.output = state, time.time(), output or {}

    def wire(self) -> dict[str, Any]:
        """Return the statement in the shape of botocore's `Statement`."""
        shown = {
            "Id": self.id,
            "Code": self.code,
            "State": self.state,
            "Progress": 1.0 if self.state in FINISHED else 0.0,
            "StartedOn": round((self.started or 0) * 1000),
            "CompletedOn": round((self.completed or 0) * 1000),
        }
        return shown | {"Output": self.output} if self.state in FINISHED else shown


@dataclass
class Session:
    """One session: `verdict` (state, message) is how it shall end, once that is known. Epoch seconds."""

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
    verdict: tuple[str, str | None] | None = None
    statements: list[Statement] = field(default_factory=list)
    log: Tape = field(default_factory=Tape)
    #: Set when there is something to do, so that a statement need not wait for the next look.
    wake: threading.Event = field(default_factory=threading.Event)

    @property
    def status(self) -> str:
        """The state that the service shows."""
        return self.forced or self.state

    @property
    def open_statement(self) -> Statement | None:
        """The statement which is not finished; there is never more than one."""
        last = self.statements[-1] if self.statements else None
        return last if last is not None and last.state not in FINISHED else None

    def add(self, code: str) -> Statement:
        """Append a statement which waits to be run."""
        statement = Statement(len(self.statements), code)
        self.statements.append(statement)
        self.wake.set()
        return statement

    def condemn(self, state: str, message: str | None) -> None:
        """Decide how the session ends, unless that was decided before; the end itself follows soon."""
        if self.state not in ENDED and self.verdict is None:
            self.verdict = (state, message)
            if state == STOPPED:
                self.state = STOPPING
            self.wake.set()

    def close(self, state: str, message: str | None) -> None:
        """Show the last state."""
        self.state, self.completed = state, time.time()
        self.message = message[:_MESSAGE_CHARACTERS] if message else None

    def wire(self) -> dict[str, Any]:
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
