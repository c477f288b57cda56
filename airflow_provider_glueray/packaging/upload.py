"""A spec's local files on their way to S3, each under the hash of its content.

Same content, same key: a second upload is skipped, two DAGs whose scripts are both called ``main.py`` do not meet, and
a run keeps the script it was started with.
"""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, TypeVar

from airflow_provider_glueray.core.drivers import TaskLog
from airflow_provider_glueray.core.errors import SourceFileError, SpecError
from airflow_provider_glueray.core.extras import AWS, extra
from airflow_provider_glueray.core.spec import LocalFile, SourceFile, StepSpec
from airflow_provider_glueray.core.validation import parse
from airflow_provider_glueray.packaging.archives import Archive, inspect_archive, zip_folder, zip_module

if TYPE_CHECKING:
    from airflow_provider_glueray.packaging.s3 import S3Store

SpecT = TypeVar("SpecT", bound=StepSpec)


def read_local(file: LocalFile, python_version: str, *, module: bool = False) -> Archive:
    """Return what is uploaded for a local file, folder or text; Python has to parse as the runtime's.

    :param module: whether it goes on the import path, where a single file has to be an archive too.
    :raises SourceFileError: missing, not readable, empty, or not Python.
    :raises PackagingError: a folder or an archive that Glue would not take.
    """
    name = file.name if isinstance(file, SourceFile) else file
    path = Path(name)
    if isinstance(file, SourceFile):
        content = file.text.encode()
    elif path.is_dir() and path.suffix != ".py":
        return zip_folder(path, module=module)
    else:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise SourceFileError(f"Cannot read {name}: {error.strerror or error}") from error
    if not content.strip():
        raise SourceFileError(f"{name} is empty")
    if name.endswith(".zip"):
        return inspect_archive(name, content)
    if name.endswith(".py"):
        parse(content, name, python_version)
        if module:
            return zip_module(path, content)
    return Archive(path.name, content, hashlib.sha256(content).hexdigest())


def read_local_files(spec: StepSpec) -> dict[LocalFile, Archive]:
    """Return what is uploaded for each local file of a spec.

    :raises SourceFileError, PackagingError: see :func:`read_local`.
    :raises SpecError: two local ``py_modules`` have a module of one name.
    """
    files = {file: read_local(file, spec.python_version, module=file in spec.py_modules) for file in spec.local_files()}
    # Two archives that have a module of one name: which of them is imported would be luck.
    owners: dict[str, LocalFile] = {}
    for file in (each for each in files if each in spec.py_modules):
        for name in files[file].modules:
            if owners.setdefault(name, file) != file:
                raise SpecError([f"py_modules: {owners[name]} and {file} both have a module {name!r}"])
    return files


def object_uri(archive: Archive, staging_uri: str) -> str:
    """Return where an archive goes: ``<staging_uri>/<name>-<digest><suffix>``."""
    name = PurePath(archive.name)
    return f"{staging_uri.rstrip('/')}/{name.stem}-{archive.digest[:16]}{name.suffix}"


def stage(spec: SpecT, staging_uri: str | None, store: S3Store, log: TaskLog) -> SpecT:
    """Upload a spec's local files under content-hashed keys; return the spec with their URIs.

    :param staging_uri: ``s3://bucket/prefix``; may be None when nothing is local.
    :raises SourceFileError, PackagingError, SpecError: see :func:`read_local_files`.
    :raises StagingError: the bucket is missing or denied.
    """
    files = read_local_files(spec)
    if files and not staging_uri:
        name = next(iter(files))
        shown = name.name if isinstance(name, SourceFile) else name
        raise SpecError([f"staging_uri=None: {shown!r} is local and needs an S3 prefix to be uploaded to"])
    uris = {file: object_uri(archive, str(staging_uri)) for file, archive in files.items()}
    for file, uri in uris.items():
        sent = store.upload(files[file].content, uri)
        log.info("%s %s -> %s", "Uploaded" if sent else "Already there:", files[file].name, uri)
    return spec.with_uploads(uris)


def store_of(aws_conn_id: str | None) -> S3Store:
    """Return S3 as an Airflow connection of type ``aws`` leads to it.

    :raises ExtraMissing: the amazon provider is not installed.
    """
    with extra(AWS, "S3, through which files, functions and notebooks pass,"):
        from airflow_provider_glueray.packaging.s3 import S3Store

    return S3Store.of_connection(aws_conn_id)
