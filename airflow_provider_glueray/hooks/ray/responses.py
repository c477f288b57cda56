"""What Ray's Jobs API and dashboard answer, as snapshots and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from airflow_provider_glueray.core.runs import RAY_JOB, RunRef, RunSnapshot, RunState, Usage, read_state

#: Keys in the metadata of a Ray job: its client token, which tells our run from somebody else's of the same id, and the
#: name of its job.
CLIENT_TOKEN, NAME = "glueray_client_token", "glueray_name"
#: ``JobStatus`` of Ray's Jobs API (ray/dashboard/modules/job/common.py).
RAY_JOB_STATE: Mapping[str, RunState] = {
    "PENDING": RunState.STARTING,
    "RUNNING": RunState.RUNNING,
    "STOPPED": RunState.STOPPED,
    "SUCCEEDED": RunState.SUCCEEDED,
    "FAILED": RunState.FAILED,
}


def snapshot_of(details: Mapping[str, Any]) -> RunSnapshot:
    """Read a ``JobDetails`` (ray/dashboard/modules/job/pydantic_models.py); its times are milliseconds."""
    raw = str(details["status"])
    started, ended = (details[key] / 1000 if details.get(key) else None for key in ("start_time", "end_time"))
    state = read_state(RAY_JOB_STATE, raw, completed=ended is not None)
    name = str((details.get("metadata") or {}).get(NAME, ""))
    return RunSnapshot(
        ref=RunRef(RAY_JOB, name, str(details["submission_id"])),
        state=state,
        raw_state=raw,
        # What it says of runs that are well is the state in other words.
        message=(details.get("message") or "")[:2000] if state is RunState.FAILED else "",
        started=started,
        completed=ended,
        # Ray does not say on whose workers it ran: the cluster is there for everybody.
        usage=Usage(ended - started, 0, 0.0) if started and ended else None,
        recognised=raw in RAY_JOB_STATE,
    )


class ClusterSize(NamedTuple):
    """How large a cluster is: its CPUs, None if that cannot be seen, and whether an autoscaler makes it grow."""

    cpus: int | None = None
    scales: bool = False


def cluster_size(status: Mapping[str, Any], nodes: Mapping[str, Any], summary: Mapping[str, Any]) -> ClusterSize:
    """Read it from the dashboard's answers.

    :param status: of ``/api/cluster_status``.
    :param nodes: of ``/api/v0/nodes``.
    :param summary: of ``/nodes?view=summary``.
    """
    alive = [node["resources_total"] for node in nodes["data"]["result"]["result"] if node["state"] == "ALIVE"]
    report = status["data"].get("clusterStatus")
    if report:
        types = (report.get("autoscalerReport") or {}).get("nodeTypeMapping") or {}
        # Where nothing scales, each node has a type of its own (ray/autoscaler/_private/readonly/node_provider.py).
        scales = any(kind != f"node_{node}" for node, kind in types.items())
    else:
        # Autoscaler v2 reports elsewhere, and the summary is read from there (ray/dashboard/modules/node/node_head.py).
        scales = bool(summary["data"].get("nodeLogicalResources"))
    return ClusterSize(int(sum(resources.get("CPU", 0) for resources in alive)), scales)
