"""The Pythons that scripts can run on: our own environment with the newest Ray, or one with what AWS has.

The second kind is built once, from a Python that is on this machine, with uv if there is one, else with pip, and kept
in the user's cache. Nothing here names a package index: uv and pip are configured as the user has configured them.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from airflow_provider_glueray.local.runtime import processes

NEWEST, RAY24 = "newest", "Ray2.4"
NAMES = (NEWEST, RAY24)
#: The module that `bridge.py` becomes in an environment, and how each start of Python imports it.
BRIDGE = "glueray_bridge"
_BRIDGE_LINE = f"import {BRIDGE}; {BRIDGE}.install()\n"
_READY = "ready"
#: The most characters of what an installer said.
_MOST_SAID = 600


class CannotProvide(Exception):
    """There is no such environment and none can be built; the text says why."""


class NoPython(CannotProvide):
    """This machine has no Python of the version that is needed."""


@dataclass(frozen=True)
class Recipe:
    """What an environment is made of: a Python and exact requirements, which are all there is."""

    name: str
    python: str
    requirements: tuple[str, ...]
    #: What a session's Python needs besides. Scripts do not see it.
    kernel: tuple[str, ...] = ()


#: Python, ray, pandas, pyarrow, numpy, boto3 and fsspec as the Glue developer guide lists them (edit-script-ray-env-
#: dependencies), the others as `pip freeze` showed them in a job on 2023-11-07 (github.com/matthewdeanmartin/raypack).
#: Left out: PyAmazonCACerts, Amazon's own, and gpustat, which is source only and looks for GPUs. Another version:
#: psutil on ARM, where that one is source only.
_RAY24 = Recipe(
    RAY24,
    "3.9",
    (
        "ray==2.4.0",
        "pandas==1.5.3",
        "pyarrow==11.0.0",
        "numpy==1.24.3",
        "boto3==1.26.133",
        "botocore==1.29.133",
        "fsspec==2023.4.0",
        "aiohttp==3.8.4",
        "aiohttp-cors==0.7.0",
        "aiosignal==1.3.1",
        "async-timeout==4.0.2",
        "attrs==23.1.0",
        "blessed==1.20.0",
        "cachetools==5.3.0",
        "certifi==2023.5.7",
        "charset-normalizer==3.1.0",
        "click==8.1.3",
        "colorama==0.4.6",
        "colorful==0.5.5",
        "distlib==0.3.6",
        "filelock==3.12.0",
        "frozenlist==1.3.3",
        "google-api-core==2.11.0",
        "google-auth==2.18.0",
        "googleapis-common-protos==1.59.0",
        "grpcio==1.51.3",
        "idna==3.4",
        "jmespath==1.0.1",
        "jsonschema==4.17.3",
        "msgpack==1.0.5",
        "multidict==6.0.4",
        "nvidia-ml-py==11.525.112",
        "opencensus==0.11.2",
        "opencensus-context==0.1.3",
        "packaging==23.1",
        "pip==23.1.2",
        "platformdirs==3.5.1",
        "prometheus-client==0.16.0",
        "protobuf==4.23.0",
        "psutil==5.9.5; platform_machine == 'x86_64'",
        "psutil==6.1.1; platform_machine != 'x86_64'",
        "py-spy==0.3.14",
        "pyasn1==0.5.0",
        "pyasn1-modules==0.3.0",
        "pydantic==1.10.7",
        "pyrsistent==0.19.3",
        "python-dateutil==2.8.2",
        "pytz==2023.3",
        "PyYAML==6.0",
        "requests==2.31.0",
        "rsa==4.9",
        "s3transfer==0.6.1",
        "setproctitle==1.2.2",
        "setuptools==67.7.2",
        "setuptools-scm==7.1.0",
        "six==1.16.0",
        "smart-open==6.2.0",
        "tomli==2.0.1",
        "typing_extensions==4.5.0",
        "urllib3==1.26.15",
        "virtualenv==20.21.0",
        "wcwidth==0.2.6",
        "yarl==1.9.2",
    ),
    # The last ipykernel for Python 3.9 and what it needs beyond the list above.
    (
        "ipykernel==6.29.5",
        "ipython==8.18.1",
        "asttokens==3.0.2",
        "comm==0.2.3",
        "decorator==5.3.1",
        "exceptiongroup==1.2.2",
        "executing==2.3.0",
        "importlib-metadata==8.7.1",
        "jedi==0.19.2",
        "jupyter-client==8.6.3",
        "jupyter-core==5.8.1",
        "matplotlib-inline==0.2.2",
        "nest-asyncio==1.6.0",
        "parso==0.8.7",
        "pexpect==4.9.0",
        "prompt-toolkit==3.0.52",
        "ptyprocess==0.7.0",
        "pure-eval==0.2.4",
        "pygments==2.21.0",
        "pyzmq==27.3.0",
        "stack-data==0.6.3",
        "tornado==6.5.10",
        "traitlets==5.15.1",
        "zipp==3.23.1",
    ),
)
RECIPES = {RAY24: _RAY24}

_KERNEL = "kernel"
#: Appended to the path, so that it never hides what a session itself has asked for.
_START_KERNEL = (
    "import sys; sys.path[:1] = []; sys.path.append(sys.argv.pop(1)); "
    "from ipykernel.kernelapp import launch_new_instance; launch_new_instance()"
)


@dataclass(frozen=True)
class Runtime:
    """An environment to run scripts in; `python` is its interpreter."""

    name: str
    python: Path

    @property
    def is_newest(self) -> bool:
        """Whether it is our own environment, where nothing has to be bridged."""
        return self.name == NEWEST

    @property
    def packages(self) -> Path:
        """Where its packages are."""
        return Path(sysconfig.get_paths()["purelib"]) if self.is_newest else _packages(self.python.parents[1])

    def kernel_command(self, python: str) -> list[str]:
        """Return how a Jupyter kernel is started with `python`, this one or one of an overlay."""
        if self.is_newest:
            return [python, "-m", "ipykernel_launcher"]
        return [python, "-c", _START_KERNEL, str(self.python.parents[1] / _KERNEL)]


@dataclass(frozen=True)
class Interpreter:
    """A Python that runs: its path, its whole version and the machine it is for."""

    path: str
    version: str
    machine: str


def provide(name: str = NEWEST, say: Callable[[str], None] = lambda _: None) -> Runtime:
    """Return the runtime `name`, which is built if it has to be, telling `say` about it; or raise CannotProvide."""
    if name == NEWEST:
        return Runtime(NEWEST, Path(sys.executable))
    if name not in RECIPES:
        raise CannotProvide(f"there is no runtime '{name}', only {' and '.join(NAMES)}")
    return Runtime(name, build(RECIPES[name], say) / "bin" / "python")


def build(recipe: Recipe, say: Callable[[str], None]) -> Path:
    """Return the directory of the recipe's environment; only the first of several builders builds."""
    python = find_python(recipe)
    facts = (*recipe.requirements, *recipe.kernel, python.version, python.machine)
    digest = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]
    directory = cache() / f"{recipe.name}-{digest}"
    directory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with directory.with_name(f"{directory.name}.lock").open("w") as lock:
        _take(lock, lambda: say(f"waiting for another build of the {recipe.name} runtime"))
        # A virtual environment cannot be moved, so a mark says that it is whole, and the lock that nobody is at it.
        if not ((directory / _READY).exists() and (directory / "bin" / "python").exists()):
            shutil.rmtree(directory, ignore_errors=True)
            count = len(recipe.requirements) + len(recipe.kernel)
            say(f"building the {recipe.name} runtime in {directory} (once; about {count} packages)")
            _install(recipe, python.path, directory)
            (directory / _READY).touch()
        _lay_bridge(directory)
    return directory


