"""A connection to a Ray cluster: requests, and what their answers mean in words.

It knows the Jobs API's manners, and nothing of runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import httpx

from airflow_provider_glueray.airflow_compat import AirflowNotFoundException, BaseHook
from airflow_provider_glueray.core.errors import (
    AccessDenied,
    ConnectionConfigError,
    SpecError,
    SubmitError,
    SubmitOutcomeUnknown,
)
from airflow_provider_glueray.hooks.dashboard.jobs_api import GATEWAY, JobsApi, reason
from airflow_provider_glueray.packaging.upload import store_of

if TYPE_CHECKING:
    from airflow_provider_glueray.packaging.s3 import S3Store

#: The oldest Ray whose Jobs API this was tried with; see docs/ray.md.
OLDEST = (2, 9)
#: Seconds for a request, and to connect.
TIMEOUT = httpx.Timeout(30.0, connect=10.0)
#: What forms for connections of older Airflows put before the name of a field.
OLD_PREFIXES = ("extra__ray__", "extra__kubernetes__")
#: Fields of astro-provider-ray by which it makes a cluster.
KUBE_FIELDS = ("kube_config", "kube_config_path", "cluster_context")


class RayConnectionHook(JobsApi, BaseHook):
    """Hold a connection of type ``ray``."""

    conn_name_attr = "ray_conn_id"
    default_conn_name = "ray_default"
    conn_type = "ray"
    hook_name = "Ray cluster"

    def __init__(self, ray_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.ray_conn_id = ray_conn_id

    def test_connection(self) -> tuple[bool, str]:
        """Ask the cluster for its version; the button in Airflow's form for connections."""
        try:
            return True, f"Ray {self._check_version()}"
        except (SubmitError, SpecError) as error:
            return False, str(error)

    def _check_version(self) -> str:
        answer = self._ask("GET", "/api/version")
        found = self._content(answer) if answer.is_success else {}
        version = str(found.get("ray_version", ""))
        numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
        if not numbers:
            raise ConnectionConfigError(f"{self._base} is no Ray Jobs API: {reason(answer)}")
        if numbers < OLDEST:
            raise ConnectionConfigError(
                f"The cluster at {self._base} has Ray {version}; 2.9 is the oldest that will do"
            )
        return version

    @contextmanager
    def _open(self, method: str, path: str, **kwargs: Any) -> Iterator[httpx.Response]:
        """Ask, and leave the body of the answer to be read piece by piece."""
        try:
            with self._client.stream(method, path, **kwargs) as answer:
                yield answer
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            if "CERTIFICATE" in str(error).upper():
                raise SubmitError(
                    f"The certificate of {self._base} is not trusted ({error}); name its CA as 'verify' in the extra "
                    f"of the connection {self.ray_conn_id!r}"
                ) from error
            raise SubmitError(f"Cannot connect to Ray at {self._base}: {error}") from error
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise SubmitOutcomeUnknown(f"Ray at {self._base}: {type(error).__name__} {error}") from error

    def _refuse_strangers(self, answer: httpx.Response) -> None:
        """Raise for an answer that Ray has not given, or that says who may not ask."""
        where, refusal = f"of the connection {self.ray_conn_id!r}", ""
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            refusal = f"No token, or a wrong one, for Ray at {self._base}: {reason(answer)}. It is the password {where}"
        elif answer.status_code == httpx.codes.FORBIDDEN:
            # Ray itself says so of a token that is wrong; of one that is missing it says 401.
            refusal = f"Not allowed to use Ray at {self._base}: {reason(answer)}. The token is the password {where}"
        elif answer.is_redirect:
            refusal = (
                f"Ray at {self._base} is behind something that leads elsewhere ({answer.status_code} to "
                f"{answer.headers.get('location', 'nowhere')[:200]}), such as a login; what it wants to see can be "
                f"'headers' in the extra {where}"
            )
        if refusal:
            raise AccessDenied(refusal, status=answer.status_code)
        if answer.status_code in GATEWAY:
            raise SubmitOutcomeUnknown(f"No answer of Ray at {self._base}: {reason(answer)}", status=answer.status_code)

    @cached_property
    def _connection(self) -> Any:
        try:
            return self.get_connection(self.ray_conn_id)
        except AirflowNotFoundException as error:
            raise ConnectionConfigError(
                f"There is no connection {self.ray_conn_id!r}; make one of type 'ray'"
            ) from error

    @cached_property
    def _base(self) -> str:
        host, port = self._connection.host or "", self._connection.port
        # Other providers of this type hide the host, and have the whole address in the extra.
        host = host or str(self._field("address") or "").strip()
        if not host:
            kube = [name for name in KUBE_FIELDS if self._field(name)]
            hint = f". It has {kube[0]!r}: clusters are made by a connection of type 'kubernetes'" if kube else ""
            raise ConnectionConfigError(
                f"The connection {self.ray_conn_id!r} has no host, and no 'address' in its extra{hint}"
            )
        scheme, found, _ = host.partition("://")
        if found and scheme not in ("http", "https"):
            raise ConnectionConfigError(
                f"The connection {self.ray_conn_id!r} leads to {host!r}; Ray's Jobs API is at http:// or https://, "
                "usually on port 8265"
            )
        if found:
            return str(host).rstrip("/")
        if ":" in host:  # an address such as ray-head:8265
            return f"{self._connection.schema or 'http'}://{host}"
        return f"{self._connection.schema or 'http'}://{host}:{port or 8265}"

    @cached_property
    def _client(self) -> httpx.Client:
        headers = self._mapping("headers")
        if self._connection.password:
            headers["Authorization"] = f"Bearer {self._connection.password}"
        verify = self._verify(self._field("verify"))
        cookies = self._mapping("cookies")
        return httpx.Client(base_url=self._base, headers=headers, cookies=cookies, timeout=TIMEOUT, verify=verify)

    def _field(self, name: str) -> Any:
        """Return a field of the extra, also of one that an old form wrote with a prefix."""
        extra = self._connection.extra_dejson
        return next((extra[each] for each in (name, *(f"{old}{name}" for old in OLD_PREFIXES)) if each in extra), None)

    def _mapping(self, name: str) -> dict[str, str]:
        """Return a field of the extra that holds names and values, also where a form has made a text of it.

        :raises ConnectionConfigError: it holds something else.
        """
        given = self._field(name)
        try:
            value = json.loads(given) if isinstance(given, str) and given.strip() else given or {}
            return {str(key): str(each) for key, each in value.items()}
        except (ValueError, AttributeError) as error:
            raise ConnectionConfigError(
                f"{name!r} in the extra of the connection {self.ray_conn_id!r} is no JSON object of names and values"
            ) from error

    @staticmethod
    def _verify(given: Any) -> Any:
        """Read ``verify`` of the extra: nothing, false, or the path of a CA; the form has texts only."""
        words = {"": True, "none": True, "true": True, "false": False}
        text = "" if given is None else str(given).strip()
        if text.lower() in words:
            return words[text.lower()]
        import ssl

        try:
            return ssl.create_default_context(cafile=text)
        except OSError as error:
            raise SpecError([f"verify={given!r}: it is not the path of a CA's certificate ({error})"]) from error

    @cached_property
    def storage(self) -> S3Store:
        """S3, by the connection ``aws_conn_id`` of the extra.

        :raises ExtraMissing: the amazon provider is not installed.
        """
        return store_of(self._connection.extra_dejson.get("aws_conn_id", "aws_default"))


def other_ray_providers() -> list[str]:
    """Return the distributions of other providers that are about Ray, and may register its connections as well."""
    found = entry_points(group="apache_airflow_provider")
    names = {each.dist.name for each in found if each.dist is not None}
    return sorted(name for name in names if "ray" in re.split(r"[-_.]", name.lower()))
