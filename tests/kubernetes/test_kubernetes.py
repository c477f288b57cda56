"""What the cluster says while a RayJob cannot start, and of its logs: in the words of a real one."""

from __future__ import annotations

import itertools
import signal
from typing import Any

import pytest

from tests.kubernetes.api import Api, ApiError
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.namespace import HEAD, Namespace
from tests.kubernetes.rayjobs import rayjob

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(900)]


def waiting(namespace: Namespace) -> tuple[str, str]:
    """Return why the head's container waits: reason and message."""
    for pod in namespace.pods(HEAD):
        for status in pod["status"].get("containerStatuses") or ():
            found = status["state"].get("waiting", {})
            return found.get("reason", ""), found.get("message", "")
    return "", ""


@pytest.mark.parametrize(
    ("image", "reason", "words"),
    [
        ("tests/nosuch:1", "ErrImagePull", 'failed to resolve reference "tests/nosuch:1": tests/nosuch:1: not found'),
        ("tests/nosuch:1", "ImagePullBackOff", 'Back-off pulling image "tests/nosuch:1"'),
        ("tests/Ray:1", "InvalidImageName", "repository name must be lowercase"),
    ],
)
def test_an_image_is_not_there(namespace: Namespace, image: str, reason: str, words: str) -> None:
    namespace.create(rayjob("waits", "print()", image=image))

    _, message = namespace.wait(lambda: waiting(namespace), lambda seen: seen[0] == reason, reason)
    assert words in message


def test_a_config_map_is_not_there(namespace: Namespace) -> None:
    manifest = rayjob("waits", "print()")
    (container,) = manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    container["envFrom"] = [{"configMapRef": {"name": "settings"}}]
    namespace.create(manifest)

    _, message = namespace.wait(lambda: waiting(namespace), lambda seen: seen[0] == "CreateContainerConfigError")
    assert message == 'configmap "settings" not found'


def test_no_node_is_large_enough(namespace: Namespace) -> None:
    """A whole r7g.2xlarge is more than its kubelet leaves to pods."""
    manifest = rayjob("waits", "print()")
    (container,) = manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    container["resources"] = {"requests": {"cpu": "8", "memory": "64Gi"}, "limits": {"cpu": "8", "memory": "64Gi"}}
    namespace.create(manifest)

    def scheduled() -> list[dict[str, Any]]:
        conditions = [each for pod in namespace.pods(HEAD) for each in pod["status"].get("conditions") or ()]
        return [each for each in conditions if each["type"] == "PodScheduled"]

    (condition,) = namespace.wait(scheduled)
    assert condition["reason"] == "Unschedulable"
    assert "2 Insufficient cpu, 2 Insufficient memory" in condition["message"]


def test_there_is_a_quota_of_rayjobs(namespace: Namespace) -> None:
    """It refuses when a RayJob is created, in these words."""
    quota = {"metadata": {"name": "few"}, "spec": {"hard": {"count/rayjobs.ray.io": "0"}}}
    namespace.api.create(f"{namespace.path}/resourcequotas", quota)
    numbers = itertools.count()

    def refusal() -> str:
        try:
            namespace.create(rayjob(f"refused-{next(numbers)}", "print()", suspend=True))
        except ApiError as error:
            return str(error)
        return ""

    # The API server hears of a new quota a moment later.
    said = namespace.wait(refusal)
    assert "403 Forbidden" in said
    assert "exceeded quota: few, requested: count/rayjobs.ray.io=1, used: count/rayjobs.ray.io=0" in said


def test_pods_have_to_be_restricted(namespace: Namespace) -> None:
    """KubeRay itself is told, and says it in an event."""
    label = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    namespace.api.patch(f"/api/v1/namespaces/{namespace.name}", label)
    namespace.create(rayjob("refused", "print()"))

    said = namespace.wait(lambda: namespace.events("FailedToCreateHeadPod"))
    assert 'violates PodSecurity "restricted:latest"' in said[0]


def test_an_unknown_field_is_refused(namespace: Namespace) -> None:
    with pytest.raises(ApiError, match="unknown field"):
        namespace.create(rayjob("refused", "print()", noSuchField=1))


def test_the_documented_rights_are_few(namespace: Namespace, cluster: Cluster) -> None:
    """Its user reads no secrets."""
    user = Api(cluster.layout, namespace.token)

    assert user.get(f"{namespace.path}/pods")["items"] == []
    with pytest.raises(ApiError, match="secrets is forbidden"):
        user.get(f"{namespace.path}/secrets")
    with pytest.raises(ApiError, match="pods is forbidden"):
        user.get("/api/v1/namespaces/default/pods")


def test_only_the_newest_of_a_log_is_served(namespace: Namespace) -> None:
    """A kubelet rotates the log of a container at 10 MiB (K3)."""
    pod = {
        "metadata": {"name": "talks"},
        "spec": {
            "restartPolicy": "Never",
            "containers": [
                {"name": "talks", "image": "tests/ray:1", "command": ["seq", "-f", "line %06.0f of many", "300000"]}
            ],
        },
    }
    namespace.api.create(f"{namespace.path}/pods", pod)
    (ended,) = namespace.wait(namespace.pods, lambda pods: pods[0]["status"]["phase"] == "Succeeded", "it has ended")
    lines = namespace.log(ended).splitlines()

    assert lines[-1] == "line 300000 of many"
    assert 0 < len(lines) < 300_000
    assert namespace.log(ended, tailLines="2") == "line 299999 of many\nline 300000 of many\n"
    assert namespace.log(ended, limitBytes="4") == lines[0][:4]
    moment = namespace.log(ended, timestamps="true", tailLines="1").partition(" ")[0]
    assert lines[-1] in namespace.log(ended, sinceTime=moment)
    assert namespace.log(ended, sinceTime="2100-01-01T00:00:00Z") == ""


@pytest.mark.full
@pytest.mark.alone
def test_a_node_does_not_answer(namespace: Namespace, cluster: Cluster) -> None:
    """After 40 s without a sign of life the control plane calls it NotReady."""

    def ready() -> str:
        conditions = cluster.api.get("/api/v1/nodes/node-b")["status"]["conditions"]
        return str(next(each["status"] for each in conditions if each["type"] == "Ready"))

    cluster.kubelets["node-b"].signal(signal.SIGSTOP)
    namespace.wait(ready, "Unknown".__eq__, "node-b is not ready")
    cluster.kubelets["node-b"].signal(signal.SIGCONT)
    namespace.wait(ready, "True".__eq__, "node-b is ready again")


def test_what_a_release_has_is_published(cluster: Cluster) -> None:
    assert cluster.has_field("rayjobs", "spec.rayClusterSpec.headGroupSpec")
    assert not cluster.has_field("rayjobs", "spec.noSuchField")
