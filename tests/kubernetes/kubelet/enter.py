"""The first process of a container: sees its own ``/tmp``, ``/dev/shm`` and volumes, and becomes its command.

It is started in new namespaces, with a file that says what to become, and begins with a fork: only a child is in a new
namespace of processes. What is left outside waits, and ends as the container does. Standard library only.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

#: Where the outer ``/tmp`` is for the moment in which its parts are mounted into the own one.
_OUTER = "/run/kubernetes/outer-tmp"
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Become the container in a child; end as it does, with 128 and its number for a signal."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        os._exit(128 - code if code < 0 else code)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _become(json.loads(Path(sys.argv[1]).read_text()))


def _become(spec: dict[str, Any]) -> None:
    _mount("--make-rprivate", "/")
    _mount("-t", "proc", "proc", "/proc")
    _hide_tmp(spec["image"])
    _mount("-t", "tmpfs", "-o", "size=64m", "tmpfs", "/dev/shm")
    for source, target in spec["mounts"]:
        if Path(source).is_dir():
            Path(target).mkdir(parents=True, exist_ok=True)
        else:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            Path(target).touch()
        _mount("--bind", source, target)
    socket.sethostname(spec["hostname"])
    os.makedirs(spec["directory"], exist_ok=True)
    os.chdir(spec["directory"])
    command, environment = spec["command"], spec["environment"]
    try:
        os.execvpe(command[0], command, environment)
    except OSError as error:
        sys.exit(f"exec: {command[0]}: {error}")


def _hide_tmp(image: str) -> None:
    """Give the container a ``/tmp`` of its own; of the outer one it keeps the image, where this is below it."""
    Path(_OUTER).mkdir(exist_ok=True)
    _mount("--rbind", "/tmp", _OUTER)
    _mount("-t", "tmpfs", "tmpfs", "/tmp")
    os.chmod("/tmp", 0o1777)
    if image.startswith("/tmp/"):
        Path(image).mkdir(parents=True)
        _mount("--bind", _OUTER + image.removeprefix("/tmp"), image)
    subprocess.run(["umount", "--lazy", _OUTER], check=True)
    Path("/tmp/home").mkdir()


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


if __name__ == "__main__":
    main()
