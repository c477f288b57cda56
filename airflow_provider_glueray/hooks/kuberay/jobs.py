"""Runs as RayJobs of KubeRay: create, describe, read, stop.

A run has one driver, on the head of its cluster. KubeRay's operator submits it there and tells how it ends; its log is
read from the head. A verdict that it has not succeeded is given when its head is gone, and no sooner: KubeRay's word
that a run has failed may be about the operator's view of it.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple
from uuid import uuid4

from airflow_provider_glueray.core.backend import Prepared
from airflow_provider_glueray.core.errors import AccessDenied, ClusterEnded, SubmitError
from airflow_provider_glueray.core.logs import SCRIPT, LogCursor, LogPage
from airflow_provider_glueray.core.runs import KUBERAY_JOB, RunRef, RunSnapshot, RunState
from airflow_provider_glueray.core.spec import RayJobSpec
from airflow_provider_glueray.hooks.kuberay.connection import group_by_namespace, namespaced_name
from airflow_provider_glueray.hooks.kuberay.head import ApiServerProxy, Head, HeadAway
from airflow_provider_glueray.hooks.kuberay.logs import join_cursor, split_cursor
from airflow_provider_glueray.hooks.kuberay.manifests.pods import (
    CLIENT_TOKEN,
    HEAD,
    JOB,
    QUEUE,
    RAYJOB,
    id_of,
    label_value,
    rayjob_name,
)
from airflow_provider_glueray.hooks.kuberay.manifests.raycluster import PLURAL as CLUSTERS
from airflow_provider_glueray.hooks.kuberay.manifests.raycluster import SHARED
from airflow_provider_glueray.hooks.kuberay.manifests.rayjob import (
    CLUSTER_SELECTOR,
    PLURAL,
    ignored_in_cluster,
    ignored_settings,
    job_id_of,
    to_rayjob,
)
from airflow_provider_glueray.hooks.kuberay.resource import KubeRayResourceHook
from airflow_provider_glueray.hooks.kuberay.settings import RayJobSettings
from airflow_provider_glueray.hooks.kuberay.status import (
    PendingReason,
    ended_reason,
    head_lost,
    is_up,
    snapshot_of,
    time_of,
)
from airflow_provider_glueray.packaging.upload import stage

#: The most RayJobs of a job that are looked at, and deleted, when a run of it is started.
MOST_LISTED, MOST_SWEPT = 500, 50


class _Job(NamedTuple):
    """The Ray job of a run, as far as its RayJob says.

    :param service: of the head that runs it; "" before KubeRay has told.
    :param job_id: Ray's id of it.
    :param is_shared: whether the head runs others too.
    """

    service: str
    job_id: str
    is_shared: bool


class KubeRayHook(KubeRayResourceHook):
    """Talk to a Kubernetes cluster about RayJobs. Its connection: see :class:`KubeRayConnectionHook`."""

    kind, plural, label = "RayJob", PLURAL, RAYJOB

    def _snapshot_of(self, resource: Mapping[str, Any], reason: PendingReason | None = None) -> RunSnapshot:
        return snapshot_of(resource, reason)

    def prepare(self, spec: RayJobSpec, staging_uri: str | None = None, run_timeout: float | None = None) -> Prepared:
        """Upload what is local; nothing is made in the cluster before the start.

        :param staging_uri: ``s3://bucket/prefix`` for what is local.
        :param run_timeout: seconds after which KubeRay itself ends the run.
        :raises SpecError: a setting is unknown or wrong, or a text cannot be handed on.
        :raises ClusterEnded: the cluster to share is over.
        :raises SubmitError: a file is missing, or the connection is.
        """
        settings = self._settings(spec)
        staged = stage(spec, staging_uri, self.storage, self.log) if spec.local_files() else spec
        deadline = math.ceil(run_timeout) if run_timeout else None

        def manifest(client_token: str, arguments: Mapping[str, str], started_uri: str = "") -> dict[str, Any]:
            return to_rayjob(
                staged,
                client_token,
                arguments=arguments,
                settings=settings,
                deadline_seconds=deadline,
                started_uri=started_uri,
            )

        # Refused now, not when the run is started: nothing is wrong with the cluster.
        manifest("", {})
        for note in (*ignored_settings(spec, settings), *(self._notes_in(spec, settings) if spec.cluster else ())):
            self._warn_once(note)

        def start(client_token: str, arguments: Mapping[str, str]) -> RunRef:
            # Of one RayJob: a DAG run that is deleted and made anew has the same client tokens.
            where = f"{staging_uri.rstrip('/')}/{spec.name}/started/{uuid4().hex}" if staging_uri else ""
            ref = self.submit(manifest(client_token, arguments, where))
            self._delete_old_rayjobs(ref, settings.keep_finished_days)
            return ref

        return Prepared(start, is_new=False)

    def _notes_in(self, spec: RayJobSpec, settings: RayJobSettings) -> Iterable[str]:
        """Look at the cluster that is to be shared.

        :raises ClusterEnded: nothing will run in it any more.
        """
        cluster_id = str(spec.cluster)
        found = self._clusters(settings.namespace).get(cluster_id)
        end = ended_reason(found, cluster_id)
        if found is None or end is not None:
            why = end.message if end else cluster_id
            raise ClusterEnded(f"{why[0].upper()}{why[1:]}. Clear the task that makes it, to have a new one")
        return ignored_in_cluster(spec, settings, found)

    def _clusters(self, namespace: str) -> dict[str, Mapping[str, Any]]:
        """Return the clusters of a namespace that runs may share, by their ids."""
        return {id_of(each): each for each in self._list_by(namespace, SHARED, CLUSTERS)}

    def submit(self, rayjob: Mapping[str, Any]) -> RunRef:
        """Create a RayJob, and never a second one of its name.

        :raises CapacityExceeded: a quota or a limit of requests; nothing was created.
        :raises SubmitOutcomeUnknown: no answer, several times over.
        """
        return self._create(snapshot_of(rayjob).ref, rayjob)

    def find_runs(self, name: str, client_token: str) -> list[RunSnapshot]:
        """Return the run of ``name`` that carries the client token, if there is one: its name is made of both."""
        ref = RunRef(KUBERAY_JOB, name, f"{self._namespace}/{rayjob_name(name, client_token)}")
        return [self.describe([ref])[ref]] if self._with_token(ref, client_token) else []

    def latest_run(self, name: str) -> RunSnapshot | None:
        """Return the newest run of a job, or None if there is none."""
        found = self._list_by(self._namespace, f"{JOB}={label_value(name)}")
        latest = max(found, key=lambda rayjob: rayjob["metadata"]["creationTimestamp"], default=None)
        return snapshot_of(latest) if latest else None

    # -- its head ---------------------------------------------------------------------------------------------

    def _list(self, refs: Iterable[RunRef]) -> dict[str, Mapping[str, Any]]:
        found = super()._list(refs)
        for run_id, rayjob in found.items():
            job = _job_of(rayjob)
            # A RayJob that was suspended has forgotten where it ran.
            if job.service or run_id not in self._jobs:
                self._jobs[run_id] = job
        return found

    def _head_of(self, ref: RunRef) -> tuple[Head, str] | None:
        """Return the head that runs a run, and Ray's id of its job there; None before there is one."""
        if not getattr(self._jobs.get(ref.id), "service", ""):
            self._list([ref])
        job = self._jobs.get(ref.id)
        if job is None or not job.service:
            return None
        place = (namespaced_name(ref)[0], job.service)
        return self._heads.setdefault(place, Head(self._proxy, *place)), job.job_id

    def describe(self, refs: Collection[RunRef]) -> dict[RunRef, RunSnapshot]:
        """Describe runs, and tell of those that have ended whether something of them can still run.

        One call lists up to a hundred runs, one more their heads. See ``RunBackend``.
        """
        seen = super().describe(refs)
        ended = [ref for ref, each in seen.items() if each.state.is_terminal and each.state is not RunState.LOST]
        held = self._held([ref for ref in ended if ref.id not in self._let_go])
        self._let_go.update(ref.id for ref in ended if ref not in held)
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
                events = self._events(namespace) if gone else []
            except SubmitError as error:
                self._warn_once(f"Whether heads of runs are there cannot be seen: {error}")
                continue
            for rayjob in gone:
                reasons[id_of(rayjob)] = head_lost(rayjob, pods.get(rayjob["metadata"]["name"], ()), events)
        return reasons

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

    def stop(self, *refs: RunRef) -> None:
        """Stop runs, and take what they have in the cluster away; also what one that has ended still holds.

        :raises StopError: the cluster refused to stop a run that is still active.
        """
        shared = [ref for ref in refs if getattr(self._jobs.get(ref.id), "is_shared", False)]
        for ref in shared:
            self._stop_in_cluster(ref)
        super().stop(*refs)

    def _stop_in_cluster(self, ref: RunRef) -> None:
        """Ask Ray itself too: KubeRay asks once, and lets go of the run whatever the answer is."""
        try:
            found = self._head_of(ref)
            if found:
                found[0].stop(found[1])
        except SubmitError as error:
            self._warn_once(f"Ray could not be asked to stop {ref.title}; KubeRay is: {error}")

    def _take_away(self, ref: RunRef) -> None:
        namespace, name = namespaced_name(ref)
        for cluster in self._own_clusters(namespace, [name]):
            if not cluster["metadata"].get("deletionTimestamp"):
                self._delete_named(CLUSTERS, namespace, cluster["metadata"]["name"], f"cluster of {ref.title}")

    def _end(self, ref: RunRef, resource: Mapping[str, Any], annotations: Mapping[str, str]) -> None:
        """Suspend a RayJob, which takes its pods away and leaves its state to be seen.

        Not one in a shared cluster, which KubeRay does not suspend (kuberay/…/utils/validation.go): when it is deleted,
        KubeRay stops its Ray job (rayjob_controller.go). And not one in a queue of Kueue, which would start it again.
        """
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
    def _let_go(self) -> set[str]:
        """The ids of runs that have ended and were seen to hold nothing any more."""
        return set()

    def _delete_old_rayjobs(self, ref: RunRef, days: int) -> None:
        """Delete RayJobs of the same job that have ended long ago; KubeRay keeps them for ever.

        The run that was started is not affected by what fails here.
        """
        if not days:
            return
        try:
            mine = self._list_by(namespaced_name(ref)[0], f"{JOB}={label_value(ref.name)}", limit=MOST_LISTED)
            ended = [snapshot_of(rayjob) for rayjob in mine if _ended_before(rayjob, time.time() - days * 86400)]
            for snapshot in ended[:MOST_SWEPT]:
                self._delete(snapshot.ref)
        except SubmitError as error:
            self._warn_once(f"RayJobs that have ended long ago could not be deleted: {error}")


def _ended_before(rayjob: Mapping[str, Any], moment: float) -> bool:
    """Tell whether a run was over before a moment; where KubeRay notes no end, its creation has to be as long ago."""
    snapshot, metadata = snapshot_of(rayjob), rayjob["metadata"]
    made = time_of(metadata["creationTimestamp"])
    return snapshot.is_over and not metadata.get("deletionTimestamp") and (snapshot.completed or made) < moment


def _job_of(rayjob: Mapping[str, Any]) -> _Job:
    status = rayjob.get("status") or {}
    head = (status.get("rayClusterStatus") or {}).get("head") or {}
    client_token = (rayjob["metadata"].get("annotations") or {}).get(CLIENT_TOKEN, "")
    is_shared = bool(rayjob["spec"].get("clusterSelector"))
    return _Job(head.get("serviceName") or "", status.get("jobId") or job_id_of(client_token), is_shared)


def _by_namespace(rayjobs: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    by_namespace = defaultdict(list)
    for rayjob in rayjobs:
        by_namespace[rayjob["metadata"]["namespace"]].append(rayjob)
    return dict(by_namespace)
