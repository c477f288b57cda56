"""The hook for KubeRay against a server that behaves like the API of a Kubernetes cluster, through the real client."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_glueray.core.drivers import run_sync
from airflow_provider_glueray.core.errors import (
    AccessDenied,
    CapacityExceeded,
    ConnectionConfigError,
    InvalidRequest,
    JobConflict,
    RunTimedOut,
    SpecError,
    StopError,
    SubmitError,
    SubmitOutcomeUnknown,
    failure_of,
)
from airflow_provider_glueray.core.follow import FollowPolicy, Waits, follow
from airflow_provider_glueray.core.logs import SCRIPT, LogCursor
from airflow_provider_glueray.core.runs import KUBERAY_JOB, Outcome, RunRef, RunState, Usage
from airflow_provider_glueray.core.spec import RayJobSpec
from airflow_provider_glueray.hooks.kuberay import logs, runs
from airflow_provider_glueray.hooks.kuberay.head import secret_of
from airflow_provider_glueray.hooks.kuberay.jobs import KubeRayHook
from airflow_provider_glueray.hooks.kuberay.status import time_of
from tests.hooks.kuberay import kubernetes_api

START, END = "2026-03-01T02:00:00Z", "2026-03-01T02:10:00Z"
RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING", "startTime": START}
DONE = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED", "startTime": START, "endTime": END}
FAILED = {
    "jobDeploymentStatus": "Failed", "jobStatus": "RUNNING", "reason": "JobStatusCheckTimeoutExceeded",
    "startTime": START, "endTime": END,
}  # fmt: skip
WAITING_TOO_LONG = Waits().pending_reason + 5


def just_now() -> str:
    """Return a time as Kubernetes tells it; how long a start takes is reckoned by the clocks of machines."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def spec(**fields: Any) -> RayJobSpec:
    """Return the spec of a job whose script nobody runs."""
    return RayJobSpec(**{"name": "nightly-clean", "script": "s3://bucket/clean.py", **fields})


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Return a cluster with KubeRay in it."""
    with kubernetes_api.serving() as running:
        yield running


@pytest.fixture
def hook(cluster, monkeypatch) -> KubeRayHook:
    """Return a hook on the cluster, through an Airflow connection."""
    connection = cluster.config(kuberay={"image": "ours/ray:2.4.0"})
    monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps(connection))
    return KubeRayHook()


@pytest.fixture
def start(hook) -> Callable[..., RunRef]:
    """Return a function that starts a run."""

    def start(client_token: str = "m1", run_timeout: float | None = None, **fields: Any) -> RunRef:
        return hook.prepare(spec(**fields), run_timeout=run_timeout).start(client_token, {})

    return start


@pytest.fixture
def told() -> list[str]:
    """Return what the task's log was told."""
    return []


@pytest.fixture
def watch(hook, told, set_clock) -> Callable[..., Outcome]:
    """Return a function that follows a run to its end, on a clock that does not wait."""
    now = SimpleNamespace(time=0.0)

    def sleep(seconds: float) -> None:
        now.time += seconds

    def log(level: int, text: str, *values: Any) -> None:
        told.append(text % values)

    def watch(ref: RunRef, **policy: Any) -> Outcome:
        now.time = policy.pop("now", 1_772_330_400.0)
        writer = SimpleNamespace(log=log, info=lambda text, *values: log(logging.INFO, text, *values))
        set_clock(lambda: now.time, sleep)
        return run_sync(follow(ref, FollowPolicy(**policy)), hook, ref, writer)

    return watch


class TestReleases:
    """What a release of KubeRay has not, it is not sent; the API server says what it has."""

    @pytest.mark.parametrize(
        ("lacks", "there"),
        [
            ((), {"authOptions", "preRunningDeadlineSeconds"}),
            (("preRunningDeadlineSeconds",), {"authOptions"}),
            (("authOptions", "preRunningDeadlineSeconds"), set()),
        ],
    )
    def test_a_run(self, cluster, hook, start, lacks, there):
        cluster.lacks = frozenset(lacks)
        ref = start(overrides={"kuberay": {"ray_version": "2.60.0", "startup_timeout": 600}})

        spec = cluster.rayjobs[tuple(ref.id.split("/"))]["spec"]
        assert {name for name in (*spec, *spec["rayClusterSpec"]) if name in ("authOptions", *lacks, *there)} == there
        assert spec.get("preRunningDeadlineSeconds", 720) == 720
        assert spec["rayClusterSpec"].get("authOptions", {"mode": "token"}) == {"mode": "token"}

    def test_a_typing_error_is_still_one(self, cluster, hook, start):
        cluster.lacks = frozenset({"authOptions"})
        with pytest.raises(InvalidRequest, match="nodeSelektor"):
            start(overrides={"kuberay": {"ray_version": "2.60.0", "head_pod": {"spec": {"nodeSelektor": {}}}}})

    def test_the_schema_may_not_be_seen(self, cluster, hook, start):
        """Then the run does without."""
        cluster.denied.add(("get", "openapi"))
        ref = start(overrides={"kuberay": {"ray_version": "2.60.0"}})

        assert "authOptions" not in cluster.rayjobs[tuple(ref.id.split("/"))]["spec"]["rayClusterSpec"]

    @pytest.mark.parametrize(
        ("given", "has"),
        [
            ({"ray_version": "2.52.0"}, True),
            ({"ray_version": "2.51.9"}, False),
            ({"ray_version": "3.0.0rc1"}, True),
            ({}, False),  # Ray 2.4 has no tokens
            ({"ray_version": "2.60.0", "token_auth": False}, False),
        ],
    )
    def test_which_heads_ask_for_a_token(self, cluster, hook, start, given, has):
        """Those of a Ray that can, unless they are told not to."""
        ref = start(overrides={"kuberay": given})

        spec = cluster.rayjobs[tuple(ref.id.split("/"))]["spec"]["rayClusterSpec"]
        assert ("authOptions" in spec) is has


