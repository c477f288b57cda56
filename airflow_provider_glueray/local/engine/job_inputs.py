"""Prepare a Glue run or session for Ray: script and zips on disk, a start file, a runtime environment.

This module refuses zips that the service would refuse. Job arguments become environment variables of the driver, named
by the key without its leading dashes, hyphens kept [guide]; they are neither in sys.argv nor in the workers'
environment. Ray does not get the parameters that configure the cluster (for both, AWS's behaviour is unverified).

INFERRED: the parameters of a job mean the same for a session, and `--additional-python-modules`, which the last
kernel's magic sends, means `--pip-install` there.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from airflow_provider_glueray.local.engine import rules
from airflow_provider_glueray.local.engine.sessions import Session
from airflow_provider_glueray.local.engine.state import Run
from airflow_provider_glueray.local.runtime.overlay import CannotInstall, Overlay, Overlays


class CannotPrepare(Exception):
    """The run or session fails before Ray gets it; the message becomes its ErrorMessage."""


#: Files in a run's directory: the script's stdout, held back until the script ends, pip's output, the exit code.
STDOUT, PIP_LOG, EXIT_CODE = "stdout", "pip.log", "exit-code"


@dataclass(frozen=True)
class Dependencies:
    """The requested packages, modules and files of a run or session, on this disk."""

    overlay: Overlay | None
    py_modules: list[Path]
    working_dir: Path | None

    @property
    def runtime_env(self) -> dict[str, Any]:
        """The same in the form of a Ray runtime environment."""
        environment = {} if self.overlay is None else dict(self.overlay.runtime_env)
        if self.py_modules:
            environment["py_modules"] = [path.as_uri() for path in self.py_modules]
        if self.working_dir is not None:
            environment["working_dir"] = self.working_dir.as_uri()
        return environment


def prepare(run: Run, s3: Any, overlays: Overlays, directory: Path) -> tuple[str, dict[str, Any]]:
    """Download the run's files into the existing `directory` and write its start file; raises CannotPrepare.

    Returns the entrypoint, which /bin/sh runs, and the runtime environment.
    """
    script = _download(s3, run.script, directory / "script")
    requirements = rules.locations(run.arguments.get("--pip-install", ""))
    found = _dependencies(run.arguments, requirements, s3, overlays, directory, lambda: run.stop_requested)
    stdout = directory / STDOUT
    stdout.touch()
    words = [shlex.quote(f"{name}={value}") for name, value in _variables(run.arguments, run.region).items()]
    start = directory / "start.sh"
    exit_code = shlex.quote(str(directory / EXIT_CODE))
    # A shell drops names with hyphens from its environment, so env(1) sets them. stdout goes to a file of its own,
    # because Ray would merge it, live, into the driver's log; the service shows prints only after the run.
    python = shlex.quote(str(found.overlay.python if found.overlay else "python"))
    command = f"env {' '.join(words)} {python} {shlex.quote(str(script))} >{shlex.quote(str(stdout))}"
    if overlays.runtime.is_newest:
        start.write_text(f"exec {command}\n")
    else:  # Ray 2.4 does not report the exit code
        start.write_text(f"{command}\ncode=$?\necho $code >{exit_code}\nexit $code\n")
    return f"exec sh {shlex.quote(str(start))}", found.runtime_env


def prepare_session(session: Session, s3: Any, overlays: Overlays, directory: Path) -> tuple[str, Path, dict[str, str]]:
    """Download the session's files into the existing `directory`; raises CannotPrepare.

    Returns the interpreter, the working directory and the additional environment variables of the session's kernel.
    Ray prepares a job's driver, but not a kernel. So this function unpacks the zips and puts the runtime environment
    where `ray.init` finds it.
    """
    requested = (session.arguments.get(name, "") for name in ("--pip-install", rules.ADDITIONAL_MODULES))
    requirements = [each for value in requested for each in rules.locations(value)]
    found = _dependencies(
        session.arguments, requirements, s3, overlays, directory, lambda: session.requested_end is not None
    )
    if found.working_dir is not None:
        working = _unpack(found.working_dir)
    else:
        working = directory / "work"
        working.mkdir()
    variables = _variables(session.arguments, session.region)
    places = [str(working), *(str(_unpack(path)) for path in found.py_modules), os.environ.get("PYTHONPATH", "")]
    variables.setdefault("PYTHONPATH", os.pathsep.join(filter(None, places)))
    if found.runtime_env:
        variables["RAY_JOB_CONFIG_JSON_ENV_VAR"] = json.dumps({"runtime_env": found.runtime_env, "metadata": {}})
    python = found.overlay.python if found.overlay else overlays.runtime.python
    return str(python), working, variables


def _dependencies(
    arguments: Mapping[str, str],
    requirements: list[str],
    s3: Any,
    overlays: Overlays,
    directory: Path,
    abandoned: Callable[[], bool],
) -> Dependencies:
    overlay = None
    if requirements:
        try:
            overlay = overlays.overlay(requirements, directory / PIP_LOG, abandoned)
        except CannotInstall as error:
            raise CannotPrepare(str(error)) from error
    py_modules = _zips(s3, arguments, "--s3-py-modules", directory)
    working_dir = _zips(s3, arguments, "--working-dir", directory)
    return Dependencies(overlay, py_modules, working_dir[0] if working_dir else None)


def _variables(arguments: Mapping[str, str], region: str) -> dict[str, str]:
    named = {key.lstrip("-"): value for key, value in arguments.items() if key not in rules.RESERVED_ARGUMENTS}
    return {**named, "AWS_REGION": region, "AWS_DEFAULT_REGION": region}


def check_layout(name: str, uri: str, path: Path) -> None:
    """Raise CannotPrepare unless the zip holds one directory at its root and nothing beside it [guide]."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.namelist()
    except zipfile.BadZipFile:
        raise CannotPrepare(f"{name}: {uri} is not a zip file") from None
    roots = sorted({entry.partition("/")[0] + ("/" if "/" in entry else "") for entry in entries})
    if len(roots) != 1 or not roots[0].endswith("/"):
        raise CannotPrepare(
            f"{name}: {uri} must contain exactly one top-level directory and nothing else, found: {', '.join(roots)}"
        )


