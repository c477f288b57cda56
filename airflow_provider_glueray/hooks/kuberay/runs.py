"""Runs of RayJobs and the heads that they run on: described, read, stopped.

A run has one driver, on the head of its cluster. KubeRay's operator submits it there and tells how it ends; its log is
read from the head. A verdict that it has not succeeded is given when its head is gone, and no sooner: KubeRay's word
that a run has failed may be about the operator's view of it.
"""

from __future__ import annotations

import json
import time
from base64 import b64decode
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from airflow_provider_glueray.core.errors import AccessDenied, SubmitError
from airflow_provider_glueray.core.logs import SCRIPT, LogCursor, LogPage
from airflow_provider_glueray.core.runs import RunRef, RunSnapshot, RunState
from airflow_provider_glueray.hooks.kuberay.connection import BOUNDED, group_by_namespace, namespaced_name
from airflow_provider_glueray.hooks.kuberay.errors import kubernetes_errors
from airflow_provider_glueray.hooks.kuberay.head import TOKEN_KEY, ApiServerProxy, Head, HeadAway, secret_of
from airflow_provider_glueray.hooks.kuberay.logs import join_cursor, split_cursor
from airflow_provider_glueray.hooks.kuberay.manifests.pods import CLIENT_TOKEN, HEAD, QUEUE, RAYJOB, WORKER, id_of
from airflow_provider_glueray.hooks.kuberay.manifests.raycluster import PLURAL as CLUSTERS
from airflow_provider_glueray.hooks.kuberay.manifests.raycluster import SHARED
from airflow_provider_glueray.hooks.kuberay.manifests.rayjob import CLUSTER_SELECTOR, PLURAL, job_id_of
from airflow_provider_glueray.hooks.kuberay.reasons import (
    NEWS_OF_PODS,
    PendingReason,
    ended_reason,
    head_lost,
    is_not_ready,
    is_up,
    node_lost,
    workers_lost,
)
from airflow_provider_glueray.hooks.kuberay.resource import KubeRayResourceHook
from airflow_provider_glueray.hooks.kuberay.status import snapshot_of, time_of
from airflow_provider_glueray.hooks.kuberay.usage import NO_PODS, Meter


class _Job(NamedTuple):
    """The Ray job of a run, as far as its RayJob says.

    :param service: of the head that runs it; "" before KubeRay has told.
    :param cluster: of that head.
    :param job_id: Ray's id of it.
    :param is_shared: whether the head runs others too.
    """

    service: str
    cluster: str
    job_id: str
    is_shared: bool