class TestStart:
    """Never two."""

    def test_created_once(self, cluster, hook, start):
        ref = start("m1", arguments={"airflow_dag_id": "d"}, run_timeout=90.2)

        [(place, rayjob)] = cluster.rayjobs.items()
        assert ref == RunRef(KUBERAY_JOB, "nightly-clean", "/".join(place))
        assert rayjob["spec"]["activeDeadlineSeconds"] == 91
        assert start("m1") == ref
        assert len(cluster.rayjobs) == 1
        assert start("m2") != ref

    def test_the_answer_is_lost(self, cluster, hook, start):
        """The next request finds what the first has made."""
        cluster.lost_answers = 1
        ref = start()

        assert [snapshot.ref for snapshot in hook.find_runs("nightly-clean", "m1")] == [ref]
        assert cluster.calls["create rayjobs"] == 2
        assert len(cluster.rayjobs) == 1

    def test_no_answer_at_all(self, cluster, start):
        cluster.refusals.extend([500, 500, 500])

        with pytest.raises(SubmitOutcomeUnknown, match="etcdserver: request timed out"):
            start()

    def test_a_name_that_is_taken(self, cluster, start):
        """By hand, or by a strange coincidence: it is not ours to follow."""
        ref = start()
        namespace, name = ref.id.split("/")
        cluster.rayjobs[namespace, name]["metadata"]["annotations"]["glueray/client-token"] = "another"

        with pytest.raises(JobConflict, match="taken by one with the client token 'another'"):
            start()

    def test_a_quota(self, cluster, start):
        """Full is not failed: the operator waits."""
        cluster.quota = "etl, requested: count/rayjobs.ray.io=1, used: 5, limited: 5"

        with pytest.raises(CapacityExceeded, match="exceeded quota: etl"):
            start()

    def test_too_many_requests(self, cluster, start):
        cluster.refusals.append(429)

        with pytest.raises(CapacityExceeded):
            start()

    def test_no_permission(self, cluster, start):
        """Which verb on what is said, and what it takes in all."""
        cluster.denied.add(("create", "rayjobs"))

        with pytest.raises(AccessDenied, match=r'cannot create resource "rayjobs".*create, get, list, patch'):
            start()

    def test_no_kuberay(self, cluster, start):
        cluster.has_kuberay = False

        with pytest.raises(InvalidRequest, match="is the KubeRay operator installed"):
            start()

    def test_no_such_namespace(self, cluster, start):
        cluster.namespaces.clear()

        with pytest.raises(InvalidRequest, match='namespaces "etl" not found'):
            start()

    def test_a_token_that_is_refused(self, cluster, monkeypatch):
        connection = cluster.config(kuberay={"image": "i"})
        connection["extra"]["kube_config"]["users"][0]["user"]["token"] = "old"
        monkeypatch.setenv("AIRFLOW_CONN_OLD", json.dumps(connection))

        with pytest.raises(AccessDenied, match="Unauthorized"):
            KubeRayHook("old").prepare(spec()).start("m", {})

    def test_nobody_there(self, cluster, monkeypatch):
        connection = cluster.config(kuberay={"image": "i"})
        connection["extra"]["kube_config"]["clusters"][0]["cluster"]["server"] = "http://127.0.0.1:9"
        monkeypatch.setenv("AIRFLOW_CONN_AWAY", json.dumps(connection))

        with pytest.raises(SubmitError, match="cannot be reached"):
            KubeRayHook("away").prepare(spec()).start("m", {})

    def test_no_connection(self):
        with pytest.raises(ConnectionConfigError, match="'nowhere'"):
            KubeRayHook("nowhere").prepare(spec())

    def test_a_member_that_kubernetes_does_not_know(self, start):
        """Strict: it would be dropped without a word else."""
        over = {"kuberay": {"head_pod": {"spec": {"nodeSelecter": {}}}}}

        with pytest.raises(InvalidRequest, match=r"strict decoding error.*nodeSelecter"):
            start(overrides=over)

    def test_settings(self, cluster, hook, start):
        """Of the connection, and over it those of the task; what is unknown is refused before anything is made."""
        place = start(overrides={"kuberay": {"service_account": "etl-writer"}}).id
        cluster_spec = cluster.rayjobs[tuple(place.split("/"))]["spec"]["rayClusterSpec"]
        pod = cluster_spec["headGroupSpec"]["template"]["spec"]
        assert (pod["containers"][0]["image"], pod["serviceAccountName"]) == ("ours/ray:2.4.0", "etl-writer")

        with pytest.raises(SpecError, match="there is no 'serviceaccount'"):
            start(overrides={"kuberay": {"serviceaccount": "x"}})

    def test_what_is_not_used_is_said_once(self, hook, monkeypatch):
        said = []
        monkeypatch.setattr(hook.log, "warning", lambda text, *values: said.append(text % values))
        for _ in range(2):
            hook.prepare(spec(role="GlueRayRole", logging_configuration={"S3": False}, max_concurrent_runs=2))

        assert len(said) == 3
        assert "IRSA" in said[0]


