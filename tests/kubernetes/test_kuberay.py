"""What KubeRay does with a RayJob when something of it is lost: docs/kuberay.md rests on it, so it is looked at here.

The RayJobs are plain ones, not the project's: a release that answers otherwise is seen here first.
"""

from __future__ import annotations

import pytest

from tests.kubernetes.namespace import HEAD, SUBMITTER, Namespace
from tests.kubernetes.rayjobs import rayjob

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(900)]
ENDLESS = "import time\nprint('begun', flush=True)\nwhile True: time.sleep(0.1)"


def begin(namespace: Namespace, **more: object) -> str:
    """Start a RayJob that does not end by itself; return its name when its driver has printed."""
    name = namespace.create(rayjob("endless", ENDLESS, **more))  # type: ignore[arg-type]
    namespace.wait(lambda: namespace.states(name)[:2], ("Running", "RUNNING").__eq__, "it runs")
    pod = namespace.running(SUBMITTER)
    namespace.wait(lambda: namespace.log(pod), lambda text: "begun" in text, "it has printed")
    return name


def ended(namespace: Namespace, name: str) -> tuple[str, str, str]:
    """Wait until KubeRay says that a RayJob is over; return its words."""
    return namespace.wait(lambda: namespace.states(name), lambda states: states[0] in ("Failed", "Complete"))


def test_it_succeeds(namespace: Namespace) -> None:
    """And its cluster goes when it is told to."""
    name = namespace.create(rayjob("quick", "print('hello')", ttlSecondsAfterFinished=1))

    assert ended(namespace, name)[:2] == ("Complete", "SUCCEEDED")
    (pod,) = namespace.pods(SUBMITTER)
    assert "\nhello\n" in namespace.log(pod)
    namespace.wait(lambda: namespace.pods(HEAD), lambda pods: not pods, "the head is gone")
    assert "\nhello\n" in namespace.log(pod)


@pytest.mark.full
def test_its_follower_is_killed(namespace: Namespace) -> None:
    """KubeRay fails it, and its driver goes on (K1)."""
    name = begin(namespace)
    namespace.kill(namespace.running(SUBMITTER), "ray-job-submitter")

    assert ended(namespace, name) == ("Failed", "RUNNING", "SubmissionFailed")
    assert namespace.running(HEAD)["status"]["phase"] == "Running"


@pytest.mark.full
def test_its_head_is_deleted(namespace: Namespace) -> None:
    """KubeRay speaks of its submitter, which has lost its head, not of the head (K2)."""
    name = begin(namespace)
    namespace.delete_pod(namespace.running(HEAD))

    assert ended(namespace, name)[::2] == ("Failed", "SubmissionFailed")


@pytest.mark.full
def test_its_head_is_out_of_memory(namespace: Namespace) -> None:
    """Its container is restarted in its pod, which is the only one to say why (K1f, K2)."""
    name = begin(namespace)
    namespace.kill(namespace.running(HEAD), "ray-head", "OOMKilled")

    assert ended(namespace, name)[::2] == ("Failed", "SubmissionFailed")
    (status,) = namespace.pods(HEAD)[0]["status"]["containerStatuses"]
    assert status["restartCount"] == 1
    assert status["lastState"]["terminated"]["reason"] == "OOMKilled"
    assert status["lastState"]["terminated"]["exitCode"] == 137


@pytest.mark.full
def test_its_head_is_evicted(namespace: Namespace) -> None:
    name = begin(namespace)
    head = namespace.running(HEAD)
    namespace.evict(head)

    assert ended(namespace, name)[::2] == ("Failed", "SubmissionFailed")
    assert "The node was low on resource: memory." in str(namespace.events()) or namespace.pods(HEAD)


@pytest.mark.alone
def test_the_operator_is_away(namespace: Namespace) -> None:
    """It goes on meanwhile, and its end is seen afterwards."""
    source = "import os, time\nprint('begun', flush=True)\nwhile not os.path.exists('/tmp/go'): time.sleep(0.1)"
    name = namespace.create(rayjob("gated", source))
    namespace.wait(lambda: namespace.states(name)[:2], ("Running", "RUNNING").__eq__, "it runs")
    namespace.cluster.operator.kill()
    namespace.run(namespace.running(HEAD), "ray-head", "touch", "/tmp/go")
    namespace.wait(lambda: namespace.pods(SUBMITTER)[0]["status"]["phase"], "Succeeded".__eq__, "it has ended")
    assert namespace.states(name)[1] == "RUNNING"
    namespace.cluster.start_operator()

    assert ended(namespace, name)[:2] == ("Complete", "SUCCEEDED")


@pytest.mark.alone
def test_the_api_server_is_away(namespace: Namespace) -> None:
    """Nothing of a run is lost."""
    name = begin(namespace)
    head = namespace.running(HEAD)
    namespace.cluster.api_server.kill()
    namespace.cluster.api_server.start()
    namespace.cluster.wait_for_api()

    assert namespace.states(name)[:2] == ("Running", "RUNNING")
    assert namespace.running(HEAD)["metadata"]["uid"] == head["metadata"]["uid"]
    assert "begun" in namespace.log(namespace.running(SUBMITTER))
