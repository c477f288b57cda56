"""The hooks for KubeRay: clusters that runs share, and the runs in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_glueray.core.errors import AccessDenied, ClusterEnded, JobConflict, StopError
from airflow_provider_glueray.core.follow import Waits
from airflow_provider_glueray.core.logs import LogCursor
from airflow_provider_glueray.core.runs import RunRef, RunState
from airflow_provider_glueray.core.spec import RayClusterSpec, RayJobSpec
from airflow_provider_glueray.hooks.kuberay.clusters import KubeRayClusterHook
from airflow_provider_glueray.hooks.kuberay.jobs import KubeRayHook

START, END = "2026-03-01T02:00:00Z", "2026-03-01T02:10:00Z"
RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING", "startTime": START}
DONE = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED", "startTime": START, "endTime": END}


@pytest.fixture
def clusters(cluster) -> KubeRayClusterHook:
    return KubeRayClusterHook()


@pytest.fixture
def create(clusters) -> Callable[..., RunRef]:
    """Return a function that makes a cluster and sees it ready."""

    def create(client_token: str = "c1", **fields: Any) -> RunRef:
        ref = clusters.prepare(RayClusterSpec(**{"name": "nightly-create", **fields}), 3600)(client_token)
        seen = [clusters.describe([ref])[ref].state for _ in range(2)]
        assert seen[-1] is RunState.SUCCEEDED
        return ref

    return create


@pytest.fixture
def start(hook) -> Callable[..., RunRef]:
    """Return a function that starts a run."""

    def start(client_token: str = "m1", **fields: Any) -> RunRef:
        spec = RayJobSpec(**{"name": "nightly-clean", "script": "s3://bucket/clean.py", **fields})
        return hook.prepare(spec).start(client_token, {})

    return start


def three(hook: Any, ref: RunRef) -> list[RunState]:
    """Return what a run looks like three times."""
    return [hook.describe([ref])[ref].state for _ in range(3)]


class TestClusters:
    def test_created_once(self, cluster, clusters, create):
        ref = create()

        assert create() == ref
        assert list(cluster.rayclusters) == [tuple(ref.id.split("/"))]
        assert [snapshot.ref for snapshot in clusters.find_runs("nightly-create", "c1")] == [ref]
        assert clusters.find_runs("nightly-create", "c2") == []

    def test_a_name_that_is_taken(self, cluster, create):
        ref = create()
        cluster.rayclusters[tuple(ref.id.split("/"))]["metadata"]["annotations"]["glueray/client-token"] = "another"

        with pytest.raises(JobConflict, match="taken by one with the client token 'another'"):
            create()

    def test_stopped_is_gone_with_its_pods(self, cluster, clusters, create):
        """It is over when nothing of it is left, and for whoever looks then."""
        ref = create()
        cluster.run_pod(ref.id, "ray-head")
        clusters.stop(ref)

        assert three(clusters, ref) == [RunState.STOPPING, RunState.STOPPED, RunState.STOPPED]
        assert (cluster.rayclusters, cluster.pods) == ({}, {})
        clusters.stop(ref)
        assert cluster.calls["delete rayclusters"] == 1
        other = KubeRayClusterHook().describe([ref])[ref]
        assert (other.state, other.raw_state, other.is_over) == (RunState.STOPPED, "deleted", True)

    def test_one_that_waits_for_its_image(self, cluster, clusters):
        """What it waits for is said while it waits, and when it has been deleted for that."""
        cluster.cluster_statuses = ({"observedGeneration": 1},)
        ref = clusters.prepare(RayClusterSpec(name="n"), None)("m")
        clusters.describe([ref])
        cluster.age(ref.id, Waits().pending_reason + 5)
        waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "i"'}
        cluster.run_pod(
            ref.id, "ray-head", "Pending", containerStatuses=[{"name": "ray-head", "state": {"waiting": waiting}}]
        )
        snapshot = clusters.describe([ref])[ref]
        assert (snapshot.state, snapshot.raw_state) == (RunState.STARTING, "provisioning/ImagePullBackOff")
        clusters.stop(ref)
        three(clusters, ref)

        assert 'Back-off pulling image "i"' in clusters.describe([ref])[ref].message

    def test_suspended_by_kueue(self, cluster, clusters):
        cluster.cluster_statuses = ({"state": "suspended"},)
        over = {"kuberay": {"labels": {"kueue.x-k8s.io/queue-name": "etl"}}}
        ref = clusters.prepare(RayClusterSpec(name="n", overrides=over), None)("m")
        snapshot = clusters.describe([ref])[ref]

        assert (snapshot.state, "queue etl" in snapshot.message) == (RunState.QUEUED, True)

    def test_logs_and_places(self, cluster, clusters, create):
        ref = create()
        pod = cluster.run_pod(ref.id, "ray-head")
        cluster.print(pod, "Ray runtime started.", container="ray-head")
        page = clusters.read_logs({ref: LogCursor()}, ("process",))[ref]

        assert [line.text for line in page.lines] == ["Ray runtime started."]
        assert clusters.url(ref).endswith(f"/apis/ray.io/v1/namespaces/etl/rayclusters/{ref.id[4:]}")
        assert clusters.logs_url(ref).endswith(f"pods?labelSelector=glueray/raycluster%3D{ref.id[4:]}")

    def test_a_list_of_them(self, clusters, create):
        """By what they have in common."""
        for client_token, dag in (("c1", "a"), ("c2", "a"), ("c3", "b")):
            create(client_token, tags={"airflow_dag_id": dag})

        assert len(clusters.list_clusters({})) == 3
        assert len(clusters.list_clusters({"glueray/dag": "a"})) == 2


class TestRunsInOne:
    def test_a_stop(self, cluster, hook, create, start):
        """The RayJob is deleted; who has asked for that sees the run stopped, who has not finds none."""
        ref = start(cluster=create().id)
        cluster.play(ref.id, RUNNING)
        hook.describe([ref])
        hook.stop(ref)

        assert three(hook, ref) == [RunState.STOPPING, RunState.STOPPED, RunState.STOPPED]
        assert cluster.stopped == [ref.id.split("/")[1]]
        assert KubeRayHook().describe([ref])[ref].state is RunState.LOST

    def test_who_knows_nothing_stops_it_in_ray_too(self, cluster, hook, create, start):
        """KubeRay asks Ray once, and lets go of the run whatever the answer is."""
        ref = start("m1", cluster=create().id)
        cluster.play(ref.id, RUNNING)
        hook.describe([ref])
        KubeRayHook().stop(ref)

        assert cluster.dashboard.statuses == {"glueray-m1": "STOPPED"}

    def test_who_has_seen_it_go(self, cluster, hook, create, start):
        """Such as a sensor that looks on while another task stops the run."""
        ref = start(cluster=create().id)
        cluster.play(ref.id, RUNNING)
        hook.describe([ref])
        hook.stop(ref)

        assert three(KubeRayHook(), ref) == [RunState.STOPPING, RunState.STOPPED, RunState.STOPPED]

    def test_a_stop_before_kuberay_has_seen_it(self, cluster, hook, create, start):
        ref = start(cluster=create().id)
        hook.stop(ref)

        assert hook.describe([ref])[ref].state is RunState.STOPPED
        assert cluster.rayjobs == {}

    def test_what_had_ended_has_ended(self, cluster, hook, create, start):
        """Also when it is deleted later."""
        ref = start(cluster=create().id)
        cluster.play(ref.id, DONE)
        hook.describe([ref])
        hook.stop(ref)
        assert cluster.calls["delete rayjobs"] == 0
        cluster.rayjobs[tuple(ref.id.split("/"))]["metadata"]["deletionTimestamp"] = END

        assert three(hook, ref) == [RunState.SUCCEEDED] * 3

    def test_without_the_right_to_delete(self, cluster, hook, create, start):
        ref = start(cluster=create().id)
        cluster.denied.add(("delete", "rayjobs"))

        with pytest.raises(StopError, match='cannot delete resource "rayjobs"'):
            hook.stop(ref)

    def test_fifty_runs_are_two_calls(self, cluster, hook, create, start):
        """The second tells whether their clusters are there."""
        there = [create(f"c{count}").id for count in range(3)]
        refs = [start(f"m{count}", cluster=there[count % 3]) for count in range(50)]
        for ref in refs:
            cluster.play(ref.id, RUNNING)
        before = cluster.calls.copy()
        found = hook.describe(refs)

        assert {snapshot.state for snapshot in found.values()} == {RunState.RUNNING}
        assert cluster.calls - before == {"list rayjobs": 1, "list rayclusters": 1}

    def test_the_cluster_is_gone(self, cluster, hook, create, start):
        """KubeRay leaves the status as it was, so we look; the run has failed, and its RayJob goes."""
        ref = start(cluster=create().id)
        cluster.play(ref.id, RUNNING)
        hook.describe([ref])
        cluster.rayclusters.clear()
        seen = hook.describe([ref])[ref]

        assert cluster.rayjobs[tuple(ref.id.split("/"))]["metadata"]["deletionTimestamp"]
        assert (seen.state, three(hook, ref)) == (RunState.FAILED, [RunState.FAILED] * 3)
        assert "RayClusterGone: the cluster etl/" in seen.message

    def test_that_clusters_may_not_be_seen(self, cluster, hook, create, start):
        """By a role from before there were any: the run goes on; the next is refused in words."""
        there = create().id
        ref = start(cluster=there)
        cluster.play(ref.id, RUNNING)
        cluster.denied.add(("list", "rayclusters"))

        assert hook.describe([ref])[ref].state is RunState.RUNNING
        with pytest.raises(AccessDenied, match=r'cannot list resource "rayclusters".*and rayclusters\.ray\.io'):
            start("m2", cluster=there)

    def test_one_that_was_never_made(self, cluster, start):
        with pytest.raises(ClusterEnded, match="The cluster etl/never is not there"):
            start(cluster="etl/never")
        assert cluster.calls["create rayjobs"] == 0

    def test_kuberay_refuses_to_suspend_it(self, cluster, hook, create, start):
        """Which is why it is deleted."""
        ref = start(cluster=create().id)
        cluster.rayjobs[tuple(ref.id.split("/"))]["spec"]["suspend"] = True
        snapshot = hook.describe([ref])[ref]

        assert snapshot.raw_state == "ValidationFailed"
        assert "suspend" in snapshot.message
