"""Runs as RayJobs of KubeRay: prepared, started, found again."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import uuid4

from airflow_provider_glueray.core.backend import Prepared
from airflow_provider_glueray.core.errors import ClusterEnded, SubmitError
from airflow_provider_glueray.core.runs import KUBERAY_JOB, RunRef, RunSnapshot
from airflow_provider_glueray.core.spec import RayJobSpec
from airflow_provider_glueray.hooks.kuberay.connection import namespaced_name
from airflow_provider_glueray.hooks.kuberay.manifests.pods import (
    JOB,
    label_value,
    rayjob_name,
)
from airflow_provider_glueray.hooks.kuberay.manifests.rayjob import (
    ignored_in_cluster,
    ignored_settings,
    to_rayjob,
)
from airflow_provider_glueray.hooks.kuberay.reasons import ended_reason
from airflow_provider_glueray.hooks.kuberay.runs import KubeRayRunsHook
from airflow_provider_glueray.hooks.kuberay.settings import RayJobSettings
from airflow_provider_glueray.hooks.kuberay.status import snapshot_of, time_of
from airflow_provider_glueray.packaging.upload import stage

#: The most RayJobs of a job that are looked at, and deleted, when a run of it is started.
MOST_LISTED, MOST_SWEPT = 500, 50


class KubeRayHook(KubeRayRunsHook):
    """Talk to a Kubernetes cluster about RayJobs. Its connection: see :class:`KubeRayConnectionHook`."""

    def prepare(self, spec: RayJobSpec, staging_uri: str | None = None, run_timeout: float | None = None) -> Prepared:
        """Upload what is local; nothing is made in the cluster before the start.

        :param staging_uri: ``s3://bucket/prefix`` for what is local, and for the note that a script has started.
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
