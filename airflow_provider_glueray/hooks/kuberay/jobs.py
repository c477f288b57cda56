"""Runs as RayJobs of KubeRay: create, describe, read, stop."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from airflow_provider_glueray.core.backend import Prepared
from airflow_provider_glueray.core.errors import ClusterEnded, SubmitError
from airflow_provider_glueray.core.runs import KUBERAY_JOB, RunRef, RunSnapshot
from airflow_provider_glueray.core.spec import RayJobSpec
from airflow_provider_glueray.hooks.kuberay.connection import namespaced_name
from airflow_provider_glueray.hooks.kuberay.manifests.pods import (
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
    to_rayjob,
)
from airflow_provider_glueray.hooks.kuberay.resource import KubeRayResourceHook
from airflow_provider_glueray.hooks.kuberay.settings import RayJobSettings
from airflow_provider_glueray.hooks.kuberay.status import PendingReason, ended_reason, snapshot_of, time_of
from airflow_provider_glueray.packaging.upload import stage

#: The most RayJobs of a job that are looked at, and deleted, when a run of it is started.
MOST_LISTED, MOST_SWEPT = 500, 50


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

        def manifest(client_token: str, arguments: Mapping[str, str]) -> dict[str, Any]:
            return to_rayjob(staged, client_token, arguments=arguments, settings=settings, deadline_seconds=deadline)

        # Refused now, not when the run is started: nothing is wrong with the cluster.
        manifest("", {})
        for note in (*ignored_settings(spec, settings), *(self._notes_in(spec, settings) if spec.cluster else ())):
            self._warn_once(note)

        def start(client_token: str, arguments: Mapping[str, str]) -> RunRef:
            ref = self.submit(manifest(client_token, arguments))
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
        return self._with_token(ref, client_token)

    def latest_run(self, name: str) -> RunSnapshot | None:
        """Return the newest run of a job, or None if there is none."""
        found = self._list_by(self._namespace, f"{JOB}={label_value(name)}")
        latest = max(found, key=lambda rayjob: rayjob["metadata"]["creationTimestamp"], default=None)
        return snapshot_of(latest) if latest else None

    def _pending_reasons(self, resources: Sequence[Mapping[str, Any]]) -> dict[str, PendingReason]:
        """Say also of which runs the shared cluster is over: KubeRay goes on waiting for it."""
        reasons = super()._pending_reasons(resources)
        shared: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for rayjob in resources:
            if rayjob["spec"].get("clusterSelector") and not snapshot_of(rayjob).state.is_terminal:
                shared[rayjob["metadata"]["namespace"]].append(rayjob)
        for namespace, those in shared.items():
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
        return reasons

    def _end(self, ref: RunRef, resource: Mapping[str, Any], annotations: Mapping[str, str]) -> None:
        """Suspend a RayJob, which takes its pods away and leaves its state to be seen.

        Not one in a shared cluster, which KubeRay does not suspend (kuberay/…/utils/validation.go): when it is deleted,
        KubeRay stops its Ray job (rayjob_controller.go). And not one in a queue of Kueue, which would start it again.
        """
        if resource["spec"].get("clusterSelector") or QUEUE in resource["metadata"].get("labels", {}):
            super()._end(ref, resource, annotations)
        else:
            self._patch(ref, {"metadata": {"annotations": dict(annotations)}, "spec": {"suspend": True}})

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
