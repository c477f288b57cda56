"""The life of what KubeRay makes: it is created once, described, given up, stopped.

A resource's name is made of its client token, so creating it twice makes one.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from kubernetes.client.exceptions import ApiException  # type: ignore[import-untyped]

from airflow_provider_glueray.core import clock
from airflow_provider_glueray.core.errors import JobConflict, StopError, SubmitError, SubmitOutcomeUnknown
from airflow_provider_glueray.core.runs import RunRef, RunSnapshot, RunState
from airflow_provider_glueray.hooks import settings
from airflow_provider_glueray.hooks.kuberay.connection import BOUNDED, KubeRayConnectionHook, namespaced_name
from airflow_provider_glueray.hooks.kuberay.errors import AlreadyThereError, kubernetes_errors
from airflow_provider_glueray.hooks.kuberay.manifests.pods import (
    CLIENT_TOKEN,
    GROUP,
    NO_REASON,
    STOPPED,
    UNRECOVERABLE,
    VERSION,
    id_of,
)
from airflow_provider_glueray.hooks.kuberay.reasons import (
    NEWS_OF_PODS,
    PendingReason,
    is_unscheduled,
    pending_reason,
    startup_timeout_reason,
)
from airflow_provider_glueray.hooks.kuberay.schema import OPENAPI, has_member, optional_members, without
from airflow_provider_glueray.hooks.kuberay.status import began_at, time_of

#: Requests to start one run.
ATTEMPTS = 3


class KubeRayResourceHook(KubeRayConnectionHook):
    """What RayJobs and RayClusters have in common from their creation to their end."""

    def _snapshot_of(self, resource: Mapping[str, Any], reason: PendingReason | None = None) -> RunSnapshot:
        """Read one as the API server returns it."""
        raise NotImplementedError

    def _create(self, ref: RunRef, manifest: Mapping[str, Any]) -> RunRef:
        """Create a resource, and never a second one of its name.

        :raises CapacityExceeded: a quota or a limit of requests; nothing was created.
        :raises SubmitOutcomeUnknown: no answer, several times over.
        """
        namespace, _ = namespaced_name(ref)
        manifest = self._without_unknown(manifest)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with kubernetes_errors(f"start of {ref.title}", ref):
                    # Strict: a member that is misspelt would else be dropped without a word.
                    self._custom_objects.create_namespaced_custom_object(
                        GROUP, VERSION, namespace, self.plural, manifest, field_validation="Strict", **BOUNDED
                    )
            except AlreadyThereError:
                self._refuse_strangers(ref, manifest)
            except SubmitOutcomeUnknown as error:
                if attempt == ATTEMPTS:
                    raise
                self.log.warning("No answer to the start of %s (%s); asking again", ref.title, error)
                clock.sleep(settings.waits().look_again)
                continue
            return ref
        raise AssertionError("the loop returns or raises")

    def _without_unknown(self, manifest: Mapping[str, Any]) -> Mapping[str, Any]:
        """Leave out what this release of KubeRay has not, by the schema that the API server publishes."""
        wanted = list(optional_members(manifest))
        missing = [path for path in wanted if not has_member(self._openapi, manifest["kind"], path)]
        if missing:
            self.log.info("Not used, for this KubeRay has not got it: %s", ", ".join(map(".".join, missing)))
        return without(manifest, *missing)

    @cached_property
    def _openapi(self) -> Mapping[str, Any]:
        """What this release of KubeRay has, as the API server publishes it; empty where that cannot be seen."""
        try:
            with kubernetes_errors("schema of KubeRay"):
                answer = self._client.call_api(
                    OPENAPI,
                    "GET",
                    header_params={"Accept": "application/json"},
                    auth_settings=["BearerToken"],
                    _preload_content=False,
                    **BOUNDED,
                    _return_http_data_only=True,
                )
            return json.loads(answer.data)  # type: ignore[no-any-return]
        except (SubmitError, ValueError) as error:
            self._warn_once(f"What this release of KubeRay has cannot be seen: {error}")
            return {}

    def _refuse_strangers(self, ref: RunRef, manifest: Mapping[str, Any]) -> None:
        """Tell a repeated request from a name that somebody else has taken."""
        found = self._list([ref]).get(ref.id, {"metadata": {}})
        client_token = found["metadata"].get("annotations", {}).get(CLIENT_TOKEN)
        if client_token != manifest["metadata"]["annotations"][CLIENT_TOKEN]:
            raise JobConflict(
                f"The name of {ref.title} is taken by one with the client token {client_token!r}, not of this task",
                run=ref,
            )

    def describe(self, refs: Collection[RunRef]) -> dict[RunRef, RunSnapshot]:
        """Describe runs: one list call for up to a hundred of a namespace. See ``RunBackend``.

        Where runs do not get under way, their pods are listed too, to say why. A run that no waiting can help, such as
        one whose image has no valid name, is given up: nothing of it stays in the cluster, and it has FAILED.
        """
        found = self._list(refs)
        reasons = self._pending_reasons([found[ref.id] for ref in refs if ref.id in found])
        return {ref: self._seen(ref, found.get(ref.id), reasons.get(ref.id)) for ref in refs}

    def _seen(self, ref: RunRef, resource: Mapping[str, Any] | None, reason: PendingReason | None) -> RunSnapshot:
        end = self._final_snapshots.get(ref.id)
        if resource is None or (end is not None and end.state is RunState.FAILED):
            return (end or self._unseen(ref))._replace(ref=ref)
        if reason is not None and reason.is_unrecoverable:
            return self._mark_failed(ref, resource, reason)
        snapshot = self._snapshot_of(resource, reason)._replace(ref=ref)
        if reason is not None:
            self._pending_messages[ref.id] = f"{reason.reason}: {reason.message}"
        elif snapshot.state is RunState.RUNNING:
            self._pending_messages.pop(ref.id, None)
        elif snapshot.state is RunState.TIMED_OUT and ref.id in self._pending_messages:
            # KubeRay's own deadline was sooner than ours, and removes the pods that told the reason.
            snapshot = snapshot._replace(
                message=f"{snapshot.message} It waited: {self._pending_messages[ref.id]}".strip()
            )
        if resource["metadata"].get("deletionTimestamp"):
            # When it is gone, only who has seen this can tell that it was stopped from that it was lost.
            self._remember(snapshot)
        return snapshot

    def _with_token(self, ref: RunRef, client_token: str) -> list[RunSnapshot]:
        """Return the resource of a name that is made of the client token, unless it carries another one."""
        found = self._list([ref]).values()
        mine = (each for each in found if each["metadata"]["annotations"].get(CLIENT_TOKEN) == client_token)
        return [self._snapshot_of(each) for each in mine]

    def _unseen(self, ref: RunRef) -> RunSnapshot:
        """Describe what is not there, and of which nothing is remembered."""
        text = f"There is no {self.kind} {ref.id}; it was deleted, or the connection leads to another cluster"
        return RunSnapshot(ref, RunState.LOST, "LOST", text)

    def _mark_failed(self, ref: RunRef, resource: Mapping[str, Any], reason: PendingReason) -> RunSnapshot:
        text = f"{reason.reason}: {reason.message}"
        metadata = resource["metadata"]
        annotations = {**(metadata.get("annotations") or {}), UNRECOVERABLE: text}
        snapshot = self._snapshot_of({**resource, "metadata": {**metadata, "annotations": annotations}})._replace(
            ref=ref
        )
        try:
            self._end(ref, resource, {UNRECOVERABLE: text})
        except SubmitError as error:
            self.log.warning("%s is given up (%s) and could not be taken away: %s", ref.title, reason.reason, error)
        self._remember(snapshot)
        return snapshot

    def stop(self, *refs: RunRef) -> None:
        """Stop runs, and take what they have in the cluster away. One that is over or gone is no error.

        :raises StopError: the cluster refused to stop a run that is still active.
        """
        found = self._list(refs)
        for ref in refs:
            resource = found.get(ref.id)
            try:
                if resource is None or self._snapshot_of(resource).is_over:
                    self._take_away(ref)
                    continue
                # What it waits for is not asked anew: who kills a task gives us five seconds.
                self._end(ref, resource, {STOPPED: self._pending_messages.get(ref.id, NO_REASON)})
            except SubmitError as error:
                raise StopError(
                    f"{ref.title} was not stopped: {error}", code=error.code, status=error.status, run=ref
                ) from error

    def _take_away(self, ref: RunRef) -> None:
        """Take away what a run that has ended still holds in the cluster."""

    def _end(self, ref: RunRef, resource: Mapping[str, Any], annotations: Mapping[str, str]) -> None:
        """Remove a resource's pods, and write the reason on it."""
        if resource["metadata"].get("deletionTimestamp"):
            return
        self._patch(ref, {"metadata": {"annotations": dict(annotations)}})
        self._delete(ref)
        why = annotations.get(STOPPED, NO_REASON)
        snapshot = self._snapshot_of(resource)._replace(ref=ref, message="" if why == NO_REASON else why)
        self._remember(snapshot)

    def _remember(self, snapshot: RunSnapshot) -> None:
        """Keep the last snapshot of a run whose resource will be gone; a run that had ended stays so."""
        if snapshot.is_over:
            self._final_snapshots[snapshot.ref.id] = snapshot
        else:
            self._final_snapshots.setdefault(
                snapshot.ref.id, snapshot._replace(state=RunState.STOPPED, raw_state="deleted")
            )

    def _patch(self, ref: RunRef, patch: Mapping[str, Any]) -> None:
        """Merge into a resource; one that is gone is no error."""
        namespace, name = namespaced_name(ref)
        with kubernetes_errors(f"change of {ref.title}", ref), _gone_is_fine():
            # The client's own method says that it is a list of patches, and in older ones nobody can say otherwise.
            path = f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{self.plural}/{name}"
            headers = {"Content-Type": "application/merge-patch+json", "Accept": "application/json"}
            # The {} is for the types of the answer, which is not read; its parameter has another name in older ones.
            self._custom_objects.api_client.call_api(
                path, "PATCH", None, None, headers, dict(patch), None, None, {}, ["BearerToken"], **BOUNDED
            )

    def _delete(self, ref: RunRef) -> None:
        """Delete a resource; it is gone when all that belongs to it is. One that is gone is no error."""
        self._delete_named(self.plural, *namespaced_name(ref), ref.title)

    def _delete_named(self, plural: str, namespace: str, name: str, title: str) -> None:
        with kubernetes_errors(f"deletion of {title}"), _gone_is_fine():
            self._custom_objects.delete_namespaced_custom_object(
                GROUP, VERSION, namespace, plural, name, propagation_policy="Foreground", **BOUNDED
            )

    def _pending_reasons(self, resources: Sequence[Mapping[str, Any]]) -> dict[str, PendingReason]:
        """Return why resources are not running: one call for their pods, events if some have no pod or no node."""
        reasons: dict[str, PendingReason] = {}
        slow: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for resource in resources:
            metadata = resource["metadata"]
            age = time.time() - time_of(metadata["creationTimestamp"])
            waits = self._snapshot_of(resource).state in (RunState.STARTING, RunState.QUEUED)
            if waits and age >= settings.waits().pending_reason and not resource["spec"].get("suspend"):
                slow[metadata["namespace"]].append(resource)
        for namespace, those in slow.items():
            try:
                pods = self._pods(namespace, [resource["metadata"]["name"] for resource in those])
                events = []
                if any(resource["metadata"]["name"] not in pods for resource in those):
                    events += self._events(namespace, "type=Warning")
                if any(is_unscheduled(pod) for mine in pods.values() for pod in mine):
                    events += self._events(namespace, NEWS_OF_PODS)
            except SubmitError as error:
                # It would be good to know, but the run is not affected.
                self._warn_once(f"Why runs do not get under way cannot be seen: {error}")
                continue
            for resource in those:
                reason = pending_reason(resource, pods.get(resource["metadata"]["name"], ()), events)
                age = time.time() - (began_at(resource) or time.time())
                reason = startup_timeout_reason(resource, age, reason) or reason
                if reason is not None:
                    reasons[id_of(resource)] = reason
        return reasons

    @cached_property
    def _final_snapshots(self) -> dict[str, RunSnapshot]:
        """The last snapshots of runs whose resources are gone, or will be."""
        return {}

    @cached_property
    def _pending_messages(self) -> dict[str, str]:
        """What runs that have not got under way were last seen to wait for."""
        return {}


@contextmanager
def _gone_is_fine() -> Iterator[None]:
    try:
        yield
    except ApiException as error:
        if error.status != 404:
            raise
