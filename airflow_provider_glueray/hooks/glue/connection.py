"""A connection to AWS Glue: clients made once, starts that are sent once, and the console's address.

The hooks for jobs and for sessions stand on it; it knows neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from threading import RLock
from typing import Any

from botocore.config import Config
from botocore.exceptions import ClientError, ConnectTimeoutError, EndpointConnectionError, HTTPClientError

from airflow_provider_glueray.core import clock
from airflow_provider_glueray.core.errors import SubmitOutcomeUnknown
from airflow_provider_glueray.core.runs import RunRef, RunSnapshot
from airflow_provider_glueray.core.validation import RAY_REGIONS
from airflow_provider_glueray.hooks import settings
from airflow_provider_glueray.hooks.glue.errors import aws_errors, error_code
from airflow_provider_glueray.packaging.s3 import AwsConnection, S3Store

#: Errors after which a run may have been started all the same.
UNCERTAIN = ("InternalServiceException", "OperationTimeoutException")
#: How often to look for a run whose start was not answered.
LOOKS = 5


class GlueConnectionHook(AwsConnection):
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

    @cached_property
    def storage(self) -> S3Store:
        """S3, by the same connection."""
        return S3Store(lambda: self._client_for("s3"))

    def load(self, reference: Mapping[str, Any]) -> Any:
        """Return the value that a reference from an XCom stands for; see :meth:`S3Store.load`."""
        return self.storage.load(reference)

    def start_once(self, what: str, send: Callable[[Any], RunRef], find: Callable[[], list[RunSnapshot]]) -> RunRef:
        """Send a request that starts something, and never a second one unless the first has left no trace.

        Glue's requests have no idempotency token, and boto3 would repeat one whose answer was lost. So it is
        sent once; when the answer is missing, what it has started is looked for before it is sent again.

        :param send: sends it with the client it is given.
        :param find: looks for what was started, by its client token.
        :raises SubmitOutcomeUnknown: no answer, several times over, and no trace.
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

    def _answers(self, operation: str, what: str, **request: Any) -> Iterator[Mapping[str, Any]]:
        """Yield the answers to a request, page by page.

        :param what: begins the message of an error.
        """
        more: dict[str, str] = {}
        while True:
            with aws_errors(what):
                answer = getattr(self._client_for("glue"), operation)(**request, **more)
            yield answer
            if not answer.get("NextToken"):
                return
            more = {"NextToken": answer["NextToken"]}

    def _arn(self, resource: str) -> str:
        return f"arn:{self.conn_partition}:glue:{self.conn_region_name}:{self.account_id}:{resource}"

    # -- pages ---------------------------------------------------------------------------------------------

    def warn_of_region(self) -> None:
        """Say so where AWS documents no Glue for Ray."""
        region = self.conn_region_name
        if region not in RAY_REGIONS and not self._endpoint("glue"):
            self.log.warning("AWS documents no Glue for Ray in region %s (dg/ray-jobs-section)", region)

    def _page(self, path: str, service: str, fragment: str) -> str:
        """Return a page: of the endpoint that the connection points at, else of a service in the AWS console."""
        endpoint = self._endpoint("glue")
        if endpoint:
            return f"{endpoint}/_glueray/{path}"
        domains = {"aws-cn": "amazonaws.cn", "aws-us-gov": "amazonaws-us-gov.com"}
        host = f"{self.conn_region_name}.console.{domains.get(self.conn_partition, 'aws.amazon.com')}"
        return f"https://{host}/{service}/home?region={self.conn_region_name}#{fragment}"

    # -- the connection -------------------------------------------------------------------------------------

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
                with aws_errors(self.title):
                    config = self._get_config()
                    if once:
                        config = config.merge(Config(retries={"total_max_attempts": 1}))
                    self._clients[key] = self._session.client(
                        service, endpoint_url=self._endpoint(service), config=config, verify=self.verify
                    )
        return self._clients[key]
