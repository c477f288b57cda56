"""The built wheel under other releases of Airflow and Python: ``python -m tests.matrix --help``.

Each cell is an environment of its own, with what could be installed on the day on which its Airflow was released: what
the constraints of that release were made of. "lowest" has the lowest that the package allows. The tests run in a copy
without the package, so only the wheel is there. The local endpoint is that of the checkout, with its Ray: Airflow needs
neither.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from airflow_provider_glueray.local import client
from airflow_provider_glueray.local.runtime.environments import RAY24, RUNTIME_SPECS, PythonMissing, find_python
from tests.conftest import ENDPOINT_HOME, SHARED

ROOT = Path(__file__).parents[1]
UV = str(Path(sys.executable).with_name("uv"))
#: What the tests need beside the package; as old as the cell.
TEST_PACKAGES = (
    "apache-airflow-providers-openlineage",
    "hypothesis",
    "jsonschema",
    "pytest",
    "pytest-timeout",
    "pytest-xdist",
    "syrupy",
)
#: What an Airflow needs, whatever its connections lead to.
EXTRAS = "aws,kuberay,notebooks,pandas"
#: What the tests read.
TEST_FILES = ("tests", "demo", "docs", "example_dags", "pyproject.toml")
#: Those that know Airflow.
TEST_FOLDERS = (
    "cli",
    "contract",
    "decorators",
    "e2e",
    "notebooks",
    "operators",
    "sensors",
    "task",
    "triggers",
    "test_package.py",
)
#: The exit status of pytest, or of what came before it, for a cell that this machine has no Python for.
NO_PYTHON = -1


class Release(NamedTuple):
    """An Airflow, the day after its release, and the Pythons that it allows."""

    version: str
    day: str
    pythons: Sequence[str]


#: The lowest of what ``pyproject.toml`` allows, each package that it names.
LOWEST = "lowest"
RELEASES = (
    Release(LOWEST, "", ("3.10",)),
    Release("3.0.6", "2025-08-30", ("3.10", "3.11", "3.12")),
    Release("3.1.8", "2026-03-12", ("3.10", "3.11", "3.12", "3.13")),
    Release("3.2.2", "2026-05-30", ("3.10", "3.11", "3.12", "3.13")),
    Release("3.3.2", "2026-09-18", ("3.10", "3.11", "3.12", "3.13")),
)


class Cell(NamedTuple):
    """A release on a Python."""

    release: Release
    python: str

    @property
    def name(self) -> str:
        """Return how the command line names it."""
        return f"{self.release.version}-py{self.python}"


CELLS = {cell.name: cell for release in RELEASES for python in release.pythons for cell in [Cell(release, python)]}


def main(argv: Sequence[str] | None = None) -> int:
    """Run cells and print a line for each; return 1 if one of them is red."""
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    parser.add_argument("cells", nargs="*", metavar="CELL", help=f"all if none is named: {', '.join(CELLS)}")
    parser.add_argument("--quick", action="store_true", help="only tests that need neither Ray nor a running Airflow")
    parser.add_argument(
        "--constraints",
        type=Path,
        help="a constraints file of the release, instead of what there was on its day; for one cell",
    )
    arguments = parser.parse_args(argv)
    unknown = set(arguments.cells) - set(CELLS)
    if unknown:
        parser.error(f"no such cell: {', '.join(sorted(unknown))}; there are {', '.join(CELLS)}")
    wheel = build()
    results = {}
    for name in arguments.cells or CELLS:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="glueray-matrix-") as folder:
            status, words = run(CELLS[name], wheel, Path(folder), arguments)
        results[name] = status
        print(f"matrix: {name} {_verdict(status)} in {time.monotonic() - began:.0f} s{words}", flush=True)
    print(f"matrix: {sum(not status for status in results.values())} of {len(results)} cells are green")
    return int(any(results.values()))


def _verdict(status: int) -> str:
    return {0: "is green", NO_PYTHON: "has no Python here"}.get(status, f"is red ({status})")


def build() -> Path:
    """Build the wheel, and return its path."""
    folder = ROOT / "dist"
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([UV, "build", "--quiet", "--wheel", "--out-dir", str(folder), str(ROOT)], check=True)
    return next(folder.glob("*.whl"))


def run(cell: Cell, wheel: Path, folder: Path, arguments: argparse.Namespace) -> tuple[int, str]:
    """Install the wheel in a cell and run the tests; return the exit status, and what was installed."""
    python = folder / "venv" / "bin" / "python"
    try:
        base = find_python(replace(RUNTIME_SPECS[RAY24], name=cell.name, python=cell.python)).path
    except PythonMissing:
        return NO_PYTHON, ""
    subprocess.run([UV, "venv", "--quiet", "--python", base, str(folder / "venv")], check=True)
    install = [UV, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python)]
    ours = f"airflow-provider-glueray[{EXTRAS}] @ {wheel.as_uri()}"
    if cell.release.version == LOWEST:
        options = _lowest(folder)
    elif arguments.constraints:
        options = ["--constraints", str(arguments.constraints), f"apache-airflow=={cell.release.version}"]
    else:
        options = ["--exclude-newer", cell.release.day, f"apache-airflow=={cell.release.version}"]
    installed = subprocess.run([*install, *options, ours, *TEST_PACKAGES])
    if installed.returncode:
        return installed.returncode, ", it cannot be installed"
    there = folder / "tests-of-the-wheel"
    for name in TEST_FILES:
        _copy(ROOT / name, there / name)
    environment = dict(_environment(folder))
    command = _pytest(python, quick=arguments.quick)
    with contextlib.ExitStack() as stack:
        if not arguments.quick:
            home = folder / "endpoint"
            stack.enter_context(client.start(SHARED, port=0, home=home, wait=False))
            environment[ENDPOINT_HOME] = str(home)
        status = subprocess.run(command, cwd=there, env=environment).returncode
    return status, f", with {', '.join(_versions(python))}"


def _lowest(folder: Path) -> list[str]:
    """Return what makes the lowest bounds of the package those of whoever installs it."""
    extras = [option for name in EXTRAS.split(",") for option in ("--extra", name)]
    command = [UV, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python-version", "3.10"]
    pins = folder / "lowest.txt"
    options = ["--resolution", "lowest-direct", "--output-file", str(pins), str(ROOT / "pyproject.toml")]
    subprocess.run([*command, *extras, *options], check=True, stdout=subprocess.DEVNULL)
    return ["--constraints", str(pins)]


def _pytest(python: Path, *, quick: bool) -> list[str]:
    # What an older Airflow warns of is no business of ours.
    options = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "-q", "-o", "filterwarnings=default"]
    marks = "not kubernetes and not full" + (" and not service" if quick else "")
    return [str(python), "-m", "pytest", *options, "-m", marks, *(f"tests/{name}" for name in TEST_FOLDERS)]


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def _environment(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the variables of this process, without those that lead to this checkout or to an Airflow."""
    for name, value in os.environ.items():
        if not name.startswith(("AIRFLOW", "AWS_", "PYTHON", "VIRTUAL_ENV")):
            yield name, value
    yield "AIRFLOW_HOME", str(folder / "airflow")


def _versions(python: Path) -> list[str]:
    listed = subprocess.run([UV, "pip", "freeze", "--python", python], capture_output=True, text=True, check=True)
    told = (
        "apache-airflow-providers-amazon==",
        "boto3==",
        "apache-airflow-providers-cncf-kubernetes==",
        "pandas==",
        "pyarrow==",
    )
    return [line for line in listed.stdout.splitlines() if line.startswith(told)]


if __name__ == "__main__":
    sys.exit(main())
