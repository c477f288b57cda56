"""A spec's local files on their way into a Ray cluster's package store.

Floor 2. A package's name is the hash of its content, so that nothing is uploaded twice.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from airflow_provider_glueray.core.spec import RayJobSpec
from airflow_provider_glueray.hooks.ray.requests import PackageUris
from airflow_provider_glueray.packaging import upload
from airflow_provider_glueray.packaging.archives import Archive


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

    :raises ScriptError: a file is missing, unreadable or of the wrong kind.
    """
    archives = {
        path: upload.read_local(path, spec.python_version, module=path in spec.py_modules)
        for path in spec.local_files()
    }
    upload.check_module_conflicts(archives, spec.py_modules)
    main, modules = spec.script, list(spec.py_modules)
    if spec.script in archives:
        main = _module_of(archives[spec.script])
        modules.append(spec.script)
    packages = {path: Package(archive, main if path == spec.script else None) for path, archive in archives.items()}

    def uri_of(path: str) -> str:
        return packages[path].uri if path in packages else path

    working_dir = uri_of(spec.working_dir) if spec.working_dir else None
    return PackageUris(main, tuple(map(uri_of, modules)), working_dir), list(packages.values())


def _module_of(script: Archive) -> str:
    """Return a name for a script as a module that no other one has."""
    stem = re.sub(r"\W", "_", Path(script.name).stem)
    return f"glueray_{stem}_{script.digest[:8]}"


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
