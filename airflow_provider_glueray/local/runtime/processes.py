"""Start processes that end with their parent, and find all of them by their process session.

Ray leaves child processes that have changed their parent but not their session (the dashboard's fork server), so
sessions, not process trees, identify the processes of an endpoint. This module never matches processes by name.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import psutil

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None

#: Inherited variables with these prefixes would give a script real credentials, another cluster or slower imports, or
#: would switch a kernel to its test mode.
_DROPPED = ("AWS_", "RAY_", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV", "PYTEST_CURRENT_TEST")


def plain_environment() -> dict[str, str]:
    """Return this process's environment without the variables that scripts must not get."""
    return {key: value for key, value in os.environ.items() if not key.startswith(_DROPPED)}


def _die_with_parent() -> None:
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def spawn(
    command: Sequence[str], environment: Mapping[str, str], log: Path, directory: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start `command` in its own process session; on Linux it gets SIGTERM when the calling *thread* ends."""
    with log.open("ab") as output:
        return subprocess.Popen(
            list(command),
            env=dict(environment),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )


def alive(pid: int, created: float | None = None) -> bool:
    """Return whether `pid` runs and is no zombie; `created` (epoch seconds) detects a reused pid."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return created is None or abs(process.create_time() - created) < 2.0
    except psutil.NoSuchProcess:
        return False


def in_sessions(sessions: Iterable[int]) -> list[psutil.Process]:
    """Return the live processes of the given sessions, without this process."""
    wanted, found = set(sessions), []
    for pid in psutil.pids():
        with contextlib.suppress(OSError, psutil.NoSuchProcess):
            if pid != os.getpid() and os.getsid(pid) in wanted:
                process = psutil.Process(pid)
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
    return found


def descendants_outside(sessions: Iterable[int]) -> list[psutil.Process]:
    """Return live descendants with sessions of their own (drivers and their watchers)."""
    inside = in_sessions(sessions)
    known = {process.pid for process in inside}
    found: dict[int, psutil.Process] = {}
    for process in inside:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.update({child.pid: child for child in process.children(recursive=True)})
    return [process for pid, process in found.items() if pid not in known]


def end_sessions(sessions: Iterable[int], patience_seconds: float = 5.0) -> None:
    """End the sessions and their descendants: SIGTERM to the leaders, then SIGKILL to the remaining processes."""
    wanted = list(sessions)
    outside = descendants_outside(wanted)
    for leader in wanted:
        with contextlib.suppress(OSError):
            if alive(leader) and os.getsid(leader) == leader:
                os.kill(leader, signal.SIGTERM)
    deadline = time.monotonic() + patience_seconds
    while time.monotonic() < deadline and any(process.pid in wanted for process in in_sessions(wanted)):
        time.sleep(0.1)
    for process in [*in_sessions(wanted), *outside]:
        with contextlib.suppress(psutil.NoSuchProcess):  # psutil checks the creation time, so it kills no reused pid
            process.kill()


def boot() -> float:
    """Return the time of the last boot, rounded to 10 seconds; session ids from before it are invalid."""
    return round(float(psutil.boot_time()), -1)
