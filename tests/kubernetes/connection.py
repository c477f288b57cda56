"""Namespaces of a cluster, and Airflow connections to them of somebody who has few rights."""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml

from tests.kubernetes.cluster import BUCKET, S3_URL, Cluster
from tests.kubernetes.layout import API_PORT, GATEWAY
from tests.kubernetes.parts import until
from tests.kubernetes.turns import turn

#: The environment variables of the connections: to the cluster, and to S3 for it.
CONN, AWS_CONN_ID = "GLUERAY_TEST_KUBERAY", "kuberay_s3"
AWS_CONN = f"AIRFLOW_CONN_{AWS_CONN_ID.upper()}"
_PAGE = Path(__file__).parents[2] / "docs" / "kuberay.md"
_RBAC = "/apis/rbac.authorization.k8s.io/v1/namespaces"
USER = "airflow"
#: What the pods of a run need to reach S3, which is not Amazon's.
_S3_ENV = {
    "AWS_ENDPOINT_URL": S3_URL,
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
}


def documented_role() -> dict[str, Any]:
    """Return the Role that the documentation tells people to make."""
    (block,) = re.findall(r"```yaml\n(apiVersion: rbac.*?)```", _PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return yaml.safe_load(block)  # type: ignore[no-any-return]


def make_namespace(cluster: Cluster, name: str) -> str:
    """Make a namespace with a user who has the documented rights and no others; return a token of the user."""
    api, path = cluster.api, f"/api/v1/namespaces/{name}"
    api.create("/api/v1/namespaces", {"metadata": {"name": name}})
    api.create(f"{path}/serviceaccounts", {"metadata": {"name": USER}})
    role = documented_role()
    role["metadata"]["namespace"] = name
    api.create(f"{_RBAC}/{name}/roles", role)
    subject = {"kind": "ServiceAccount", "name": USER, "namespace": name}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role["metadata"]["name"]}
    api.create(
        f"{_RBAC}/{name}/rolebindings", {"metadata": {"name": USER}, "roleRef": reference, "subjects": [subject]}
    )
    # Pods are refused until the control plane has made their own service account.
    until(lambda: api.find(f"{path}/serviceaccounts/default") is not None, f"namespace {name} has a service account")
    asked = {"spec": {"expirationSeconds": 24 * 3600}}
    return str(api.ask("POST", f"{path}/serviceaccounts/{USER}/token", asked)["status"]["token"])


def connection(cluster: Cluster, namespace: str, token: str, **settings: Any) -> dict[str, Any]:
    """Return an Airflow connection to a namespace.

    :param settings: ``kuberay`` of its extra, beside those that lead pods to S3 and let several run on a node.
    """
    authority = base64.b64encode((cluster.layout.pki / "ca.crt").read_bytes()).decode()
    kube_config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "tests",
        "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": USER, "namespace": namespace}}],
        "clusters": [
            {
                "name": "tests",
                "cluster": {"server": f"https://{GATEWAY}:{API_PORT}", "certificate-authority-data": authority},
            }
        ],
        "users": [{"name": USER, "user": {"token": token}}],
    }
    given = {
        "image": "tests/ray:2.60.0",
        "ray_version": "2.60.0",
        "resources": {"cpu": "1", "memory": "2Gi"},
        **{f"{role}_pod": _with_environment(f"ray-{role}") for role in ("head", "worker")},
        **settings,
    }
    extra = {
        "kube_config": kube_config,
        "namespace": namespace,
        "kuberay": given,
        "aws_conn_id": AWS_CONN_ID,
        "staging_uri": f"s3://{BUCKET}/{namespace}",
    }
    return {"conn_type": "kubernetes", "extra": extra}


@contextlib.contextmanager
def temporary_connection() -> Iterator[dict[str, Any]]:
    """Yield a connection to a namespace of its own, which goes with all that is in it; nobody waits for that."""
    cluster = Cluster()
    name = f"t-{uuid4().hex[:8]}"
    with turn(cluster.layout):
        try:
            yield connection(cluster, name, make_namespace(cluster, name))
        finally:
            cluster.api.delete(f"/api/v1/namespaces/{name}")


def aws_connection() -> dict[str, Any]:
    """Return an Airflow connection to the cluster's S3."""
    login = {"login": _S3_ENV["AWS_ACCESS_KEY_ID"], "password": _S3_ENV["AWS_SECRET_ACCESS_KEY"]}
    extra = {"endpoint_url": S3_URL, "region_name": _S3_ENV["AWS_DEFAULT_REGION"]}
    return {"conn_type": "aws", **login, "extra": extra}


def _with_environment(container: str) -> dict[str, Any]:
    env = [{"name": name, "value": value} for name, value in _S3_ENV.items()]
    return {"spec": {"containers": [{"name": container, "env": env}]}}
