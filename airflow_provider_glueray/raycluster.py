"""A cluster that runs share as a RayCluster, a custom resource of KubeRay, and what the status of one means.

Floor 0: standard library only, no clock, no I/O. What is followed is a cluster's *start*: that it is ready is the
success. What is said of KubeRay here was read in its v1.7.0; its files are named as ``kuberay/…``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from airflow_provider_glueray.errors import SpecError
from airflow_provider_glueray.kuberay_pods import (
    GROUP,
    HOPELESS,
    JOB,
    MARK,
    OWNERS,
    QUEUE,
    RAYCLUSTER,
    VERSION,
    cluster_spec,
    label_of,
    rayjob_name,
)
from airflow_provider_glueray.kuberay_settings import MOST_SECONDS, RayJobSettings
from airflow_provider_glueray.rayjob_status import Trouble
from airflow_provider_glueray.rules import check_fields
from airflow_provider_glueray.runs import (
    KUBERAY_CLUSTER,
    KUBERAY_CLUSTER_STATE,
    RunRef,
    RunSnapshot,
    RunState,
    Usage,
    read_state,
)
from airflow_provider_glueray.spec import MDPU_PER_WORKER, Workers

PLURAL = "rayclusters"
#: Of the RayClusters in a namespace those that no RayJob has made for itself (kuberay/…/utils/constant.go).
SHARED = "ray.io/originated-from-crd!=RayJob"
#: Members of RayJobSettings that a cluster has no use for. In the connection they are for its runs.
_OF_RUNS = ("submitter_pod", "ttl_seconds_after_finished", "keep_finished_days")
#: KubeRay then makes no new head in the place of one that has ended (kuberay/…/raycluster_controller.go reconcilePods):
#: a new one would know nothing of what the old one ran, and live on for ever.
_NO_NEW_HEAD = "ray.io/disable-provisioned-head-restart"


@dataclass(frozen=True)
class RayClusterSpec:
    """A cluster that stays up between runs. Frozen and valid by construction.

    :param name: what people recognise it by, 1 to 255 characters.
    :param spilling: Ray's object spilling configuration, as a mapping or JSON.
    :param runtime: Glue's name of one, for where the settings name no version of Ray.
    :param tags: whose it is; ``airflow_dag_id``, ``airflow_task_id`` and ``airflow_run_id`` become labels.
    :param overrides: ``{"kuberay": {…}}``, as for a run.
    :raises SpecError: with every broken rule, its value and its source.
    """

    name: str
    workers: Workers = field(default_factory=Workers)
    spilling: Mapping[str, Any] | str | None = None
    runtime: str = "Ray2.4"
    tags: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields({item.name: getattr(self, item.name) for item in fields(self)})
        object.__setattr__(self, "tags", {str(key): str(text) for key, text in self.tags.items()})


def to_raycluster(
    spec: RayClusterSpec, mark: str, *, settings: RayJobSettings, lifetime_seconds: int | None
) -> dict[str, Any]:
    """Translate to a RayCluster that carries ``mark``.

    :param lifetime_seconds: after which Kubernetes ends its pods, whoever still knows of them: KubeRay has no such
        bound for a RayCluster. A worker that autoscaling has added late may take up to as long again.
    :raises SpecError: the task has given a setting that only runs have.
    """
    strange = [name for name in _OF_RUNS if name in spec.overrides.get("kuberay", {})]
    if strange:
        raise SpecError([f"overrides['kuberay'][{name!r}]: it is of runs, not of a cluster" for name in strange])
    name = rayjob_name(spec.name, mark)
    whose = {key: spec.tags[word] for argument, key in OWNERS.items() if (word := argument[2:]) in spec.tags}
    full = {MARK: mark, JOB: spec.name, **whose}
    labels = {**{key: label_of(text) for key, text in full.items()}, RAYCLUSTER: name}
    lifetime = None if lifetime_seconds is None else min(max(lifetime_seconds, 1), MOST_SECONDS)
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "RayCluster",
        "metadata": {
            "name": name,
            "namespace": settings.namespace,
            "labels": {**settings.labels, **labels},
            "annotations": {
                **({} if lifetime is None else {_NO_NEW_HEAD: "true"}),
                **settings.annotations,
                **full,
                **({"glueray/tags": json.dumps(dict(spec.tags), sort_keys=True)} if spec.tags else {}),
                **({"glueray/description": spec.description} if spec.description else {}),
            },
        },
        "spec": cluster_spec(
            spec.workers,
            spec.spilling,
            spec.runtime,
            settings=settings,
            labels=labels,
            head_env={},
            worker_env={},
            lifetime=lifetime,
        ),
    }


def cluster_snapshot(raycluster: Mapping[str, Any], now: float, trouble: Trouble | None = None) -> RunSnapshot:
    """Read a RayCluster as the API server returns it.

    :param now: epoch seconds, until which it has been used if it is not being deleted.
    """
    metadata, status = raycluster["metadata"], raycluster.get("status") or {}
    annotations = metadata.get("annotations") or {}
    ref = RunRef(KUBERAY_CLUSTER, annotations.get(JOB, ""), f"{metadata['namespace']}/{metadata['name']}")
    word = status.get("state", "")
    state, raw, message = read_state(KUBERAY_CLUSTER_STATE, word, completed=False), word or "provisioning", ""
    if HOPELESS in annotations:
        state, raw, message = RunState.FAILED, f"{raw}/hopeless", annotations[HOPELESS]
    elif metadata.get("deletionTimestamp"):
        state, raw = RunState.STOPPING, "deleting"
    elif (end := end_of(raycluster, ref.id)) is not None:
        state, raw, message = RunState.TIMED_OUT, "ended", end.message
    elif trouble is not None and not state.is_terminal:
        raw, message = f"{raw}/{trouble.reason}", trouble.message
    elif state is RunState.QUEUED:
        message = f"It is suspended and waits for its turn; queue {(metadata.get('labels') or {}).get(QUEUE, 'none')}"
    began = _time_of(metadata["creationTimestamp"])
    ended = _time_of(metadata["deletionTimestamp"]) if metadata.get("deletionTimestamp") else now
    groups = raycluster["spec"].get("workerGroupSpecs") or ()
    pods = 1 + sum(int(group.get("maxReplicas") or 0) for group in groups)
    seconds = max(ended - began, 0.0)
    return RunSnapshot(
        ref=ref,
        state=state,
        raw_state=raw,
        message=message[:2000],
        started=began,
        # With the full size, the head among it: when autoscaling took pods away is not told.
        usage=Usage(seconds, pods, seconds * pods * MDPU_PER_WORKER / 3600),
        recognised=word in KUBERAY_CLUSTER_STATE,
    )


def end_of(raycluster: Mapping[str, Any] | None, cluster_id: str) -> Trouble | None:
    """Say why nothing will run in a cluster any more, or None.

    :param raycluster: None if it is not there.
    """
    if raycluster is None:
        return Trouble("RayClusterGone", f"the cluster {cluster_id} is not there; it was deleted, or never made", True)
    metadata, status = raycluster["metadata"], raycluster.get("status") or {}
    if metadata.get("deletionTimestamp"):
        return Trouble("RayClusterGone", f"the cluster {cluster_id} is being deleted", True)
    conditions = {each["type"]: each for each in status.get("conditions") or ()}
    was_up = conditions.get("RayClusterProvisioned", {}).get("status") == "True"
    has_no_head = conditions.get("HeadPodReady", {}).get("reason") == "HeadPodNotFound"
    if was_up and has_no_head and (metadata.get("annotations") or {}).get(_NO_NEW_HEAD) == "true":
        return Trouble(
            "RayClusterEnded", f"the head of the cluster {cluster_id} has ended; its lifetime may be over", True
        )
    return None


def _time_of(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
