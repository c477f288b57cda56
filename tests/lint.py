"""What other tools do not see: a test that waits by the clock instead of for an event, or that skips; a retired word.

No sleep over 0.2 seconds in `tests/`, in the tests themselves and in the scripts that they hand to Ray. One of 100
seconds or more is a script that never ends by itself, for a test that stops it.

A test may skip only where nothing in the checkout could make what it needs; each such place is named here.

XComs are pushed in one place, which lets nothing through that Airflow cannot store.

A word that has been replaced by one of the field (docs/glossary.md) may not come back: in names, logs, errors, docs.
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
#: Retired words, as patterns of whole words, and what to write instead.
RETIRED = {
    r"marks?": "client token, status byte or tag",
    r"doors?": "connection",
    r"parcels?": "archive",
    r"things?": "resource, object, or the noun",
    r"troubles?": "pending reason, or error",
    r"hopeless": "unrecoverable",
    r"bookmarks?": "log position",
    r"ledgers?": "state",
    r"condemn\w*": "request_end",
    r"knobs?": "override key, setting",
    r"dull": "the two drivers",
    r"stumbled?": "unexpected error",
    r"(?:take[sn]?|taking) up(?! to)": "reattach",
    r"floor [0-4]": "the room's name",
    r"ScriptError": "SourceFileError, PackagingError, ResultMissing",
    r"ServiceFull": "CapacityExceeded",
    r"SubmitUnknown": "SubmitOutcomeUnknown",
    r"AccountRefused": "AccountNotEligible",
    r"RequestRefused": "InvalidRequest, AccessDenied",
    r"ConnectionMissing": "ConnectionConfigError",
    r"CannotTravel": "NotSerializableError",
    r"poll_seconds": "poll_interval",
    r"executed_notebook": "output_notebook",
}
_RETIRED = re.compile(
    rf"(?<![\w.-])(?:{'|'.join(f'(?P<w{at}>{word})' for at, word in enumerate(RETIRED))})(?!\w)", re.I
)
#: Ordinary words of a page, which the package may not use.
IN_THE_PACKAGE_ONLY = {"mark", "marks", "thing", "things"}
#: Where they may stand: pages that say what became of them, and the history.
MAY_NAME_THEM = {"docs/glossary.md", "CHANGELOG.md"}
#: Where XComs are pushed; the other one stands for the task state store, and what is written there has passed the gate.
GATE, STORE = "airflow_provider_glueray/task/outcome.py", "airflow_provider_glueray/airflow_compat.py"
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


def ungated(source: str) -> Iterator[int]:
    """Yield the line of each XCom that passes by the gate to Airflow's database (core/storable.py)."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr == "xcom_push":
            yield node.lineno


def retired(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield the line of each retired word, the word, and what to write instead."""
    for line, words in enumerate(text.splitlines(), 1):
        for found in _RETIRED.finditer(words):
            yield line, found[0], list(RETIRED.values())[int(str(found.lastgroup)[1:])]


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
    root = here.parent
    for path in sorted(root.glob("airflow_provider_glueray/**/*.py")):
        if path.relative_to(root).as_posix() not in (GATE, STORE):
            text = path.read_text(encoding="utf-8")
            found += [f"{path}:{line}: XComs are pushed by `push` of {GATE}" for line in ungated(text)]
    texts = [
        *root.glob("*.md"),
        *root.glob("docs/**/*.md"),
        *root.glob("example_dags/**/*.py"),
        *root.glob("demo/*.py"),
    ]
    for path in sorted([*texts, *root.glob("airflow_provider_glueray/**/*.py")]):
        if str(path.relative_to(root)) not in MAY_NAME_THEM and "adr" not in path.parts:
            text, is_package = path.read_text(encoding="utf-8"), "airflow_provider_glueray" in path.parts
            found += [
                f"{path}:{line}: {word!r} is retired; write: {new}"
                for line, word, new in retired(text)
                if is_package or word.lower() not in IN_THE_PACKAGE_ONLY
            ]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
