"""Requirements on their way to Glue: read, told for its runtime, and looked at before a cluster is paid for.

Floor 2: reads local files, and asks pip or uv, whichever is there, what the package index has. Nothing is installed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from packaging.markers import UndefinedComparison, UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from airflow_provider_glueray.core.drivers import TaskLog
from airflow_provider_glueray.core.errors import ScriptError, SpecError
from airflow_provider_glueray.core.validation import items_of, requirement_problem

#: Seconds for all questions about wheels together.
CHECK_SECONDS = 30.0
#: Wheels for aarch64 are made for this glibc or a newer one. Which one the service has is unverified.
_GLIBC = "2_17"
_PLATFORMS = (f"manylinux_{_GLIBC}_aarch64", "manylinux2014_aarch64")
#: Every index that serves Python has wheels of it: one that has none is out of reach.
_EVERYWHERE = "pip"
#: The exit status by which uv tells an answer from a failure.
_NO_SOLUTION = 1
#: Airflow's own constraints have nothing to say about what runs elsewhere, and a cache alone nothing about an index.
_NOT_INHERITED = ("PIP_CONSTRAINT", "UV_CONSTRAINT", "UV_OFFLINE")
_MOST_WORDS = 400
_NO_COMPILER = "Glue compiles nothing, so what has no wheel must be pure Python [dg/edit-script-ray-env-dependencies]"

_COMMENT = re.compile(r"(^|\s+)#.*$")
_NESTED = re.compile(r"(?:--requirement(?:\s+|=)|-r\s*)(?P<path>\S.*)")


class _Requested(NamedTuple):
    """A requirement, and where it was asked for."""

    text: object
    where: str


class _Incompatibility(NamedTuple):
    """A package that a runtime does not get along with from a version on."""

    name: str
    since: Version
    why: str


_INCOMPATIBILITIES = {
    "Ray2.4": (
        _Incompatibility(
            "pydantic",
            Version("2"),
            "pydantic 2 breaks Ray 2.4; ask for pydantic<2 [ray-project/deltacat#190]",
        ),
        _Incompatibility(
            "awswrangler",
            Version("3.5"),
            "from 3.5 on it needs Ray 2.9 and fails when it is imported; the last that works is awswrangler==3.4.2 "
            "[aws/aws-sdk-pandas#2604]",
        ),
    )
}


def resolve_requirements(pip: Sequence[str] | str, file: str | None, python_version: str) -> tuple[str, ...]:
    """Return what Glue is to install, of a list and of a file. Markers are resolved, because Glue takes none.

    :raises ScriptError: the file, or one that it names, cannot be read.
    :raises SpecError: with everything that Glue would not take, and with what is asked for twice.
    """
    problems: list[str] = []
    kept: dict[str, _Requested] = {}
    for asked in (*(_Requested(item, "pip") for item in items_of(pip)), *(_read(Path(file)) if file else ())):
        needed = _resolved(asked.text, python_version)
        if needed is None:
            continue
        problem = requirement_problem(needed)
        if problem is not None:
            problems.append(f"{asked.where}: {problem}")
            continue
        wanted = Requirement(str(needed))
        if wanted.marker is not None:
            problems.append(f"{asked.where}: {needed!r} has a marker that means nothing on Glue")
            continue
        before = kept.setdefault(canonicalize_name(wanted.name), _Requested(str(needed).strip(), asked.where))
        if Requirement(str(before.text)) != wanted:
            problems.append(f"{asked.where}: {needed!r}, but {before.where} says {before.text!r}; keep one of them")
    if problems:
        raise SpecError(problems)
    return tuple(str(asked.text) for asked in kept.values())


def known_incompatibilities(requirements: Sequence[str], runtime: str) -> list[str]:
    """Tell which requirements let in a version that a runtime is known not to get along with."""
    found = []
    for requirement in map(Requirement, requirements):
        for known in _INCOMPATIBILITIES.get(runtime, ()):
            if canonicalize_name(requirement.name) == known.name and _admits(requirement, known.since):
                found.append(f"{requirement}: {known.why}")
    return found


def missing_wheels(requirements: Sequence[str], python_version: str, log: TaskLog) -> list[str]:
    """Tell which requirements the package index has no wheels of that could be installed on Glue's workers.

    pip is asked for the requirements, and uv for what these need in turn, each with its own configuration. A false
    warning is worse than none: of what is not certain, or took longer than allowed, a line in the log tells.
    """
    warnings, wheels = [], []
    where = f"Python {python_version} on Linux aarch64 with glibc {_GLIBC.replace('_', '.')}"
    no_wheels = f"no wheels found for {where} (what the service has is unverified). {_NO_COMPILER}"
    for text in requirements:
        file = _file_of(text)
        if file and not file.endswith(".whl"):
            warnings.append(f"{text} is no wheel. {_NO_COMPILER}")
        elif file and not _installable(file, python_version):
            warnings.append(f"{text}: {no_wheels}")
        else:
            wheels.append(text)
    try:
        for who, words in _without_wheels(wheels, _Index(python_version), log):
            warnings.append(f"{who}: {no_wheels}{words}")
    except _Unknown as reason:
        log.info("Not all is known of the wheels of %s: %s", ", ".join(wheels), reason)
    return warnings


# -- the file -------------------------------------------------------------------------------------------------


def _read(path: Path, within: tuple[Path, ...] = ()) -> Iterator[_Requested]:
    """Yield the lines of a requirements file and of those that it names."""
    if path.resolve() in within:
        raise SpecError([f"{within[-1]} names {path}, which names it in turn"])
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ScriptError(f"Cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ScriptError(f"Cannot read {path}: it is not UTF-8 ({error})") from error
    for number, line in _lines(text):
        nested = _NESTED.fullmatch(line)
        if nested:
            yield from _read(path.parent / nested["path"], (*within, path.resolve()))
        else:
            yield _Requested(line, f"{path}:{number}")


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the logical lines with the numbers they begin at; what a comment and a continuation are, pip says."""
    joined, begin = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        begin = begin or number
        is_comment = line.lstrip().startswith("#")
        if line.endswith("\\") and not is_comment:
            joined += line[:-1]
            continue
        yield from _logical(begin, f"{joined} {line}" if is_comment else joined + line)
        joined, begin = "", 0
    yield from _logical(begin, joined)


