"""Install `--pip-install` packages in an environment laid over this one.

Ray's own `pip` runtime environment copies the whole virtual environment, for every node, and needs pip in it. Here a
new environment sees the packages of this one through a .pth file: pip installs only what is missing or different,
above the originals, which stay untouched. Equal lists share one overlay while the endpoint lives.
"""

from __future__ import annotations

import hashlib
import sys
import sysconfig
import threading
import time
import venv
from collections.abc import Callable, Sequence
from pathlib import Path

from . import processes

_READY = "ready"


class CannotInstall(Exception):
    """pip failed or was interrupted; the text says how."""


class Overlays:
    """The overlays of one endpoint, below `root`; one installation at a time."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()

    def python(self, requirements: Sequence[str], log: Path, abandoned: Callable[[], bool]) -> Path:
        """Return the interpreter of an overlay with `requirements` (PEP 508), writing pip's words to `log`.

        Raises CannotInstall when pip fails, and when `abandoned` becomes true meanwhile.
        """
        digest = hashlib.sha256("\n".join(requirements).encode()).hexdigest()[:16]
        directory = self._root / digest
        with self._lock:
            if not (directory / _READY).exists():
                self._install(directory, requirements, log, abandoned)
                (directory / _READY).touch()
        return directory / "bin" / "python"

    def _install(self, directory: Path, requirements: Sequence[str], log: Path, abandoned: Callable[[], bool]) -> None:
        venv.create(directory, with_pip=True, clear=True)
        python = directory / "bin" / "python"
        parent = sysconfig.get_paths()["purelib"]
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        beneath = directory / "lib" / version / "site-packages" / "glueray_beneath.pth"
        beneath.write_text(f"import site; site.addsitedir({parent!r})\n")
        command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
        installing = processes.spawn([*command, *requirements], processes.plain_environment(), log)
        while installing.poll() is None:
            if abandoned():
                installing.kill()
                raise CannotInstall("pip install was abandoned")
            time.sleep(0.1)
        if installing.returncode != 0:
            lines = log.read_text(errors="replace").strip().splitlines() or ["no output"]
            raise CannotInstall(
                f"runtime_env setup failed: pip install exited with code {installing.returncode}: {lines[-1]}"
            )
