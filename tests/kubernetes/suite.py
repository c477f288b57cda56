"""All that is tested on a real KubeRay: ``python -m tests.kubernetes.suite [--quick] [PYTEST OPTION…]``.

The hook contract on each release of the operator, the scenes of tasks, notebooks and clusters on the newest, and what
KubeRay and the cluster themselves do. ``--quick`` is the newest release without what is marked `full`. Where
``GLUERAY_TEST_KUBERAY`` names somebody's own cluster, the contract and the scenes run there, and nothing else.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tests.kubernetes import build
from tests.kubernetes.connection import CONN

#: Two workers for two cores, and generous bounds: a run takes half a minute where nobody else needs the machine.
PYTEST = (sys.executable, "-m", "pytest", "-n", "2", "--dist", "load", "-o", "timeout=900")
CONTRACT, SCENES = "tests/contract/test_runs.py", "tests/contract"


class Part(NamedTuple):
    """A run of pytest: on which release of the operator, which marks, which paths."""

    release: str
    marks: str
    paths: Sequence[str]


def parts(*, quick: bool) -> Iterator[Part]:
    """Yield what is run, one after the other."""
    if CONN in os.environ:
        yield Part("", "kubernetes", [SCENES])
        return
    if not quick:
        for release in build.RELEASES[:-1]:
            yield Part(release, "kubernetes", [CONTRACT])
    yield Part(build.NEWEST, "kubernetes and not full" if quick else "kubernetes", ["tests"])


def main(argv: Sequence[str]) -> int:
    """Run all parts; print a line for each, and return 1 if one of them is red."""
    quick = "--quick" in argv
    options = [word for word in argv if word != "--quick"]
    red = False
    for part in parts(quick=quick):
        began = time.monotonic()
        beside = [sys.executable, "-m", "tests.kubernetes", *(["--release", part.release] if part.release else [])]
        status = subprocess.run([*beside, *PYTEST, "-m", part.marks, *options, *part.paths], check=False).returncode
        red = red or bool(status)
        where = f"KubeRay {part.release}" if part.release else f"the cluster of {CONN}"
        verdict = "green" if not status else f"red ({status})"
        print(f"test-kuberay: {where} is {verdict} in {time.monotonic() - began:.0f} s", flush=True)
    return int(red)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
