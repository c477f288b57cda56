"""Files on their way: local ones to S3, each under the hash of what it holds, and notebooks both ways.

Floor 2: talks to S3 through the client it is given. Same content, same key: a second upload is skipped, two
DAGs whose scripts are both called ``main.py`` do not meet, and a run keeps the script it was started with.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO

from botocore.exceptions import ClientError

from airflow_provider_glueray.core.errors import ScriptError, SpecError, StagingError
from airflow_provider_glueray.glueray_step.values import NotSerializableError
from airflow_provider_glueray.packaging.archives import Archive, inspect_archive, zip_folder, zip_module

#: Bytes of a file that are held in memory on its way to S3; more of them go through the disk.
MOST_IN_MEMORY = 32 * 1024 * 1024


def read_local(path: str, python_version: str, *, module: bool = False) -> Archive:
    """Return what is to be uploaded for a local file or folder; what is Python must parse as the runtime's.

    :param module: whether it goes on the import path, where a single file has to be an archive too.
    :raises ScriptError: missing, not readable, empty, not Python, or an archive that Glue would not take.
    """
    place = Path(path)
    if place.is_dir() and place.suffix != ".py":
        return zip_folder(place, module=module)
    try:
        content = place.read_bytes()
    except OSError as error:
        raise ScriptError(f"Cannot read {path}: {error.strerror or error}") from error
    if not content.strip():
        raise ScriptError(f"{path} is empty")
    if path.endswith(".zip"):
        return inspect_archive(path, content)
    if path.endswith(".py"):
        major, minor = (int(part) for part in python_version.split("."))
        try:
            ast.parse(content, filename=path, feature_version=(major, minor))
        except (SyntaxError, ValueError) as error:
            raise ScriptError(f"{path} is not Python {python_version}: {error}") from error
        if module:
            return zip_module(place, content)
    return Archive(place.name, content, hashlib.sha256(content).hexdigest())


def check_module_conflicts(archives: Mapping[str, Archive], py_modules: Sequence[str]) -> None:
    """Refuse two local ``py_modules`` that have a module of one name: which of them is imported would be luck.

    :raises SpecError: naming both.
    """
    owners: dict[str, str] = {}
    for path in (path for path in archives if path in py_modules):
        for name in archives[path].modules:
            if name in owners:
                raise SpecError([f"py_modules: {owners[name]} and {path} both have a module {name!r}"])
            owners[name] = path


def object_uri(archive: Archive, staging_uri: str) -> str:
    """Return where a file goes: ``<staging>/<name>-<digest><suffix>``."""
    name = PurePath(archive.name)
    return f"{staging_uri.rstrip('/')}/{name.stem}-{archive.digest[:16]}{name.suffix}"


def upload(client: Any, content: bytes, uri: str) -> bool:
    """Put the content at an S3 URI unless it is there already; tell whether it had to be sent.

    :raises StagingError: the bucket is missing or denied.
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    with _s3_errors(uri):
        try:
            client.head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            # A caller who may put but not list is answered 403 for a key that is not there.
            if error.response["Error"]["Code"] not in ("404", "NoSuchKey", "403"):
                raise
        else:
            return False
        client.put_object(Bucket=bucket, Key=key, Body=content)
    return True


class S3Folder:
    """A place in S3 for the files of one call, as :class:`glueray_step.values.Folder` wants it.

    :param client: of S3.
    """

    def __init__(self, client: Any, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self._client = client
        self._bucket, _, self._prefix = self.uri.removeprefix("s3://").partition("/")

    @contextmanager
    def write(self, name: str) -> Iterator[BinaryIO]:
        """Open a new file, which is sent when it is complete.

        :raises StagingError: the bucket is missing or denied.
        """
        with SpooledTemporaryFile(MOST_IN_MEMORY) as file:
            yield file  # type: ignore[misc]
            file.seek(0)
            with _s3_errors(f"{self.uri}/{name}"):
                self._client.put_object(Bucket=self._bucket, Key=f"{self._prefix}/{name}", Body=file)

    def read(self, name: str) -> bytes | None:
        """Return a file, or None when there is none.

        :raises StagingError: the bucket is missing or denied.
        """
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=f"{self._prefix}/{name}")
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in ("NoSuchKey", "404"):
                return None
            # Whoever may get but not list is answered so for a key that is not there, too.
            raise StagingError(f"Cannot read {self.uri}/{name}: {code}. It takes s3:GetObject") from error
        content: bytes = answer["Body"].read()
        return content

    def filesystem(self) -> Any:
        """Refuse: what lies on many nodes is written from there."""
        raise NotSerializableError("A Ray Dataset or a Modin frame lives on a cluster; pass a pandas frame or a path")


def read_text(client_for: Callable[[str], Any], place: str) -> str:
    """Return a text file, local or in S3.

    :param client_for: makes a client of a service.
    :raises ScriptError: it is missing or unreadable, or not UTF-8.
    """
    try:
        if not place.startswith("s3://"):
            return Path(place).read_text(encoding="utf-8")
        bucket, _, key = place.removeprefix("s3://").partition("/")
        body: bytes = client_for("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
        return body.decode()
    except OSError as error:
        raise ScriptError(f"Cannot read {place}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ScriptError(f"Cannot read {place}: it is not UTF-8 ({error})") from error
    except ClientError as error:
        raise ScriptError(f"Cannot read {place}: {error.response['Error']['Code']}") from error


def write_text(client_for: Callable[[str], Any], place: str, text: str) -> None:
    """Write a text file, local or to S3, whole or not at all.

    :param client_for: makes a client of a service.
    :raises StagingError: it cannot be written there.
    """
    if place.startswith("s3://"):
        bucket, _, key = place.removeprefix("s3://").partition("/")
        with _s3_errors(place):
            client_for("s3").put_object(Bucket=bucket, Key=key, Body=text.encode())
        return
    path = Path(place)
    draft = path.with_name(f".{path.name}.draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise StagingError(f"Cannot write {place}: {error.strerror or error}") from error


@contextmanager
def _s3_errors(uri: str) -> Iterator[None]:
    """Say in our words that a bucket is missing or denied."""
    try:
        yield
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code == "NoSuchBucket":
            bucket = uri.removeprefix("s3://").partition("/")[0]
            raise StagingError(f"The bucket {bucket!r} does not exist (writing {uri})") from error
        if code in ("AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch"):
            raise StagingError(f"No permission to write {uri}: {code}. It takes s3:PutObject") from error
        raise
