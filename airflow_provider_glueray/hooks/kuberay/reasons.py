"""Why a RayJob or a RayCluster does not get under way, and why one is over of which KubeRay does not say so.

No clock and no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from airflow_provider_glueray.hooks.kuberay.manifests.pods import HEAD, NO_NEW_HEAD, STARTUP_TIMEOUT, WORKER, pods_begin

#: Reasons for which a container does not start, and that no waiting mends.
_UNRECOVERABLE_REASONS = frozenset({"InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError"})
#: Kubernetes changes from one to the other and back, each time that it tries.
_SAME_REASON = {"ErrImagePull": "ImagePullBackOff"}
#: What no waiting mends, in the words of those who say it, and what to do about it.
_UNRECOVERABLE_TEXTS = {
    r"no match for platform|exec format error": (
        "The image is for another processor than the node; `node_selector` of the settings says which nodes are used"
    ),
    r"image .*(not found|manifest unknown)": "Look at `image` of the settings, and at what the registry has",
    r"violates PodSecurity": (
        "The namespace's Pod Security does not allow such pods; `head_pod` and `worker_pod` of the settings can have "
        "the securityContext that it asks for"
    ),
    r"service ?account .*not found": "Make the service account, or name another as `service_account` of the settings",
}
#: Events of a RayCluster that KubeRay will not have: it has no status for this (kuberay/…/raycluster_controller.go).
_REFUSED = frozenset({"InvalidRayClusterSpec", "InvalidRayClusterMetadata"})
#: Events of a pod that say what becomes of the node it waits for, by the autoscaler of nodes and by Karpenter.
_OF_NODES = frozenset({"TriggeredScaleUp", "NotTriggerScaleUp", "FailedScaleUp", "Nominated"})
#: A field selector for these and for what ends pods, without what every pod has at its start.
NEWS_OF_PODS = "involvedObject.kind=Pod," + ",".join(
    f"reason!={usual}" for usual in ("Scheduled", "Pulling", "Pulled", "Created", "Started")
)
#: Waiting reasons of a container that starts as usual.
_ORDINARY = frozenset({"ContainerCreating", "PodInitializing", ""})


class PendingReason(NamedTuple):
    """Why a run does not get under way: the word for it, the sentence, and whether waiting cannot help."""

    reason: str
    message: str
    is_unrecoverable: bool = False


def pending_reason(
    resource: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]]
) -> PendingReason | None:
    """Say why a RayJob or a RayCluster does not get under way, from its pods, else from what KubeRay could not make.

    :param pods: those of this one.
    :param events: of its namespace, which may be about others.
    """
    found = [reason for pod in pods for reason in _reasons_of_pod(pod, events)]
    if found:
        return next((each for each in found if each.is_unrecoverable), found[0])
    status = resource.get("status") or {}
    of_cluster = status.get("rayClusterStatus") or (status if "jobDeploymentStatus" not in status else {})
    for condition in of_cluster.get("conditions") or ():
        if (condition["type"], condition["status"]) == ("ReplicaFailure", "True"):
            return _reason_for(condition["reason"], condition.get("message", ""))
    mine = {resource["metadata"]["name"], status.get("rayClusterName")}
    about = [event for event in _about(events, *mine) if event.get("type") != "Normal"]
    if about:
        latest = about[-1]
        reason = latest.get("reason", "Warning")
        return _reason_for(reason, latest.get("message", ""), reason in _REFUSED)
    if not status:
        text = "KubeRay has not taken it up. Does its operator run, and does it watch this namespace?"
        return PendingReason("NotTakenUp", text)
    return None


def _reason_for(reason: str, message: str, is_unrecoverable: bool = False) -> PendingReason:
    """Say what to do about a reason that waiting does not mend."""
    advice = next((advice for text, advice in _UNRECOVERABLE_TEXTS.items() if re.search(text, message, re.I)), "")
    return PendingReason(reason, f"{message}. {advice}" if advice else message, is_unrecoverable or bool(advice))


def startup_timeout_reason(
    resource: Mapping[str, Any], age: float, reason: PendingReason | None
) -> PendingReason | None:
    """Say that a RayJob or a RayCluster had so long to get under way, and has not; None while there is time.

    :param age: seconds since KubeRay has begun with it.
    :param reason: what it waits for, if that is known.
    """
    seconds = int((resource["metadata"].get("annotations") or {}).get(STARTUP_TIMEOUT, 0))
    if not seconds or age < seconds:
        return None
    waited = f"; it waited: {reason.reason}: {reason.message}" if reason else ""
    return PendingReason("StartupTimeout", f"It has not started within {seconds} s (startup_timeout){waited}", True)


def _about(events: Sequence[Mapping[str, Any]], *names: str | None) -> list[Mapping[str, Any]]:
    """Return the events about some objects, the latest last."""
    about = [event for event in events if event.get("involvedObject", {}).get("name") in names]
    return sorted(about, key=_moment)


def _moment(event: Mapping[str, Any]) -> str:
    return event.get("lastTimestamp") or event.get("eventTime") or ""


def _reasons_of_pod(pod: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> Iterator[PendingReason]:
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    for container in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason", "")
        reason = _SAME_REASON.get(reason, reason)
        if reason not in _ORDINARY:
            text = f"Container {container['name']} of pod {name}: {waiting.get('message') or reason}"
            # What a container died of says more than that its next start is put off.
            last = (container.get("lastState") or {}).get("terminated") or {}
            text += f"; it ended with {last.get('reason')} ({last.get('exitCode')})" if last else ""
            yield _reason_for(reason, text, reason in _UNRECOVERABLE_REASONS)
    for condition in status.get("conditions", ()):
        if (condition["type"], condition["status"]) == ("PodScheduled", "False"):
            reason, text = condition.get("reason", "Unschedulable"), f"Pod {name}: {condition.get('message', '')}"
            for event in [event for event in _about(events, name) if event.get("reason") in _OF_NODES][-1:]:
                reason, text = event["reason"], f"Pod {name} waits for a node: {event['reason']}: {event['message']}"
            yield PendingReason(reason, text)


def is_unscheduled(pod: Mapping[str, Any]) -> bool:
    """Tell whether a pod has no node yet."""
    return not pod.get("spec", {}).get("nodeName")


def node_lost(pods: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]]) -> PendingReason | None:
    """Say that the node of a pod does not answer; what runs there may go on, and nothing is heard of it."""
    for pod in filter(is_not_ready, pods):
        name = pod["metadata"]["name"]
        if any(event.get("reason") == "NodeNotReady" for event in _about(events, name)):
            text = f"The node {pod['spec'].get('nodeName')} of pod {name} is NotReady: it does not answer"
            return PendingReason("NodeNotReady", text)
    return None


def is_not_ready(pod: Mapping[str, Any]) -> bool:
    """Tell whether a pod is up and does not answer."""
    conditions = {each["type"]: each["status"] for each in (pod.get("status") or {}).get("conditions", ())}
    return is_up(pod) and conditions.get("Ready") == "False"


def is_up(pod: Mapping[str, Any]) -> bool:
    """Tell whether something can run in a pod, which may be about to end."""
    return (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")


def head_lost(
    rayjob: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]]
) -> PendingReason:
    """Say what has become of the head of a run, whose driver has ended with it.

    :param pods: what is left of the head's pods.
    :param events: of the namespace.
    """
    said = [text for pod in pods for text in _ends_of_pod(pod)]
    if not said:
        cluster = (rayjob.get("status") or {}).get("rayClusterName") or rayjob["metadata"]["name"]
        about = [event for event in events if _is_end(event, pods_begin(cluster, HEAD), _ENDS)]
        said = [f"{event['reason']}: {event.get('message', '')}" for event in sorted(about, key=_moment)[-1:]]
    text = "; ".join(said) or "its pod is not there; it was deleted, or its node is gone"
    return PendingReason("HeadLost", f"The head of its Ray cluster is lost, and its driver with it: {text}", True)


def workers_lost(cluster: str, pods: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]]) -> str:
    """Say which workers of a run have ended otherwise than by the autoscaler; "" for none.

    :param cluster: the name of its RayCluster.
    :param pods: what is left of its workers' pods.
    :param events: of the namespace.
    """
    said = [text for pod in pods for text in _ends_of_pod(pod)]
    begin = pods_begin(cluster, WORKER)
    gone = {event["involvedObject"]["name"]: event for event in events if _is_end(event, begin, _LOSSES)}
    there = {pod["metadata"]["name"] for pod in pods}
    said += [
        f"pod {name}: {event['reason']}: {event.get('message', '')}"
        for name, event in sorted(gone.items())
        if name not in there
    ]
    more = f"; and {len(said) - MOST_TOLD} more" if len(said) > MOST_TOLD else ""
    return "; ".join(said[:MOST_TOLD]) + more


#: Of so many lost workers it is said why.
MOST_TOLD = 3
#: Events of a pod that say that it was lost.
_LOSSES = frozenset({"Evicted", "Preempted", "TaintManagerEviction", "NodeNotReady", "OOMKilling"})
#: The same of one that nobody ends on purpose, beside those about containers.
_ENDS = _LOSSES | {"Killing", "Failed"}


def _is_end(event: Mapping[str, Any], begin: str, ends: frozenset[str]) -> bool:
    return event.get("involvedObject", {}).get("name", "").startswith(begin) and event.get("reason") in ends


def _ends_of_pod(pod: Mapping[str, Any]) -> Iterator[str]:
    """Say how containers of a pod ended, and what ended the pod."""
    status, name = pod.get("status") or {}, pod["metadata"]["name"]
    where = f"pod {name} on node {pod.get('spec', {}).get('nodeName') or 'unknown'}"
    for container in status.get("containerStatuses", ()):
        ended = (container.get("state") or {}).get("terminated") or (container.get("lastState") or {}).get("terminated")
        if ended:
            advice = _ADVICE.get(ended.get("reason", ""), "")
            yield f"container {container['name']} of {where}: {ended.get('reason')} ({ended.get('exitCode')}){advice}"
    if status.get("reason"):
        yield f"{where}: {status['reason']}: {status.get('message', '')}"
    for condition in status.get("conditions", ()):
        if (condition["type"], condition["status"]) == ("DisruptionTarget", "True"):
            yield f"{where}: {condition.get('reason')}: {condition.get('message', '')}"


_ADVICE = {"OOMKilled": ", it took more memory than its limit; give it more by `resources` of the settings"}


def ended_reason(raycluster: Mapping[str, Any] | None, cluster_id: str) -> PendingReason | None:
    """Say why nothing will run in a cluster any more, or None.

    :param raycluster: None if it is not there.
    """
    if raycluster is None:
        return PendingReason(
            "RayClusterGone", f"the cluster {cluster_id} is not there; it was deleted, or never made", True
        )
    metadata, status = raycluster["metadata"], raycluster.get("status") or {}
    if metadata.get("deletionTimestamp"):
        return PendingReason("RayClusterGone", f"the cluster {cluster_id} is being deleted", True)
    conditions = {each["type"]: each for each in status.get("conditions") or ()}
    was_up = conditions.get("RayClusterProvisioned", {}).get("status") == "True"
    has_no_head = conditions.get("HeadPodReady", {}).get("reason") == "HeadPodNotFound"
    if was_up and has_no_head and (metadata.get("annotations") or {}).get(NO_NEW_HEAD) == "true":
        return PendingReason(
            "RayClusterEnded", f"the head of the cluster {cluster_id} has ended; its lifetime may be over", True
        )
    return None