class TestStaging:
    def test_local_files(self, cluster, start, clean_endpoint, monkeypatch, tmp_path, hook):
        """They go to S3 by the connection that the extra names."""
        script = tmp_path / "etl.py"
        script.write_text("print(1)\n")
        monkeypatch.setenv("AIRFLOW_CONN_S3", json.dumps(clean_endpoint.airflow_connection()))
        connection = cluster.config(kuberay={"image": "i"}, aws_conn_id="s3")
        monkeypatch.setenv("AIRFLOW_CONN_WITH_S3", json.dumps(connection))
        prepared = KubeRayHook("with_s3").prepare(spec(script=str(script)), "s3://glueray-local/code")
        place = tuple(prepared.start("m", {"day": "2026-03-01"}).id.split("/"))

        head = cluster.rayjobs[place]["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
        env = {each["name"]: each["value"] for each in head["env"]}
        assert env["GLUERAY_SCRIPT"].startswith("s3://glueray-local/code/etl-")
        assert env["day"] == "2026-03-01"

    def test_without_a_place(self, hook, tmp_path):
        script = tmp_path / "etl.py"
        script.write_text("print(1)\n")

        with pytest.raises(SpecError, match="needs an S3 prefix"):
            hook.prepare(spec(script=str(script)))


class TestDescribe:
    """What has become of runs, and what it costs to know."""

    def test_fifty_runs_are_two_calls(self, cluster, hook, start):
        """One for the runs, and one for their heads."""
        refs = [start(f"m{count}") for count in range(50)]
        for ref in refs:
            cluster.play(ref.id, RUNNING)
        before = cluster.calls.total()
        found = hook.describe(refs)

        assert {snapshot.state for snapshot in found.values()} == {RunState.RUNNING}
        assert cluster.calls.total() - before == 2

    def test_of_two_namespaces(self, cluster, hook, start, monkeypatch):
        monkeypatch.setenv(
            "AIRFLOW_CONN_OTHER", json.dumps(cluster.config(namespace="default", kuberay={"image": "i"}))
        )
        refs = [start(), KubeRayHook("other").prepare(spec()).start("m1", {})]

        assert [ref.id.split("/")[0] for ref in refs] == ["etl", "default"]
        assert all(snapshot.state is RunState.QUEUED for snapshot in hook.describe(refs).values())

    def test_one_that_is_gone(self, cluster, hook, start):
        ref = start()
        cluster.rayjobs.clear()

        assert hook.describe([ref])[ref].state is RunState.LOST
        assert hook.find_runs("nightly-clean", "m1") == []

    def test_that_kuberay_is_gone_is_no_loss(self, cluster, hook, start):
        """Nothing is known of the run then, so the poll fails and is repeated."""
        ref = start()
        cluster.has_kuberay = False

        with pytest.raises(InvalidRequest, match="KubeRay"):
            hook.describe([ref])

    def test_usage(self, cluster, hook, start, monkeypatch):
        """A head and two workers of 7 vCPU and 56 GiB, and the autoscaler."""
        ref = start()
        cluster.play(ref.id, RUNNING, DONE)
        monkeypatch.setattr(runs, "time", SimpleNamespace(time=lambda: time_of(START) + 300))
        running, done = (hook.describe([ref])[ref].usage for _ in range(2))

        assert running is None
        assert done == Usage(600, 3, 0.0, pytest.approx(21.5 / 6), pytest.approx(168.5 / 6))

    def test_usage_of_a_run_that_is_stopped(self, cluster, hook, start, monkeypatch):
        """KubeRay sets no end, forgets what ran, and its pods are gone: suspended time costs nothing."""
        ref = start()
        now = SimpleNamespace(time=time_of(START))
        monkeypatch.setattr(runs, "time", SimpleNamespace(time=lambda: now.time))
        cluster.play(ref.id, RUNNING)
        hook.describe([ref])
        now.time += 600
        hook.stop(ref)
        seen = []
        for _ in range(2):
            now.time += 60
            seen.append(hook.describe([ref])[ref])

        assert [each.state for each in seen] == [RunState.STOPPING, RunState.STOPPED]
        assert seen[1].usage == Usage(720, 3, 0.0, pytest.approx(660 * 21.5 / 3600), pytest.approx(660 * 168.5 / 3600))

    def test_usage_of_a_run_without_pods(self, cluster, hook, start):
        """What never ran costs nothing."""
        ref = start()
        cluster.play(
            ref.id,
            {"jobDeploymentStatus": "Initializing", "startTime": START},
            {**DONE, "jobDeploymentStatus": "Failed", "jobStatus": "", "reason": "DeadlineExceeded"},
        )
        cluster.make_cluster = lambda place: None
        usage = [hook.describe([ref])[ref].usage for _ in range(2)][1]

        assert (usage.workers, usage.vcpu_hours, usage.gib_hours) == (0, 0, 0)

    def test_the_latest(self, cluster, hook, start):
        assert hook.latest_run("nightly-clean") is None
        old, new = start("m1"), start("m2")
        cluster.age(old.id, 60)

        assert hook.latest_run("nightly-clean").ref == new


class TestTrouble:
    """A run that does not get under way says why."""

    @pytest.fixture
    def slow(self, cluster, start) -> RunRef:
        """Return a run that has been initializing for a while."""
        ref = start()
        cluster.play(ref.id, {"jobDeploymentStatus": "Initializing", "startTime": just_now()})
        cluster.age(ref.id, WAITING_TOO_LONG)
        return ref

    def test_an_image_that_cannot_be_pulled(self, cluster, hook, slow):
        """It may be there in a minute, so the run goes on."""
        waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "ours/ray:2.4.0"'}
        statuses = [{"name": "ray-head", "state": {"waiting": waiting}}]
        cluster.run_pod(slow.id, "ray-head", "Pending", containerStatuses=statuses)
        snapshot = hook.describe([slow])[slow]

        assert (snapshot.state, snapshot.raw_state) == (RunState.STARTING, "Initializing/ImagePullBackOff")
        assert 'Back-off pulling image "ours/ray:2.4.0"' in snapshot.message

    def test_no_node_has_room(self, cluster, hook, slow):
        text = "0/3 nodes are available: 3 Insufficient memory."
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": text}
        cluster.run_pod(slow.id, "ray-head", "Pending", conditions=[condition])
        snapshot = hook.describe([slow])[slow]

        assert snapshot.raw_state == "Initializing/Unschedulable"
        assert text in snapshot.message

    @pytest.mark.parametrize("reason", ["TriggeredScaleUp", "NotTriggerScaleUp", "Nominated"])
    def test_a_node_is_on_its_way(self, cluster, hook, slow, reason):
        """Or is not: the autoscaler of nodes and Karpenter say so in events; the latest counts."""
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
        _, pod = cluster.run_pod(slow.id, "ray-head", "Pending", conditions=[condition])
        for word, about, second in ((reason, pod, 9), ("Nominated", pod, 8), ("x", "other", 10)):
            event = {
                "type": "Normal",
                "reason": word,
                "message": "n1",
                "lastTimestamp": f"2026-03-01T02:00:{second:02}Z",
            }
            cluster.events.append({**event, "involvedObject": {"kind": "Pod", "name": about}})
        snapshot = hook.describe([slow])[slow]

        assert snapshot.raw_state == f"Initializing/{reason}"
        assert snapshot.message == f"Pod {pod} waits for a node: {reason}: n1"

    def test_a_quota_for_pods(self, cluster, hook, slow):
        """KubeRay could make no pod, which an event tells."""
        place = tuple(slow.id.split("/"))
        cluster.rayjobs[place]["status"] = {"jobDeploymentStatus": "Initializing", "rayClusterName": "c-1"}
        cluster.play(slow.id)
        for name, text in (("c-1", "pods is forbidden: exceeded quota: etl"), ("c-2", "somebody else's")):
            event = {"type": "Warning", "reason": "FailedToCreateHeadPod", "message": text}
            cluster.events.append({**event, "involvedObject": {"kind": "RayCluster", "name": name}})
        snapshot = hook.describe([slow])[slow]

        assert snapshot.raw_state == "Initializing/FailedToCreateHeadPod"
        assert snapshot.message == "pods is forbidden: exceeded quota: etl"

    def test_what_no_waiting_mends(self, cluster, hook, slow):
        """It has failed, nothing of it is left running, and it stays failed."""
        waiting = {"reason": "InvalidImageName", "message": 'couldn\'t parse image name "Ours/ray"'}
        cluster.run_pod(
            slow.id, "ray-head", "Pending", containerStatuses=[{"name": "ray-head", "state": {"waiting": waiting}}]
        )
        seen = [hook.describe([slow])[slow] for _ in range(4)]

        assert {snapshot.state for snapshot in seen} == {RunState.FAILED}
        assert all("couldn't parse image name" in snapshot.message for snapshot in seen)
        assert cluster.rayjobs[tuple(slow.id.split("/"))]["status"]["jobDeploymentStatus"] == "Suspended"
        assert not cluster.pods

    def test_nobody_takes_it_up(self, cluster, hook, start):
        """An operator may be down, or watch other namespaces."""
        ref = start()
        cluster.age(ref.id, WAITING_TOO_LONG)
        snapshot = hook.describe([ref])[ref]

        assert (snapshot.state, snapshot.raw_state) == (RunState.QUEUED, "New/NotTakenUp")
        assert "Does its operator run" in snapshot.message

    def test_it_may_not_be_looked_at(self, cluster, hook, slow):
        """Then nothing is known, but the run is not affected."""
        cluster.denied.add(("list", "pods"))

        assert hook.describe([slow])[slow].state is RunState.STARTING

    def test_a_young_run_costs_one_call(self, cluster, hook, start):
        ref = start()
        cluster.play(ref.id, {"jobDeploymentStatus": "Initializing"})
        before = cluster.calls.total()
        hook.describe([ref])

        assert cluster.calls.total() - before == 1


class TestFollowing:
    """A run from its start to its end, in the words of the task's log."""

    def test_to_success(self, cluster, start, watch, told):
        ref = start()
        cluster.play(ref.id, {"jobDeploymentStatus": "Initializing"}, RUNNING, RUNNING, DONE)
        cluster.dashboard.logs["glueray-m1"] = "rows: 5\nbytes: 7"
        outcome = watch(ref)

        assert failure_of(outcome) is None
        assert [text for text in told if text.startswith("[script]")] == [
            "[script] rows: 5",
            "[script] bytes: 7",
        ]
        assert any(text.startswith("RayJob is Running/RUNNING") for text in told)

    def test_to_failure(self, cluster, start, watch):
        """The service's words and the script's traceback."""
        ref = start()
        message = "Job entrypoint command failed with exit code 1"
        failed = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "AppFailed", "message": message}
        cluster.play(ref.id, RUNNING, {**failed, "startTime": START, "endTime": END})
        lines = ["Traceback (most recent call last):", '  File "clean.py", line 3', "ValueError: no such column"]
        cluster.dashboard.logs["glueray-m1"] = "\n".join(lines)
        text = str(failure_of(watch(ref)))

        assert f"RayJob {ref.id} failed (last state Failed/AppFailed)" in text
        assert "ValueError: no such column" in text
        assert message in text

    def test_what_kuberay_will_not_have(self, cluster, start, watch):
        """KubeRay never ends such a run by itself."""
        ref = start()
        reason = "The RayJob spec is invalid: headGroupSpec should have at least one container"
        cluster.play(
            ref.id, {"jobDeploymentStatus": "ValidationFailed", "reason": "ValidationFailed", "message": reason}
        )

        assert reason in str(failure_of(watch(ref)))

    def test_kuberay_ends_it(self, cluster, start, watch):
        ref = start(run_timeout=60)
        text = "The RayJob has passed the activeDeadlineSeconds."
        status = {"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded", "message": text}
        cluster.play(ref.id, RUNNING, {**RUNNING, **status, "endTime": END})
        outcome = watch(ref)

        assert outcome.snapshot.state is RunState.TIMED_OUT
        assert text in str(failure_of(outcome))

    def test_our_deadline(self, cluster, start, watch):
        """The run is stopped, and seen to be."""
        ref = start()
        cluster.play(ref.id, RUNNING)
        outcome = watch(ref, deadline=1_772_330_500.0)

        assert (outcome.snapshot.state, outcome.deadline_passed) == (RunState.STOPPED, True)
        assert cluster.rayjobs[tuple(ref.id.split("/"))]["spec"]["suspend"] is True

    @pytest.mark.parametrize("whose", ["ours", "KubeRay's"])
    def test_a_pod_that_is_never_scheduled(self, cluster, start, watch, whose):
        """Whichever deadline strikes, the error says what the run has waited for."""
        ref = start(run_timeout=60)
        starting = {"jobDeploymentStatus": "Initializing", "startTime": just_now()}
        late = {"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded", "message": "Passed.", "endTime": END}
        cluster.play(ref.id, *[starting] * 3, *([late] if whose != "ours" else []))
        cluster.age(ref.id, WAITING_TOO_LONG)
        text = "0/3 nodes are available: 3 Insufficient memory."
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": text}
        cluster.run_pod(ref.id, "ray-head", "Pending", conditions=[condition])
        outcome = watch(ref, deadline=1_772_330_500.0 if whose == "ours" else None)
        failure = failure_of(outcome)

        assert isinstance(failure, RunTimedOut)
        assert text in str(failure)

    def test_deleted_by_somebody(self, cluster, start, watch, monkeypatch):
        ref = start()
        cluster.rayjobs.clear()

        assert "there is no rayjob" in str(failure_of(watch(ref))).lower()

    def test_polls_that_fail(self, cluster, start, watch):
        """They are repeated: nothing is wrong with the run."""
        ref = start()
        cluster.play(ref.id, RUNNING, DONE)
        cluster.refusals.extend([503, 500])

        assert watch(ref).snapshot.state is RunState.SUCCEEDED

    def test_an_old_failure_says_why_in_both_modes(self, cluster, start, watch):
        """That a run was given up is written on it, for whoever looks later."""
        ref = start()
        cluster.play(ref.id, {"jobDeploymentStatus": "Initializing"})
        cluster.age(ref.id, WAITING_TOO_LONG)
        waiting = {"reason": "CreateContainerConfigError", "message": 'secret "db" not found'}
        cluster.run_pod(
            ref.id, "ray-head", "Pending", containerStatuses=[{"name": "ray-head", "state": {"waiting": waiting}}]
        )

        assert 'secret "db" not found' in str(failure_of(watch(ref)))
        assert 'secret "db" not found' in str(failure_of(watch(ref)))


