"""One driver at most, and no verdict but success while it may live: whatever is lost, and whenever.

The script itself notes each of its starts in S3, and that it lives; nothing of the project is asked about either.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import boto3
import pytest

from airflow_provider_glueray.core.runs import RunRef, RunState
from airflow_provider_glueray.core.spec import Workers
from tests.contract.test_runs import Bench
from tests.kubernetes.cluster import BUCKET, S3_URL, Cluster
from tests.kubernetes.namespace import HEAD, WORKER, Namespace
from tests.kubernetes.parts import Part

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(1200)]

SOURCE = f"""
import boto3, os, time, uuid
s3, where = boto3.client("s3"), os.environ["where"]
s3.put_object(Bucket={BUCKET!r}, Key=f"{{where}}/starts/{{uuid.uuid4().hex}}")
print("begun", flush=True)
while not s3.list_objects_v2(Bucket={BUCKET!r}, Prefix=f"{{where}}/end").get("KeyCount"):
    s3.put_object(Bucket={BUCKET!r}, Key=f"{{where}}/alive", Body=str(time.time()).encode())
    time.sleep(0.2)
print("ended", flush=True)
"""
#: Seconds after a verdict in which a driver that lives would have said so many times.
QUIET = 5.0


class Run:
    """A run of the script, and what it says of itself."""

    def __init__(self, namespace: Namespace, bench: Bench, folder: Path) -> None:
        self.namespace, self.bench, self.folder = namespace, bench, folder
        self.where = f"{namespace.name}/one-driver"
        keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "us-east-1"}
        self.s3 = boto3.client("s3", endpoint_url=S3_URL, **keys)
        self.ref: RunRef = bench.start(SOURCE, arguments={"where": self.where}, workers=Workers(2, 1))
        self.name = self.ref.id.partition("/")[2]

    def starts(self) -> int:
        """Return how often the script has started."""
        return int(self.s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{self.where}/starts/").get("KeyCount", 0))

    def alive(self) -> str:
        """Return when the script was alive last, in its own words."""
        found = self.s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{self.where}/alive").get("KeyCount")
        return self.s3.get_object(Bucket=BUCKET, Key=f"{self.where}/alive")["Body"].read().decode() if found else ""

    def end(self) -> None:
        """Let the script end."""
        self.s3.put_object(Bucket=BUCKET, Key=f"{self.where}/end", Body=b"")

    def reach(self, state: str) -> None:
        """Wait until the run has come so far."""
        wait = self.namespace.wait
        if state == "starting":
            wait(lambda: self.namespace.pods(HEAD), what="there is a head")
        elif state == "submitting":
            self.namespace.running(HEAD)
        else:
            wait(self.starts, what="the script has started")
        if state == "ending":
            self.end()
            wait(lambda: self.namespace.states(self.name)[1], "SUCCEEDED".__eq__, "its Ray job has ended")


def delete_head(run: Run) -> None:
    """Delete the head, as somebody does who drains its node."""
    for pod in run.namespace.pods(HEAD):
        run.namespace.delete_pod(pod)


def kill_head(run: Run) -> None:
    """Let the head take more memory than it may."""
    pod = run.namespace.wait(lambda: [pod for pod in run.namespace.pods(HEAD) if has_begun(pod)])[0]
    run.namespace.kill(pod, "ray-head", "OOMKilled")


def evict_head(run: Run) -> None:
    """Let the node be short of memory."""
    run.namespace.evict(run.namespace.wait(lambda: [pod for pod in run.namespace.pods(HEAD) if has_begun(pod)])[0])


def delete_cluster(run: Run) -> None:
    """Delete the RayCluster under the run."""
    base = f"/apis/ray.io/v1/namespaces/{run.namespace.name}/rayclusters"
    for cluster in run.namespace.wait(lambda: run.namespace.api.get(base)["items"]):
        run.namespace.api.delete(f"{base}/{cluster['metadata']['name']}")


def kill_worker(run: Run) -> None:
    """Let a worker take more memory than it may; the head goes on."""
    pod = run.namespace.wait(lambda: [pod for pod in run.namespace.pods(WORKER) if has_begun(pod)])[0]
    run.namespace.kill(pod, "ray-worker", "OOMKilled")


def delete_worker(run: Run) -> None:
    """Delete a worker, as somebody does who drains its node."""
    run.namespace.delete_pod(run.namespace.wait(lambda: run.namespace.pods(WORKER))[0])


def restart_operator(run: Run) -> None:
    """Kill the operator, and bring it back."""
    run.namespace.cluster.operator.kill()
    run.namespace.cluster.start_operator()


def restart_api_server(run: Run) -> None:
    """Kill the API server, and bring it back."""
    restart(run.namespace.cluster, run.namespace.cluster.api_server)


def restart_etcd(run: Run) -> None:
    """Kill what holds the state of the cluster, and bring it back."""
    restart(run.namespace.cluster, run.namespace.cluster.etcd)


def restart_controllers(run: Run) -> None:
    """Kill what makes pods of Jobs and ends pods of owners that are gone, and bring it back."""
    restart(run.namespace.cluster, run.namespace.cluster.controllers)


def restart_scheduler(run: Run) -> None:
    """Kill what finds nodes for pods, and bring it back."""
    restart(run.namespace.cluster, run.namespace.cluster.scheduler)


def restart(cluster: Cluster, part: Part) -> None:
    part.kill()
    part.start()
    cluster.wait_for_api()


def silence_node(run: Run) -> None:
    """Let the node of the head give no sign of life until it is called NotReady."""
    head = run.namespace.wait(lambda: [pod for pod in run.namespace.pods(HEAD) if pod["spec"].get("nodeName")])[0]
    node = head["spec"]["nodeName"]

    def is_ready() -> str:
        conditions = run.namespace.api.get(f"/api/v1/nodes/{node}")["status"]["conditions"]
        return str(next(each["status"] for each in conditions if each["type"] == "Ready"))

    run.namespace.cluster.kubelets[node].signal(signal.SIGSTOP)
    run.namespace.wait(is_ready, "Unknown".__eq__, f"{node} is NotReady")
    run.namespace.cluster.kubelets[node].signal(signal.SIGCONT)


def lose_follower(run: Run) -> None:
    """Let the process that follows the run die: another one knows nothing but what the run is called."""
    run.bench = Bench(run.bench.place, run.folder)


def has_begun(pod: dict[str, Any]) -> bool:
    """Tell whether the containers of a pod have been started."""
    states = [each.get("state") or {} for each in pod["status"].get("containerStatuses") or ()]
    return bool(states) and all("running" in state for state in states)


def give_up(run: Run) -> None:
    """Let KubeRay fail the run while its driver lives, as it does when it cannot reach the head for long enough."""
    path = f"/apis/ray.io/v1/namespaces/{run.namespace.name}/rayjobs/{run.name}/status"
    status = {"jobDeploymentStatus": "Failed", "reason": "JobStatusCheckTimeoutExceeded", "message": "gave up"}
    run.namespace.api.patch(path, {"status": status})


def delete_rayjob(run: Run) -> None:
    """Delete the RayJob under the run."""
    run.namespace.api.delete(f"/apis/ray.io/v1/namespaces/{run.namespace.name}/rayjobs/{run.name}")


#: What ends a run's driver, what ends it by word only, and what does not.
DEADLY, BY_WORD, HARMLESS = (
    {each.__name__: each for each in faults}
    for faults in (
        (delete_head, kill_head, evict_head, delete_cluster),
        (give_up, delete_rayjob),
        (
            kill_worker, delete_worker, lose_follower, restart_operator, restart_api_server, restart_etcd,
            restart_controllers, restart_scheduler, silence_node,
        ),
    )
)  # fmt: skip
#: Those that take a part of the cluster away from everybody, and those that CI has no time for.
ALONE = {
    "restart_operator",
    "restart_api_server",
    "restart_etcd",
    "restart_controllers",
    "restart_scheduler",
    "silence_node",
}
SLOW = {"restart_etcd", "restart_scheduler", "silence_node"}
STATES = ("starting", "submitting", "running", "ending")


def cases(faults: Iterable[str]) -> list[Any]:
    """Return each fault in each state; CI has time for most while the run is running."""
    return [
        pytest.param(
            name,
            state,
            marks=[
                *([pytest.mark.alone] if name in ALONE else []),
                *([] if state == "running" and name not in SLOW else [pytest.mark.full]),
            ],
            id=f"{name}-{state}",
        )
        for name in faults
        for state in STATES
    ]


@pytest.fixture
def run(namespace: Namespace, make_bench: Callable[..., Bench], tmp_path: Path) -> Run:
    return Run(namespace, make_bench(), tmp_path)


def expect_silence(run: Run) -> None:
    """Expect that no driver says that it lives, and that there was one start at most."""
    last, end = run.alive(), time.monotonic() + QUIET
    while time.monotonic() < end:
        assert run.alive() == last, "a driver lives after the verdict"
        time.sleep(0.2)
    assert run.starts() <= 1


@pytest.mark.parametrize(("fault", "state"), cases(DEADLY))
def test_what_ends_it(run: Run, fault: str, state: str) -> None:
    """The run fails, or was done already; KubeRay may make a new head, but no second driver."""
    run.reach(state)
    DEADLY[fault](run)
    if state in ("starting", "submitting"):  # KubeRay may make a new head, whose script would not end by itself
        run.end()
    outcome, _ = run.bench.wait(run.ref)

    expect_silence(run)
    if state == "ending":
        assert outcome.snapshot.state is RunState.SUCCEEDED
    elif state == "running":
        assert outcome.snapshot.state is RunState.FAILED
        assert run.starts() == 1
    else:
        assert outcome.snapshot.state in (RunState.SUCCEEDED, RunState.FAILED)


@pytest.mark.parametrize(("fault", "state"), cases(BY_WORD))
def test_what_ends_it_by_word_only(run: Run, fault: str, state: str) -> None:
    """The verdict is that it has failed, and waits until that is true."""
    run.reach(state)
    BY_WORD[fault](run)
    outcome, _ = run.bench.wait(run.ref)

    expect_silence(run)
    if state != "ending":  # by then it may have been seen to succeed
        assert outcome.snapshot.state in (RunState.FAILED, RunState.STOPPED, RunState.LOST)
    if state == "running":
        assert run.starts() == 1


@pytest.mark.parametrize(("fault", "state"), cases(HARMLESS))
def test_what_does_not_end_it(run: Run, fault: str, state: str) -> None:
    """The run succeeds with its one driver."""
    run.reach(state)
    HARMLESS[fault](run)
    run.end()
    outcome, printed = run.bench.wait(run.ref)

    assert outcome.snapshot.state is RunState.SUCCEEDED
    assert printed[-2:] == ["begun", "ended"]
    expect_silence(run)
    assert run.starts() == 1