def cache() -> Path:
    """Return where environments are kept; all in there may be deleted."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "glueray" / "runtimes"


def _take(lock: IO[str], tell: Callable[[], None]) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        tell()
        fcntl.flock(lock, fcntl.LOCK_EX)


def find_python(recipe: Recipe) -> Interpreter:
    """Return the first Python of the recipe's version that really runs (a shim of pyenv may not), or raise NoPython."""
    code = "import platform, sys, venv; print(platform.python_version(), platform.machine())"
    for path in _candidates(recipe.python):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            answer = subprocess.run([path, "-c", code], capture_output=True, text=True, timeout=30, check=False).stdout
            version, _, machine = answer.strip().partition(" ")
            if version.startswith(f"{recipe.python}."):
                return Interpreter(path, version, machine)
    raise NoPython(
        f"the {recipe.name} runtime needs Python {recipe.python} on this machine, and there is none on the PATH, "
        f"with pyenv or with uv (get one with `pyenv install {recipe.python}` or `uv python install {recipe.python}`)"
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
    """Return how to start uv, if it is on the PATH and runs, or is one of our packages."""
    on_path = shutil.which("uv")
    if on_path and subprocess.run([on_path, "--version"], capture_output=True, check=False).returncode == 0:
        return [on_path]
    return [sys.executable, "-m", "uv"] if importlib.util.find_spec("uv") else None


def _install(recipe: Recipe, base: str, directory: Path) -> None:
    """Make the environment. Nothing is resolved, because each list is complete, and nothing is compiled from source."""
    python = str(directory / "bin" / "python")
    uv = _uv()
    if uv:
        create = [*uv, "venv", "--no-project", "--python", base, str(directory)]
        install = [*uv, "pip", "install", "--python", python, "--compile-bytecode"]
    else:
        create = [base, "-m", "venv", str(directory)]
        install = [python, "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    exact = [*install, "--no-deps", "--only-binary", ":all:"]
    commands = [create, [*exact, *recipe.requirements]]
    if recipe.kernel:
        commands.append([*exact, "--target", str(directory / _KERNEL), *recipe.kernel])
    environment = {key: value for key, value in processes.plain_environment().items() if key != "PYTHONPATH"}
    log = directory.with_name(f"{directory.name}.log")
    log.unlink(missing_ok=True)
    for command in commands:
        _run(recipe, command, environment, log)


def _run(recipe: Recipe, command: list[str], environment: Mapping[str, str], log: Path) -> None:
    with log.open("ab") as output:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment, check=False
        )
    if done.returncode != 0:
        # The end matters, and uv says it in several lines.
        said = " ".join(log.read_text(errors="replace").split())[-_MOST_SAID:] or "no output"
        raise CannotProvide(f"the {recipe.name} runtime could not be built: {said} (see {log})")


def _packages(directory: Path) -> Path:
    return next((directory / "lib").glob("python3.*")) / "site-packages"


def _lay_bridge(directory: Path) -> None:
    """Put today's bridge into an environment, which may have been built by an older version of us."""
    source = Path(__file__).with_name("compat_shim.py").read_text()
    for name, text in ((f"{BRIDGE}.py", source), (f"{BRIDGE}.pth", _BRIDGE_LINE)):
        path = _packages(directory) / name
        if not path.exists() or path.read_text() != text:
            draft = path.with_suffix(".draft")
            draft.write_text(text)
            draft.replace(path)
