"""What the tools of `make lint` do not see: a test that waits by the clock instead of for an event, or that skips.

No sleep over 0.2 seconds in `tests/`, in the tests themselves and in the scripts that they hand to Ray. One of 100
seconds or more is a script that never ends by itself, for a test that stops it.

A test may skip only where nothing in the checkout could make what it needs; each such place is named here.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

MOST, ENDLESS = 0.2, 100.0
#: Files whose tests may skip: a real place that nobody has named, a package index that is out of reach.
MAY_SKIP = {"contract/test_runs.py", "packaging/test_requirements.py"}
_SKIPS = {"skip", "skipif", "xfail", "importorskip"}
_IN_TEXT = re.compile(r"\bsleep\((\d+(?:\.\d+)?)\)")


def sleeps(source: str) -> Iterator[tuple[int, float]]:
    """Yield the line and the seconds of each fixed sleep that is too long."""
    for node in ast.walk(ast.parse(source)):
        found: list[float] = []
        if isinstance(node, ast.Call) and node.args and ast.unparse(node.func).rpartition(".")[2] == "sleep":
            found = [node.args[0].value] if _is_number(node.args[0]) else []  # type: ignore[attr-defined]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found = [float(seconds) for seconds in _IN_TEXT.findall(node.value)]
        yield from ((node.lineno, seconds) for seconds in found if MOST < seconds < ENDLESS)


def skips(source: str) -> Iterator[int]:
    """Yield the line of each skip."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in _SKIPS and ast.unparse(node).startswith("pytest."):
            yield node.lineno


def _is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, (int, float))


def main() -> int:
    """Print what is wrong; return the exit code."""
    found: list[str] = []
    here = Path(__file__).parent
    for path in sorted(here.rglob("*.py")):
        if path.name == "test_lint.py":  # has what is wrong on purpose
            continue
        source = path.read_text(encoding="utf-8")
        for line, seconds in sleeps(source):
            found.append(f"{path}:{line}: a fixed sleep of {seconds} s; wait for an event, {MOST} s at a time at most")
        if str(path.relative_to(here)) not in MAY_SKIP:
            found += [f"{path}:{line}: what is missing is an error; make installs it" for line in skips(source)]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
