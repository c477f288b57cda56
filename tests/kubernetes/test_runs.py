"""The project's own runs, where it matters that the cluster is a real one."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from airflow_provider_glueray.core.runs import RunState
from airflow_provider_glueray.core.spec import Workers
from airflow_provider_glueray.hooks.kuberay.jobs import KubeRayHook
from tests.contract.test_runs import Bench
from tests.kubernetes.api import ApiError
from tests.kubernetes.namespace import HEAD, WORKER, Namespace

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(900)]

GATED = (
    "import os, time\nprint('begun', flush=True)\nwhile not os.path.exists('/tmp/go'): time.sleep(0.1)\nprint('ended')"
)


@pytest.mark.full
@pytest.mark.alone
def test_the_default_fits_the_node_of_the_guide(make_bench: Callable[..., Bench]) -> None:
    """Head and worker are each a Z.2X, and an r7g.2xlarge has room for one beside what Ray and KubeRay add."""
    bench = make_bench(resources={})
    outcome, printed = bench.wait(bench.start("print('hello')\n", workers=Workers(2, min_workers=1)))

    assert outcome.snapshot.state is RunState.SUCCEEDED
    assert "hello" in printed


@pytest.mark.parametrize("token_auth", [True, pytest.param(False, marks=pytest.mark.full)])
def test_who_may_talk_to_the_head(namespace: Namespace, make_bench: Callable[..., Bench], token_auth: bool) -> None:
    """Nobody without its token, where the release has that; the log is read all the same."""
    bench = make_bench(token_auth=token_auth)
    asks = token_auth and namespace.cluster.has_field("rayclusters", "spec.authOptions")
    ref = bench.start(GATED)
    bench.until(ref, RunState.RUNNING)
    head = namespace.running(HEAD)
    service = f"{head['metadata']['labels']['ray.io/cluster']}-head-svc"
    try:
        # By somebody who may do everything in Kubernetes, but has no token of Ray.
        namespace.api.get(f"{namespace.path}/services/{service}:8265/proxy/api/jobs/")
        status = 200
    except ApiError as error:
        status = error.status
    namespace.run(head, "ray-head", "touch", "/tmp/go")
    outcome, printed = bench.wait(ref)

    assert status == (401 if asks else 200)
    assert outcome.snapshot.state is RunState.SUCCEEDED
    assert printed[-2:] == ["begun", "ended"]


@pytest.mark.full
def test_a_flood_is_whole(make_bench: Callable[..., Bench]) -> None:
    """400,000 lines at once, which is more than a kubelet keeps of the log of a pod (K3)."""
    count = 400_000
    source = f"import sys\nsys.stdout.write(''.join(f'line {{n}} {{\"x\" * 80}}\\n' for n in range({count})))\n"
    outcome, printed = make_bench().wait(make_bench().start(source))

    assert outcome.snapshot.state is RunState.SUCCEEDED
    assert [int(line.split()[1]) for line in printed if line.startswith("line ")] == list(range(count))


def test_what_it_uses(namespace: Namespace, make_bench: Callable[..., Bench]) -> None:
    """A head and two workers of 1 CPU and 2Gi each, while they were up."""
    bench = make_bench()
    ref = bench.start(GATED, workers=Workers(2, 2))
    namespace.wait(
        lambda: [pod["status"]["phase"] for pod in namespace.pods(WORKER)],
        ["Running", "Running"].__eq__,
        "both workers are up",
    )
    bench.until(ref, RunState.RUNNING)
    namespace.run(namespace.running(HEAD), "ray-head", "touch", "/tmp/go")
    outcome, _ = bench.wait(ref)
    used = outcome.snapshot.usage

    assert used is not None
    assert (used.workers, used.mdpu_hours) == (3, 0.0)
    assert used.vcpu_hours is not None
    assert used.gib_hours == pytest.approx(used.vcpu_hours * 2)
    assert 0 < used.vcpu_hours <= used.seconds * 3 / 3600


@pytest.mark.full
@pytest.mark.alone
def test_a_node_that_does_not_answer(namespace: Namespace, make_bench: Callable[..., Bench]) -> None:
    """It is said, the run goes on, and no line of it is lost or shown twice (K13)."""
    bench = make_bench()
    ref = bench.start(GATED)
    bench.until(ref, RunState.RUNNING)
    head = namespace.running(HEAD)
    kubelet = namespace.cluster.kubelets[head["spec"]["nodeName"]]
    hook = bench.hook
    assert isinstance(hook, KubeRayHook)
    kubelet.signal(signal.SIGSTOP)
    silent = namespace.wait(
        lambda: hook.describe([ref])[ref], lambda seen: "NodeNotReady" in seen.raw_state, "the node is told of"
    )
    kubelet.signal(signal.SIGCONT)
    namespace.wait(lambda: hook.describe([ref])[ref].raw_state, "Running/RUNNING".__eq__, "the node is back")
    namespace.run(head, "ray-head", "touch", "/tmp/go")
    outcome, printed = bench.wait(ref)

    assert silent.state is RunState.RUNNING
    assert f"The node {head['spec']['nodeName']}" in silent.message
    assert outcome.snapshot.state is RunState.SUCCEEDED
    assert printed[-2:] == ["begun", "ended"]
