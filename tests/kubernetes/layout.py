"""Where what belongs to a cluster is: its files, its addresses, its nodes."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

#: Names the folder of the cluster in whose namespaces a process runs.
HOME = "GLUERAY_TEST_KUBERNETES"
#: The address of everything but the pods, on the bridge that all pods are on, and the pods' network.
GATEWAY, NETWORK_BITS = "10.244.0.1", 16
API_PORT = 6443
#: What a node has: an r7g.2xlarge as Amazon EKS shows it.
CAPACITY = {"cpu": "8", "memory": "64Gi", "pods": "58", "ephemeral-storage": "80Gi"}
ALLOCATABLE = {"cpu": "7910m", "memory": "61Gi", "pods": "58", "ephemeral-storage": "80Gi"}
NODE_LABELS = {
    "kubernetes.io/arch": "arm64",
    "kubernetes.io/os": "linux",
    "node.kubernetes.io/instance-type": "r7g.2xlarge",
}


@dataclass(frozen=True)
class Node:
    """A node: its name, the port of its kubelet, and the third number of its pods' addresses."""

    name: str
    port: int
    number: int

    def address(self, count: int) -> str:
        """Return an address of a pod."""
        return f"10.244.{self.number}.{2 + count % 250}"


NODES = (Node("node-a", 10250, 1), Node("node-b", 10251, 2))


@dataclass(frozen=True)
class Layout:
    """The files of a cluster.

    :ivar home: a folder that no pod's own ``/tmp`` hides.
    :ivar logs: where each part writes one file, and each container of a pod.
    """

    home: Path
    logs: Path

    @classmethod
    def here(cls) -> Layout:
        """Return that of the cluster in whose namespaces this process runs.

        :raises LookupError: it runs in none.
        """
        home = os.environ.get(HOME)
        if not home:
            raise LookupError("there is no Kubernetes here: make test-kuberay, or python -m tests.kubernetes COMMAND")
        return cls(Path(home), Path(os.readlink(Path(home) / "logs")))

    @property
    def pki(self) -> Path:
        """The folder of keys and certificates."""
        return self.home / "pki"

    @property
    def kubeconfig(self) -> Path:
        """The configuration of clients that may do everything."""
        return self.home / "admin.conf"

    @property
    def hosts(self) -> Path:
        """What stands for the cluster's DNS: mounted over ``/etc/hosts`` for everybody."""
        return self.home / "hosts"

    @property
    def resolver(self) -> Path:
        """What says whom to ask for other names: mounted over ``/etc/resolv.conf``."""
        return self.home / "resolv.conf"

    @property
    def pods(self) -> Path:
        """The folder of the volumes of pods, one folder each by uid."""
        return self.home / "pods"


#: The "image" of every pod: the environment of this Python, which has Ray.
IMAGE = Path(sys.prefix)
