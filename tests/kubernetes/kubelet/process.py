"""One life of a container: a process with mounts, host name and process numbers of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.kubernetes.kubelet import enter, logs, moments
from tests.kubernetes.layout import IMAGE

_NEW = ("unshare", "-m", "-u", "-i", "-p")


@dataclass(frozen=True)
class Command:
    """What a container is: its command, environment, mounts (from, to), host name and folder."""

    command: Sequence[str]
    environment: dict[str, str]
    mounts: Sequence[tuple[str, str]]
    hostname: str
    directory: str


class Process:
    """A container that has been started.

    :ivar started_at: when, as the API has it.
    :ivar code: of its end; None while it runs.
    """

    def __init__(self, command: Command, network: str, log: Path, ended: Callable[[], None]) -> None:
        self._command, self._ended = command, ended
        self.started_at, self.ended_at, self.began = moments.to_second(), "", time.monotonic()
        self.code: int | None = None
        self.log = log
        log.touch()
        spec = log.with_suffix(".json")
        spec.write_text(json.dumps({**vars(command), "image": str(IMAGE)}))
        entrance = (sys.executable, "-I", enter.__file__, str(spec))
        self._process = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{network}", *_NEW, *entrance],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={"PATH": os.environ["PATH"]},
        )
        threading.Thread(target=self._attend, daemon=True).start()

    def _attend(self) -> None:
        assert self._process.stdout is not None
        logs.copy(self._process.stdout.fileno(), self.log)
        code = self._process.wait()
        self.ended_at = moments.to_second()
        self.code = 128 - code if code < 0 else code
        self._ended()

    @property
    def runs(self) -> bool:
        """Whether it does."""
        return self.code is None

    def signal(self, number: signal.Signals) -> None:
        """Signal its first process, if there is one still."""
        first = self._first()
        with contextlib.suppress(ProcessLookupError):
            if first is not None:
                os.kill(first, number)
            elif number is signal.SIGKILL:
                self._process.kill()

    def _first(self) -> int | None:
        """Return the number of the first process inside: the child of what has made the namespaces."""
        own = self._process.pid
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
            return int(children[0]) if children else None
        return None

    def run_inside(self, command: Sequence[str], seconds: float) -> int:
        """Run a command in the container, as probes and hooks do; return its exit code."""
        first = self._first()
        if first is None:
            return 1
        into = ("nsenter", "-t", str(first), "-n", "-m", "-p", "-u", "-i", "--wd=/")
        with contextlib.suppress(subprocess.TimeoutExpired):
            return subprocess.run(
                [*into, *command],
                capture_output=True,
                timeout=seconds,
                env=self._command.environment,
                check=False,
            ).returncode
        return 124

    def stop(self, grace: float, hook: Sequence[str] = ()) -> None:
        """End it as Kubernetes does: its hook, SIGTERM, and SIGKILL after its grace; return when it has ended."""
        end = time.monotonic() + grace
        if hook and self.runs:
            self.run_inside(hook, max(grace, 1.0))
        self.signal(signal.SIGTERM)
        while self.runs and time.monotonic() < end:
            time.sleep(0.05)
        while self.runs:
            self.signal(signal.SIGKILL)
            time.sleep(0.05)