def _logical(number: int, line: str) -> Iterator[tuple[int, str]]:
    line = _COMMENT.sub("", line).strip()
    if line:
        yield number, line


# -- what a requirement means on Glue -------------------------------------------------------------------------


def _resolved(item: object, python_version: str) -> object | None:
    """Return a requirement without its marker, or None where that does not hold; what cannot be read stays."""
    try:
        requirement = Requirement(str(item))
        if requirement.marker is None:
            return item
        if not requirement.marker.evaluate(_environment(python_version)):
            return None
    except (InvalidRequirement, UndefinedComparison, UndefinedEnvironmentName):
        return item
    requirement.marker = None
    return str(requirement)


def _environment(python_version: str) -> dict[str, str]:
    """Return what markers mean on Glue's workers: every name, or else this machine would answer for them."""
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{python_version}.0",
        "os_name": "posix",
        "platform_machine": "aarch64",
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux",
        "platform_version": "",
        "python_full_version": f"{python_version}.0",
        "python_version": python_version,
        "sys_platform": "linux",
    }


def _admits(requirement: Requirement, since: Version) -> bool:
    """Tell whether a requirement lets in a version, or a newer one."""
    if requirement.url:
        return False
    clauses = [clause for clause in requirement.specifier if clause.operator != "==="]
    named = [Version(clause.version.removesuffix(".*")) for clause in clauses]
    newest = Version("99999")
    return any(
        requirement.specifier.contains(version, prereleases=True)
        for version in (since, newest, *named)
        if version >= since
    )


# -- wheels ---------------------------------------------------------------------------------------------------


class _Unknown(Exception):
    """The question about wheels has no answer."""


def _file_of(requirement: str) -> str:
    """Return the name of the file where the requirement gives an address, or else nothing."""
    url = Requirement(requirement).url
    return unquote(urlsplit(url).path.rpartition("/")[2]) if url else ""


def _installable(wheel: str, python_version: str) -> bool:
    """Tell by its name whether a wheel could be installed on Glue's workers; what has no proper name may be one."""
    version, python = [int(part) for part in python_version.split(".")], f"cp{python_version.replace('.', '')}"
    good = (*cpython_tags(version, [python], _PLATFORMS), *compatible_tags(version, python, _PLATFORMS))
    try:
        return not parse_wheel_filename(wheel)[3].isdisjoint(good)
    except InvalidWheelFilename:
        return True


