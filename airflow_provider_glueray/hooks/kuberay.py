"""Runs as RayJobs of KubeRay: create, describe, read, stop.

Floor 2.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from kubernetes.client.exceptions import ApiException  # type: ignore[import-untyped]

from airflow_provider_glueray.errors import StopError, SubmitError
from airflow_provider_glueray.hooks.kuberay_answers import translated
from airflow_provider_glueray.hooks.kuberay_connection import KubeRayConnectionHook, place_of
from airflow_provider_glueray.kuberay_pods import (
    GROUP,
    HOPELESS,
    JOB,
    MARK,
    QUEUE,
    RAYJOB,
    STOPPED,
    VERSION,
    label_of,
    rayjob_name,
)
from airflow_provider_glueray.kuberay_settings import RayJobSettings
from airflow_provider_glueray.rayjob import PLURAL, notes_on, to_rayjob
from airflow_provider_glueray.rayjob_status import Trouble, snapshot_of
from airflow_provider_glueray.runs import KUBERAY_JOB, Prepared, RunRef, RunSnapshot, RunState
from airflow_provider_glueray.spec import RayJobSpec


class KubeRayHook(KubeRayConnectionHook):
    """Talk to a Kubernetes cluster about RayJobs. Its connection: see :class:`KubeRayConnectionHook`."""

    kind, plural, label = "RayJob", PLURAL, RAYJOB

    def _snapshot_of(self, thing: Mapping[str, Any], trouble: Trouble | None = None) -> RunSnapshot:
        return snapshot_of(thing, trouble)

    def prepare(self, spec: RayJobSpec, staging: str | None = None, timeout: float | None = None) -> Prepared:
        """Upload what is local; nothing is made in the cluster before the start.

        :param staging: ``s3://bucket/prefix`` for what is local.
        :param timeout: seconds after which KubeRay itself ends the run.
        :raises SpecError: a setting is unknown or wrong, or a text cannot be handed on.
        :raises SubmitError: a file is missing, or the connection is.
        """
        settings = RayJobSettings.of(
            self._extra.get("kuberay") or {}, spec.overrides.get("kuberay", {}), namespace=self._namespace
        )
        staged: RayJobSpec = self.storage.stage(spec, staging) if spec.local_files() else spec
        deadline = math.ceil(timeout) if timeout else None

        def manifest(mark: str, arguments: Mapping[str, str]) -> dict[str, Any]:
            return to_rayjob(staged, mark, arguments=arguments, settings=settings, deadline_seconds=deadline)

        # Refused now, not when the run is started: nothing is wrong with the cluster.
        manifest("", {})
        for note in notes_on(spec, settings):
            self._say_once(note)
        return Prepared(lambda mark, arguments: self.submit(manifest(mark, arguments)), is_new=False)

    def submit(self, rayjob: Mapping[str, Any]) -> RunRef:
        """Create a RayJob, and never a second one of its name.

        :raises ServiceFull: a quota or a limit of requests; nothing was created.
        :raises SubmitUnknown: no answer, several times over.
        """
        return self._create(snapshot_of(rayjob).ref, rayjob)

    def find_runs(self, name: str, mark: str) -> list[RunSnapshot]:
        """Return the run of ``name`` that carries ``mark``, if there is one: its name is made of both."""
        ref = RunRef(KUBERAY_JOB, name, f"{self._namespace}/{rayjob_name(name, mark)}")
        found = self._list([ref])
        return [snapshot_of(rayjob) for rayjob in found.values() if rayjob["metadata"]["annotations"].get(MARK) == mark]

    def latest_run(self, name: str) -> RunSnapshot | None:
        """Return the newest run of a job, or None if there is none."""
        found = self._list_by(self._namespace, f"{JOB}={label_of(name)}")
        latest = max(found, key=lambda rayjob: rayjob["metadata"]["creationTimestamp"], default=None)
        return snapshot_of(latest) if latest else None

    def describe(self, refs: Collection[RunRef]) -> dict[RunRef, RunSnapshot]:
        """Describe runs: one list call for up to a hundred of a namespace. See ``RunBackend``.

        Where runs do not get under way, their pods are listed too, to say why. A run that no waiting can help, such as
        one whose image has no valid name, is given up: it is suspended, so that nothing of it stays, and has FAILED.
        """
        found = self._list(refs)
        troubles = self._troubles([found[ref.id] for ref in refs if ref.id in found])
        snapshots = {}
        for ref in refs:
            rayjob = found.get(ref.id)
            if rayjob is None:
                text = f"There is no RayJob {ref.id}; it was deleted, or the connection leads to another cluster"
                snapshots[ref] = RunSnapshot(ref, RunState.LOST, "LOST", text)
                continue
            trouble = troubles.get(ref.id)
            if trouble is not None and trouble.is_hopeless:
                rayjob = self._given_up(ref, rayjob, trouble)
            snapshots[ref] = snapshot_of(rayjob, trouble)._replace(ref=ref)
        return snapshots

    def _given_up(self, ref: RunRef, rayjob: Mapping[str, Any], trouble: Trouble) -> Mapping[str, Any]:
        text = f"{trouble.reason}: {trouble.message}"
        try:
            self._suspend(ref, rayjob, {HOPELESS: text})
        except SubmitError as error:
            self.log.warning("%s cannot start (%s) and could not be suspended: %s", ref.title, trouble.reason, error)
        metadata = rayjob["metadata"]
        return {**rayjob, "metadata": {**metadata, "annotations": {**metadata["annotations"], HOPELESS: text}}}

    def stop(self, *refs: RunRef) -> None:
        """Stop runs by suspending their RayJobs, which takes their pods away and leaves their state to be seen.

        A run that has ended or is gone is no error. One that waits in a queue of Kueue is deleted instead, since Kueue
        would start a suspended one again.

        :raises StopError: the cluster refused to stop a run that is still active.
        """
        found = self._list(refs)
        for ref in refs:
            rayjob = found.get(ref.id)
            if rayjob is None or snapshot_of(rayjob).state.is_terminal:
                continue
            try:
                self._suspend(ref, rayjob, {STOPPED: "true"})
            except SubmitError as error:
                raise StopError(f"{ref.title} was not stopped: {error}") from error

    def _suspend(self, ref: RunRef, rayjob: Mapping[str, Any], annotations: Mapping[str, str]) -> None:
        namespace, name = place_of(ref)
        if QUEUE not in rayjob["metadata"].get("labels", {}):
            self._patch(ref, {"metadata": {"annotations": dict(annotations)}, "spec": {"suspend": True}})
            return
        with translated(f"stop of {ref.title}"):
            try:
                self._things.delete_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, name)
            except ApiException as error:
                if error.status != 404:
                    raise
