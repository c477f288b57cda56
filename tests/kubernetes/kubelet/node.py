"""A node: what it tells of itself, and the pods that are bound to it."""

from __future__ import annotations

import itertools
import logging
import threading
from typing import Any

from tests.kubernetes.api import AWAY, STRATEGIC, Api, ApiError
from tests.kubernetes.kubelet import moments
from tests.kubernetes.kubelet.pod import Pod
from tests.kubernetes.layout import ALLOCATABLE, CAPACITY, GATEWAY, NODE_LABELS, Layout, Node

_log = logging.getLogger(__name__)
#: Seconds between two signs of life; after 40 without one the control plane calls a node NotReady.
_BEAT = 8.0
_LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"


class Kubelet:
    """The kubelet of a node.

    :ivar pods: by uid.
    """

    def __init__(self, layout: Layout, node: Node) -> None:
        self.node, self._layout, self._api = node, layout, Api(layout)
        self.pods: dict[str, Pod] = {}
        self._numbers = itertools.count()

    def run(self) -> None:
        """Keep the node and its pods, for ever."""
        threading.Thread(target=self._beat, daemon=True).start()
        while True:
            try:
                self._watch()
            except (ApiError, *AWAY) as error:
                _log.warning("watch: %s", error)
            except Exception:
                _log.exception("watch")
            threading.Event().wait(0.2)

    def find(self, namespace: str, name: str) -> Pod | None:
        """Return one of its pods."""
        pods = [each for each in list(self.pods.values()) if (each.namespace, each.name) == (namespace, name)]
        return pods[-1] if pods else None

    # -- pods -----------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        unseen: set[str] | None = set(self.pods)
        for word, obj in self._api.follow("/api/v1/pods", fieldSelector=f"spec.nodeName={self.node.name}"):
            if word == "LISTED":
                for uid in unseen or ():
                    self._delete(uid)
                unseen = None
                continue
            uid = obj["metadata"]["uid"]
            if unseen is not None:
                unseen.discard(uid)
            if word == "DELETED":
                # Without grace, whatever the last word on it was.
                obj["metadata"]["deletionGracePeriodSeconds"] = 0
                self._see(obj, new=False)
                self._delete(uid)
            else:
                self._see(obj, new=True)

    def _see(self, obj: dict[str, Any], *, new: bool) -> None:
        metadata = obj["metadata"]
        pod = self.pods.get(metadata["uid"])
        if pod is not None:
            pod.see(obj)
        elif new and metadata.get("deletionTimestamp"):
            # Deleted before it was begun.
            path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
            self._api.delete(path, gracePeriodSeconds=0, preconditions={"uid": metadata["uid"]})
        elif new and obj["status"].get("phase") not in ("Succeeded", "Failed"):
            address = self.node.address(next(self._numbers))
            _log.info("%s/%s at %s", metadata["namespace"], metadata["name"], address)
            pod = self.pods[metadata["uid"]] = Pod(obj, address, self._layout, self._api, self._forget)
        if pod is not None and metadata.get("deletionTimestamp"):
            pod.delete()

    def _delete(self, uid: str) -> None:
        pod = self.pods.get(uid)
        if pod is not None:
            pod.delete()

    def _forget(self, pod: Pod) -> None:
        self.pods.pop(pod.uid, None)

    # -- the node -------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        while True:
            try:
                self._tell_of_node()
            except (ApiError, *AWAY) as error:
                _log.warning("beat: %s", error)
                threading.Event().wait(0.2)
                continue
            threading.Event().wait(_BEAT)

    def _tell_of_node(self) -> None:
        name = self.node.name
        path = f"/api/v1/nodes/{name}"
        if self._api.find(path) is None:
            labels = {**NODE_LABELS, "kubernetes.io/hostname": name}
            self._api.create("/api/v1/nodes", {"metadata": {"name": name, "labels": labels}})
        now = moments.to_second()
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now}
        status = {
            "capacity": CAPACITY,
            "allocatable": ALLOCATABLE,
            "addresses": [{"type": "InternalIP", "address": GATEWAY}, {"type": "Hostname", "address": name}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.node.port}},
            "nodeInfo": {"architecture": "arm64", "operatingSystem": "linux", "kubeletVersion": "v1.36.3"}
            | dict.fromkeys(_UNKNOWN, ""),
            "conditions": [ready],
        }
        self._api.patch(f"{path}/status", {"status": status}, STRATEGIC)
        spec = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": moments.to_microsecond()}
        if self._api.find(f"{_LEASES}/{name}") is None:
            self._api.create(_LEASES, {"metadata": {"name": name}, "spec": spec})
        else:
            self._api.patch(f"{_LEASES}/{name}", {"spec": spec})


#: What the API wants to know of a node, and nobody reads here.
_UNKNOWN = (
    "bootID",
    "containerRuntimeVersion",
    "kernelVersion",
    "kubeProxyVersion",
    "machineID",
    "osImage",
    "systemUUID",
)
