"""Requirements for Glue: reads them, evaluates their markers for its runtime, and warns before a cluster is paid for.

It reads local files, and resolves distributions by dry runs of pip and of uv, whichever are installed; their exit
statuses are the answer. Nothing is installed or built.
"""

from __future__ import annotations

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
from airflow_provider_glueray.core.errors import SourceFileError, SpecError
from airflow_provider_glueray.core.validation import items_of, requirement_problem

#: Seconds for all dry runs together.
CHECK_SECONDS = 30.0
#: The oldest glibc that wheels for aarch64 support. Which one the service has is unverified.
_GLIBC = "2_17"
_PLATFORMS = (f"manylinux_{_GLIBC}_aarch64", "manylinux2014_aarch64")
#: Every index of Python distributions has a wheel of this one: an index without it is unreachable.
_PROBE = "pip"
#: The exit status of uv when it has read the index, and no set of distributions fits.
_NO_SOLUTION = 1
#: Airflow's own constraints do not apply to Glue's workers, and a cache alone does not show what an index has.
_NOT_INHERITED = ("PIP_CONSTRAINT", "UV_CONSTRAINT", "UV_OFFLINE")
_MOST_CHARACTERS = 400
_NO_COMPILER = "Glue compiles nothing, so what has no wheel must be pure Python [dg/edit-script-ray-env-dependencies]"

_COMMENT = re.compile(r"(^|\s+)#.*$")
_NESTED = re.compile(r"(?:--requirement(?:\s+|=)|-r\s*)(?P<path>\S.*)")


class _Requested(NamedTuple):
    """A requirement, and the argument or the line of a file that it is from."""

    text: object
    source: str


class _Incompatibility(NamedTuple):
    """A distribution whose versions from ``since`` on fail on a runtime."""

    name: str
    since: Version
    reason: str


