"""S3, for everything that passes between a task and a cluster: files, notebooks, arguments, values.

Whoever has a connection to AWS gives a client; Ray and KubeRay name the connection for S3 in theirs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO

from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from airflow_provider_glueray.airflow_compat import AirflowNotFoundException
from airflow_provider_glueray.core.errors import ConnectionConfigError, ResultMissing, SourceFileError, StagingError
from airflow_provider_glueray.core.extras import PANDAS, extra
from airflow_provider_glueray.glueray_step.values import DOCUMENT, KIND, NotSerializableError, decode, table_of

#: Bytes of a file that stay in memory on its way to S3; more of them go through the disk.
MAX_BYTES_IN_MEMORY = 32 * 1024 * 1024
_MISSING = ("404", "NoSuchKey")
_DENIED = ("AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch")


class AwsConnection(AwsBaseHook):
    """A connection of type ``aws`` that has to exist; ``AwsBaseHook`` falls back on boto3's own credentials."""

    @property
    def title(self) -> str:
        """What a sentence calls it."""
        return f"connection {self.aws_conn_id!r}" if self.aws_conn_id else "boto3's own credentials"

    @cached_property
    def conn_config(self) -> Any:
        """The connection.

        :raises ConnectionConfigError: it is missing, or of a type that leads to no AWS.
        """
        if self.aws_conn_id:
            try:
                conn_type = self.get_connection(self.aws_conn_id).conn_type
            except AirflowNotFoundException as error:
                raise ConnectionConfigError(
                    f"There is no connection {self.aws_conn_id!r}. Create one of type 'aws' (AIRFLOW_CONN_"
                    f"{self.aws_conn_id.upper()} will do), or pass conn_id=None to use the machine's own role"
                ) from error
            if conn_type in ("ray", "kubernetes"):
                raise ConnectionConfigError(
                    f"The connection {self.aws_conn_id!r} is of type {conn_type!r}; sessions and statements run on AWS "
                    "Glue only (elsewhere there are notebooks as jobs and glue_ray_cluster), and S3 needs a connection "
                    "of type 'aws'"
                )
        return super().conn_config


class _S3Hook(AwsConnection, S3Hook):
    """Amazon's hook for S3, on a connection that has to exist."""


