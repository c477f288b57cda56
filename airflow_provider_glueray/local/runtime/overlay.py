"""Install `--pip-install` packages in a virtual environment on top of the environment that scripts run in.

Ray's own `pip` runtime environment copies the whole virtual environment, for every node, and needs pip in it. Here a
new environment imports the packages of the base environment through a .pth file: pip installs only missing and
different packages, and changes nothing in the base. Equal lists share one overlay while the endpoint runs.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_provider_glueray.local.runtime import processes
from airflow_provider_glueray.local.runtime.environments import Runtime, packages_of

_READY = "ready"


class CannotInstall(Exception):
    """pip failed or was interrupted; the message gives the reason."""


@dataclass(frozen=True)
class Overlay:
    """An interpreter for the driver, and the Ray runtime environment that gives workers the same packages."""

    python: Path
    runtime_env: dict[str, Any]


class Overlays:
    """The overlays of one endpoint, below `root`; one installation at a time."""

    def __init__(self, root: Path, runtime: Runtime) -> None:
        self._root, self.runtime = root, runtime
        self._lock = threading.Lock()

    def overlay(self, requirements: Sequence[str], log: Path, abandoned: Callable[[], bool]) -> Overlay:
        """Return an overlay with `requirements` (PEP 508) and write pip's output to `log`.

        Raises CannotInstall when pip fails, and when `abandoned` returns true during the installation.
        """
        digest = hashlib.sha256("\n".join(requirements).encode()).hexdigest()[:16]
        directory = self._root / digest
        with self._lock:
            if not (directory / _READY).exists():
                self._install(directory, requirements, log, abandoned)
                (directory / _READY).touch()
        python = directory / "bin" / "python"
        if self.runtime.is_newest:
            return Overlay(python, {"py_executable": str(python)})
        # Ray 2.4 cannot set a worker's interpreter, but workers run the same Python, so a path is enough.
        return Overlay(python, {"env_vars": {"PYTHONPATH": str(packages_of(directory))}})

    def _install(self, directory: Path, requirements: Sequence[str], log: Path, abandoned: Callable[[], bool]) -> None:
        create = [str(self.runtime.python), "-m", "venv", "--clear", str(directory)]
        if not self.runtime.is_newest:
            create.append("--without-pip")  # the base environment has AWS's version of pip
        python = str(directory / "bin" / "python")
        self._run(create, "venv", log, abandoned)
        base = packages_of(directory) / "glueray_base.pth"
        base.write_text(f"import site; site.addsitedir({str(self.runtime.packages)!r})\n")
        command = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
        self._run([*command, *requirements], "pip install", log, abandoned)

    @staticmethod
    def _run(command: Sequence[str], name: str, log: Path, abandoned: Callable[[], bool]) -> None:
        installing = processes.spawn(command, processes.plain_environment(), log)
        while installing.poll() is None:
            if abandoned():
                installing.kill()
                raise CannotInstall(f"{name} was abandoned")
            time.sleep(0.1)
        if installing.returncode != 0:
            lines = log.read_text(errors="replace").strip().splitlines() or ["no output"]
            raise CannotInstall(
                f"runtime_env setup failed: {name} exited with code {installing.returncode}: {lines[-1]}"
            )
