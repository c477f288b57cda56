"""What the Kubernetes client raises, as exceptions of our own tree."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kubernetes.client.exceptions import ApiException  # type: ignore[import-untyped]
from kubernetes.config import ConfigException  # type: ignore[import-untyped]
from urllib3.exceptions import HTTPError, MaxRetryError, NewConnectionError

from airflow_provider_glueray.airflow_compat import AirflowNotFoundException
from airflow_provider_glueray.core.errors import (
    AccessDenied,
    CapacityExceeded,
    ConnectionConfigError,
    InvalidRequest,
    SubmitError,
    SubmitOutcomeUnknown,
)
from airflow_provider_glueray.core.runs import RunRef

#: What the connection's user must be allowed to do.
RIGHTS = (
    "It takes a role in the namespace with create, get, list, patch and delete on rayjobs.ray.io and "
    "rayclusters.ray.io, list on pods and events, get on pods/log, get and create on services/proxy, and get on secrets"
)


class AlreadyThereError(SubmitError):
    """A resource of that name exists, before a caller has looked whose it is."""


@contextmanager
def kubernetes_errors(operation: str, run: RunRef | None = None) -> Iterator[None]:
    """Turn what the Kubernetes client raises into our own tree.

    :param operation: begins the message, such as ``start of RayJob etl/nightly``.
    :param run: the run that the request is about.
    """
    try:
        yield
    except AirflowNotFoundException as error:
        raise ConnectionConfigError(f"{operation}: {error}. Make one of type 'kubernetes'") from error
    except ConfigException as error:
        raise ConnectionConfigError(f"{operation} leads to no cluster: {error}") from error
    except ApiException as error:
        raise _error_for(operation, error, run) from error
    except MaxRetryError as error:
        if isinstance(error.reason, NewConnectionError):
            raise SubmitError(f"{operation}: the cluster cannot be reached: {error.reason}", run=run) from error
        if "CERTIFICATE_VERIFY_FAILED" in str(error.reason):
            advice = "The kubeconfig's certificate-authority-data has to be that of the cluster"
            reason = f"the certificate is not trusted: {error.reason}. {advice}"
            raise ConnectionConfigError(f"{operation}: {reason}") from error
        raise SubmitOutcomeUnknown(f"{operation}: {error}", run=run) from error
    except HTTPError as error:
        raise SubmitOutcomeUnknown(f"{operation}: {type(error).__name__} {error}", run=run) from error


def _error_for(operation: str, error: ApiException, run: RunRef | None) -> SubmitError:
    body = error.body.decode(errors="replace") if isinstance(error.body, bytes) else str(error.body or "")
    try:
        status = json.loads(body)
    except ValueError:
        status = {}
    message = status.get("message") or body.strip()[:500] or error.reason
    kind, advice = _kind_of(error.status or 0, status, message)
    text = f"{operation}: {message} ({error.status})" + (f". {advice}" if advice else "")
    return kind(text, code=status.get("reason") or "", status=error.status, run=run)


def _kind_of(http_status: int, status: Mapping[str, Any], message: str) -> tuple[type[SubmitError], str]:
    """Return the exception for a response of the API server, and what to do about it.

    :param status: the ``Status`` object that the API server sent; empty if it sent none.
    """
    if http_status == 429 or (http_status == 403 and "exceeded quota" in message):
        return CapacityExceeded, ""
    if http_status in (401, 403):
        return AccessDenied, RIGHTS
    if http_status == 404 and (status.get("details") or {}).get("kind") == "namespaces":
        return InvalidRequest, "The namespace is a field of the connection"
    if http_status == 404:
        return InvalidRequest, "The cluster does not know the resource: is the KubeRay operator installed?"
    if http_status == 409 and status.get("reason") == "AlreadyExists":
        return AlreadyThereError, ""
    if http_status in (400, 413, 422):
        return InvalidRequest, ""
    return (SubmitOutcomeUnknown if http_status >= 500 else SubmitError), ""
