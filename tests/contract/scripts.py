"""What the scripted backend plays: a clock that a test moves, what a run does and when, and files in memory."""

from __future__ import annotations

import builtins
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class Clock:
    """A clock that stands still until somebody waits."""

    def __init__(self) -> None:
        #: Not of today: an event loop reckons in parts of a microsecond.
        self.seconds = 100_000.0

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += max(seconds, 0.0)

    def forward(self, seconds: float) -> None:
        """Let time pass while nobody waits."""
        self.sleep(seconds)


@dataclass
class Script:
    """What a run does: raw states of Glue, and lines, each with the second of the run from which on it is there."""

    states: Sequence[tuple[float, str]] = ((0, "STARTING"), (2, "RUNNING"), (10, "SUCCEEDED"))
    lines: Sequence[tuple[float, str]] = ()
    message: str = ""
    #: How long after a stop a run that has ended still holds what may run on; 0 for one that holds nothing.
    holds: float = 0.0


def script_of(source: str) -> Script:
    """Return what a run of a Python script does: it is executed now, and its sleeps are noted and not slept."""
    lines: list[tuple[float, str]] = []
    at, rest, message = 0.0, "", ""

    def sleep(seconds: float) -> None:
        nonlocal at
        at += seconds

    def write(text: str) -> None:
        nonlocal rest
        *whole, rest = (rest + text).split("\n")
        lines.extend((at, line) for line in whole)

    out = io.StringIO()
    out.write = write  # type: ignore[method-assign,assignment]
    modules = {"time": SimpleNamespace(sleep=sleep)}

    def imported(name: str, *args: Any) -> Any:
        return modules.get(name) or __import__(name, *args)

    with redirect_stdout(out):
        try:
            exec(source, {"__builtins__": {**vars(builtins), "__import__": imported}})
        except SystemExit as error:
            message = f"exit code {error.code}"
    lines += [(at, rest)] if rest else []
    end = (at + 3, "FAILED" if message else "SUCCEEDED")
    return Script([(0, "STARTING"), (2, "RUNNING"), end], [(2 + at, text) for at, text in lines], message)


class Files:
    """Files by their URI, as a hook's storage has them."""

    def __init__(self, files: dict[str, bytes], uri: str = "") -> None:
        self._files, self.uri = files, uri

    def folder(self, uri: str) -> Files:
        return Files(self._files, uri.rstrip("/"))

    def read(self, name: str) -> bytes | None:
        return self._files.get(f"{self.uri}/{name}")

    @contextmanager
    def write(self, name: str) -> Iterator[io.BytesIO]:
        file = io.BytesIO()
        yield file
        self._files[f"{self.uri}/{name}"] = file.getvalue()

    def read_text(self, place: str) -> str:
        return Path(place).read_text()

    def write_text(self, place: str, text: str) -> None:
        Path(place).write_text(text)
