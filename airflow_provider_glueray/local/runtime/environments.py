"""Provide the Python environments for scripts: this installation's own, or one with the packages of AWS's runtime.

AWS's environment is built once, from a Python of this machine, with uv if the machine has uv, else with pip, and stays
in the user's cache. This module names no package index: uv and pip use the user's own configuration.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.resources
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from airflow_provider_glueray.local.runtime import processes

if TYPE_CHECKING:
    from importlib.abc import Traversable

NEWEST, RAY24 = "newest", "Ray2.4"
NAMES = (NEWEST, RAY24)
#: An environment has a copy of `compat_shim.py` under this module name; the line makes each start of Python import it.
COMPAT_SHIM = "glueray_compat_shim"
_COMPAT_SHIM_LINE = f"import {COMPAT_SHIM}; {COMPAT_SHIM}.install()\n"
_READY = "ready"
#: An error message quotes so many characters from the end of an installer's log.
_MAX_INSTALLER_CHARACTERS = 600


class CannotProvide(Exception):
    """An environment does not exist and cannot be built; the message gives the reason."""


class PythonMissing(CannotProvide):
    """This machine lacks a Python of the required version."""


@dataclass(frozen=True)
class RuntimeSpec:
    """A Python version and the files that pin every package of an environment, one package per line."""

    name: str
    python: str
    requirements: Traversable
    #: Pins of the packages that only a session's kernel imports. Scripts do not see them.
    kernel: Traversable | None = None

    @property
    def pins(self) -> list[str]:
        """The lines of all files."""
        files = filter(None, (self.requirements, self.kernel))
        return [line for file in files for line in file.read_text().splitlines() if line]


_FILES = importlib.resources.files(__package__)
#: ray2.4.txt has the versions of ray, pandas, pyarrow, numpy, boto3 and fsspec from the Glue developer guide
#: (edit-script-ray-env-dependencies), the others from `pip freeze` in a job on 2023-11-07
#: (github.com/matthewdeanmartin/raypack). It leaves out PyAmazonCACerts, which is Amazon's own, and gpustat, which is
#: source only and looks for GPUs. On ARM it has another psutil, because psutil 5.9.5 is source only there.
#: ray2.4-kernel.txt has the last ipykernel for Python 3.9 and the packages that ipykernel needs in addition.
RUNTIME_SPECS = {RAY24: RuntimeSpec(RAY24, "3.9", _FILES / "ray2.4.txt", _FILES / "ray2.4-kernel.txt")}

_KERNEL = "kernel"
#: It appends the kernel's packages to the path, so that they never hide packages that a session has requested.
_START_KERNEL = (
    "import sys; sys.path[:1] = []; sys.path.append(sys.argv.pop(1)); "
    "from ipykernel.kernelapp import launch_new_instance; launch_new_instance()"
)


@dataclass(frozen=True)
class Runtime:
    """An environment that scripts run in; `python` is its interpreter."""

    name: str
    python: Path

    @property
    def is_newest(self) -> bool:
        """Whether this is the installation's own environment, which needs no shim."""
        return self.name == NEWEST

    @property
    def packages(self) -> Path:
        """The directory of its packages."""
        return Path(sysconfig.get_paths()["purelib"]) if self.is_newest else packages_of(self.python.parents[1])

    def kernel_command(self, python: str) -> list[str]:
        """Return the command that starts a Jupyter kernel with `python`, which is this runtime's or an overlay's."""
        if self.is_newest:
            return [python, "-m", "ipykernel_launcher"]
        return [python, "-c", _START_KERNEL, str(self.python.parents[1] / _KERNEL)]


@dataclass(frozen=True)
class Interpreter:
    """A Python that runs: its path, its full version and its machine type."""

    path: str
    version: str
    machine: str


def provide(name: str = NEWEST, report: Callable[[str], None] = lambda _: None) -> Runtime:
    """Return the runtime `name`, built first if necessary; `report` gets progress messages. Raises CannotProvide."""
    if name == NEWEST:
        return Runtime(NEWEST, Path(sys.executable))
    if name not in RUNTIME_SPECS:
        raise CannotProvide(f"there is no runtime '{name}', only {' and '.join(NAMES)}")
    return Runtime(name, build(RUNTIME_SPECS[name], report) / "bin" / "python")


