"""Turn a Glue run into what Ray needs: the script and zips on disk, a start file, a runtime environment.

Refuses zips which the service would refuse. Job arguments become environment variables of the driver, named
by the key without its leading dashes, hyphens kept [guide]; they are neither in sys.argv nor in the workers'
environment, and the parameters which configure the cluster are not passed on (for both, AWS's behaviour is
unverified).
"""

from __future__ import annotations

import shlex
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from . import rules
from .ledger import Run
from .overlay import CannotInstall, Overlays


class CannotPrepare(Exception):
    """The run fails before Ray sees it; the text is its ErrorMessage."""


#: In a run's directory: what the script prints, held back until it ends, and what pip says.
STDOUT, PIP_LOG = "stdout", "pip.log"


@dataclass(frozen=True)
class Prepared:
    """A run ready to submit: `entrypoint` is for /bin/sh."""

    entrypoint: str
    runtime_env: dict[str, Any]


def prepare(run: Run, s3: Any, overlays: Overlays, directory: Path) -> Prepared:
    """Download what the run names into the existing `directory` and write its start file; raises CannotPrepare."""
    script = _download(s3, run.script, directory / "script")
    runtime_env: dict[str, Any] = {}
    python = "python"
    if requirements := rules.locations(run.arguments.get("--pip-install", "")):
        try:
            overlay = overlays.python(requirements, directory / PIP_LOG, lambda: run.stop_requested)
        except CannotInstall as error:
            raise CannotPrepare(str(error)) from error
        python = runtime_env["py_executable"] = str(overlay)
    if modules := _zips(s3, run, "--s3-py-modules", directory):
        runtime_env["py_modules"] = modules
    if working_dir := _zips(s3, run, "--working-dir", directory):
        runtime_env["working_dir"] = working_dir[0]
    stdout = directory / STDOUT
    stdout.touch()
    assignments = {
        key.lstrip("-"): value for key, value in run.arguments.items() if key not in rules.RESERVED_ARGUMENTS
    }
    assignments |= {"AWS_REGION": run.region, "AWS_DEFAULT_REGION": run.region}
    words = [shlex.quote(f"{name}={value}") for name, value in assignments.items()]
    start = directory / "start.sh"
    # A shell drops names with hyphens from its environment, so env(1) hands them over. stdout goes to a file
    # of its own because Ray would merge it, live, into the driver's log; the service shows prints only after
    # the run.
    start.write_text(
        f"exec env {' '.join(words)} {shlex.quote(python)} {shlex.quote(str(script))} >{shlex.quote(str(stdout))}\n"
    )
    return Prepared(f"exec sh {shlex.quote(str(start))}", runtime_env)


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


def _zips(s3: Any, run: Run, name: str, directory: Path) -> list[str]:
    found = []
    for position, uri in enumerate(rules.locations(run.arguments.get(name, ""))):
        path = _download(s3, uri, directory / f"{name.lstrip('-')}-{position}")
        check_layout(name, uri, path)
        found.append(path.as_uri())
    return found


def _download(s3: Any, uri: str, directory: Path) -> Path:
    parts = urlsplit(uri)
    bucket, key = parts.netloc, parts.path.lstrip("/")
    if parts.scheme not in {"s3", "s3a", "s3n"} or not bucket or not key:
        raise CannotPrepare(f"LAUNCH ERROR | '{uri}' is not an S3 location")
    directory.mkdir()
    path = directory / Path(key).name
    try:
        # In one piece: moto reads the whole object for each of the ranges download_file would ask for.
        with path.open("wb") as file:
            shutil.copyfileobj(s3.get_object(Bucket=bucket, Key=key)["Body"], file)
    except (ClientError, BotoCoreError) as error:
        # The words which Spark jobs show for the same mistake; for Ray they are inferred.
        raise CannotPrepare(
            f"LAUNCH ERROR | Error downloading from S3 for bucket: {bucket}, key: {key}. {error}"
        ) from error
    return path
