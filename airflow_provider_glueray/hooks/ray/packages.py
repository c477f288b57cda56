"""A spec's local files on their way into a Ray cluster's package store.

A package's name is the hash of its content, so that nothing is uploaded twice.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from airflow_provider_glueray.core.spec import LocalFile, RayJobSpec
from airflow_provider_glueray.hooks.ray.requests import PackageUris
from airflow_provider_glueray.packaging.archives import Archive
from airflow_provider_glueray.packaging.upload import read_local_files


class Package(NamedTuple):
    """A local file on its way into the package store.

    :param main: the module that a script becomes; None for an archive.
    """

    archive: Archive
    main: str | None

    @property
    def uri(self) -> str:
        """Where it will be. Two scripts of one content may have two names, and so become two modules."""
        return f"gcs://_ray_pkg_{hashlib.sha256(f'{self.main} {self.archive.digest}'.encode()).hexdigest()[:32]}.zip"

    def content(self) -> bytes:
        """Return it as Ray wants it."""
        return _zipped(f"{self.main}.py", self.archive.content) if self.main else _without_root(self.archive.content)


def packed(spec: RayJobSpec) -> tuple[PackageUris, list[Package]]:
    """Pack what is local; return where the cluster will find everything, and what has to be put there before.

    :raises SourceFileError: a file is missing, unreadable or of the wrong kind.
    """
    files = read_local_files(spec)
    main, modules = str(spec.script), list[LocalFile](spec.py_modules)
    if spec.script in files:
        # As a module, a script has a name that no other one has.
        stem = re.sub(r"\W", "_", Path(files[spec.script].name).stem)
        main = f"glueray_{stem}_{files[spec.script].digest[:8]}"
        modules.append(spec.script)
    packages = {file: Package(archive, main if file == spec.script else None) for file, archive in files.items()}

    def uri_of(file: LocalFile) -> str:
        return packages[file].uri if file in packages else str(file)

    working_dir = uri_of(spec.working_dir) if spec.working_dir else None
    return PackageUris(main, tuple(map(uri_of, modules)), working_dir), list(packages.values())


def _zipped(name: str, content: bytes) -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return body.getvalue()


def _without_root(content: bytes) -> bytes:
    """Take the folder at the root away: Ray does so for archives in S3, but not for those in its own store."""
    body = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(body, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            below = PurePosixPath(entry.filename).parts[1:]
            if below and not entry.is_dir():
                moved = zipfile.ZipInfo(str(PurePosixPath(*below)), entry.date_time)
                moved.external_attr, moved.compress_type = entry.external_attr, zipfile.ZIP_DEFLATED
                new.writestr(moved, old.read(entry))
    return body.getvalue()