def _without_wheels(requirements: Sequence[str], index: _Index, log: TaskLog) -> Iterator[tuple[str, str]]:
    """Yield what has no wheels, then what needs something that has none, with words that say more."""
    left = list(requirements)
    named = [text for text in requirements if not _file_of(text)]
    if named and not index.has(named):
        if not index.has([_EVERYWHERE]):
            raise _Unknown(f"no index is there that has {_EVERYWHERE}")
        for text in named:
            if len(named) > 1 and index.has([text]):
                continue
            left.remove(text)
            if index.knows(text):
                yield text, ""
            else:
                log.info("Nothing is known of the wheels of %s: no index is there that has it in any form", text)
    said = index.refusal(left) if left else ""
    if not said:
        return
    # What pip finds in its index, uv may not have in its own.
    if index.refusal(left, "--no-deps"):
        raise _Unknown(f"uv says: {said}")
    alone = {text: index.refusal([text]) for text in left} if len(left) > 1 else {}
    for who, words in ({text: alone[text] for text in alone if alone[text]} or {" and ".join(left): said}).items():
        yield who, f". uv says: {words}"


class _Index:
    """What pip and uv find in the package index for a Python on Glue's workers. Nothing is installed or built.

    What they say changes from version to version, so only exit statuses and version numbers are read.
    """

    def __init__(self, python_version: str) -> None:
        self._until = time.monotonic() + CHECK_SECONDS
        self._what = ["--quiet", "--only-binary=:all:", f"--python-version={python_version}"]
        path = os.pathsep.join((os.path.dirname(sys.executable), os.environ.get("PATH", "")))
        self._pip = [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else []
        self._uv = shutil.which("uv", path=path)

    def has(self, requirements: Sequence[str]) -> bool:
        """Tell whether there are wheels of these, whatever they need in turn.

        pip comes first, because its configuration is the one that most have, and it says which index to ask.
        """
        if not self._pip:
            return not self.refusal(requirements, "--no-deps")
        # Airflow's own image asks for --user everywhere, which does not go with --target. pip wants a target where
        # another platform than its own is meant, and puts nothing there.
        how = ["--dry-run", "--no-deps", "--no-input", "--ignore-installed", "--no-user", "--implementation=cp"]
        how += [f"--target={tempfile.gettempdir()}", *(f"--platform={platform}" for platform in _PLATFORMS)]
        return self._run([*self._pip, "install", *how, *self._what, *requirements]).returncode == 0

    def knows(self, requirement: str) -> bool:
        """Tell whether the index has it in any form: as source, or as a wheel for this machine.

        pip goes on where one of several indexes is out of reach or wants a password. uv does not (before 0.7 it does
        where a password is wanted), so its answer stands.
        """
        if not self._pip:
            return True
        wanted = Requirement(requirement)
        done = self._run([*self._pip, "index", "versions", "--pre", "--ignore-requires-python", wanted.name])
        return any(wanted.specifier.contains(version, prereleases=True) for version in _versions_in(done.stdout))

    def refusal(self, requirements: Sequence[str], *options: str) -> str:
        """Return nothing when uv finds these and what they need, or else what it says.

        pip cannot be asked: it reads the markers within packages for the Python that it runs in.
        """
        if not self._uv:
            raise _Unknown("only uv could tell what they need" if self._pip else "neither pip nor uv is here to look")
        how = ["-", f"--python={sys.executable}", f"--python-platform=aarch64-manylinux_{_GLIBC}"]
        done = self._run([self._uv, "pip", "compile", *how, *self._what, *options], "\n".join(requirements))
        words = " ".join(done.stderr.encode("ascii", "ignore").decode().split())[:_MOST_WORDS]
        if done.returncode not in (0, _NO_SOLUTION):
            raise _Unknown(f"uv says: {words}")
        return (words or "nothing") if done.returncode else ""

    def _run(self, command: list[str], given: str = "") -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                command,
                input=given,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                env={name: text for name, text in os.environ.items() if name not in _NOT_INHERITED},
                timeout=max(self._until - time.monotonic(), 0.0),
            )
        except subprocess.TimeoutExpired as error:
            raise _Unknown("pip and uv took too long") from error
        except OSError as error:
            raise _Unknown(f"{command[0]} cannot be run ({error.strerror or error})") from error


def _versions_in(text: str) -> Iterator[Version]:
    for word in re.split(r"[\s,()]+", text):
        with contextlib.suppress(InvalidVersion):
            yield Version(word)
