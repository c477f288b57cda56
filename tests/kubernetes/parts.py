"""The processes that make up a cluster: any process in its namespaces can end one and start it again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

import psutil

from tests.kubernetes.layout import Layout

#: Seconds in which a loaded machine does anything that takes a few on an idle one. Only a failure waits so long.
PATIENCE = 480.0
_NOBODY = 2**31 - 1


def until(seen: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Wait until something is so.

    :raises TimeoutError: it is not, after so many seconds.
    """
    end = time.monotonic() + seconds
    while not seen():
        if time.monotonic() > end:
            raise TimeoutError(f"after {seconds:.0f} s still not: {what}")
        time.sleep(0.1)


class Part:
    """A process of a cluster. What it is started with is a file, and so is the number that it runs under."""

    def __init__(self, layout: Layout, name: str) -> None:
        self.name = name
        self._layout = layout
        folder = layout.home / "parts"
        folder.mkdir(exist_ok=True)
        self._made_of, self._number = folder / f"{name}.json", folder / f"{name}.pid"

    def be(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> Part:
        """Say what it is, from its next start on; return it."""
        self._made_of.write_text(json.dumps({"command": list(command), "environment": dict(environment or {})}))
        return self

    @property
    def log(self) -> str:
        """What it has written so far, in all its lives."""
        return (self._layout.logs / f"{self.name}.log").read_text(errors="replace")

    @property
    def pid(self) -> int:
        """The number of its process; one that nobody has if it has never run."""
        return int(self._number.read_text()) if self._number.exists() else _NOBODY

    @property
    def runs(self) -> bool:
        """Whether it does. A process that ends is not gone before its last thread is: until then it has its ports."""
        try:
            process = psutil.Process(self.pid)
            return bool(process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1)
        except psutil.NoSuchProcess:
            return False

    def start(self) -> None:
        """Start it, in a process group of its own."""
        made_of = json.loads(self._made_of.read_text())
        with (self._layout.logs / f"{self.name}.log").open("ab") as log:
            process = subprocess.Popen(
                made_of["command"],
                env={**os.environ, **made_of["environment"]},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._number.write_text(str(process.pid))

    def signal(self, number: signal.Signals) -> None:
        """Signal its process group: SIGSTOP is a machine that does not answer any more, SIGCONT one that does again."""
        os.killpg(self.pid, number)

    def kill(self) -> None:
        """Kill it, and return when it is gone."""
        if self.runs:
            self.signal(signal.SIGKILL)
            until(lambda: not self.runs, f"{self.name} has ended", 60)
