"""What the status of a RayJob or a RayCluster means.

No clock and no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, overload

from airflow_provider_glueray.core.runs import (
    KUBERAY_CLUSTER,
    KUBERAY_JOB,
    RunRef,
    RunSnapshot,
    RunState,
    Usage,
    read_state,
)
from airflow_provider_glueray.hooks.kuberay.manifests.pods import (
    JOB,
    NO_REASON,
    QUEUE,
    STOPPED,
    UNRECOVERABLE,
    id_of,
)
from airflow_provider_glueray.hooks.kuberay.reasons import PendingReason, ended_reason
from airflow_provider_glueray.hooks.kuberay.usage import full_usage

#: ``jobDeploymentStatus`` and what refines it: ``jobStatus`` for Running and Complete, ``reason`` for Failed; "" is
#: for any other. Source: kuberay/…/apis/ray/v1/rayjob_types.go. Complete without Ray's own SUCCEEDED fails closed.
KUBERAY_JOB_STATE: Mapping[tuple[str, str], RunState] = {
    ("", ""): RunState.QUEUED,  # KubeRay has not looked at it yet
    ("Initializing", ""): RunState.STARTING,
    ("Waiting", ""): RunState.STARTING,
    ("Running", ""): RunState.STARTING,  # the operator submits it
    ("Running", "PENDING"): RunState.STARTING,
    ("Running", "RUNNING"): RunState.RUNNING,
    # Ray's word is final, and KubeRay may take minutes to repeat it (kuberay#2359, #3553).
    ("Running", "SUCCEEDED"): RunState.SUCCEEDED,
    ("Running", "FAILED"): RunState.FAILED,
    ("Running", "STOPPED"): RunState.STOPPED,
    ("Complete", ""): RunState.FAILED,
    ("Complete", "SUCCEEDED"): RunState.SUCCEEDED,
    ("Complete", "STOPPED"): RunState.STOPPED,
    ("Failed", ""): RunState.FAILED,
    ("Failed", "DeadlineExceeded"): RunState.TIMED_OUT,
    ("Failed", "PreRunningDeadlineExceeded"): RunState.TIMED_OUT,
    # Kueue suspends a job while it waits for quota.
    ("Suspending", ""): RunState.QUEUED,
    ("Suspended", ""): RunState.QUEUED,
    ("Retrying", ""): RunState.STARTING,  # never with our backoffLimit
    # KubeRay leaves it so for ever (kuberay/…/rayjob_controller.go), so it is an end.
    ("ValidationFailed", ""): RunState.FAILED,
}


#: ``state`` of a RayCluster of KubeRay (kuberay/…/apis/ray/v1/raycluster_types.go). What is followed is a cluster's
#: *start*: ready is its success.
KUBERAY_CLUSTER_STATE: Mapping[str, RunState] = {
    "": RunState.STARTING,
    "ready": RunState.SUCCEEDED,
    "failed": RunState.STARTING,  # before 1.3: KubeRay could not make a pod, and goes on trying
    "suspended": RunState.QUEUED,  # by Kueue, until there is room
}

_WORDS = {deployment for deployment, _ in KUBERAY_JOB_STATE}


def snapshot_of(rayjob: Mapping[str, Any], reason: PendingReason | None = None) -> RunSnapshot:
    """Read a RayJob as the API server returns it."""
    metadata, status = rayjob["metadata"], rayjob.get("status") or {}
    annotations = metadata.get("annotations") or {}
    ref = RunRef(KUBERAY_JOB, annotations.get(JOB, ""), id_of(rayjob))
    state, raw = _state_of(status)
    message = status.get("message") or ""
    was_asked = STOPPED in annotations or bool(metadata.get("deletionTimestamp"))
    if UNRECOVERABLE in annotations and not state.is_terminal:
        state, raw, message = RunState.FAILED, f"{raw}/unrecoverable", annotations[UNRECOVERABLE]
    elif was_asked and not state.is_terminal:
        state = RunState.STOPPED if raw == "Suspended" else RunState.STOPPING
        raw = raw if raw.startswith("Suspend") else f"{raw}/stopping"
        why = annotations.get(STOPPED, NO_REASON)
        message = message if why == NO_REASON else why
    elif reason is not None and not state.is_terminal:
        raw, message = f"{raw}/{reason.reason}", reason.message
    elif state is RunState.QUEUED and raw == "Suspended":
        message = _turn(metadata)
    started, ended = time_of(status.get("startTime")), time_of(status.get("endTime"))
    if ended is None and state.is_terminal:
        ended = time_of((status.get("rayJobInfo") or {}).get("endTime"))
    return RunSnapshot(
        ref=ref,
        state=state,
        raw_state=raw,
        message=message[:2000],
        started=started,
        completed=ended,
        # What a cluster uses is its own, and not known from one look.
        usage=Usage(ended - started, 0, 0.0) if started and ended else None,
        recognised=status.get("jobDeploymentStatus", "") in _WORDS,
    )


def _turn(metadata: Mapping[str, Any]) -> str:
    return f"It is suspended and waits for its turn; queue {(metadata.get('labels') or {}).get(QUEUE, 'none')}"


def _state_of(status: Mapping[str, Any]) -> tuple[RunState, str]:
    """Return the state, and KubeRay's words for it."""
    word = status.get("jobDeploymentStatus", "")
    if word == "Failed" and status.get("jobStatus") == "SUCCEEDED" and status.get("reason") == "DeadlineExceeded":
        # KubeRay looks no more at what runs in a cluster that has been deleted, until the deadline of the RayJob.
        return RunState.SUCCEEDED, "Failed/DeadlineExceeded after SUCCEEDED"
    detail = status.get("reason" if word == "Failed" else "jobStatus", "")
    raw = f"{word}/{detail}" if detail and word in ("Running", "Complete", "Failed") else word or "New"
    known = KUBERAY_JOB_STATE.get((word, detail)) or KUBERAY_JOB_STATE.get((word, ""))
    if known is not None:
        return known, raw
    # An unknown word is active, unless KubeRay has set the time of its end.
    return (RunState.FAILED if status.get("endTime") else RunState.RUNNING), raw