_INCOMPATIBILITIES = {
    "Ray2.4": (
        _Incompatibility(
            "pydantic", Version("2"), "pydantic 2 breaks Ray 2.4; ask for pydantic<2 [ray-project/deltacat#190]"
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
    """Return what Glue is to install, of a list and of a file. Markers are evaluated, because Glue takes none.

    :raises SourceFileError: the file, or one that it names, cannot be read.
    :raises SpecError: with all requirements that Glue does not take, and those that contradict each other.
    """
    problems: list[str] = []
    kept: dict[str, _Requested] = {}
    for text, source in (*(_Requested(item, "pip") for item in items_of(pip)), *(_read(Path(file)) if file else ())):
        wanted = _without_marker(text, python_version)
        if wanted is None:
            continue
        problem = requirement_problem(wanted)
        if problem is not None:
            problems.append(f"{source}: {problem}")
            continue
        requirement = Requirement(str(wanted))
        if requirement.marker is not None:
            problems.append(f"{source}: {wanted!r} has a marker that means nothing on Glue")
            continue
        first = kept.setdefault(canonicalize_name(requirement.name), _Requested(str(wanted).strip(), source))
        if Requirement(str(first.text)) != requirement:
            problems.append(f"{source}: {wanted!r}, but {first.source} says {first.text!r}; keep one of them")
    if problems:
        raise SpecError(problems)
    return tuple(str(requested.text) for requested in kept.values())


def known_incompatibilities(requirements: Sequence[str], runtime: str) -> list[str]:
    """Return a warning for each requirement that allows a version which is known to fail on a runtime."""
    warnings = []
    for requirement in map(Requirement, requirements):
        for known in _INCOMPATIBILITIES.get(runtime, ()):
            if canonicalize_name(requirement.name) == known.name and _allows(requirement, known.since):
                warnings.append(f"{requirement}: {known.reason}")
    return warnings


def missing_wheels(requirements: Sequence[str], python_version: str, log: TaskLog) -> list[str]:
    """Return a warning for each requirement that the package index has no wheels of for Glue's workers.

    pip resolves the requirements, and uv also their dependencies, each with its own configuration. A false warning is
    worse than none: what is uncertain, or takes longer than ``CHECK_SECONDS``, is a line in the log.
    """
    warnings, wheels = [], []
    runtime = f"Python {python_version} on Linux aarch64 with glibc {_GLIBC.replace('_', '.')}"
    no_wheels = f"no wheels found for {runtime} (what the service has is unverified). {_NO_COMPILER}"
    for text in requirements:
        file = _file_of(text)
        if file and not file.endswith(".whl"):
            warnings.append(f"{text} is no wheel. {_NO_COMPILER}")
        elif file and not _is_compatible(file, python_version):
            warnings.append(f"{text}: {no_wheels}")
        else:
            wheels.append(text)
    try:
        for subject, detail in _unresolved(wheels, _Index(python_version), log):
            warnings.append(f"{subject}: {no_wheels}{detail}")
    except _Inconclusive as reason:
        log.info("The check for wheels of %s is incomplete: %s", ", ".join(wheels), reason)
    return warnings


# -- the file -------------------------------------------------------------------------------------------------


def _read(path: Path, within: tuple[Path, ...] = ()) -> Iterator[_Requested]:
    """Yield the lines of a requirements file and of those that it names."""
    if path.resolve() in within:
        raise SpecError([f"{within[-1]} names {path}, which names it in turn"])
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SourceFileError(f"Cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise SourceFileError(f"Cannot read {path}: it is not UTF-8 ({error})") from error
    for number, line in _lines(text):
        nested = _NESTED.fullmatch(line)
        if nested:
            yield from _read(path.parent / nested["path"], (*within, path.resolve()))
        else:
            yield _Requested(line, f"{path}:{number}")


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the logical lines and the numbers of their first lines; comments and continuations are as in pip."""
    joined, begin = "", 0
    # The empty line ends a continuation at the end of the file.
    for number, line in enumerate([*text.splitlines(), ""], start=1):
        begin = begin or number
        is_comment = line.lstrip().startswith("#")
        if line.endswith("\\") and not is_comment:
            joined += line[:-1]
            continue
        logical = _COMMENT.sub("", f"{joined} {line}" if is_comment else joined + line).strip()
        if logical:
            yield begin, logical
        joined, begin = "", 0


# -- what a requirement means on Glue -------------------------------------------------------------------------


def _without_marker(item: object, python_version: str) -> object | None:
    """Return a requirement without its marker, or None where that is false; what cannot be parsed stays as it is."""
    try:
        requirement = Requirement(str(item))
        if requirement.marker is None:
            return item
        if not requirement.marker.evaluate(_environment(python_version)):
            return None
    except (InvalidRequirement, UndefinedComparison, UndefinedEnvironmentName, KeyError):
        # KeyError: what packaging 25.0 to 26.2 raise for the names of lock files, "extras" and "dependency_groups".
        return item
    requirement.marker = None
    return str(requirement)


def _environment(python_version: str) -> dict[str, str]:
    """Return the environment of markers on Glue's workers: all names, since this machine's fill in the others."""
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{python_version}.0",
        "os_name": "posix",
        "platform_machine": "aarch64",
        "platform_python_implementation": "CPython",
        # Not empty: packaging 25 compares it as a version.
        "platform_release": "0",
        "platform_system": "Linux",
        "platform_version": "0",
        "python_full_version": f"{python_version}.0",
        "python_version": python_version,
        "sys_platform": "linux",
    }


def _allows(requirement: Requirement, since: Version) -> bool:
    """Return whether a requirement allows a version, or a newer one."""
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


class _Inconclusive(Exception):
    """The dry runs do not show whether there are wheels."""


def _file_of(requirement: str) -> str:
    """Return the name of the file where the requirement has a URL, or else nothing."""
    url = Requirement(requirement).url
    return unquote(urlsplit(url).path.rpartition("/")[2]) if url else ""


def _is_compatible(wheel: str, python_version: str) -> bool:
    """Return whether the tags in a wheel's name fit Glue's workers; a name that cannot be parsed may fit."""
    version, python = [int(part) for part in python_version.split(".")], f"cp{python_version.replace('.', '')}"
    tags = (*cpython_tags(version, [python], _PLATFORMS), *compatible_tags(version, python, _PLATFORMS))
    try:
        return not parse_wheel_filename(wheel)[3].isdisjoint(tags)
    except InvalidWheelFilename:
        return True


def _unresolved(requirements: Sequence[str], index: _Index, log: TaskLog) -> Iterator[tuple[str, str]]:
    """Yield requirements without wheels, then those with a dependency that has none, each with the output of uv."""
    rest = list(requirements)
    by_name = [text for text in requirements if not _file_of(text)]
    if by_name and not index.has_wheels(by_name):
        if not index.has_wheels([_PROBE]):
            raise _Inconclusive(f"no index with {_PROBE} can be read")
        for text in by_name:
            if len(by_name) > 1 and index.has_wheels([text]):
                continue
            rest.remove(text)
            if index.lists(text):
                yield text, ""
            else:
                log.info("The wheels of %s are unknown: no index that can be read has it in any form", text)
    conflict = index.conflict(rest) if rest else ""
    if not conflict:
        return
    # The index of uv may lack what the index of pip has.
    if index.conflict(rest, "--no-deps"):
        raise _Inconclusive(f"uv says: {conflict}")
    alone = {text: index.conflict([text]) for text in rest} if len(rest) > 1 else {}
    conflicts = {text: detail for text, detail in alone.items() if detail} or {" and ".join(rest): conflict}
    yield from ((subject, f". uv says: {detail}") for subject, detail in conflicts.items())


class _Index:
    """The distributions that pip and uv resolve from the package index for a Python on Glue's workers.

    Their texts change from version to version, so only exit statuses and version numbers are read.
    """

    def __init__(self, python_version: str) -> None:
        self._deadline = time.monotonic() + CHECK_SECONDS
        self._common = ["--quiet", "--only-binary=:all:", f"--python-version={python_version}"]
        path = os.pathsep.join((os.path.dirname(sys.executable), os.environ.get("PATH", "")))
        self._pip = [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else []
        self._uv = shutil.which("uv", path=path)

    def has_wheels(self, requirements: Sequence[str]) -> bool:
        """Return whether there are wheels of these, whatever their dependencies.

        pip comes first, because most people configure it, also with the index to use.
        """
        if not self._pip:
            return not self.conflict(requirements, "--no-deps")
        # Airflow's own image configures --user, which excludes --target. pip needs a target for another platform than
        # its own, and a dry run writes nothing there.
        options = ["--dry-run", "--no-deps", "--no-input", "--ignore-installed", "--no-user", "--implementation=cp"]
        options += [f"--target={tempfile.gettempdir()}", *(f"--platform={platform}" for platform in _PLATFORMS)]
        return self._run([*self._pip, "install", *options, *self._common, *requirements]).returncode == 0

    def lists(self, requirement: str) -> bool:
        """Return whether the index has the distribution in any form: as source, or as a wheel for this machine.

        pip goes on where one of several indexes is unreachable or needs a password. uv does not (before 0.7 it does
        where a password is needed), so its exit status is the answer.
        """
        if not self._pip:
            return True
        wanted = Requirement(requirement)
        done = self._run([*self._pip, "index", "versions", "--pre", "--ignore-requires-python", wanted.name])
        words = re.split(r"[\s,()]+", done.stdout)
        return any(_is_version(word) and wanted.specifier.contains(word, prereleases=True) for word in words)

    def conflict(self, requirements: Sequence[str], *options: str) -> str:
        """Return nothing when uv resolves these and their dependencies, or else its output.

        pip evaluates the markers within distributions for the Python that it runs in, so it cannot resolve them.
        """
        if not self._uv:
            raise _Inconclusive("only uv resolves dependencies" if self._pip else "neither pip nor uv is installed")
        options = ("-", f"--python={sys.executable}", f"--python-platform=aarch64-manylinux_{_GLIBC}", *options)
        done = self._run([self._uv, "pip", "compile", *options, *self._common], "\n".join(requirements))
        output = " ".join(done.stderr.encode("ascii", "ignore").decode().split())[:_MOST_CHARACTERS]
        if done.returncode not in (0, _NO_SOLUTION):
            raise _Inconclusive(f"uv says: {output}")
        return (output or "nothing") if done.returncode else ""

    def _run(self, command: list[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
        environment = {name: text for name, text in os.environ.items() if name not in _NOT_INHERITED}
        seconds = max(self._deadline - time.monotonic(), 0.0)
        try:
            return subprocess.run(
                command, input=stdin, capture_output=True, text=True, errors="replace", env=environment, timeout=seconds
            )
        except subprocess.TimeoutExpired as error:
            raise _Inconclusive("pip and uv took too long") from error
        except OSError as error:
            raise _Inconclusive(f"{command[0]} cannot be run ({error.strerror or error})") from error


def _is_version(word: str) -> bool:
    try:
        Version(word)
    except InvalidVersion:
        return False
    return True
