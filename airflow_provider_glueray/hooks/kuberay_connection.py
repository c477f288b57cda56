"""The way to a Kubernetes cluster with KubeRay: what the hooks for RayJobs and for RayClusters stand on.

Floor 2. Of each kind, things are found by a label that holds their name, many with one call. A thing's name is made of
its mark, so creating it twice makes one.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from threading import RLock
from typing import Any, ClassVar

from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
from kubernetes.client.exceptions import ApiException  # type: ignore[import-untyped]

from airflow_provider_glueray.errors import JobConflict, StopError, SubmitError, SubmitUnknown
from airflow_provider_glueray.hooks.kuberay_answers import AlreadyThereError, translated
from airflow_provider_glueray.hooks.kuberay_logs import SOURCES, PodLogs
from airflow_provider_glueray.kuberay_pods import GROUP, HOPELESS, MARK, NO_REASON, STOPPED, VERSION
from airflow_provider_glueray.kuberay_settings import RayJobSettings
from airflow_provider_glueray.raycluster import RayClusterSpec
from airflow_provider_glueray.rayjob_status import Trouble, trouble_of
from airflow_provider_glueray.runs import LogCursor, LogPage, RunRef, RunSnapshot, RunState
from airflow_provider_glueray.spec import RayJobSpec

#: Requests to start one run, and seconds between them.
ATTEMPTS, AGAIN_SECONDS = 3, 2.0
#: Things per list call: their names stand in its address, and proxies take some 8,000 characters of it.
BATCH = 100
#: Seconds a thing may take to get under way before its pods are looked at.
TROUBLE_AFTER = 15.0
# The Kubernetes client keeps what it has read of a kubeconfig in a global before it makes a client of it.
_configuring = RLock()


class KubeRayConnectionHook(KubernetesHook):
    """Talk to a Kubernetes cluster about custom resources of one kind.

    Its parameters and the fields of its connection are those of ``KubernetesHook``. The connection's extra may also
    have ``kuberay`` (the members of :class:`RayJobSettings`, for every run), ``aws_conn_id`` (for files on their way
    to S3; by default ``aws_default``), and ``run_url`` and ``logs_url`` (addresses with ``{namespace}`` and ``{name}``
    of what shows a RayJob and its logs).

    :cvar kind: what people call one of them; :cvar plural: what Kubernetes calls them; :cvar label: of them and of
        their pods, with their name.
    """

    kind: ClassVar[str]
    plural: ClassVar[str]
    label: ClassVar[str]

    def _snapshot_of(self, thing: Mapping[str, Any], trouble: Trouble | None = None) -> RunSnapshot:
        """Read one as the API server returns it."""
        raise NotImplementedError

    # -- one thing ------------------------------------------------------------------------------------------

    def _create(self, ref: RunRef, manifest: Mapping[str, Any]) -> RunRef:
        """Create a thing, and never a second one of its name.

        :raises ServiceFull: a quota or a limit of requests; nothing was created.
        :raises SubmitUnknown: no answer, several times over.
        """
        namespace, _ = place_of(ref)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with translated(f"start of {ref.title}"):
                    # Strict: a member that is misspelt would else be dropped without a word.
                    self._things.create_namespaced_custom_object(
                        GROUP, VERSION, namespace, self.plural, manifest, field_validation="Strict"
                    )
            except AlreadyThereError:
                self._refuse_strangers(ref, manifest)
            except SubmitUnknown as error:
                if attempt == ATTEMPTS:
                    raise
                self.log.warning("No answer to the start of %s (%s); asking again", ref.title, error)
                time.sleep(AGAIN_SECONDS)
                continue
            return ref
        raise AssertionError("the loop returns or raises")

    def _refuse_strangers(self, ref: RunRef, manifest: Mapping[str, Any]) -> None:
        """Tell a repeated request from a name that somebody else has taken."""
        found = self._list([ref]).get(ref.id, {"metadata": {}})
        mark = found["metadata"].get("annotations", {}).get(MARK)
        if mark != manifest["metadata"]["annotations"][MARK]:
            raise JobConflict(
                f"The name of {ref.title} is taken by one with the mark {mark!r}, which is not of this task"
            )

    def describe(self, refs: Collection[RunRef]) -> dict[RunRef, RunSnapshot]:
        """Describe runs: one list call for up to a hundred of a namespace. See ``RunBackend``.

        Where runs do not get under way, their pods are listed too, to say why. A run that no waiting can help, such as
        one whose image has no valid name, is given up: nothing of it stays in the cluster, and it has FAILED.
        """
        found = self._list(refs)
        troubles = self._troubles([found[ref.id] for ref in refs if ref.id in found])
        return {ref: self._seen(ref, found.get(ref.id), troubles.get(ref.id)) for ref in refs}

    def _seen(self, ref: RunRef, thing: Mapping[str, Any] | None, trouble: Trouble | None) -> RunSnapshot:
        end = self._ends.get(ref.id)
        if thing is None or (end is not None and end.state is RunState.FAILED):
            return (end or self._unseen(ref))._replace(ref=ref)
        if trouble is not None and trouble.is_hopeless:
            return self._given_up(ref, thing, trouble)
        snapshot = self._snapshot_of(thing, trouble)._replace(ref=ref)
        if trouble is not None:
            self._waits[ref.id] = f"{trouble.reason}: {trouble.message}"
        elif snapshot.state is RunState.RUNNING:
            self._waits.pop(ref.id, None)
        elif snapshot.state is RunState.TIMED_OUT and ref.id in self._waits:
            # KubeRay's own deadline was sooner than ours, and takes the pods away that told it.
            snapshot = snapshot._replace(message=f"{snapshot.message} It waited: {self._waits[ref.id]}".strip())
        if thing["metadata"].get("deletionTimestamp"):
            # When it is gone, only who has seen this can tell that it was stopped from that it was lost.
            self._remember(snapshot)
        return snapshot

    def _unseen(self, ref: RunRef) -> RunSnapshot:
        """Describe what is not there, and of which nothing is remembered."""
        text = f"There is no {self.kind} {ref.id}; it was deleted, or the connection leads to another cluster"
        return RunSnapshot(ref, RunState.LOST, "LOST", text)

    def _given_up(self, ref: RunRef, thing: Mapping[str, Any], trouble: Trouble) -> RunSnapshot:
        text = f"{trouble.reason}: {trouble.message}"
        metadata = thing["metadata"]
        annotations = {**(metadata.get("annotations") or {}), HOPELESS: text}
        snapshot = self._snapshot_of({**thing, "metadata": {**metadata, "annotations": annotations}})._replace(ref=ref)
        try:
            self._end(ref, thing, {HOPELESS: text})
        except SubmitError as error:
            self.log.warning("%s is given up (%s) and could not be taken away: %s", ref.title, trouble.reason, error)
        self._remember(snapshot)
        return snapshot

    def stop(self, *refs: RunRef) -> None:
        """Stop runs, and take what they have in the cluster away. One that is over or gone is no error.

        :raises StopError: the cluster refused to stop a run that is still active.
        """
        found = self._list(refs)
        troubles = self._troubles([found[ref.id] for ref in refs if ref.id in found])
        for ref in refs:
            thing = found.get(ref.id)
            if thing is None or self._snapshot_of(thing).is_over:
                continue
            trouble = troubles.get(ref.id)
            why = f"{trouble.reason}: {trouble.message}" if trouble else NO_REASON
            try:
                self._end(ref, thing, {STOPPED: why})
            except SubmitError as error:
                raise StopError(f"{ref.title} was not stopped: {error}") from error

    def _end(self, ref: RunRef, thing: Mapping[str, Any], annotations: Mapping[str, str]) -> None:
        """Take a thing's pods away, and write on it why."""
        if thing["metadata"].get("deletionTimestamp"):
            return
        self._patch(ref, {"metadata": {"annotations": dict(annotations)}})
        self._delete(ref)
        why = annotations.get(STOPPED, NO_REASON)
        snapshot = self._snapshot_of(thing)._replace(ref=ref, message="" if why == NO_REASON else why)
        self._remember(snapshot)

    def _remember(self, snapshot: RunSnapshot) -> None:
        """Remember what has become of a run whose thing will be gone; what had ended has ended."""
        if snapshot.is_over:
            self._ends[snapshot.ref.id] = snapshot
        else:
            self._ends.setdefault(snapshot.ref.id, snapshot._replace(state=RunState.STOPPED, raw_state="deleted"))

    def _patch(self, ref: RunRef, patch: Mapping[str, Any]) -> None:
        """Merge into a thing; one that is gone is no error."""
        namespace, name = place_of(ref)
        with translated(f"change of {ref.title}"), _gone_is_fine():
            self._things.patch_namespaced_custom_object(
                GROUP,
                VERSION,
                namespace,
                self.plural,
                name,
                dict(patch),
                # By default the client says it is a list of patches.
                _content_type="application/merge-patch+json",
            )

    def _delete(self, ref: RunRef) -> None:
        """Delete a thing; it is gone when all that belongs to it is. One that is gone is no error."""
        namespace, name = place_of(ref)
        with translated(f"deletion of {ref.title}"), _gone_is_fine():
            self._things.delete_namespaced_custom_object(
                GROUP, VERSION, namespace, self.plural, name, propagation_policy="Foreground"
            )

    # -- logs and places ------------------------------------------------------------------------------------

    def read_logs(self, cursors: Mapping[RunRef, LogCursor], sources: Sequence[str]) -> dict[RunRef, LogPage]:
        """Read what is new in the logs of runs. See ``RunBackend``.

        The driver's log is what the submitter's pod prints; ``process`` is the head's, ``monitor`` the autoscaler's.
        Ray keeps the others in files inside of the pods: they are empty here.
        """
        wanted = [source for source in sources if source in SOURCES]
        pages = {ref: LogPage((), cursor) for ref, cursor in cursors.items()}
        for namespace, refs in by_namespace(cursors).items() if wanted else ():
            pods, logs = self._pods(namespace, [place_of(ref)[1] for ref in refs]), PodLogs(self._client, namespace)
            for ref in refs:
                pages[ref] = logs.page(pods.get(place_of(ref)[1], []), cursors[ref], wanted)
        return pages

    def url(self, ref: RunRef) -> str:
        """Return the page of a run: ``run_url`` of the extra, else the thing at the API server."""
        return self._address("run_url", f"/apis/{GROUP}/{VERSION}/namespaces/{{namespace}}/{self.plural}/{{name}}", ref)

    def logs_url(self, ref: RunRef) -> str:
        """Return the page of a run's log: ``logs_url`` of the extra, else its pods at the API server."""
        return self._address(
            "logs_url", f"/api/v1/namespaces/{{namespace}}/pods?labelSelector={self.label}%3D{{name}}", ref
        )

    def _address(self, key: str, path: str, ref: RunRef) -> str:
        namespace, name = place_of(ref)
        place = self._extra.get(key) or f"{self._client.configuration.host}{path}"
        return str(place).replace("{namespace}", namespace).replace("{name}", name)

    # -- lists ----------------------------------------------------------------------------------------------

    def _list(self, refs: Iterable[RunRef]) -> dict[str, Mapping[str, Any]]:
        """Return things by the ids of their runs."""
        # Also a single one by a list: that one is not there, and that KubeRay is not, would be one answer else.
        found = {}
        for namespace, those in by_namespace(refs).items():
            for begin in range(0, len(those), BATCH):
                names = [place_of(ref)[1] for ref in those[begin : begin + BATCH]]
                for thing in self._list_by(namespace, self._selector(names)):
                    found[id_of(thing)] = thing
        return found

    def _list_by(self, namespace: str, selector: str, **query: Any) -> list[Mapping[str, Any]]:
        with translated(f"{self.kind}s in namespace {namespace!r}"):
            answer = self._things.list_namespaced_custom_object(
                GROUP, VERSION, namespace, self.plural, label_selector=selector, **query
            )
        return list(answer["items"])

    def _selector(self, names: Sequence[str]) -> str:
        return f"{self.label} in ({','.join(names)})"

    def _pods(self, namespace: str, names: Sequence[str]) -> dict[str, list[Mapping[str, Any]]]:
        """Return pods by the name of what they belong to."""
        pods = defaultdict(list)
        for begin in range(0, len(names), BATCH):
            with translated(f"pods in namespace {namespace!r}"):
                answer = self.core_v1_client.list_namespaced_pod(
                    namespace, label_selector=self._selector(names[begin : begin + BATCH]), _preload_content=False
                )
                for pod in json.loads(answer.data)["items"]:
                    pods[pod["metadata"]["labels"][self.label]].append(pod)
        return dict(pods)

    def _warnings(self, namespace: str) -> list[Mapping[str, Any]]:
        with translated(f"events in namespace {namespace!r}"):
            answer = self.core_v1_client.list_namespaced_event(
                namespace, field_selector="type=Warning", limit=500, _preload_content=False
            )
            return list(json.loads(answer.data)["items"])

    def _troubles(self, things: Sequence[Mapping[str, Any]]) -> dict[str, Trouble]:
        """Return why things do not get under way: one call for their pods, one for events if some have no pod."""
        troubles: dict[str, Trouble] = {}
        slow: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for thing in things:
            metadata = thing["metadata"]
            age = time.time() - datetime.fromisoformat(metadata["creationTimestamp"]).timestamp()
            waits = self._snapshot_of(thing).state in (RunState.STARTING, RunState.QUEUED)
            if waits and age >= TROUBLE_AFTER and not thing["spec"].get("suspend"):
                slow[metadata["namespace"]].append(thing)
        for namespace, those in slow.items():
            try:
                pods = self._pods(namespace, [thing["metadata"]["name"] for thing in those])
                some_have_none = any(thing["metadata"]["name"] not in pods for thing in those)
                events = self._warnings(namespace) if some_have_none else []
            except SubmitError as error:
                # It would be good to know, but the run is not affected.
                self._say_once(f"Why runs do not get under way cannot be seen: {error}")
                continue
            for thing in those:
                trouble = trouble_of(thing, pods.get(thing["metadata"]["name"], ()), events)
                if trouble is not None:
                    troubles[id_of(thing)] = trouble
        return troubles

    # -- the connection -------------------------------------------------------------------------------------

    def get_conn(self) -> Any:
        """Return a client of the cluster."""
        with _configuring:
            return super().get_conn()

    @property
    def _client(self) -> Any:
        with translated(f"connection {self.conn_id!r}"):
            return self.api_client

    @property
    def _things(self) -> Any:
        with translated(f"connection {self.conn_id!r}"):
            return self.custom_object_client

    @cached_property
    def _extra(self) -> Mapping[str, Any]:
        with translated(f"connection {self.conn_id!r}"):
            return self.conn_extras  # type: ignore[no-any-return]

    @cached_property
    def _namespace(self) -> str:
        with translated(f"connection {self.conn_id!r}"):
            return self.get_namespace() or self.DEFAULT_NAMESPACE

    def _settings(self, spec: RayJobSpec | RayClusterSpec) -> RayJobSettings:
        """Return the settings of the connection, and over them those of a task."""
        over = spec.overrides.get("kuberay", {})
        return RayJobSettings.of(self._extra.get("kuberay") or {}, over, namespace=self._namespace)

    @cached_property
    def storage(self) -> Any:
        """The way to S3, by the connection ``aws_conn_id`` of the extra."""
        from airflow_provider_glueray.hooks.glue_connection import GlueConnectionHook

        return GlueConnectionHook(self._extra.get("aws_conn_id", "aws_default"))

    @cached_property
    def _ends(self) -> dict[str, RunSnapshot]:
        """What has become of runs whose things are gone, or will be."""
        return {}

    @cached_property
    def _waits(self) -> dict[str, str]:
        """What runs that have not got under way were last seen to wait for."""
        return {}

    @cached_property
    def _said(self) -> set[str]:
        return set()

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self.log.warning("%s", text)


@contextmanager
def _gone_is_fine() -> Iterator[None]:
    try:
        yield
    except ApiException as error:
        if error.status != 404:
            raise


def place_of(ref: RunRef) -> tuple[str, str]:
    """Return the namespace and the name of a run's thing."""
    namespace, _, name = ref.id.partition("/")
    return namespace, name


def by_namespace(refs: Iterable[RunRef]) -> dict[str, list[RunRef]]:
    """Return runs by their namespace."""
    places = defaultdict(list)
    for ref in refs:
        places[place_of(ref)[0]].append(ref)
    return dict(places)


def id_of(thing: Mapping[str, Any]) -> str:
    """Return the id of a thing, as in ``RunRef``."""
    return f"{thing['metadata']['namespace']}/{thing['metadata']['name']}"
