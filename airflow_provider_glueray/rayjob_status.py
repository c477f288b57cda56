"""What the status of a RayJob means, and why one, or a RayCluster, does not get under way.

Floor 0: standard library only, no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from airflow_provider_glueray.kuberay_pods import HOPELESS, JOB, NO_REASON, QUEUE, STOPPED
from airflow_provider_glueray.runs import KUBERAY_JOB, KUBERAY_JOB_STATE, RunRef, RunSnapshot, RunState, Usage
from airflow_provider_glueray.spec import MDPU_PER_WORKER

_WORDS = {deployment for deployment, _ in KUBERAY_JOB_STATE}
#: Reasons for which a container does not start, and that no waiting mends.
_HOPELESS_REASONS = frozenset({"InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError"})
#: Events of a RayCluster that KubeRay will not have: it has no status for this (kuberay/…/raycluster_controller.go).
_REFUSED = frozenset({"InvalidRayClusterSpec", "InvalidRayClusterMetadata"})
#: What a container waits for in the ordinary course of things.
_ORDINARY = frozenset({"ContainerCreating", "PodInitializing", ""})


class Trouble(NamedTuple):
    """Why a run does not get under way: the word for it, the sentence, and whether waiting cannot help."""

    reason: str
    message: str
    is_hopeless: bool = False


def snapshot_of(rayjob: Mapping[str, Any], trouble: Trouble | None = None) -> RunSnapshot:
    """Read a RayJob as the API server returns it."""
    metadata, status = rayjob["metadata"], rayjob.get("status") or {}
    annotations = metadata.get("annotations") or {}
    ref = RunRef(KUBERAY_JOB, annotations.get(JOB, ""), f"{metadata['namespace']}/{metadata['name']}")
    state, raw = _state_of(status)
    message = status.get("message") or ""
    was_asked = STOPPED in annotations or bool(metadata.get("deletionTimestamp"))
    if HOPELESS in annotations and not state.is_terminal:
        state, raw, message = RunState.FAILED, f"{raw}/hopeless", annotations[HOPELESS]
    elif was_asked and not state.is_terminal:
        state = RunState.STOPPED if raw == "Suspended" else RunState.STOPPING
        raw = raw if raw.startswith("Suspend") else f"{raw}/stopping"
        why = annotations.get(STOPPED, NO_REASON)
        message = message if why == NO_REASON else why
    elif trouble is not None and not state.is_terminal:
        raw, message = f"{raw}/{trouble.reason}", trouble.message
    elif state is RunState.QUEUED and raw == "Suspended":
        message = f"It is suspended and waits for its turn; queue {(metadata.get('labels') or {}).get(QUEUE, 'none')}"
    started, ended = _time_of(status.get("startTime")), _time_of(status.get("endTime"))
    if ended is None and state.is_terminal:
        ended = _time_of((status.get("rayJobInfo") or {}).get("endTime"))
    return RunSnapshot(
        ref=ref,
        state=state,
        raw_state=raw,
        message=message[:2000],
        started=started,
        completed=ended,
        usage=_usage(rayjob, ended - started) if started and ended else None,
        recognised=status.get("jobDeploymentStatus", "") in _WORDS,
    )


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


def _time_of(text: str | None) -> float | None:
    return datetime.fromisoformat(text).timestamp() if text else None


def _usage(rayjob: Mapping[str, Any], seconds: float) -> Usage:
    """Reckon with the full size, the head among it: when autoscaling took pods away is not told.

    What a shared cluster uses is its own.
    """
    if "rayClusterSpec" not in rayjob["spec"]:
        return Usage(seconds, 0, 0.0)
    groups = rayjob["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    pods = 1 + sum(int(group.get("maxReplicas") or 0) for group in groups)
    return Usage(seconds, pods, seconds * pods * MDPU_PER_WORKER / 3600)


def trouble_of(
    thing: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]]
) -> Trouble | None:
    """Say why a RayJob or a RayCluster does not get under way, from its pods, else from what KubeRay could not make.

    :param pods: those of this one.
    :param events: warnings of its namespace, which may be about others.
    """
    found = [trouble for pod in pods for trouble in _troubles_of_pod(pod)]
    if found:
        return next((each for each in found if each.is_hopeless), found[0])
    status = thing.get("status") or {}
    of_cluster = status.get("rayClusterStatus") or (status if "jobDeploymentStatus" not in status else {})
    for condition in of_cluster.get("conditions") or ():
        if (condition["type"], condition["status"]) == ("ReplicaFailure", "True"):
            return Trouble(condition["reason"], condition.get("message", ""))
    mine = {thing["metadata"]["name"], status.get("rayClusterName")}
    about = [event for event in events if event.get("involvedObject", {}).get("name") in mine]
    if about:
        latest = max(about, key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")
        reason = latest.get("reason", "Warning")
        return Trouble(reason, latest.get("message", ""), reason in _REFUSED)
    if not status:
        text = "KubeRay has not taken it up. Does its operator run, and does it watch this namespace?"
        return Trouble("NotTakenUp", text)
    return None


def _troubles_of_pod(pod: Mapping[str, Any]) -> Iterator[Trouble]:
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    for container in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason", "")
        if reason not in _ORDINARY:
            text = f"Container {container['name']} of pod {name}: {waiting.get('message') or reason}"
            # What a container died of says more than that its next start is put off.
            last = (container.get("lastState") or {}).get("terminated") or {}
            text += f"; it ended with {last.get('reason')} ({last.get('exitCode')})" if last else ""
            yield Trouble(reason, text, reason in _HOPELESS_REASONS)
    for condition in status.get("conditions", ()):
        if (condition["type"], condition["status"]) == ("PodScheduled", "False"):
            yield Trouble(condition.get("reason", "Unschedulable"), f"Pod {name}: {condition.get('message', '')}")