def build(spec: RuntimeSpec, report: Callable[[str], None]) -> Path:
    """Return the directory of the spec's environment; only the first of several builders builds it."""
    python = find_python(spec)
    # The shim's module name counts too: an environment would keep the module of an older name and load both.
    facts = (*spec.pins, python.version, python.machine, COMPAT_SHIM)
    digest = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]
    directory = cache() / f"{spec.name}-{digest}"
    directory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with directory.with_name(f"{directory.name}.lock").open("w") as lock:
        _acquire(lock, lambda: report(f"waiting for another build of the {spec.name} runtime"))
        # A virtual environment cannot be moved, so it is built in place: the file _READY shows that it is complete.
        if not ((directory / _READY).exists() and (directory / "bin" / "python").exists()):
            shutil.rmtree(directory, ignore_errors=True)
            report(f"building the {spec.name} runtime in {directory} (once; about {len(spec.pins)} packages)")
            _install(spec, python.path, directory)
            (directory / _READY).touch()
        _install_compat_shim(directory)
    return directory


def cache() -> Path:
    """Return the directory of all environments; users may delete its contents."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "glueray" / "runtimes"


def _acquire(lock: IO[str], report_wait: Callable[[], None]) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        report_wait()
        fcntl.flock(lock, fcntl.LOCK_EX)


def find_python(spec: RuntimeSpec) -> Interpreter:
    """Return the first Python of the spec's version that runs (a shim of pyenv may not); raises PythonMissing."""
    code = "import platform, sys, venv; print(platform.python_version(), platform.machine())"
    for path in _candidates(spec.python):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            output = subprocess.run([path, "-c", code], capture_output=True, text=True, timeout=30, check=False).stdout
            version, _, machine = output.strip().partition(" ")
            if version.startswith(f"{spec.python}."):
                return Interpreter(path, version, machine)
    raise PythonMissing(
        f"the {spec.name} runtime needs Python {spec.python} on this machine, and there is none on the PATH, "
        f"with pyenv or with uv (get one with `pyenv install {spec.python}` or `uv python install {spec.python}`)"
    )


def _candidates(version: str) -> Iterator[str]:
    on_path = shutil.which(f"python{version}")
    if on_path:
        yield on_path
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for home in sorted(pyenv.glob(f"{version}.*"), key=lambda home: (len(home.name), home.name), reverse=True):
        yield str(home / "bin" / "python")
    uv = _uv()
    if uv:
        command = [*uv, "python", "find", "--no-project", "--no-python-downloads", version]
        with contextlib.suppress(OSError):
            found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
            if found:
                yield found


def _uv() -> list[str] | None:
    """Return the command of uv, if uv is on the PATH and runs, or if this installation has the package."""
    on_path = shutil.which("uv")
    if on_path and subprocess.run([on_path, "--version"], capture_output=True, check=False).returncode == 0:
        return [on_path]
    return [sys.executable, "-m", "uv"] if importlib.util.find_spec("uv") else None


def _install(spec: RuntimeSpec, base: str, directory: Path) -> None:
    """Create the environment. The installer resolves nothing, because the files are complete, and compiles nothing."""
    python = str(directory / "bin" / "python")
    uv = _uv()
    if uv:
        create = [*uv, "venv", "--no-project", "--python", base, str(directory)]
        install = [*uv, "pip", "install", "--python", python, "--compile-bytecode"]
    else:
        create = [base, "-m", "venv", str(directory)]
        install = [python, "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    exact = [*install, "--no-deps", "--only-binary", ":all:", "-r"]
    environment = {key: value for key, value in processes.plain_environment().items() if key != "PYTHONPATH"}
    log = directory.with_name(f"{directory.name}.log")
    log.unlink(missing_ok=True)
    _run(spec, create, environment, log)
    with importlib.resources.as_file(spec.requirements) as file:
        _run(spec, [*exact, str(file)], environment, log)
    if spec.kernel is not None:
        with importlib.resources.as_file(spec.kernel) as file:
            _run(spec, [*exact, str(file), "--target", str(directory / _KERNEL)], environment, log)


def _run(spec: RuntimeSpec, command: list[str], environment: Mapping[str, str], log: Path) -> None:
    with log.open("ab") as file:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False
        )
    if done.returncode != 0:
        # The end of the output has the reason, and uv spreads it over several lines.
        output = " ".join(log.read_text(errors="replace").split())[-_MAX_INSTALLER_CHARACTERS:] or "no output"
        raise CannotProvide(f"the {spec.name} runtime could not be built: {output} (see {log})")


def packages_of(directory: Path) -> Path:
    """Return where the packages of a virtual environment lie."""
    return next((directory / "lib").glob("python3.*")) / "site-packages"


def _install_compat_shim(directory: Path) -> None:
    """Write the current shim into an environment, since an older version of this package may have built it."""
    source = Path(__file__).with_name("compat_shim.py").read_text()
    for name, text in ((f"{COMPAT_SHIM}.py", source), (f"{COMPAT_SHIM}.pth", _COMPAT_SHIM_LINE)):
        path = packages_of(directory) / name
        if not path.exists() or path.read_text() != text:
            draft = path.with_suffix(".draft")
            draft.write_text(text)
            draft.replace(path)