def _zips(s3: Any, arguments: Mapping[str, str], name: str, directory: Path) -> list[Path]:
    found = []
    for position, uri in enumerate(rules.locations(arguments.get(name, ""))):
        path = _download(s3, uri, directory / f"{name.lstrip('-')}-{position}")
        check_layout(name, uri, path)
        found.append(path)
    return found


def _unpack(path: Path) -> Path:
    """Unpack a zip into its own directory and return the zip's one top-level directory."""
    target = path.parent / "unpacked"
    with zipfile.ZipFile(path) as archive:
        archive.extractall(target)
    return next(target.iterdir())


def _download(s3: Any, uri: str, directory: Path) -> Path:
    parts = urlsplit(uri)
    bucket, key = parts.netloc, parts.path.lstrip("/")
    if parts.scheme not in {"s3", "s3a", "s3n"} or not bucket or not key:
        raise CannotPrepare(f"LAUNCH ERROR | '{uri}' is not an S3 location")
    directory.mkdir()
    path = directory / Path(key).name
    try:
        # One request: moto reads the whole object for each of the ranges that download_file would request.
        with path.open("wb") as file:
            shutil.copyfileobj(s3.get_object(Bucket=bucket, Key=key)["Body"], file)
    except (ClientError, BotoCoreError) as error:
        # Spark jobs show this text for the same mistake; for Ray it is inferred.
        raise CannotPrepare(
            f"LAUNCH ERROR | Error downloading from S3 for bucket: {bucket}, key: {key}. {error}"
        ) from error
    return path
