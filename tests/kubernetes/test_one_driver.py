"""One driver at most, and no verdict but success while it may live: whatever is lost, and whenever.

The script itself notes each of its starts in S3, and that it lives; nothing of the project is asked about either.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import boto3
import pytest

from airflow_provider_glueray.core.runs import RunRef, RunState
from airflow_provider_glueray.core.spec import Workers
from tests.contract.test_runs import Bench
from tests.kubernetes.cluster import BUCKET, S3_URL
from tests.kubernetes.namespace import HEAD, WORKER, Namespace

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

    def __init__(self, namespace: Namespace, bench: Bench) -> None:
        self.namespace, self.bench = namespace, bench
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


def restart_operator(run: Run) -> None:
    """Kill the operator, and bring it back."""
    run.namespace.cluster.operator.kill()
    run.namespace.cluster.start_operator()


def restart_api_server(run: Run) -> None:
    """Kill the API server, and bring it back."""
    run.namespace.cluster.api_server.kill()
    run.namespace.cluster.api_server.start()
    run.namespace.cluster.wait_for_api()


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


#: What ends a run's driver, and what does not.
DEADLY: dict[str, Callable[[Run], None]] = {
    each.__name__: each for each in (delete_head, kill_head, evict_head, delete_cluster)
}
HARMLESS: dict[str, Callable[[Run], None]] = {
    each.__name__: each for each in (kill_worker, restart_operator, restart_api_server)
}
STATES = ("starting", "submitting", "running", "ending")


def cases(faults: dict[str, Callable[[Run], None]], quick: tuple[str, ...]) -> list[Any]:
    """Return each fault in each state; those that CI has no time for are marked `full`."""
    return [
        pytest.param(name, state, marks=[] if state in quick else [pytest.mark.full], id=f"{name}-{state}")
        for name in faults
        for state in STATES
    ]


@pytest.fixture
def run(namespace: Namespace, make_bench: Callable[..., Bench]) -> Run:
    return Run(namespace, make_bench())


def expect_silence(run: Run) -> None:
    """Expect that no driver says that it lives, and that there was one start at most."""
    last, end = run.alive(), time.monotonic() + QUIET
    while time.monotonic() < end:
        assert run.alive() == last, "a driver lives after the verdict"
        time.sleep(0.2)
    assert run.starts() <= 1


@pytest.mark.parametrize(("fault", "state"), cases(DEADLY, ("running",)))
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


@pytest.mark.parametrize("fault", [give_up, delete_rayjob])
def test_what_ends_it_by_word_only(run: Run, fault: Callable[[Run], None]) -> None:
    """The verdict is that it has failed, and waits until that is true."""
    run.reach("running")
    fault(run)
    outcome, _ = run.bench.wait(run.ref)

    expect_silence(run)
    assert outcome.snapshot.state in (RunState.FAILED, RunState.STOPPED, RunState.LOST)
    assert run.starts() == 1


@pytest.mark.alone
@pytest.mark.parametrize(("fault", "state"), cases(HARMLESS, ("running",)))
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
