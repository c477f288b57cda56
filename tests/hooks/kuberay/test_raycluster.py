"""RayClusters by plain calls: manifests against KubeRay's published schema, and what states mean."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_provider_glueray.core.errors import SpecError
from airflow_provider_glueray.core.runs import RunState
from airflow_provider_glueray.core.spec import RayClusterSpec, Workers
from airflow_provider_glueray.hooks.kuberay.manifests.pods import UNRECOVERABLE
from airflow_provider_glueray.hooks.kuberay.manifests.raycluster import to_raycluster
from airflow_provider_glueray.hooks.kuberay.reasons import PendingReason, ended_reason, pending_reason
from airflow_provider_glueray.hooks.kuberay.settings import RayJobSettings
from airflow_provider_glueray.hooks.kuberay.status import KUBERAY_CLUSTER_STATE, cluster_snapshot
from tests.hooks.kuberay import kubernetes_api

MADE, NOW = "2026-03-01T02:00:00Z", 1_772_330_400.0 + 600
UP = {"type": "RayClusterProvisioned", "status": "True"}
NO_HEAD = {"type": "HeadPodReady", "status": "False", "reason": "HeadPodNotFound"}


def manifest(client_token: str = "m1", max_lifetime: int | None = 3600, **changes: Any) -> dict[str, Any]:
    """Return the manifest of a spec; members of the settings are given as `kuberay`."""
    over = RayJobSettings.of({"image": "ours/ray:2.4.0"}, changes.pop("kuberay", {}), namespace="etl")
    spec = RayClusterSpec(**{"name": "nightly-create", **changes})
    return to_raycluster(spec, client_token, settings=over, max_lifetime_seconds=max_lifetime)


def stored(deleted: str | None = None, annotations: dict[str, str] | None = None, **status: Any) -> dict[str, Any]:
    """Return a cluster as the API server returns it."""
    cluster = manifest()
    cluster["metadata"] |= {"creationTimestamp": MADE} | ({"deletionTimestamp": deleted} if deleted else {})
    cluster["metadata"]["annotations"] |= annotations or {}
    return {**cluster, "status": status}


class TestManifest:
    @pytest.mark.parametrize("max_lifetime", [None, 1, 2**40])
    def test_kubernetes_would_take_it(self, max_lifetime):
        workers = Workers(5, 1, object_store_memory_head=20, object_store_memory_worker=30)
        tags = {"airflow_dag_id": "d", "airflow_run_id": "scheduled__2026-03-01T02:00:00+00:00", "team": "data"}
        over = {"service_account": "etl", "labels": {"kueue.x-k8s.io/queue-name": "etl"}, "annotations": {"x": "y"}}
        cluster = manifest(
            max_lifetime=max_lifetime,
            workers=workers,
            object_spilling_config={"type": "x"},
            tags=tags,
            description="Of d",
            kuberay=over,
        )

        assert kubernetes_api.problems_of(cluster) == []

    def test_the_whole(self):
        tags = {"airflow_dag_id": "d", "airflow_task_id": "t", "team": "data"}
        cluster = manifest(workers=Workers(5, 1), tags=tags, kuberay={"labels": {"kueue.x-k8s.io/queue-name": "q"}})
        metadata, [group] = cluster["metadata"], cluster["spec"]["workerGroupSpecs"]

        assert (group["minReplicas"], group["maxReplicas"]) == (1, 5)
        assert (metadata["labels"]["glueray/dag"], metadata["labels"]["glueray/task"]) == ("d", "t")
        assert metadata["labels"]["glueray/raycluster"] == metadata["name"]
        assert metadata["labels"]["kueue.x-k8s.io/queue-name"] == "q"
        assert json.loads(metadata["annotations"]["glueray/tags"]) == tags
        pod = group["template"]
        assert pod["metadata"]["labels"]["glueray/raycluster"] == metadata["name"]
        assert "kueue.x-k8s.io/queue-name" not in pod["metadata"]["labels"]

    def test_the_same_for_the_same_mark(self):
        assert manifest() == manifest()
        assert manifest("m2")["metadata"]["name"] != manifest("m1")["metadata"]["name"]

    def test_a_bound_that_needs_nobody(self):
        """Kubernetes ends the pods; KubeRay makes no new head in any case."""
        for max_lifetime, seconds in ((3600, 3600), (None, None)):
            cluster = manifest(max_lifetime=max_lifetime)
            templates = (
                cluster["spec"]["headGroupSpec"]["template"],
                cluster["spec"]["workerGroupSpecs"][0]["template"],
            )
            assert [each["spec"].get("activeDeadlineSeconds") for each in templates] == [seconds, seconds]
            assert cluster["metadata"]["annotations"]["ray.io/disable-provisioned-head-restart"] == "true"

    @pytest.mark.parametrize(("wrong", "words"), [({"name": ""}, "name"), ({"overrides": {"x": {}}}, "overrides")])
    def test_what_is_wrong(self, wrong, words):
        with pytest.raises(SpecError, match=words):
            manifest(**wrong)

    def test_settings_that_only_runs_have(self):
        """Of the task they are refused; of the connection they are for the runs."""
        with pytest.raises(SpecError, match=r"overrides\['kuberay'\]\['keep_finished_days'\]: it is of runs"):
            manifest(overrides={"kuberay": {"keep_finished_days": 3}})
        assert manifest(kuberay={"keep_finished_days": 3})["kind"] == "RayCluster"


class TestStates:
    def test_every_word_is_known(self):
        """Each ClusterState of kuberay/ray-operator/apis/ray/v1/raycluster_types.go, v1.7.0, and none."""
        assert set(KUBERAY_CLUSTER_STATE) == {"", "ready", "failed", "suspended"}

    @pytest.mark.parametrize(
        ("cluster", "state", "is_over"),
        [
            (stored(), RunState.STARTING, False),
            (stored(observedGeneration=1), RunState.STARTING, False),
            (stored(state="ready", conditions=[UP]), RunState.SUCCEEDED, False),
            (stored(state="failed"), RunState.STARTING, False),
            (stored(state="suspended"), RunState.QUEUED, False),
            (stored(state="pondering"), RunState.RUNNING, False),
            (stored(deleted="2026-03-01T02:05:00Z", state="ready"), RunState.STOPPING, False),
            (stored(annotations={UNRECOVERABLE: "no"}), RunState.FAILED, False),
            (stored(state="ready", conditions=[UP, NO_HEAD]), RunState.TIMED_OUT, False),
            # No head yet, which is the ordinary course of things.
            (stored(conditions=[{**UP, "status": "False"}, NO_HEAD]), RunState.STARTING, False),
        ],
    )
    def test_what_words_mean(self, cluster, state, is_over):
        """It is not over as long as there is something to delete."""
        snapshot = cluster_snapshot(cluster, NOW)

        assert (snapshot.state, snapshot.is_over) == (state, is_over)
        assert snapshot.recognised is (cluster["status"].get("state") != "pondering")

    def test_usage(self):
        """From its making until now, or until its deletion was asked for; the head counts."""
        assert cluster_snapshot(stored(state="ready"), NOW).usage[:3] == (600, 3, 0)
        assert cluster_snapshot(stored(deleted="2026-03-01T02:05:00Z"), NOW).usage[:3] == (300, 3, 0)

    def test_trouble_is_in_the_raw_state(self):
        trouble = PendingReason("ImagePullBackOff", "Back-off pulling image")
        snapshot = cluster_snapshot(stored(observedGeneration=1), NOW, trouble)

        assert (snapshot.raw_state, snapshot.message) == ("provisioning/ImagePullBackOff", "Back-off pulling image")


class TestTrouble:
    def test_what_kuberay_could_not_make(self):
        text = 'pods "c-head" is forbidden: exceeded quota: etl'
        condition = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreateHeadPod", "message": text}

        assert pending_reason(stored(conditions=[condition]), [], []) == PendingReason("FailedCreateHeadPod", text)

    def test_what_kuberay_will_not_have(self):
        """It has no status for that, only an event, and does not try again."""
        cluster = stored()
        event = {"reason": "InvalidRayClusterSpec", "message": "no container"}
        of = [{**event, "involvedObject": {"name": name}} for name in ("another", cluster["metadata"]["name"])]

        assert pending_reason(cluster, [], of) == PendingReason(
            "InvalidRayClusterSpec", "no container", is_unrecoverable=True
        )
        assert pending_reason(cluster, [], of[:1]).reason == "NotTakenUp"

    def test_the_end_of_a_cluster(self):
        assert ended_reason(stored(state="ready", conditions=[UP]), "etl/c") is None
        for over in (None, stored(deleted=MADE), stored(conditions=[UP, NO_HEAD])):
            end = ended_reason(over, "etl/c")
            assert end is not None
            assert end.is_unrecoverable
            assert "etl/c" in end.message
        # KubeRay makes a new head there.
        lasting = stored(conditions=[UP, NO_HEAD])
        del lasting["metadata"]["annotations"]["ray.io/disable-provisioned-head-restart"]
        assert ended_reason(lasting, "etl/c") is None
