"""What the Kubernetes client raises, in our own tree.

Floor 2.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from airflow.sdk.exceptions import AirflowNotFoundException
from kubernetes.client.exceptions import ApiException  # type: ignore[import-untyped]
from kubernetes.config import ConfigException  # type: ignore[import-untyped]
from urllib3.exceptions import HTTPError, MaxRetryError, NewConnectionError

from airflow_provider_glueray.core.errors import (
    CapacityExceeded,
    ConnectionConfigError,
    RequestRefused,
    SubmitError,
    SubmitOutcomeUnknown,
)

#: What the connection's user must be allowed to do.
RIGHTS = (
    "It takes a role in the namespace with create, get, list, patch and delete on rayjobs.ray.io and "
    "rayclusters.ray.io, list on pods and events, and get on pods/log"
)


class AlreadyThereError(SubmitError):
    """There is something of that name, before it is known whose."""


@contextmanager
def kubernetes_errors(what: str) -> Iterator[None]:
    """Turn what the Kubernetes client raises into our own tree; ``what`` names the thing that was being done."""
    try:
        yield
    except AirflowNotFoundException as error:
        raise ConnectionConfigError(f"{what}: {error}. Make one of type 'kubernetes'") from error
    except ConfigException as error:
        raise ConnectionConfigError(f"{what} leads to no cluster: {error}") from error
    except ApiException as error:
        raise _error_for(what, error) from error
    except MaxRetryError as error:
        if isinstance(error.reason, NewConnectionError):
            raise SubmitError(f"{what}: the cluster cannot be reached: {error.reason}") from error
        if "CERTIFICATE_VERIFY_FAILED" in str(error.reason):
            advice = "The kubeconfig's certificate-authority-data has to be that of the cluster"
            raise ConnectionConfigError(f"{what}: the certificate is not trusted: {error.reason}. {advice}") from error
        raise SubmitOutcomeUnknown(f"{what}: {error}") from error
    except HTTPError as error:
        raise SubmitOutcomeUnknown(f"{what}: {type(error).__name__} {error}") from error


def _error_for(what: str, error: ApiException) -> SubmitError:
    body = error.body.decode(errors="replace") if isinstance(error.body, bytes) else str(error.body or "")
    try:
        status = json.loads(body)
    except ValueError:
        status = {}
    message = status.get("message") or body.strip()[:500] or error.reason
    text = f"{what}: {message} ({error.status})"
    if error.status == 403 and "exceeded quota" in message:
        return CapacityExceeded(text)
    if error.status == 429:
        return CapacityExceeded(text)
    if error.status in (401, 403):
        return RequestRefused(f"{text}. {RIGHTS}")
    if error.status == 404 and (status.get("details") or {}).get("kind") == "namespaces":
        return RequestRefused(f"{text}. The namespace is a field of the connection")
    if error.status == 404:
        return RequestRefused(f"{text}. The cluster does not know the resource: is the KubeRay operator installed?")
    if error.status == 409 and status.get("reason") == "AlreadyExists":
        return AlreadyThereError(text)
    if error.status in (400, 413, 422):
        return RequestRefused(text)
    return SubmitOutcomeUnknown(text) if (error.status or 0) >= 500 else SubmitError(text)
