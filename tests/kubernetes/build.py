"""Builds a Kubernetes and the KubeRay operator from Go modules: ``python -m tests.kubernetes.build [RELEASE…]``.

What is there already is not built again. Nothing is fetched but Go modules, by Go itself.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

HERE = Path(__file__).parent
#: Where the binaries and the operators' custom resource definitions are, in the checkout.
BUILT = HERE.parents[1] / ".kubernetes"
#: The operator's releases that the tests run on, the newest that is served last.
RELEASES = ("1.4.2", "1.5.1", "1.6.2")
NEWEST = RELEASES[-1]
OPERATOR = "github.com/ray-project/kuberay/ray-operator"
#: The parts that ``control_plane`` is, by the name that it is called by.
PARTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
#: The oldest Go that builds them, as their ``go.mod`` says.
GO = (1, 26)


class GoMissing(Exception):
    """Nothing can be built here; the message is one line for people."""


def operator(release: str) -> Path:
    """Return the binary of an operator's release."""
    return BUILT / "operators" / release / "ray-operator"


def definitions(release: str) -> Path:
    """Return the folder of the custom resource definitions of an operator's release."""
    return BUILT / "operators" / release / "crds"


def build(releases: Sequence[str] = RELEASES) -> None:
    """Build what is missing of etcd, the control plane, and the operator in some of its releases.

    :raises GoMissing: something is missing, and there is no Go, or one too old.
    """
    work: list[tuple[str, Callable[[], None]]] = []
    for name in ("etcd", "control_plane"):
        source, made = HERE / name, BUILT / "bin" / name
        if not made.exists() or made.stat().st_mtime < (source / "go.mod").stat().st_mtime:
            work.append((f"{name} (minutes the first time)", partial(_build_module, source, made)))
    for release in releases:
        if not (operator(release).exists() and definitions(release).exists()):
            work.append((f"the KubeRay operator {release}", partial(_build_operator, release)))
    if work:
        _check_go()
    for what, do in work:
        _say(f"Building {what}")
        do()
    for name in PARTS:
        link = BUILT / "bin" / name
        if not link.is_symlink():
            link.symlink_to("control_plane")


def _build_module(source: Path, made: Path) -> None:
    """Build a Go module of this folder in a copy, because Go writes down there what it has found."""
    with tempfile.TemporaryDirectory(prefix="glueray-go-") as folder:
        there = Path(folder) / source.name
        shutil.copytree(source, there)
        made.parent.mkdir(parents=True, exist_ok=True)
        _go("build", "-mod=mod", "-ldflags=-s -w", "-o", str(made), ".", cwd=there)


def _build_operator(release: str) -> None:
    """Build the operator as its own ``go.mod`` says, and take its definitions from the module."""
    with tempfile.TemporaryDirectory(prefix="glueray-go-") as folder:
        bin_ = operator(release).parent
        bin_.mkdir(parents=True, exist_ok=True)
        told = _go("mod", "download", "-json", f"{OPERATOR}@v{release}", cwd=Path(folder))
        _go("install", "-ldflags=-s -w", f"{OPERATOR}@v{release}", cwd=Path(folder), GOBIN=str(bin_))
        shutil.rmtree(definitions(release), ignore_errors=True)
        # A module in Go's cache cannot be written, nor could a copy of its modes.
        shutil.copytree(
            Path(json.loads(told)["Dir"]) / "config" / "crd" / "bases",
            definitions(release),
            copy_function=shutil.copyfile,
        )
        definitions(release).chmod(0o755)


def _check_go() -> None:
    needed = f"Go {'.'.join(map(str, GO))} or newer is needed to build a Kubernetes"
    if shutil.which("go") is None:
        raise GoMissing(f"{needed}; there is none on PATH")
    version = subprocess.run(["go", "env", "GOVERSION"], capture_output=True, text=True, check=True).stdout.strip()
    if tuple(int(part) for part in version.removeprefix("go").split(".")[:2]) < GO:
        raise GoMissing(f"{needed}; here is {version}")


def _go(*words: str, cwd: Path, **more: str) -> str:
    environment = {**os.environ, "GOFLAGS": "-buildvcs=false", **more}
    done = subprocess.run(["go", *words], cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        # With -json, Go says also what has gone wrong there.
        _say(done.stdout)
        raise subprocess.CalledProcessError(done.returncode, done.args)
    return done.stdout


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str]) -> int:
    """Build for the given releases of the operator, such as ``newest``, by default all; return the exit code."""
    began = time.monotonic()
    try:
        build([NEWEST if word == "newest" else word for word in argv] or RELEASES)
    except GoMissing as error:
        _say(str(error))
        return 1
    _say(f"A Kubernetes is in {BUILT} ({time.monotonic() - began:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
