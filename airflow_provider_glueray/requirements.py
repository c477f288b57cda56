"""Requirements on their way to Glue: read, told for its runtime, and looked at before a cluster is paid for.

Floor 2: reads local files, and asks pip or uv, whichever is there, what the package index has. Nothing is installed.
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

from packaging.markers import UndefinedComparison, UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from airflow_provider_glueray.drive import TaskLog
from airflow_provider_glueray.errors import ScriptError, SpecError
from airflow_provider_glueray.rules import items_of, requirement_problem

#: Seconds for all questions about wheels together.
CHECK_SECONDS = 30.0
#: Wheels for aarch64 are made for this glibc or a newer one. Which one the service has is unverified.
_GLIBC = "2_17"
#: What pip and uv say when they know the index and it has nothing that fits.
_NOTHING_FITS = re.compile(
    r"No matching distribution found|ResolutionImpossible|not a supported wheel on this platform"
    r"|No solution found|incompatible with the current platform"
)
#: What they also say then when they do not know the index: it was out of reach, or wants to know who asks.
_OUT_OF_REACH = re.compile(
    r".*(Retrying \(|Could not fetch URL (?!.*404 Client Error)|Credentials not correct"
    r"|hint: An index |network was disabled).*"
)
#: Airflow's own constraints have nothing to say about what runs elsewhere.
_NOT_INHERITED = ("PIP_CONSTRAINT", "UV_CONSTRAINT")

#: In pip's words: what it looked for.
_MISSING = re.compile(r"No matching distribution found for (.+)")
_MOST_WORDS = 400
#: In their words: what we say already, bullets, and the versions that would not do.
_NO_GIST = re.compile(
    r"\(from versions: .*?\)|^(error|ERROR): |No solution found when resolving dependencies:?|\s{2}cause: |[^\x00-\x7f]"
)
_NO_COMPILER = "Glue compiles nothing, so what has no wheel must be pure Python [dg/edit-script-ray-env-dependencies]"

_COMMENT = re.compile(r"(^|\s+)#.*$")
_NESTED = re.compile(r"(?:--requirement(?:\s+|=)|-r\s*)(?P<path>\S.*)")


class _Asked(NamedTuple):
    """A requirement, and where it was asked for."""

    text: object
    where: str


class _Known(NamedTuple):
    """A package that a runtime does not get along with from a version on."""

    name: str
    since: Version
    why: str


_KNOWN = {
    "Ray2.4": (
        _Known(
            "pydantic",
            Version("2"),
            "pydantic 2 breaks Ray 2.4; ask for pydantic<2 [ray-project/deltacat#190]",
        ),
        _Known(
            "awswrangler",
            Version("3.5"),
            "from 3.5 on it needs Ray 2.9 and fails when it is imported; the last that works is awswrangler==3.4.2 "
            "[aws/aws-sdk-pandas#2604]",
        ),
    )
}


def gathered(pip: Sequence[str] | str, file: str | None, python_version: str) -> tuple[str, ...]:
    """Return what Glue is to install, of a list and of a file. Markers are resolved, because Glue takes none.

    :raises ScriptError: the file, or one that it names, cannot be read.
    :raises SpecError: with everything that Glue would not take, and with what is asked for twice.
    """
    problems: list[str] = []
    kept: dict[str, _Asked] = {}
    for asked in (*(_Asked(item, "pip") for item in items_of(pip)), *(_read(Path(file)) if file else ())):
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
        before = kept.setdefault(canonicalize_name(wanted.name), _Asked(str(needed).strip(), asked.where))
        if Requirement(str(before.text)) != wanted:
            problems.append(f"{asked.where}: {needed!r}, but {before.where} says {before.text!r}; keep one of them")
    if problems:
        raise SpecError(problems)
    return tuple(str(asked.text) for asked in kept.values())


def warnings_about(requirements: Sequence[str], runtime: str) -> list[str]:
    """Tell which requirements let in a version that a runtime is known not to get along with."""
    found = []
    for requirement in map(Requirement, requirements):
        for known in _KNOWN.get(runtime, ()):
            if canonicalize_name(requirement.name) == known.name and _admits(requirement, known.since):
                found.append(f"{requirement}: {known.why}")
    return found


def wheel_warnings(
    requirements: Sequence[str], python_version: str, log: TaskLog, seconds: float = CHECK_SECONDS
) -> list[str]:
    """Tell which requirements the package index has no wheels of that could be installed on Glue's workers.

    pip or uv is asked, with its own configuration. Where there is neither, or the index is out of reach, a line in
    the log says so and there is no warning.

    :param seconds: for all questions together; who has no wheels is then told as far as it is known.
    """
    warnings = [f"{text} is no wheel. {_NO_COMPILER}" for text in requirements if _is_source(text)]
    wheels = [text for text in requirements if not _is_source(text)]
    if not wheels:
        return warnings
    # The place to install to is never touched, but pip wants one where another platform than its own is meant.
    with tempfile.TemporaryDirectory() as nowhere:
        try:
            warnings += _without_wheels(wheels, python_version, nowhere, time.monotonic() + seconds)
        except _Unknown as reason:
            log.info("Nothing is known of the wheels of %s: %s", ", ".join(wheels), reason)
    return warnings


# -- the file -------------------------------------------------------------------------------------------------


def _read(path: Path, within: tuple[Path, ...] = ()) -> Iterator[_Asked]:
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
            yield _Asked(line, f"{path}:{number}")


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


def _is_source(text: str) -> bool:
    """Tell whether it is an address of something other than a wheel, which a resolver would have to build."""
    url = Requirement(text).url
    return url is not None and not url.partition("#")[0].partition("?")[0].endswith(".whl")


# -- wheels ---------------------------------------------------------------------------------------------------


class _Unknown(Exception):
    """The question about wheels has no answer."""


class _Resolver(NamedTuple):
    """A command that finds what would be installed, and installs nothing."""

    name: str
    command: list[str]


def _without_wheels(requirements: Sequence[str], python_version: str, target: str, until: float) -> list[str]:
    """Ask for all at once, and if they do not fit for each: then it is known whose fault it is."""
    resolver = _resolver(python_version, target)
    said = _ask(resolver, requirements, python_version, until)
    if not said:
        return []
    blamed = {}
    for requirement in requirements if len(requirements) > 1 else ():
        try:
            words = _ask(resolver, [requirement], python_version, until)
        except _Unknown:
            continue
        if words:
            blamed[requirement] = words
    # Each alone may fit, or the time was over: then it is said of all together.
    glibc = f"glibc {_GLIBC.replace('_', '.')} (what the service has is unverified)"
    return [
        f"{who}: no wheels found for Python {python_version} on Linux aarch64 with {glibc}. {_NO_COMPILER}. "
        f"{resolver.name} says: {words}"
        for who, words in (blamed or {" and ".join(requirements): said}).items()
    ]


def _resolver(python_version: str, target: str) -> _Resolver:
    """Choose pip, whose configuration is the one that most have, or else uv."""
    what = ["--dry-run", "--only-binary=:all:", f"--python-version={python_version}", f"--target={target}"]
    if importlib.util.find_spec("pip"):
        # Only at length does it tell an index that fails from one that has nothing. Airflow's own image asks for --user
        # everywhere, which does not go with --target.
        how = ["-vv", "--no-input", "--disable-pip-version-check", "--no-user", "--ignore-installed"]
        what += ["--implementation=cp", f"--platform=manylinux_{_GLIBC}_aarch64", "--platform=manylinux2014_aarch64"]
        return _Resolver("pip", [sys.executable, "-m", "pip", "install", *how, *what])
    uv = shutil.which("uv")
    if uv is None:
        raise _Unknown("neither pip nor uv is here to look")
    platform = f"--python-platform=aarch64-manylinux_{_GLIBC}"
    return _Resolver("uv", [uv, "pip", "install", *what, "--quiet", f"--python={sys.executable}", platform])


def _ask(resolver: _Resolver, requirements: Sequence[str], python_version: str, until: float) -> str:
    """Return nothing when wheels of all are there, or else what the resolver says.

    :raises _Unknown: it could not tell.
    """
    environment = {name: text for name, text in os.environ.items() if name not in _NOT_INHERITED}
    try:
        done = subprocess.run(
            [*resolver.command, *requirements],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env=environment,
            timeout=max(until - time.monotonic(), 0.0),
        )
    except subprocess.TimeoutExpired as error:
        raise _Unknown(f"{resolver.name} took too long") from error
    except OSError as error:
        raise _Unknown(f"{resolver.name} cannot be run ({error.strerror or error})") from error
    if done.returncode == 0:
        return ""
    words = _gist(done.stderr)
    if not _NOTHING_FITS.search(done.stderr):
        raise _Unknown(f"{resolver.name} says: {words}")
    obstacle = _OUT_OF_REACH.search(done.stdout + done.stderr)
    if obstacle:
        raise _Unknown(f"{resolver.name} says: {obstacle[0][:_MOST_WORDS]}")
    missing = _MISSING.search(done.stderr)
    if missing and _resolved(missing[1], python_version) is None:
        raise _Unknown(f"{resolver.name} obeys markers as they hold here, and so it looks for {missing[1]}")
    return words


def _gist(said: str) -> str:
    """Return the first paragraph about the error, in one line and without the list of all versions there are."""
    errors = [line for line in said.splitlines() if line.startswith("ERROR:")]
    text = _NO_GIST.sub("", errors[0] if errors else said.strip().partition("\n\n")[0])
    return " ".join(text.split())[:_MOST_WORDS] or "nothing"
