"""A connection to AWS Glue and what goes with it: clients made once, uploads, places to look.

Floor 2. The hooks for jobs and for sessions stand on it; it knows neither.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import PurePath
from threading import RLock
from typing import Any, Protocol, Self, TypeVar

from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
from airflow.sdk.exceptions import AirflowNotFoundException
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectTimeoutError, EndpointConnectionError, HTTPClientError

from airflow_provider_glueray.core import clock
from airflow_provider_glueray.core.errors import ConnectionConfigError, ScriptError, SpecError, SubmitOutcomeUnknown
from airflow_provider_glueray.core.runs import RunRef, RunSnapshot
from airflow_provider_glueray.core.validation import RAY_REGIONS
from airflow_provider_glueray.glueray_step.values import DOCUMENT, KIND, decode, table_of
from airflow_provider_glueray.hooks import settings
from airflow_provider_glueray.hooks.glue.errors import aws_errors, error_code
from airflow_provider_glueray.packaging import upload

#: Errors after which a run may have been started all the same.
UNCERTAIN = ("InternalServiceException", "OperationTimeoutException")
#: How often to look for a run whose start was not answered.
LOOKS = 5


class _Staged(Protocol):
    """A spec that may name local files."""

    @property
    def python_version(self) -> str: ...
    @property
    def py_modules(self) -> Sequence[str]: ...
    def local_files(self) -> tuple[str, ...]: ...
    def with_uploads(self, uris: Mapping[str, str], /) -> Self: ...


SpecT = TypeVar("SpecT", bound=_Staged)


class GlueConnectionHook(AwsBaseHook):
    """Hold a connection to AWS Glue.

    :param aws_conn_id: an ``aws`` connection; None for boto3's own credentials. A connection that is named
        but missing is an error, not a silent fallback.

    Further parameters are those of ``AwsBaseHook``: ``region_name``, ``verify``, ``config``.
    """

    def __init__(self, aws_conn_id: str | None = "aws_default", **kwargs: Any) -> None:
        super().__init__(aws_conn_id=aws_conn_id, client_type="glue", **kwargs)
        self._clients: dict[str, Any] = {}
        # Reentrant: `on_kill` runs in the thread that may be making a client.
        self._lock = RLock()

    @property
    def storage(self) -> Self:
        """The way to S3: on AWS, the hook itself."""
        return self

    def stage(self, spec: SpecT, staging_uri: str | None) -> SpecT:
        """Upload the spec's local files under content-hashed keys; return the spec with their URIs.

        :param staging_uri: ``s3://bucket/prefix``; may be None when nothing is local.
        :raises ScriptError: a file is missing, unreadable or not Python.
        :raises StagingError: the bucket is missing or denied.
        """
        paths = spec.local_files()
        archives = {
            path: upload.read_local(path, spec.python_version, module=path in spec.py_modules) for path in paths
        }
        if archives and not staging_uri:
            raise SpecError([f"staging_uri=None: {paths[0]!r} is local and needs an S3 prefix to be uploaded to"])
        upload.check_module_conflicts(archives, spec.py_modules)
        uris = {path: upload.object_uri(archive, str(staging_uri)) for path, archive in archives.items()}
        for path, uri in uris.items():
            with aws_errors(f"upload of {path}"):
                sent = upload.upload(self._client_for("s3"), archives[path].content, uri)
            self.log.info("%s %s -> %s", "Uploaded" if sent else "Already there:", PurePath(path).name, uri)
        return spec.with_uploads(uris)

    def read_text(self, place: str) -> str:
        """Return a text file, local or in S3.

        :raises ScriptError: it is missing or unreadable.
        """
        return upload.read_text(self._client_for, place)

    def write_text(self, place: str, text: str) -> None:
        """Write a text file, local or to S3, whole or not at all.

        :raises StagingError: it cannot be written there.
        """
        upload.write_text(self._client_for, place, text)

    def folder(self, uri: str) -> upload.S3Folder:
        """Return a place in S3 for the files of one call."""
        return upload.S3Folder(self._client_for("s3"), uri)

    def load(self, reference: Mapping[str, Any]) -> Any:
        """Return the value that a reference from an XCom stands for: pandas, pyarrow, or JSON values.

        It has to fit this machine's memory: the reference says how many ``rows`` and ``bytes``. Needs pyarrow, and for
        frames pandas.

        :raises ScriptError: the file is gone, or the value lives on a cluster only (a Ray Dataset, a Modin frame).
        """
        if reference[KIND] in ("dataset", "modin"):
            raise ScriptError(
                f"{reference['uri']} is a {reference[KIND]}, which needs a cluster; pass it to a @task.glue_ray, or "
                "read the Parquet files in that folder"
            )

        def content(uri: str) -> bytes:
            place, _, name = uri.rpartition("/")
            found = self.folder(place).read(name)
            if found is None:
                raise ScriptError(f"{uri} is gone; does the bucket have a lifecycle rule?")
            return found

        if reference[KIND] == DOCUMENT:
            return decode(json.loads(content(reference["uri"]))["value"], self.load)
        from pyarrow import BufferReader, parquet

        return table_of(reference, lambda uri: parquet.read_table(BufferReader(content(uri))))

    def start_once(self, what: str, send: Callable[[Any], RunRef], find: Callable[[], list[RunSnapshot]]) -> RunRef:
        """Send a request that starts something, and never a second one unless the first has left no trace.

        Glue's requests have no idempotency token, and boto3 would repeat one whose answer was lost. So it is
        sent once; when the answer is missing, what it has started is looked for before it is sent again.

        :param send: sends it with the client it is given.
        :param find: looks for what was started, by its mark.
        :raises SubmitUnknown: no answer, several times over, and no trace.
        """
        for _ in range(3):
            try:
                return self._send_once(what, send)
            except SubmitOutcomeUnknown as error:
                self.log.warning("No answer to the start of %s (%s); looking for it", what, error)
            for _ in range(LOOKS):
                found = find()
                if found:
                    return found[0].ref
                clock.sleep(settings.waits().look_again)
        raise SubmitOutcomeUnknown(
            f"Glue did not answer three requests to start {what}, and nothing of it is to be seen"
        )

    def _send_once(self, what: str, send: Callable[[Any], RunRef]) -> RunRef:
        with aws_errors(f"start of {what}"):
            try:
                return send(self._client_for("glue", once=True))
            except (EndpointConnectionError, ConnectTimeoutError):
                raise  # never reached the service
            except HTTPClientError as error:
                raise SubmitOutcomeUnknown(str(error)) from error
            except ClientError as error:
                status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
                if status >= 500 or error_code(error) in UNCERTAIN:
                    raise SubmitOutcomeUnknown(str(error)) from error
                raise

    # -- places to look -------------------------------------------------------------------------------------

    def warn_of_region(self) -> None:
        """Say so where AWS documents no Glue for Ray."""
        region = self.conn_region_name
        if region not in RAY_REGIONS and not self._endpoint("glue"):
            self.log.warning("AWS documents no Glue for Ray in region %s (dg/ray-jobs-section)", region)

    def _console(self) -> str:
        domains = {"aws-cn": "amazonaws.cn", "aws-us-gov": "amazonaws-us-gov.com"}
        return f"{self.conn_region_name}.console.{domains.get(self.conn_partition, 'aws.amazon.com')}"

    # -- the connection -------------------------------------------------------------------------------------

    @cached_property
    def conn_config(self) -> Any:
        """The connection. ``AwsBaseHook`` carries on without it when it is missing; we do not."""
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

    @cached_property
    def _session(self) -> Any:
        return self.get_session(region_name=self.region_name)

    def _endpoint(self, service: str) -> str | None:
        return self.conn_config.get_service_endpoint_url(service)  # type: ignore[no-any-return]

    def _client_for(self, service: str, *, once: bool = False) -> Any:
        """Return a client, made once per hook; ``once`` for one that never repeats a request by itself."""
        key = f"{service}/{once}"
        with self._lock:
            if key not in self._clients:
                with aws_errors(f"connection {self.aws_conn_id!r}"):
                    config = self._get_config()
                    if once:
                        config = config.merge(Config(retries={"total_max_attempts": 1}))
                    self._clients[key] = self._session.client(
                        service, endpoint_url=self._endpoint(service), config=config, verify=self.verify
                    )
        return self._clients[key]