class S3Store:
    """Read and write objects of S3.

    :param client: returns a boto3 client of S3; called when it is first needed.
    """

    def __init__(self, client: Callable[[], Any]) -> None:
        self._client = client

    @classmethod
    def of_connection(cls, aws_conn_id: str | None) -> S3Store:
        """Return the store that an Airflow connection of type ``aws`` leads to."""
        return cls(lambda: _S3Hook(aws_conn_id=aws_conn_id).get_conn())

    @cached_property
    def client(self) -> Any:
        """The client of S3."""
        return self._client()

    def upload(self, content: bytes, uri: str) -> bool:
        """Put the content at a URI unless an object is there already; tell whether it had to be sent.

        :raises StagingError: the bucket is missing or denied, or S3 cannot be reached.
        """
        bucket, key = S3Hook.parse_s3_url(uri)
        with _s3_errors(uri):
            try:
                self.client.head_object(Bucket=bucket, Key=key)
            except ClientError as error:
                # A caller who may put but not list is answered 403 for a key that is not there.
                if _code(error) not in (*_MISSING, "403"):
                    raise
            else:
                return False
            self.client.put_object(Bucket=bucket, Key=key, Body=content)
        return True

    def read_text(self, path: str) -> str:
        """Return a text file, local or in S3.

        :raises SourceFileError: it is missing or unreadable, or not UTF-8.
        """
        try:
            if not path.startswith("s3://"):
                return Path(path).read_text(encoding="utf-8")
            bucket, key = S3Hook.parse_s3_url(path)
            body: bytes = self.client.get_object(Bucket=bucket, Key=key)["Body"].read()
            return body.decode()
        except OSError as error:
            raise SourceFileError(f"Cannot read {path}: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise SourceFileError(f"Cannot read {path}: it is not UTF-8 ({error})") from error
        except ClientError as error:
            raise SourceFileError(f"Cannot read {path}: {_code(error)}", code=_code(error)) from error

    def write_text(self, path: str, text: str) -> None:
        """Write a text file, local or to S3, whole or not at all.

        :raises StagingError: it cannot be written there.
        """
        if path.startswith("s3://"):
            bucket, key = S3Hook.parse_s3_url(path)
            with _s3_errors(path):
                self.client.put_object(Bucket=bucket, Key=key, Body=text.encode())
            return
        file = Path(path)
        draft = file.with_name(f".{file.name}.draft")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(text, encoding="utf-8")
            draft.replace(file)
        except OSError as error:
            raise StagingError(f"Cannot write {path}: {error.strerror or error}") from error

    def folder(self, uri: str) -> S3Folder:
        """Return a folder for the files of one call."""
        return S3Folder(self, uri)

    def load(self, reference: Mapping[str, Any]) -> Any:
        """Return the value that a reference from an XCom stands for: pandas, pyarrow, or JSON values.

        It has to fit this machine's memory: the reference says how many ``rows`` and ``bytes``. Needs pyarrow, and for
        frames pandas.

        :raises ResultMissing: the file is gone, or the value lives on a cluster only (a Ray Dataset, a Modin frame).
        """
        if reference[KIND] in ("dataset", "modin"):
            raise ResultMissing(
                f"{reference['uri']} is a {reference[KIND]}, which needs a cluster; pass it to a @task.glue_ray, or "
                "read the Parquet files in that folder"
            )

        def content(uri: str) -> bytes:
            folder, _, name = uri.rpartition("/")
            found = self.folder(folder).read(name)
            if found is None:
                raise ResultMissing(f"{uri} is gone; does the bucket have a lifecycle rule?")
            return found

        if reference[KIND] == DOCUMENT:
            return decode(json.loads(content(reference["uri"]))["value"], self.load)
        with extra(PANDAS, "A table"):
            import pandas  # noqa: F401
            from pyarrow import BufferReader, parquet

        return table_of(reference, lambda uri: parquet.read_table(BufferReader(content(uri))))


class S3Folder:
    """A folder in S3 for the files of one call, as :class:`glueray_step.values.Folder` wants it."""

    def __init__(self, store: S3Store, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self._store = store
        self._bucket, self._prefix = S3Hook.parse_s3_url(self.uri)

    @contextmanager
    def write(self, name: str) -> Iterator[BinaryIO]:
        """Open a new file, which is sent when it is complete.

        :raises StagingError: the bucket is missing or denied.
        """
        with SpooledTemporaryFile(MAX_BYTES_IN_MEMORY) as file:
            yield file  # type: ignore[misc]
            file.seek(0)
            with _s3_errors(f"{self.uri}/{name}"):
                self._store.client.put_object(Bucket=self._bucket, Key=f"{self._prefix}/{name}", Body=file)

    def read(self, name: str) -> bytes | None:
        """Return a file, or None when there is none.

        :raises StagingError: the bucket is missing or denied.
        """
        try:
            response = self._store.client.get_object(Bucket=self._bucket, Key=f"{self._prefix}/{name}")
        except ClientError as error:
            if _code(error) in _MISSING:
                return None
            # A caller who may get but not list is answered so for a key that is not there, too.
            raise StagingError(
                f"Cannot read {self.uri}/{name}: {_code(error)}. It takes s3:GetObject", code=_code(error)
            ) from error
        content: bytes = response["Body"].read()
        return content

    def filesystem(self) -> Any:
        """Refuse: the nodes of a cluster write what lies on them."""
        raise NotSerializableError("A Ray Dataset or a Modin frame lives on a cluster; pass a pandas frame or a path")


def _code(error: ClientError) -> str:
    return str(error.response["Error"]["Code"])


@contextmanager
def _s3_errors(uri: str) -> Iterator[None]:
    """Turn what boto3 raises on a write into our own tree."""
    try:
        yield
    except NoCredentialsError as error:
        raise ConnectionConfigError(
            f"{str(error).rstrip('.')} (writing {uri}). Add them to the Airflow connection for S3"
        ) from error
    except ClientError as error:
        code = _code(error)
        if code == "NoSuchBucket":
            bucket, _ = S3Hook.parse_s3_url(uri)
            raise StagingError(f"The bucket {bucket!r} does not exist (writing {uri})", code=code) from error
        if code in _DENIED:
            raise StagingError(f"No permission to write {uri}: {code}. It takes s3:PutObject", code=code) from error
        raise StagingUnavailable(f"Cannot write {uri}: {error}", code=code) from error
    except BotoCoreError as error:
        raise StagingUnavailable(f"Cannot write {uri}: {error}") from error


class StagingUnavailable(StagingError):
    """S3 did not take a file, and may take it later."""

    retryable = True
