"""A namespace of a cluster, as a test has it: what is in it, and what may happen to it."""

from __future__ import annotations

import shlex
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import urllib3

from tests.kubernetes.cluster import Cluster
from tests.kubernetes.connection import connection, make_namespace
from tests.kubernetes.layout import GATEWAY, NODES
from tests.kubernetes.parts import until

T = TypeVar("T")
_RAY = "/apis/ray.io/v1/namespaces"
#: How the pods of a run are told apart.
HEAD, WORKER, SUBMITTER = "ray.io/node-type=head", "ray.io/node-type=worker", "batch.kubernetes.io/job-name"


class Namespace:
    """A namespace, and faults in it. It is made with a user who has the documented rights in it and no others.

    :ivar path: of what is in it, beside KubeRay's resources.
    :ivar token: of its user.
    """

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.name, self.api = cluster, name, cluster.api
        self.path = f"/api/v1/namespaces/{name}"
        self.token = make_namespace(cluster, name)

    def connection(self, **settings: Any) -> dict[str, Any]:
        """Return an Airflow connection of its user."""
        return connection(self.cluster, self.name, self.token, **settings)

    # -- what is in it --------------------------------------------------------------------------------------

    def create(self, manifest: Mapping[str, Any]) -> str:
        """Create a RayJob or a RayCluster; return its name."""
        made = self.api.create(f"{_RAY}/{self.name}/{manifest['kind'].lower()}s", manifest)
        return str(made["metadata"]["name"])

    def rayjob(self, name: str) -> dict[str, Any]:
        """Return a RayJob."""
        return self.api.get(f"{_RAY}/{self.name}/rayjobs/{name}")  # type: ignore[no-any-return]

    def states(self, name: str) -> tuple[str, str, str]:
        """Return what KubeRay says of a RayJob: its own state, the Ray job's, and a reason."""
        status = self.rayjob(name).get("status") or {}
        return status.get("jobDeploymentStatus", ""), status.get("jobStatus", ""), status.get("reason", "")

    def pods(self, selector: str = "") -> list[dict[str, Any]]:
        """Return the pods that have a label."""
        query = urllib.parse.urlencode({"labelSelector": selector})
        return self.api.get(f"{self.path}/pods?{query}")["items"]  # type: ignore[no-any-return]

    def events(self, reason: str = "") -> list[str]:
        """Return the messages of events, or of those with a reason."""
        found = self.api.get(f"{self.path}/events")["items"]
        return [event["message"] for event in found if not reason or event["reason"] == reason]

    def log(self, pod: Mapping[str, Any], **query: str) -> str:
        """Return the log of a pod."""
        path = f"{self.path}/pods/{pod['metadata']['name']}/log?{urllib.parse.urlencode(query)}"
        return self.api.ask_raw("GET", path).decode(errors="replace")

    def wait(self, seen: Callable[[], T], wanted: Callable[[T], Any] = bool, what: str = "") -> T:
        """Look until what is seen is what is wanted, and return it."""
        last: list[T] = []

        def look() -> bool:
            last[:] = [seen()]
            return bool(wanted(last[0]))

        try:
            until(look, what or "what is wanted")
        except TimeoutError as error:
            raise AssertionError(f"{error}; it is {last}") from None
        return last[0]

    def running(self, selector: str) -> dict[str, Any]:
        """Wait for a pod with a label whose containers are all ready, and return it."""

        def ready() -> list[dict[str, Any]]:
            return [
                pod
                for pod in self.pods(selector)
                for each in pod["status"].get("conditions") or ()
                if each["type"] == "Ready" and each["status"] == "True"
            ]

        return self.wait(ready, what=f"a pod with {selector} is ready")[0]

    # -- what may happen to it ------------------------------------------------------------------------------

    def kill(self, pod: Mapping[str, Any], container: str, reason: str = "Error", code: int = 137) -> None:
        """Kill a container's process; its end is told of in these words. Its pod may restart it."""
        self._break(pod, "kill", container, reason=reason, code=str(code))

    def evict(self, pod: Mapping[str, Any], message: str = "The node was low on resource: memory.") -> None:
        """Fail a pod as a node does that is short of something."""
        self._break(pod, "evict", message=message)

    def delete_pod(self, pod: Mapping[str, Any], **options: Any) -> None:
        """Delete a pod, as somebody does who drains its node."""
        self.api.delete(f"{self.path}/pods/{pod['metadata']['name']}", **options)

    def run(self, pod: Mapping[str, Any], container: str, *command: str) -> None:
        """Run a command in a container."""
        self._break(pod, "run", container, command=shlex.join(command))

    def _break(self, pod: Mapping[str, Any], what: str, container: str = "", **query: str) -> None:
        node = next(node for node in NODES if node.name == pod["spec"]["nodeName"])
        path = f"/{what}/{self.name}/{pod['metadata']['name']}/{container}?{urllib.parse.urlencode(query)}"
        authority = str(self.cluster.layout.pki / "ca.crt")
        with urllib3.HTTPSConnectionPool(GATEWAY, node.port, ca_certs=authority) as kubelet:
            answer = kubelet.request("POST", path)
        assert answer.status == 200, answer.data
