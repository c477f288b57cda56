"""A Kubernetes with KubeRay in the network, mount and process namespaces of this process.

Its parts run beside each other; nothing of it is left when the namespaces go. The folder of its state is in memory.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import urllib3
import yaml

from tests.kubernetes import build, certificates, names
from tests.kubernetes.api import AWAY, Api, ApiError
from tests.kubernetes.layout import API_PORT, GATEWAY, HOME, NETWORK_BITS, NODES, Layout
from tests.kubernetes.parts import Part, until

#: The folder of a cluster's state: always the same, because each cluster sees one of its own.
STATE = Path("/run/kubernetes")
#: Where S3 for pods and tests is, as moto has it.
S3_PORT, BUCKET = 5000, "kuberay"
S3_URL = f"http://{GATEWAY}:{S3_PORT}"
_ETCD = "http://127.0.0.1:2379"
_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_OPERATOR_HEALTH = 18082


class Cluster:
    """The cluster in whose namespaces this process runs, seen by somebody who may do everything.

    :raises LookupError: it runs in none.
    """

    def __init__(self, layout: Layout | None = None) -> None:
        self.layout = layout or Layout.here()
        self.api = Api(self.layout)
        self.etcd = Part(self.layout, "etcd")
        self.api_server = Part(self.layout, "kube-apiserver")
        self.controllers = Part(self.layout, "kube-controller-manager")
        self.scheduler = Part(self.layout, "kube-scheduler")
        self.names = Part(self.layout, "names")
        self.operator = Part(self.layout, "operator")
        self.s3 = Part(self.layout, "s3")
        self.kubelets = {node.name: Part(self.layout, node.name) for node in NODES}

    # -- as a whole -----------------------------------------------------------------------------------------

    @classmethod
    def start(cls, release: str, logs: Path) -> Cluster:
        """Make one in these namespaces, which have to be new; return it when it is ready.

        :param release: of the operator.
        :param logs: a folder for what the parts write.
        """
        _mount(logs)
        layout = Layout(STATE, logs)
        _make_network()
        certificates.write_all(layout.pki)
        _write_kubeconfig(layout)
        names.write_base(layout)
        for own, there in ((layout.hosts, "/etc/hosts"), (layout.resolver, "/etc/resolv.conf")):
            _run("mount", "--bind", str(own), str(Path(there).resolve()))
        cluster = cls(layout)
        cluster._describe_parts()
        for part in (cluster.etcd, cluster.api_server, cluster.s3):
            part.start()
        cluster.wait_for_api()
        for part in (cluster.controllers, cluster.scheduler, cluster.names, *cluster.kubelets.values()):
            part.start()
        cluster.use_operator(release)
        until(cluster._nodes_are_ready, "both nodes are ready")
        until(lambda: _answers(f"{S3_URL}/moto-api/"), "S3 answers")
        urllib3.request("PUT", f"{S3_URL}/{BUCKET}", headers=S3_AUTHORIZATION)
        return cluster

    def _describe_parts(self) -> None:
        bin_, pki, config = build.BUILT / "bin", self.layout.pki, str(self.layout.kubeconfig)
        peers = "http://127.0.0.1:2380"
        self.etcd.be([
            str(bin_ / "etcd"), "--unsafe-no-fsync", "--data-dir", str(self.layout.home / "etcd"),
            "--listen-client-urls", _ETCD, "--advertise-client-urls", _ETCD, "--listen-peer-urls", peers,
        ])  # fmt: skip
        self.api_server.be([
            str(bin_ / "kube-apiserver"), "--etcd-servers", _ETCD, "--service-cluster-ip-range", "10.96.0.0/16",
            "--bind-address", "0.0.0.0", "--advertise-address", GATEWAY, "--secure-port", str(API_PORT),
            "--tls-cert-file", str(pki / "server.crt"), "--tls-private-key-file", str(pki / "server.key"),
            "--client-ca-file", str(pki / "ca.crt"), "--service-account-key-file", str(pki / "accounts.pub"),
            "--service-account-signing-key-file", str(pki / "accounts.key"),
            "--service-account-issuer", "https://kubernetes.default.svc",
            "--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction",
            "--kubelet-client-certificate", str(pki / "admin.crt"),
            "--kubelet-client-key", str(pki / "admin.key"), "--allow-privileged",
        ])  # fmt: skip
        self.controllers.be([
            str(bin_ / "kube-controller-manager"), "--kubeconfig", config, "--leader-elect=false",
            "--service-account-private-key-file", str(pki / "accounts.key"), "--root-ca-file", str(pki / "ca.crt"),
            "--use-service-account-credentials",
        ])  # fmt: skip
        self.scheduler.be([str(bin_ / "kube-scheduler"), "--kubeconfig", config, "--leader-elect=false"])
        us = {HOME: str(self.layout.home)}
        self.names.be([sys.executable, "-m", "tests.kubernetes.names"], us)
        for node, part in self.kubelets.items():
            part.be([sys.executable, "-m", "tests.kubernetes.kubelet", node], us)
        self.s3.be([sys.executable, "-m", "moto.server", "-H", GATEWAY, "-p", str(S3_PORT)])

    def wait_for_api(self) -> None:
        """Wait until the API server is ready."""

        def ready() -> bool:
            assert self.api_server.runs, self.api_server.log[-2000:]
            with contextlib.suppress(ApiError, *AWAY):
                return self.api.ask_raw("GET", "/readyz") == b"ok"
            return False

        until(ready, "the API server is ready")

    def _nodes_are_ready(self) -> bool:
        return {node.name for node in NODES} <= {
            node["metadata"]["name"]
            for node in self.api.get("/api/v1/nodes")["items"]
            for condition in node["status"].get("conditions") or ()
            if condition["type"] == "Ready" and condition["status"] == "True"
            # The controllers take the taint of a new node away.
            if not node["spec"].get("taints")
        }

    def make_whole(self) -> None:
        """Bring back what a test has taken away."""
        for part in (self.etcd, self.api_server, self.controllers, self.scheduler, self.names, self.s3):
            if not part.runs:
                part.start()
        self.wait_for_api()
        for part in self.kubelets.values():
            part.signal(signal.SIGCONT)
        if not self.operator.runs:
            self.start_operator()
        until(self._nodes_are_ready, "both nodes are ready")

    # -- the operator ---------------------------------------------------------------------------------------

    def use_operator(self, release: str) -> None:
        """Let the operator be of a release, with its own custom resource definitions; return when it is ready."""
        self.operator.kill()
        for file in sorted(build.definitions(release).glob("*.yaml")):
            self._lay_definition(yaml.load(file.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
        self.operator.be(
            [
                str(build.operator(release)),
                "--enable-leader-election=false",
                "--log-stdout-encoder=console",
                "--metrics-addr=127.0.0.1:18080",
                f"--health-probe-bind-address=127.0.0.1:{_OPERATOR_HEALTH}",
            ],
            {"KUBECONFIG": str(self.layout.kubeconfig), "POD_NAMESPACE": "kube-system"},
        )
        self.start_operator()

    def start_operator(self) -> None:
        """Start the operator that has been killed; return when it is ready."""
        self.operator.start()
        until(lambda: _answers(f"http://127.0.0.1:{_OPERATOR_HEALTH}/readyz"), "the operator is ready")

    def _lay_definition(self, definition: dict[str, Any]) -> None:
        path = f"{_CRDS}/{definition['metadata']['name']}"
        there = self.api.find(path)
        if there is None:
            self.api.create(_CRDS, definition)
        else:
            definition["metadata"]["resourceVersion"] = there["metadata"]["resourceVersion"]
            self.api.ask("PUT", path, definition)
        until(lambda: _is_established(self.api.get(path)), f"{path} is served")

    def has_field(self, plural: str, path: str) -> bool:
        """Tell whether the schema that the API server publishes of one of KubeRay's resources has a field.

        :param path: such as ``spec.preRunningDeadlineSeconds``.
        """
        definition = self.api.get(f"{_CRDS}/{plural}.ray.io")
        (served,) = (each for each in definition["spec"]["versions"] if each["name"] == "v1")
        schema = served["schema"]["openAPIV3Schema"]
        for name in path.split("."):
            schema = schema.get("properties", {}).get(name)
            if schema is None:
                return False
        return True


#: moto asks for no signature, only for somebody.
S3_AUTHORIZATION = {"Authorization": "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request"}


def _is_established(definition: dict[str, Any]) -> bool:
    conditions = definition.get("status", {}).get("conditions") or ()
    return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)


def _answers(url: str) -> bool:
    try:
        return urllib3.request("GET", url, retries=False, timeout=5).status < 400
    except urllib3.exceptions.HTTPError:
        return False


def _mount(logs: Path) -> None:
    """Mount the folder of the state, which nobody outside sees."""
    _run("mount", "--make-rprivate", "/")
    for folder in (STATE, Path("/run/netns")):
        folder.mkdir(exist_ok=True)
        _run("mount", "-t", "tmpfs", "tmpfs", str(folder))
    logs.mkdir(parents=True, exist_ok=True)
    (STATE / "logs").symlink_to(logs)
    (STATE / "pods").mkdir()


def _make_network() -> None:
    for words in (
        ("link", "set", "lo", "up"),
        ("link", "add", "pods", "type", "bridge"),
        ("addr", "add", f"{GATEWAY}/{NETWORK_BITS}", "dev", "pods"),
        ("link", "set", "pods", "up"),
    ):
        _run("ip", *words)
    # What leads nowhere is refused at once, where it would be lost without a word otherwise.
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def _write_kubeconfig(layout: Layout) -> None:
    pki = layout.pki
    user = {"client-certificate": str(pki / "admin.crt"), "client-key": str(pki / "admin.key")}
    cluster = {"server": f"https://{GATEWAY}:{API_PORT}", "certificate-authority": str(pki / "ca.crt")}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "admin",
        "contexts": [{"name": "admin", "context": {"cluster": "tests", "user": "admin"}}],
        "clusters": [{"name": "tests", "cluster": cluster}],
        "users": [{"name": "admin", "user": user}],
    }
    layout.kubeconfig.write_text(yaml.safe_dump(config))


def _run(*words: str) -> None:
    subprocess.run(words, check=True)


def log_tails(logs: Path, lines: int = 15) -> Iterator[str]:
    """Yield the end of what each part has written, for who wants to know why a cluster has not come up."""
    for file in sorted(logs.glob("*.log")):
        yield f"--- {file}"
        yield from file.read_text(errors="replace").splitlines()[-lines:]