@overload
def time_of(text: str) -> float: ...
@overload
def time_of(text: None) -> None: ...
def time_of(text: str | None) -> float | None:
    """Read a time of Kubernetes (RFC 3339) as epoch seconds."""
    # Python 3.10 does not know the Z.
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() if text else None


def began_at(resource: Mapping[str, Any]) -> float | None:
    """Return when KubeRay has begun with a RayJob or a RayCluster; None for one that waits in a queue of Kueue."""
    status = resource.get("status") or {}
    return time_of(
        status.get("startTime") if "jobDeploymentStatus" in status else resource["metadata"]["creationTimestamp"]
    )


def cluster_snapshot(raycluster: Mapping[str, Any], now: float, reason: PendingReason | None = None) -> RunSnapshot:
    """Read a RayCluster as the API server returns it.

    :param now: epoch seconds, until which it has been used if it is not being deleted.
    """
    metadata, status = raycluster["metadata"], raycluster.get("status") or {}
    annotations = metadata.get("annotations") or {}
    ref = RunRef(KUBERAY_CLUSTER, annotations.get(JOB, ""), id_of(raycluster))
    word = status.get("state", "")
    state, raw, message = read_state(KUBERAY_CLUSTER_STATE, word, completed=False), word or "provisioning", ""
    if UNRECOVERABLE in annotations:
        state, raw, message = RunState.FAILED, f"{raw}/unrecoverable", annotations[UNRECOVERABLE]
    elif metadata.get("deletionTimestamp"):
        state, raw = RunState.STOPPING, "deleting"
    elif (end := ended_reason(raycluster, ref.id)) is not None:
        state, raw, message = RunState.TIMED_OUT, "ended", end.message
    elif reason is not None and not state.is_terminal:
        raw, message = f"{raw}/{reason.reason}", reason.message
    elif state is RunState.QUEUED:
        message = _turn(metadata)
    began = time_of(metadata["creationTimestamp"])
    ended = time_of(metadata["deletionTimestamp"]) if metadata.get("deletionTimestamp") else now
    return RunSnapshot(
        ref=ref,
        state=state,
        raw_state=raw,
        message=message[:2000],
        started=began,
        # Nobody looks at it all the time, so nobody knows when autoscaling took pods away.
        usage=full_usage(raycluster["spec"], max(ended - began, 0.0)),
        recognised=word in KUBERAY_CLUSTER_STATE,
    )
