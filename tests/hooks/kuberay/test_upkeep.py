"""The hooks for KubeRay: what is left over, and servers that cannot be talked to."""

from __future__ import annotations

import ipaddress
import json
import ssl
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from airflow_provider_glueray.core.errors import AccessDenied, ConnectionConfigError
from airflow_provider_glueray.core.runs import RunRef, RunState
from airflow_provider_glueray.core.spec import RayClusterSpec, RayJobSpec
from airflow_provider_glueray.hooks.kuberay import jobs
from airflow_provider_glueray.hooks.kuberay.clusters import KubeRayClusterHook
from tests.hooks.kuberay import kubernetes_api

RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING", "startTime": "2026-03-01T02:00:00Z"}
DONE = {**RUNNING, "jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
DAY = 86_400


@pytest.fixture
def start(hook) -> Callable[..., RunRef]:
    """Return a function that starts a run."""

    def start(client_token: str = "m1", **fields: Any) -> RunRef:
        spec = RayJobSpec(**{"name": "nightly-clean", "script": "s3://bucket/clean.py", **fields})
        return hook.prepare(spec).start(client_token, {})

    return start


class TestLeftOver:
    """RayJobs that have ended are deleted some day: KubeRay keeps them for ever."""

    def old(self, cluster: Any, start: Any, count: int, days: float, name: str = "nightly-clean") -> list[RunRef]:
        """Return runs that have ended a while ago."""
        refs = [start(f"{name}-{days}-{number}", name=name) for number in range(count)]
        end = (datetime.now(timezone.utc) - timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")
        for ref in refs:
            cluster.age(ref.id, (days + 1) * DAY)
            cluster.rayjobs[tuple(ref.id.split("/"))]["status"] = {**DONE, "endTime": end}
        return refs

    def there(self, cluster: Any) -> set[str]:
        alive = {key for key, each in cluster.rayjobs.items() if "deletionTimestamp" not in each["metadata"]}
        return {"/".join(key) for key in alive}

    def test_those_of_the_same_job(self, cluster, start):
        """And no others: not those of another job, nor younger ones, nor those that run."""
        other = self.old(cluster, start, 1, 9, "another")
        young = self.old(cluster, start, 2, 6)
        runs = start("runs")
        cluster.age(runs.id, 9 * DAY)
        cluster.rayjobs[tuple(runs.id.split("/"))]["status"] = RUNNING
        self.old(cluster, start, 3, 8)
        before = cluster.calls.copy()
        new = start("new")

        assert self.there(cluster) == {ref.id for ref in (*other, *young, runs, new)}
        assert cluster.calls - before == {"create rayjobs": 1, "list rayjobs": 1, "delete rayjobs": 3}

    def test_stopped_ones_too(self, cluster, hook, start):
        """A suspended RayJob has no time of its end."""
        ref = start("m1")
        hook.stop(ref)
        assert [hook.describe([ref])[ref].state for _ in range(4)][-1] is RunState.STOPPED
        start("m2")
        assert ref.id in self.there(cluster)
        cluster.age(ref.id, 8 * DAY)
        start("m3")

        assert ref.id not in self.there(cluster)

    def test_not_too_many_at_once(self, cluster, start, monkeypatch):
        monkeypatch.setattr(jobs, "MOST_SWEPT", 4)
        self.old(cluster, start, 6, 8)
        assert cluster.calls["delete rayjobs"] == 0
        start("new")

        assert cluster.calls["delete rayjobs"] == 4

    def test_kept_for_ever(self, cluster, start):
        refs = self.old(cluster, start, 2, 800)
        before = cluster.calls.copy()
        start("new", overrides={"kuberay": {"keep_finished_days": 0}})

        assert {ref.id for ref in refs} < self.there(cluster)
        assert cluster.calls - before == {"create rayjobs": 1}

    @pytest.mark.parametrize("denied", [("delete", "rayjobs"), ("list", "rayjobs")])
    def test_that_it_fails_is_no_harm(self, cluster, start, denied):
        self.old(cluster, start, 2, 8)
        cluster.denied.add(denied)
        new = start("new")

        assert new.id in self.there(cluster)


class TestServers:
    """API servers that cannot be talked to."""

    @pytest.fixture
    def certificate(self, tmp_path) -> Path:
        """Return a file with a key and a certificate for 127.0.0.1 that nobody but itself has signed."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "stand-in")])
        here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        built = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(datetime.now(timezone.utc) - timedelta(days=1))
            .not_valid_after(datetime.now(timezone.utc) + timedelta(days=1))
            .add_extension(here, critical=False)
            .sign(key, hashes.SHA256())
        )
        form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        content = key.private_bytes(serialization.Encoding.PEM, *form) + built.public_bytes(serialization.Encoding.PEM)
        file = tmp_path / "server.pem"
        file.write_bytes(content)
        return file

    @pytest.mark.parametrize("is_trusted", [False, True])
    def test_a_certificate(self, monkeypatch, certificate, is_trusted):
        """One that is not trusted is the connection's fault."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        with kubernetes_api.serving(context) as cluster:
            connection = cluster.config(kuberay={"image": "i"})
            if is_trusted:
                there = connection["extra"]["kube_config"]["clusters"][0]["cluster"]
                there["certificate-authority"] = str(certificate)
            monkeypatch.setenv("AIRFLOW_CONN_SECURE", json.dumps(connection))
            create = KubeRayClusterHook("secure").prepare(RayClusterSpec(name="n"), None)
            if is_trusted:
                create("m")
                assert len(cluster.rayclusters) == 1
            else:
                with pytest.raises(
                    ConnectionConfigError, match=r"the certificate is not trusted.*certificate-authority"
                ):
                    create("m")
                assert cluster.calls.total() == 0

    def test_a_token_that_is_refused(self, cluster, monkeypatch):
        connection = cluster.config(kuberay={"image": "i"})
        connection["extra"]["kube_config"]["users"][0]["user"]["token"] = "old"
        monkeypatch.setenv("AIRFLOW_CONN_OLD", json.dumps(connection))

        with pytest.raises(AccessDenied, match="Unauthorized"):
            KubeRayClusterHook("old").prepare(RayClusterSpec(name="n"), None)("m")