class TestOneDriver:
    """A run has one driver at most, and no verdict but success while it may live."""

    def test_held_until_its_head_is_gone(self, cluster, hook, start):
        """KubeRay has given it up, and the driver goes on until somebody deletes its cluster."""
        ref = start()
        cluster.play(ref.id, RUNNING, FAILED)
        seen = [hook.describe([ref])[ref] for _ in range(2)]
        hook.stop(ref)
        going = hook.describe([ref])[ref]
        cluster.pods.clear()
        gone = [hook.describe([ref])[ref] for _ in range(2)][-1]

        assert [(each.state, each.is_held) for each in seen] == [(RunState.RUNNING, False), (RunState.FAILED, True)]
        assert not seen[-1].is_over
        assert (going.state, going.is_held) == (RunState.FAILED, True)
        assert (gone.state, gone.is_held, gone.is_over) == (RunState.FAILED, False, True)
        assert cluster.calls["delete rayclusters"] == 1

    def test_a_head_that_outlives_its_cluster(self, cluster, hook, start):
        """Kubernetes has let go of the RayCluster, and its pods end within their grace period."""
        ref = start()
        cluster.play(ref.id, RUNNING, FAILED)
        for _ in range(2):
            hook.describe([ref])
        cluster.rayclusters.clear()
        ending = hook.describe([ref])[ref]
        for pod in cluster.pods.values():
            pod["status"]["phase"] = "Failed"

        assert ending.is_held
        assert not hook.describe([ref])[ref].is_held

    def test_its_rayjob_is_deleted_under_it(self, cluster, hook, start):
        """Kubernetes takes the rest away some time; until then its driver may live, and it counts as held."""
        ref = start()
        cluster.play(ref.id, RUNNING)
        hook.describe([ref])
        cluster.rayjobs.clear()
        lost = KubeRayHook().describe([ref])[ref]
        KubeRayHook().stop(ref)
        cluster.rayclusters.clear()
        cluster.pods.clear()

        assert (lost.state, lost.is_held) == (RunState.LOST, True)
        assert cluster.calls["delete rayclusters"] == 1
        assert not KubeRayHook().describe([ref])[ref].is_held

    def test_what_is_known_is_not_asked_again(self, cluster, hook, start):
        ref = start()
        cluster.play(ref.id, DONE)
        hook.describe([ref])
        before = cluster.calls.copy()
        hook.describe([ref])

        assert cluster.calls - before == {"list rayjobs": 1}

    def test_without_the_right_to_see(self, cluster, hook, start):
        """It is said, and the verdict is KubeRay's."""
        ref = start()
        cluster.play(ref.id, RUNNING, FAILED)
        hook.describe([ref])
        cluster.denied.add(("list", "rayclusters"))

        assert hook.describe([ref])[ref].is_over

    @pytest.mark.parametrize(
        ("of_pod", "words"),
        [
            (None, "its pod is not there; it was deleted, or its node is gone"),
            ({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}, "Evicted"),
            (
                {
                    "phase": "Failed",
                    "containerStatuses": [
                        {"name": "ray-head", "state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}
                    ],
                },
                r"OOMKilled \(137\), it took more memory than its limit",
            ),
            (
                {
                    "phase": "Failed",
                    "conditions": [
                        {
                            "type": "DisruptionTarget",
                            "status": "True",
                            "reason": "PreemptionByScheduler",
                            "message": "x",
                        }
                    ],
                },
                "PreemptionByScheduler: x",
            ),
        ],
    )
    def test_its_head_is_lost(self, cluster, hook, start, of_pod, words):
        """KubeRay would go on waiting, or make a new head and submit to that."""
        ref = start()
        cluster.play(ref.id, RUNNING)
        hook.describe([ref])
        [(key, pod)] = cluster.pods.items()
        if of_pod is None:
            del cluster.pods[key]
        else:
            pod["status"] = of_pod
        snapshot = hook.describe([ref])[ref]

        assert snapshot.state is RunState.FAILED
        assert re.search(
            f"HeadLost: The head of its Ray cluster is lost, and its driver with it: .*{words}", snapshot.message
        )
        assert cluster.rayjobs[tuple(ref.id.split("/"))]["spec"]["suspend"] is True

    @pytest.mark.parametrize("job", ["short", "a-name-that-is-longer-than-kuberay-allows-in-those-of-pods"])
    def test_an_event_tells_of_a_head_that_is_gone(self, cluster, hook, start, job):
        ref = start(name=job)
        cluster.play(ref.id, RUNNING)
        hook.describe([ref])
        cluster.pods.clear()
        raycluster = f"{ref.id.split('/')[1]}-abcde"
        cluster.rayjobs[tuple(ref.id.split("/"))]["status"]["rayClusterName"] = raycluster
        name = f"{raycluster[:50]}-head-x7k2p"
        cluster.events = [
            {"type": "Normal", "reason": reason, "message": text, "involvedObject": {"kind": "Pod", "name": about}}
            for reason, text, about in (
                ("Scheduled", "no", name), ("TaintManagerEviction", "n1", name), ("Evicted", "other", "other-head-x")
            )
        ]  # fmt: skip

        assert hook.describe([ref])[ref].message.endswith("with it: TaintManagerEviction: n1")


class TestStop:
    def test_a_node_that_does_not_answer(self, cluster, hook, start):
        """The run may go on, so it is no end; that nothing is heard has a reason."""
        ref = start()
        cluster.play(ref.id, RUNNING)
        hook.describe([ref])
        [((_, name), pod)] = cluster.pods.items()
        pod["spec"] = {**pod["spec"], "nodeName": "n1"}
        pod["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
        before = hook.describe([ref])[ref]
        about = {"kind": "Pod", "name": name}
        cluster.events = [{"type": "Warning", "reason": "NodeNotReady", "message": "x", "involvedObject": about}]
        silent = hook.describe([ref])[ref]
        pod["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
        after = hook.describe([ref])[ref]

        assert [each.raw_state for each in (before, silent, after)] == [
            "Running/RUNNING", "Running/RUNNING/NodeNotReady", "Running/RUNNING"
        ]  # fmt: skip
        assert silent.state is RunState.RUNNING
        assert f"The node n1 of pod {name} is NotReady" in silent.message

    @pytest.mark.parametrize(
        ("reason", "lost"),
        [
            ("OOMKilled", r"Lost workers: container ray-worker of pod .* on node n1: OOMKilled \(137\), it took more"),
            ("Evicted", r"Lost workers: pod .*-workers-worker-9: Evicted: The node was low"),
            ("Killing", ""),  # the autoscaler takes idle workers away
        ],
    )
    def test_workers_are_lost(self, cluster, hook, start, reason, lost):
        """Ray says only that they are gone."""
        ref = start()
        cluster.play(ref.id, RUNNING, {**FAILED, "message": "A worker died."})
        hook.describe([ref])
        name = cluster.rayjobs[tuple(ref.id.split("/"))]["status"]["rayClusterName"]
        if reason == "OOMKilled":
            ended = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
            key = cluster.run_pod(ref.id, "ray-worker", containerStatuses=[{"name": "ray-worker", "lastState": ended}])
            cluster.pods[key]["spec"] = {**cluster.pods[key]["spec"], "nodeName": "n1"}
        about = {"kind": "Pod", "name": f"{name}-workers-worker-9"}
        cluster.events = [{"type": "Warning", "reason": reason, "message": "The node was low", "involvedObject": about}]
        seen = [hook.describe([ref])[ref] for _ in range(2)]

        assert seen[0].message == seen[1].message
        assert re.fullmatch(f"A worker died. {lost}.*" if lost else "A worker died.", seen[0].message)

    def test_twice(self, cluster, hook, start):
        ref = start()
        cluster.play(ref.id, RUNNING)
        hook.describe([ref])
        hook.stop(ref)
        hook.stop(ref)
        states = [hook.describe([ref])[ref].state for _ in range(2)]

        assert states[-1] is RunState.STOPPED
        hook.stop(ref)
        assert cluster.calls["patch rayjobs"] <= 2

    def test_what_is_over(self, cluster, hook, start):
        """It stays what it is, and what is gone is no error."""
        ref, gone = start("m1"), start("m2")
        cluster.play(ref.id, DONE)
        hook.describe([ref])
        del cluster.rayjobs[tuple(gone.id.split("/"))]
        hook.stop(ref, gone)

        assert hook.describe([ref])[ref].state is RunState.SUCCEEDED
        assert cluster.calls["patch rayjobs"] == 0

    def test_before_kuberay_has_seen_it(self, hook, start):
        ref = start()
        hook.stop(ref)
        states = [hook.describe([ref])[ref].state for _ in range(4)]

        assert states[0] is RunState.STOPPING
        assert states[-1] is RunState.STOPPED

    def test_in_a_queue(self, cluster, hook, start):
        """Kueue would start a suspended one again, so it is deleted."""
        ref = start(overrides={"kuberay": {"labels": {"kueue.x-k8s.io/queue-name": "etl"}}})
        hook.stop(ref)

        assert not cluster.rayjobs
        assert hook.describe([ref])[ref].state is RunState.STOPPED

    def test_says_what_it_had_waited_for(self, cluster, hook, start):
        """The pods that told it are gone."""
        ref = start()
        cluster.play(ref.id, {"jobDeploymentStatus": "Initializing"})
        hook.describe([ref])
        cluster.age(ref.id, WAITING_TOO_LONG)
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
        cluster.run_pod(ref.id, "ray-head", "Pending", conditions=[condition])
        hook.describe([ref])
        before = cluster.calls.copy()
        hook.stop(ref)
        assert cluster.calls - before == {"list rayjobs": 1, "patch rayjobs": 1}
        seen = [hook.describe([ref])[ref] for _ in range(3)][-1]

        assert (seen.state, cluster.pods) == (RunState.STOPPED, {})
        assert "Unschedulable" in seen.message
        assert "0/3 nodes" in seen.message

    def test_waiting_in_a_queue_is_no_stop(self, cluster, hook, start):
        ref = start(overrides={"kuberay": {"labels": {"kueue.x-k8s.io/queue-name": "etl"}}})
        cluster.rayjobs[tuple(ref.id.split("/"))]["spec"]["suspend"] = True
        states = [hook.describe([ref])[ref] for _ in range(3)]

        assert states[-1].state is RunState.QUEUED
        assert "queue etl" in states[-1].message

    def test_without_the_right(self, cluster, hook, start):
        ref = start()
        cluster.denied.add(("patch", "rayjobs"))

        with pytest.raises(StopError, match='cannot patch resource "rayjobs"'):
            hook.stop(ref)


class TestLogs:
    def read(self, hook: KubeRayHook, ref: RunRef, cursor: LogCursor, *sources: str) -> tuple[list[str], LogCursor]:
        page = hook.read_logs({ref: cursor}, sources or (SCRIPT,))[ref]
        return [line.text for line in page.lines], LogCursor.from_json(json.loads(json.dumps(page.cursor.to_json())))

    def test_every_line_once(self, cluster, hook, start):
        """The driver's own lines from its head, on from where they were read; the last one also without an end."""
        ref = self.running(cluster, hook, start)
        log = cluster.dashboard.logs
        log["glueray-m1"] = "a\na\n"
        first, cursor = self.read(hook, ref, LogCursor())
        log["glueray-m1"] += "a\n\nhalf"
        second, cursor = self.read(hook, ref, cursor)
        third, cursor = self.read(hook, ref, cursor)
        fourth, _ = self.read(hook, ref, cursor._replace(to_end=True))

        assert (first, second, third, fourth) == (["a", "a"], ["a", ""], [], ["half"])

    def running(
        self, cluster: Any, hook: KubeRayHook, start: Callable[..., RunRef], client_token: str = "m1"
    ) -> RunRef:
        """Return a run that is under way."""
        ref = start(client_token)
        cluster.play(ref.id, RUNNING)
        assert hook.describe([ref])[ref].state is RunState.RUNNING
        return ref

    def test_what_pods_print(self, cluster, hook, start):
        """Also what comes in the same second, or at the same moment, as what was read before; beside the driver's."""
        ref = self.running(cluster, hook, start)
        [pod] = cluster.pods
        cluster.dashboard.logs["glueray-m1"] = "mine\n"
        cluster.print(pod, "a", "a", at="2026-03-01T02:00:00.123456789Z")
        first, cursor = self.read(hook, ref, LogCursor(), "process", SCRIPT)
        cluster.print(pod, "a", at="2026-03-01T02:00:00.123456789Z")
        cluster.print(pod, "", "b", at="2026-03-01T02:00:00.9Z")
        second, cursor = self.read(hook, ref, cursor, "process", SCRIPT)
        third, cursor = self.read(hook, ref, cursor, "process", SCRIPT)
        cluster.print(pod, "c", at="2026-03-01T02:00:07Z")
        cluster.dashboard.logs["glueray-m1"] += "mine\n"
        fourth, _ = self.read(hook, ref, cursor, "process", SCRIPT)

        assert (first, second, third, fourth) == (["mine", "a", "a"], ["a", "", "b"], [], ["mine", "c"])

    def test_a_log_that_runs_fast(self, cluster, hook, start, monkeypatch):
        """The cursor stays small, and what one read cannot take comes with the next."""
        ref = start()
        pod = cluster.run_pod(ref.id)
        monkeypatch.setattr(logs, "LOG_BYTES", 50_000)
        base = int(datetime(2026, 3, 1, 2, tzinfo=timezone.utc).timestamp() * 1000)
        for count in range(5_000):
            moment = datetime.fromtimestamp((base + count // 3) / 1000, timezone.utc)
            cluster.print(pod, f"line {count}", at=moment.strftime("%Y-%m-%dT%H:%M:%S.%f") + f"{count % 3:03}Z")
        cursor, lines = LogCursor(), []
        while len(lines) < 5_000:
            more, cursor = self.read(hook, ref, cursor, "process")
            lines += more
            assert more
            assert len(cursor.seen) <= 2 * logs.MOST_SEEN

        assert lines == [f"line {count}" for count in range(5_000)]

    def test_none_yet(self, cluster, hook, start):
        """No pod, a pod that waits, a run that is gone: empty, and no error."""
        ref, waiting = start("m1"), start("m2")
        cluster.run_pod(waiting.id, phase="Pending")
        pages = hook.read_logs(dict.fromkeys((ref, waiting), LogCursor()), (SCRIPT, "worker-err"))

        assert all(not page.lines for page in pages.values())

    def test_of_the_head(self, cluster, hook, start):
        """What the cluster's own pods print, for whoever looks for why."""
        ref = start()
        pod = cluster.run_pod(ref.id, "ray-head")
        cluster.print(pod, "scaling up", container="autoscaler", at="2026-03-01T02:00:00Z")
        cluster.print(pod, "Ray runtime started.", container="ray-head", at="2026-03-01T01:59:00Z")
        page = hook.read_logs({ref: LogCursor()}, ("process", "monitor", SCRIPT))[ref]

        assert [(line.source, line.text) for line in page.lines] == [
            ("process", "Ray runtime started."),
            ("monitor", "scaling up"),
        ]
        assert page.lines[0].node == pod[1]

    def test_without_the_right(self, cluster, hook, start, monkeypatch):
        """Said once for the driver's log, of which Ray's last words are still in the message of a failure."""
        ref = self.running(cluster, hook, start)
        cluster.denied |= {("get", "pods/log"), ("get", "services/proxy")}
        said: list[str] = []
        monkeypatch.setattr(hook.log, "warning", lambda text, *values: said.append(text % values))

        assert [self.read(hook, ref, LogCursor())[0] for _ in range(2)] == [[], []]
        assert len(said) == 1
        assert "log of the script cannot be read" in said[0]
        assert "get and create on services/proxy" in said[0]
        with pytest.raises(AccessDenied, match="get on pods/log"):
            hook.read_logs({ref: LogCursor()}, ("process",))

    def test_a_source_that_is_cut_off_loses_nothing(self, cluster, hook, start, monkeypatch):
        """The other one is ahead of it, and is not waited for."""
        ref = self.running(cluster, hook, start)
        [pod] = cluster.pods
        monkeypatch.setattr(logs, "LOG_BYTES", 2_000)
        for n in range(300):
            cluster.print(pod, f"line {n}", at=f"2026-03-01T02:{n // 60:02}:{n % 60:02}.000000000Z")
        cluster.print(pod, "late", container="autoscaler", at="2026-03-01T03:00:00.000000000Z")
        shown, cursor = [], LogCursor()
        for _ in range(20):
            lines, cursor = self.read(hook, ref, cursor, "process", "monitor")
            shown += lines

        assert [line for line in shown if line != "late"] == [f"line {n}" for n in range(300)]
        assert shown.count("late") == 1

    def test_a_head_that_asks_for_a_token(self, cluster, hook, start):
        """Its token is read when it asks, once, and only then."""
        ref = self.running(cluster, hook, start)
        log = cluster.dashboard.logs
        log["glueray-m1"] = "a\n"
        first, cursor = self.read(hook, ref, LogCursor())
        assert cluster.calls["get secrets"] == 0
        cluster.token = "t0p"
        log["glueray-m1"] += "b\n"
        second, cursor = self.read(hook, ref, cursor)
        log["glueray-m1"] += "c\n"
        third, _ = self.read(hook, ref, cursor)

        assert (first, second, third) == (["a"], ["b"], ["c"])
        assert cluster.calls["get secrets"] == 1

    def test_a_token_that_may_not_be_read(self, cluster, hook, start, monkeypatch):
        ref = self.running(cluster, hook, start)
        cluster.token = "t0p"
        cluster.denied.add(("get", "secrets"))
        said: list[str] = []
        monkeypatch.setattr(hook.log, "warning", lambda text, *values: said.append(text % values))

        assert [self.read(hook, ref, LogCursor())[0] for _ in range(2)] == [[], []]
        assert len(said) == 1
        assert "it takes get on secrets" in said[0]

    @pytest.mark.parametrize(
        ("cluster", "secret"),
        [
            ("nightly-abcde", "nightly-abcde"),
            ("x" * 3 + "a" * 50, "a" * 50),
            ("x" * 3 + "-" + "a" * 49, "r" + "a" * 49),
            ("x" * 3 + "7" + "a" * 49, "r" + "a" * 49),
        ],
    )
    def test_the_name_of_the_secret(self, cluster, secret):
        assert secret_of(cluster) == secret

    def test_the_head_does_not_answer(self, cluster, hook, start):
        """A failed read while the run goes on; when it is over its log is gone with it."""
        ref = self.running(cluster, hook, start)
        cluster.dashboard = lambda *_: (503, "no endpoints available for service")
        with pytest.raises(SubmitError, match=r"head etl/nightly-clean-.* does not answer"):
            self.read(hook, ref, LogCursor())

        assert self.read(hook, ref, LogCursor(to_end=True))[0] == []

    def test_fifty_runs(self, cluster, hook, start):
        """One look at the log of each; where it is was told when they were described."""
        refs = [self.running(cluster, hook, start, f"m{count}") for count in range(50)]
        cluster.dashboard.logs |= {f"glueray-m{count}": f"line of {count}\n" for count in range(50)}
        cursors = {
            ref: page.cursor for ref, page in hook.read_logs(dict.fromkeys(refs, LogCursor()), (SCRIPT,)).items()
        }
        cluster.dashboard.logs |= {f"glueray-m{count}": f"line of {count}\nmore\n" for count in range(50)}
        before = cluster.calls.copy()
        pages = hook.read_logs(cursors, (SCRIPT,))

        assert [[line.text for line in page.lines] for page in pages.values()] == [["more"]] * 50
        assert cluster.calls - before == {"get services/proxy": 50}


class TestPlaces:
    def test_at_the_server(self, cluster, hook):
        ref = RunRef(KUBERAY_JOB, "n", "etl/n-1")

        assert hook.url(ref) == f"{cluster.url}/apis/ray.io/v1/namespaces/etl/rayjobs/n-1"
        assert hook.logs_url(ref) == f"{cluster.url}/api/v1/namespaces/etl/pods?labelSelector=glueray/rayjob%3Dn-1"

    def test_where_the_connection_says(self, cluster, monkeypatch):
        places = {"run_url": "https://k8s/{namespace}/rayjobs/{name}", "logs_url": "https://logs/?q={name}"}
        monkeypatch.setenv("AIRFLOW_CONN_SHOWN", json.dumps(cluster.config(**places)))
        ref = RunRef(KUBERAY_JOB, "n", "etl/n-1")

        assert KubeRayHook("shown").url(ref) == "https://k8s/etl/rayjobs/n-1"
        assert KubeRayHook("shown").logs_url(ref) == "https://logs/?q=n-1"