class KubeRayRunsHook(KubeRayResourceHook):
    """What becomes of runs, once they are started."""

    kind, plural, label = "RayJob", PLURAL, RAYJOB

    def _snapshot_of(self, resource: Mapping[str, Any], reason: PendingReason | None = None) -> RunSnapshot:
        return snapshot_of(resource, reason)

    def _clusters(self, namespace: str) -> dict[str, Mapping[str, Any]]:
        """Return the clusters of a namespace that runs may share, by their ids."""
        return {id_of(each): each for each in self._list_by(namespace, SHARED, CLUSTERS)}

    def _list(self, refs: Iterable[RunRef]) -> dict[str, Mapping[str, Any]]:
        found = super()._list(refs)
        for run_id, rayjob in found.items():
            job = _job_of(rayjob)
            # A RayJob that was suspended has forgotten where it ran.
            if job.service or run_id not in self._jobs:
                self._jobs[run_id] = job
            self._measure(run_id, rayjob)
        return found

    def _measure(self, run_id: str, rayjob: Mapping[str, Any]) -> None:
        """Add what the pods of a run's own cluster have requested since the last look."""
        status, cluster = rayjob.get("status") or {}, rayjob["spec"].get("rayClusterSpec")
        began = time_of(status.get("startTime"))
        if cluster is None or began is None:
            return
        until = time_of(status.get("endTime")) or time.time()
        of_cluster = status.get("rayClusterStatus") or {}
        if status.get("jobDeploymentStatus") == "Suspended":
            of_cluster = NO_PODS
        self._meters.setdefault(run_id, Meter()).look(cluster, of_cluster, began, until)

    def _with_usage(self, snapshot: RunSnapshot) -> RunSnapshot:
        meter = self._meters.get(snapshot.ref.id)
        return snapshot._replace(usage=meter.usage) if meter and snapshot.state.is_terminal else snapshot

    def _head_of(self, ref: RunRef) -> tuple[Head, str] | None:
        """Return the head that runs a run, and Ray's id of its job there; None before there is one."""
        if not getattr(self._jobs.get(ref.id), "service", ""):
            self._list([ref])
        job = self._jobs.get(ref.id)
        if job is None or not job.service:
            return None
        namespace = namespaced_name(ref)[0]
        head = Head(self._proxy, namespace, job.service, lambda: self._token_of(namespace, job.cluster))
        return self._heads.setdefault((namespace, job.service), head), job.job_id

    def _token_of(self, namespace: str, cluster: str) -> str:
        """Read the token that the head of a cluster asks for.

        :raises AccessDenied: the connection's user may not get secrets.
        """
        secret = secret_of(cluster)
        with kubernetes_errors(f"token of Ray in the secret {namespace}/{secret} (it takes get on secrets)"):
            answer = self.core_v1_client.read_namespaced_secret(secret, namespace, _preload_content=False, **BOUNDED)
        return b64decode(json.loads(answer.data)["data"][TOKEN_KEY]).decode()

    def describe(self, refs: Collection[RunRef]) -> dict[RunRef, RunSnapshot]:
        """Describe runs, and tell of those that have ended whether something of them can still run.

        One call lists up to a hundred runs, one more their heads. See ``RunBackend``.
        """
        told = super().describe(refs)
        seen = {ref: self._with_lost_workers(self._with_usage(each)) for ref, each in told.items()}
        ended = [ref for ref, each in seen.items() if each.state.is_terminal and ref.id not in self._let_go]
        held = self._held(ended)
        # One that is not there may be there the next time.
        self._let_go.update(ref.id for ref in ended if ref not in held and seen[ref].state is not RunState.LOST)
        return {ref: each._replace(is_held=ref in held) for ref, each in seen.items()}

    def _held(self, refs: Collection[RunRef]) -> set[RunRef]:
        """Return those runs of which a head, or what makes one, is still there; in a shared cluster the Ray job."""
        shared = {ref for ref in refs if getattr(self._jobs.get(ref.id), "is_shared", False)}
        held = {ref for ref in shared if self._runs_in_cluster(ref)}
        for namespace, own in group_by_namespace([ref for ref in refs if ref not in shared]).items():
            names = {namespaced_name(ref)[1]: ref for ref in own}
            try:
                pods = self._pods(namespace, list(names), HEAD)
                clusters = {each["metadata"]["labels"][RAYJOB] for each in self._own_clusters(namespace, list(names))}
            except SubmitError as error:
                self._warn_once(f"Whether heads of runs that have ended are gone cannot be seen: {error}")
                continue
            held |= {ref for name, ref in names.items() if name in clusters or any(map(is_up, pods.get(name, ())))}
        return held

    def _runs_in_cluster(self, ref: RunRef) -> bool:
        """Ask the head of a shared cluster whether a job runs that its RayJob says has ended."""
        try:
            found = self._head_of(ref)
            details = found[0].job(found[1]) if found else None
        except HeadAway:
            return False
        except SubmitError as error:
            self._warn_once(f"Whether a shared cluster still runs what has ended cannot be seen: {error}")
            return False
        return details is not None and not details.get("end_time")

    def _own_clusters(self, namespace: str, names: Sequence[str]) -> list[Mapping[str, Any]]:
        """Return the clusters that KubeRay has made for runs; they carry the labels of their RayJobs."""
        return self._list_by(namespace, self._selector(names), CLUSTERS)

    def _pending_reasons(self, resources: Sequence[Mapping[str, Any]]) -> dict[str, PendingReason]:
        """Say also which runs have lost what they run on: KubeRay goes on waiting for it."""
        reasons = super()._pending_reasons(resources)
        active = [rayjob for rayjob in resources if not snapshot_of(rayjob).state.is_terminal]
        shared = [rayjob for rayjob in active if rayjob["spec"].get("clusterSelector")]
        running = [each for each in active if (each.get("status") or {}).get("jobDeploymentStatus") == "Running"]
        for namespace, those in _by_namespace(shared).items():
            try:
                clusters = self._clusters(namespace)
            except SubmitError as error:
                self._warn_once(f"Whether shared clusters are there cannot be seen: {error}")
                continue
            for rayjob in those:
                cluster_id = f"{namespace}/{rayjob['spec']['clusterSelector'][CLUSTER_SELECTOR]}"
                end = ended_reason(clusters.get(cluster_id), cluster_id)
                if end is not None:
                    reasons[id_of(rayjob)] = end
        for namespace, those in _by_namespace([each for each in running if each not in shared]).items():
            try:
                pods = self._pods(namespace, [rayjob["metadata"]["name"] for rayjob in those], HEAD)
                gone = [each for each in those if not any(map(is_up, pods.get(each["metadata"]["name"], ())))]
                are_silent = any(is_not_ready(pod) for mine in pods.values() for pod in mine)
                events = self._events(namespace, NEWS_OF_PODS) if gone or are_silent else []
            except SubmitError as error:
                self._warn_once(f"Whether heads of runs are there cannot be seen: {error}")
                continue
            for rayjob in those:
                mine = pods.get(rayjob["metadata"]["name"], ())
                reason = head_lost(rayjob, mine, events) if rayjob in gone else node_lost(mine, events)
                if reason is not None:
                    reasons[id_of(rayjob)] = reason
        return reasons

    def _with_lost_workers(self, snapshot: RunSnapshot) -> RunSnapshot:
        """Say of a run that has failed which of its workers were lost: Ray itself tells only that they are gone."""
        job = self._jobs.get(snapshot.ref.id)
        if snapshot.state is not RunState.FAILED or job is None or job.is_shared or not job.cluster:
            return snapshot
        if snapshot.ref.id not in self._losses:
            namespace, name = namespaced_name(snapshot.ref)
            try:
                pods = self._pods(namespace, [name], WORKER).get(name, [])
                lost = workers_lost(job.cluster, pods, self._events(namespace, NEWS_OF_PODS))
            except SubmitError as error:
                self._warn_once(f"Whether workers were lost cannot be seen: {error}")
                lost = ""
            self._losses[snapshot.ref.id] = f" Lost workers: {lost}" if lost else ""
        return snapshot._replace(message=f"{snapshot.message}{self._losses[snapshot.ref.id]}".strip())

    def read_logs(self, cursors: Mapping[RunRef, LogCursor], sources: Sequence[str]) -> dict[RunRef, LogPage]:
        """Read what is new in the logs of runs. See ``RunBackend``.

        The driver's log is read from the head, by the proxy of the API server; the others are those of pods. Of many
        logs, one that cannot be read holds up no other.
        """
        pods = super().read_logs({ref: split_cursor(cursor)[1] for ref, cursor in cursors.items()}, sources)
        pages = {}
        for ref, cursor in cursors.items():
            page = LogPage((), split_cursor(cursor)[0])
            try:
                page = self._driver_lines(ref, page.cursor) if SCRIPT in sources else page
            except SubmitError as error:
                if len(cursors) == 1:
                    raise
                self.log.warning("Could not read the log of %s: %s", ref.title, error)
            pages[ref] = LogPage([*page.lines, *pods[ref].lines], join_cursor(page.cursor, pods[ref].cursor))
        return pages

    def _driver_lines(self, ref: RunRef, cursor: LogCursor) -> LogPage:
        try:
            found = self._head_of(ref)
            return found[0].new_lines(found[1], cursor) if found else LogPage((), cursor)
        except HeadAway as error:
            if cursor.to_end:  # with the head its log is gone
                return LogPage((), cursor)
            raise SubmitError(str(error)) from error
        except AccessDenied as error:
            self._warn_once(f"The log of the script cannot be read; the run is not affected. {error}")
            return LogPage((), cursor)

    def _stop_in_cluster(self, ref: RunRef) -> None:
        """Ask Ray itself too: KubeRay asks once, and lets go of the run whatever the answer is."""
        try:
            found = self._head_of(ref)
            if found:
                found[0].stop(found[1])
        except HeadAway:
            return  # with its head its job has ended
        except SubmitError as error:
            self._warn_once(f"Ray could not be asked to stop {ref.title}; KubeRay is: {error}")

    def _take_away(self, ref: RunRef) -> None:
        if getattr(self._jobs.get(ref.id), "is_shared", False):
            self._stop_in_cluster(ref)
            return
        namespace, name = namespaced_name(ref)
        for cluster in self._own_clusters(namespace, [name]):
            if not cluster["metadata"].get("deletionTimestamp"):
                self._delete_named(CLUSTERS, namespace, cluster["metadata"]["name"], f"cluster of {ref.title}")

    def _end(self, ref: RunRef, resource: Mapping[str, Any], annotations: Mapping[str, str]) -> None:
        """Suspend a RayJob, which takes its pods away and leaves its state to be seen.

        Not one in a shared cluster, which KubeRay does not suspend (kuberay/…/utils/validation.go): when it is deleted,
        KubeRay stops its Ray job (rayjob_controller.go). And not one in a queue of Kueue, which would start it again.
        """
        if resource["spec"].get("clusterSelector"):
            self._stop_in_cluster(ref)
        if resource["spec"].get("clusterSelector") or QUEUE in resource["metadata"].get("labels", {}):
            super()._end(ref, resource, annotations)
        else:
            self._patch(ref, {"metadata": {"annotations": dict(annotations)}, "spec": {"suspend": True}})

    @cached_property
    def _proxy(self) -> ApiServerProxy:
        return ApiServerProxy(self._client.configuration)

    @cached_property
    def _heads(self) -> dict[tuple[str, str], Head]:
        """The heads that were asked, by namespace and service."""
        return {}

    @cached_property
    def _jobs(self) -> dict[str, _Job]:
        """What RayJobs have said of their Ray jobs, by the ids of their runs."""
        return {}

    @cached_property
    def _meters(self) -> dict[str, Meter]:
        """What runs with a cluster of their own have used, by their ids."""
        return {}

    @cached_property
    def _losses(self) -> dict[str, str]:
        """What is said of workers that were lost, by the ids of runs that have failed."""
        return {}

    @cached_property
    def _let_go(self) -> set[str]:
        """The ids of runs that have ended and were seen to hold nothing any more."""
        return set()


def _job_of(rayjob: Mapping[str, Any]) -> _Job:
    status = rayjob.get("status") or {}
    head = (status.get("rayClusterStatus") or {}).get("head") or {}
    client_token = (rayjob["metadata"].get("annotations") or {}).get(CLIENT_TOKEN, "")
    is_shared = bool(rayjob["spec"].get("clusterSelector"))
    job_id = status.get("jobId") or job_id_of(client_token)
    return _Job(head.get("serviceName") or "", status.get("rayClusterName") or "", job_id, is_shared)


def _by_namespace(rayjobs: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    by_namespace = defaultdict(list)
    for rayjob in rayjobs:
        by_namespace[rayjob["metadata"]["namespace"]].append(rayjob)
    return dict(by_namespace)
