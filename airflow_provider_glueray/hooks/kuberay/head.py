"""The head of a Ray cluster on Kubernetes: Ray's own words about a job, through the proxy of the API server.

The driver's log is whole there, and holds nothing else; pods keep the newest 10 MiB of theirs only.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any

import httpx

from airflow_provider_glueray.core.errors import AccessDenied, SubmitError, SubmitOutcomeUnknown
from airflow_provider_glueray.core.logs import LogCursor, LogPage
from airflow_provider_glueray.hooks.dashboard.jobs_api import GATEWAY, JobsApi, reason

#: The port of a head's service that is Ray's dashboard.
PORT = 8265
#: Seconds for an answer of a head, and to connect: a node that does not answer must not hold up looks at others.
TIMEOUT = httpx.Timeout(10.0, connect=5.0)
#: The member of a cluster's Secret that is its token (kuberay/…/utils/constant.go RAY_AUTH_TOKEN_SECRET_KEY), and the
#: header for it: proxies keep Authorization for themselves (ray/_private/authentication).
TOKEN_KEY, TOKEN_HEADER = "auth_token", "X-Ray-Authorization"
#: What the connection's user must be allowed to do for it.
RIGHT = "get and create on services/proxy"


class ApiServerProxy:
    """Carries requests to services of a Kubernetes cluster, with the rights of the connection's user.

    :param configuration: of a Kubernetes client (``kubernetes.client.Configuration``).
    """

    def __init__(self, configuration: Any) -> None:
        self._configuration = configuration

    @cached_property
    def client(self) -> httpx.Client:
        """Return a client of the API server."""
        known = self._configuration
        verify: Any = known.verify_ssl
        if verify:
            verify = ssl.create_default_context(cafile=known.ssl_ca_cert or None)
            if known.cert_file:
                verify.load_cert_chain(known.cert_file, known.key_file)
        return httpx.Client(base_url=known.host, timeout=TIMEOUT, verify=verify, proxy=known.proxy or None)

    def headers(self) -> dict[str, str]:
        """Return what a request needs: a token may be short-lived, and is renewed by the client's configuration."""
        return {each["key"]: each["value"] for each in self._configuration.auth_settings().values()}


class Head(JobsApi):
    """Ask the head of a Ray cluster about its jobs.

    :param service: the head's service.
    :param read_token: returns the token of the cluster; asked when the head asks for one.
    :raises HeadAway: nothing answers there, because the head is gone or its node does not answer.
    """

    def __init__(self, proxy: ApiServerProxy, namespace: str, service: str, read_token: Callable[[], str]) -> None:
        self._proxy, self._namespace, self._service = proxy, namespace, service
        self._read_token = read_token
        self._token: dict[str, str] = {}

    @property
    def _base(self) -> str:
        return f"{self._namespace}/{self._service}"

    def job(self, job_id: str) -> dict[str, Any] | None:
        """Return the ``JobDetails`` of a job, or None where the head does not know it."""
        return self._job(job_id)

    def stop(self, job_id: str) -> None:
        """Ask Ray to stop a job. One that is over or unknown is no error.

        :raises SubmitError: Ray refused it.
        """
        answer = self._ask("POST", f"/api/jobs/{job_id}/stop")
        if not (answer.is_success or self._is_unknown(answer)):
            raise SubmitError(f"The head {self._base} did not stop its job {job_id}: {reason(answer)}")

    def new_lines(self, job_id: str, cursor: LogCursor) -> LogPage:
        """Return what is new in the log of a job's driver.

        :param cursor: of this log alone.
        """
        return self._new_lines(job_id, cursor)

    @contextmanager
    def _open(self, method: str, path: str, **kwargs: Any) -> Iterator[httpx.Response]:
        where = f"/api/v1/namespaces/{self._namespace}/services/{self._service}:{PORT}/proxy{path}"
        client = self._proxy.client
        try:
            with ExitStack() as answers:
                for is_last in (False, True):
                    headers = {**self._proxy.headers(), **self._token}
                    answer = answers.enter_context(client.stream(method, where, headers=headers, **kwargs))
                    if is_last or answer.status_code != httpx.codes.UNAUTHORIZED:
                        break
                    answer.read()
                    if _is_of_kubernetes(answer):
                        break
                    self._token = {TOKEN_HEADER: f"Bearer {self._read_token()}"}
                yield answer
        except httpx.HTTPError as error:
            raise SubmitOutcomeUnknown(f"The head {self._base}: {type(error).__name__} {error}") from error

    def _refuse_strangers(self, answer: httpx.Response) -> None:
        if answer.status_code in GATEWAY:
            raise HeadAway(f"The head {self._base} does not answer: {reason(answer)}", status=answer.status_code)
        is_kubernetes = answer.status_code in (401, 403, 404) and _is_of_kubernetes(answer)
        if is_kubernetes and answer.status_code == httpx.codes.NOT_FOUND:
            raise HeadAway(f"The head {self._base} is not there: {reason(answer)}", status=answer.status_code)
        if is_kubernetes:
            raise AccessDenied(
                f"The head {self._base} may not be asked: {reason(answer)}. It takes {RIGHT}",
                status=answer.status_code,
            )


def _is_of_kubernetes(answer: httpx.Response) -> bool:
    """Tell what the API server says of a request from what the head says."""
    return '"kind":"Status"' in answer.text.replace(" ", "")


def secret_of(cluster: str) -> str:
    """Return the name of the Secret with a cluster's token (kuberay/…/utils/util.go CheckName)."""
    name = cluster[-50:]
    return name if name[:1].isalpha() else f"r{name[1:]}"


class HeadAway(SubmitError):
    """A head does not answer, or is not there any more."""
