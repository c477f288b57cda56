"""Runs as RayJobs of KubeRay: create, describe, read, stop.

Floor 2. A RayJob's name is made of the run's mark, so creating it twice makes one run. All ways of the Kubernetes
client to fail are translated here.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from threading import RLock
from typing import Any, NamedTuple

from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
from airflow.sdk.exceptions import AirflowNotFoundException
from kubernetes.client.exceptions import ApiException  # type: ignore[import-untyped]
from kubernetes.config import ConfigException  # type: ignore[import-untyped]
from urllib3.exceptions import HTTPError, MaxRetryError, NewConnectionError

from airflow_provider_glueray.errors import (
    ConnectionMissing,
    JobConflict,
    RequestRefused,
    ServiceFull,
    StopError,
    SubmitError,
    SubmitUnknown,
)
from airflow_provider_glueray.rayjob import (
    GROUP,
    HEAD,
    HOPELESS,
    JOB,
    MARK,
    PLURAL,
    QUEUE,
    RAYJOB,
    ROLE,
    STOPPED,
    SUBMITTER,
    VERSION,
    RayJobSettings,
    Trouble,
    label_of,
    notes_on,
    rayjob_name,
    snapshot_of,
    to_rayjob,
    trouble_of,
)
from airflow_provider_glueray.runs import (
    KUBERAY_JOB,
    SCRIPT,
    LogCursor,
    LogLine,
    LogPage,
    Prepared,
    RunRef,
    RunSnapshot,
    RunState,
)
from airflow_provider_glueray.spec import RayJobSpec

#: Requests to start one run, and seconds between them.
ATTEMPTS, AGAIN_SECONDS = 3, 2.0
#: RayJobs per list call: their names stand in its address, and proxies take some 8,000 characters of it.
BATCH = 100
#: Seconds a RayJob may take to get under way before its pods are looked at.
TROUBLE_AFTER = 15.0
#: The most bytes of a log taken by one read; the rest comes with the next.
LOG_BYTES = 4 * 1024 * 1024
#: How far behind the newest line to look again, and the most lines that are remembered for it.
OVERLAP_MS, MOST_SEEN = 2_000, 1_000
#: What the connection's user must be allowed to do.
RIGHTS = (
    "It takes a role in the namespace with create, get, list, patch and delete on rayjobs.ray.io, list on pods and "
    "events, and get on pods/log"
)
#: RFC 3339 with nine digits of a second, or fewer.
_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)")
# The Kubernetes client keeps what it has read of a kubeconfig in a global before it makes a client of it.
_configuring = RLock()


class _Source(NamedTuple):
    """Where a log comes from: the part that a pod plays, and its container."""

    role: str
    container: str


#: The sources there are; the others are empty.
SOURCES = {
    SCRIPT: _Source(SUBMITTER, SUBMITTER),
    "process": _Source(HEAD, HEAD),
    "monitor": _Source(HEAD, "autoscaler"),
}


class AlreadyThereError(SubmitError):
    """There is a RayJob of that name, before it is known whose."""


class KubeRayHook(KubernetesHook):
    """Talk to a Kubernetes cluster about RayJobs.

    Its parameters and the fields of its connection are those of ``KubernetesHook``. The connection's extra may also
    have ``kuberay`` (the members of :class:`RayJobSettings`, for every run), ``aws_conn_id`` (for files on their way
    to S3; by default ``aws_default``), and ``run_url`` and ``logs_url`` (addresses with ``{namespace}`` and ``{name}``
    of what shows a RayJob and its logs).
    """

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
        ref = snapshot_of(rayjob).ref
        namespace, _ = _place_of(ref)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with _translated(f"start of {ref.title}"):
                    # Strict: a member that is misspelt would else be dropped without a word.
                    self._rayjobs.create_namespaced_custom_object(
                        GROUP, VERSION, namespace, PLURAL, rayjob, field_validation="Strict"
                    )
            except AlreadyThereError:
                self._refuse_strangers(ref, rayjob)
            except SubmitUnknown as error:
                if attempt == ATTEMPTS:
                    raise
                self.log.warning("No answer to the start of %s (%s); asking again", ref.title, error)
                time.sleep(AGAIN_SECONDS)
                continue
            return ref
        raise AssertionError("the loop returns or raises")

    def _refuse_strangers(self, ref: RunRef, rayjob: Mapping[str, Any]) -> None:
        """Tell a repeated request from a name that somebody else has taken."""
        found = self._list([ref]).get(ref.id, {"metadata": {}})
        mark = found["metadata"].get("annotations", {}).get(MARK)
        if mark != rayjob["metadata"]["annotations"][MARK]:
            raise JobConflict(
                f"The name of {ref.title} is taken by one with the mark {mark!r}, which is not of this task"
            )

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

    def _troubles(self, rayjobs: Sequence[Mapping[str, Any]]) -> dict[str, Trouble]:
        """Return why RayJobs do not get under way: one call for their pods, one for events if some have no pod."""
        troubles: dict[str, Trouble] = {}
        slow: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        for rayjob in rayjobs:
            metadata = rayjob["metadata"]
            age = time.time() - datetime.fromisoformat(metadata["creationTimestamp"]).timestamp()
            waits = snapshot_of(rayjob).state in (RunState.STARTING, RunState.QUEUED)
            if waits and age >= TROUBLE_AFTER and not rayjob["spec"].get("suspend"):
                slow[metadata["namespace"]].append(rayjob)
        for namespace, those in slow.items():
            try:
                pods = self._pods(namespace, [rayjob["metadata"]["name"] for rayjob in those])
                some_have_none = any(rayjob["metadata"]["name"] not in pods for rayjob in those)
                events = self._warnings(namespace) if some_have_none else []
            except SubmitError as error:
                # It would be good to know, but the run is not affected.
                self._say_once(f"Why runs do not get under way cannot be seen: {error}")
                continue
            for rayjob in those:
                trouble = trouble_of(rayjob, pods.get(rayjob["metadata"]["name"], ()), events)
                if trouble is not None:
                    troubles[_id_of(rayjob)] = trouble
        return troubles

    def read_logs(self, cursors: Mapping[RunRef, LogCursor], sources: Sequence[str]) -> dict[RunRef, LogPage]:
        """Read what is new in the logs of runs. See ``RunBackend``.

        The driver's log is what the submitter's pod prints; ``process`` is the head's, ``monitor`` the autoscaler's.
        Ray keeps the others in files inside of the pods: they are empty here.
        """
        wanted = [source for source in sources if source in SOURCES]
        pages = {ref: LogPage((), cursor) for ref, cursor in cursors.items()}
        for namespace, refs in _by_namespace(cursors).items() if wanted else ():
            pods = self._pods(namespace, [_place_of(ref)[1] for ref in refs])
            for ref in refs:
                mine = pods.get(_place_of(ref)[1], [])
                pages[ref] = self._page(namespace, mine, cursors[ref], wanted)
        return pages

    def _page(
        self, namespace: str, pods: Sequence[Mapping[str, Any]], cursor: LogCursor, sources: Sequence[str]
    ) -> LogPage:
        fresh: list[tuple[int, str, LogLine]] = []
        for source in sources:
            for pod in pods:
                labels, name = pod["metadata"]["labels"], pod["metadata"]["name"]
                if labels.get(ROLE) == SOURCES[source].role and pod["status"].get("phase") != "Pending":
                    node = "" if source == SCRIPT else name
                    fresh += [
                        (at, key, LogLine(source, text, node))
                        for at, key, text in self._fresh(namespace, name, source, cursor)
                    ]
        if not fresh:
            return LogPage((), cursor)
        fresh.sort(key=lambda each: each[0])
        since = max(fresh[-1][0] - OVERLAP_MS, cursor.since_ms)
        if len(fresh) > MOST_SEEN:
            # A log that runs fast is looked over again by lines, not by time, so that the cursor stays small.
            since = max(since, fresh[-MOST_SEEN][0])
        seen = {key for at, key, _ in fresh if at >= since} | {key for key in cursor.seen if _time_in(key) >= since}
        return LogPage([line for _, _, line in fresh], LogCursor(since, frozenset(seen)))

    def _fresh(self, namespace: str, pod: str, source: str, cursor: LogCursor) -> list[tuple[int, str, str]]:
        """Return the lines of a source that are new since a cursor: time, key and text of each."""
        most = LOG_BYTES
        while True:
            content = self._log_of(namespace, pod, SOURCES[source].container, cursor.since_ms, most)
            # What was cut off comes whole with the next read.
            whole = content if len(content) < most else content[: content.rfind(b"\n") + 1]
            lines = ((at, f"{at}/{source}{key}", text) for at, key, text in _lines(whole) if at >= cursor.since_ms)
            fresh = [line for line in lines if line[1] not in cursor.seen]
            if fresh or len(content) < most:
                return fresh
            # The server tells seconds only, and in this one there is more than one read takes.
            most *= 8

    def _log_of(self, namespace: str, pod: str, container: str, since_ms: int, most: int) -> bytes:
        """Return the log of a container with times. One that has not begun, or is gone, has none."""
        query: list[tuple[str, Any]] = [("container", container), ("timestamps", "true"), ("limitBytes", most)]
        if since_ms:
            # The generated client knows sinceSeconds only, which depends on whose clock is right.
            query.append(("sinceTime", datetime.fromtimestamp(since_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")))
        with _translated(f"log of pod {namespace}/{pod}"):
            try:
                answer = self._client.call_api(
                    "/api/v1/namespaces/{namespace}/pods/{name}/log",
                    "GET",
                    path_params={"namespace": namespace, "name": pod},
                    query_params=query,
                    header_params={"Accept": "*/*"},
                    auth_settings=["BearerToken"],
                    _preload_content=False,
                    _return_http_data_only=True,
                )
            except ApiException as error:
                if error.status not in (400, 404):
                    raise
                return b""
            return bytes(answer.data)

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
        namespace, name = _place_of(ref)
        with _translated(f"stop of {ref.title}"):
            try:
                if QUEUE in rayjob["metadata"].get("labels", {}):
                    self._rayjobs.delete_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, name)
                    return
                self._rayjobs.patch_namespaced_custom_object(
                    GROUP,
                    VERSION,
                    namespace,
                    PLURAL,
                    name,
                    {"metadata": {"annotations": dict(annotations)}, "spec": {"suspend": True}},
                    # By default the client says it is a list of patches.
                    _content_type="application/merge-patch+json",
                )
            except ApiException as error:
                if error.status != 404:
                    raise

    # -- places to look -------------------------------------------------------------------------------------

    def url(self, ref: RunRef) -> str:
        """Return the page of a run: ``run_url`` of the extra, else the RayJob at the API server."""
        return self._address("run_url", f"/apis/{GROUP}/{VERSION}/namespaces/{{namespace}}/{PLURAL}/{{name}}", ref)

    def logs_url(self, ref: RunRef) -> str:
        """Return the page of a run's log: ``logs_url`` of the extra, else its pods at the API server."""
        return self._address(
            "logs_url", f"/api/v1/namespaces/{{namespace}}/pods?labelSelector={RAYJOB}%3D{{name}}", ref
        )

    def _address(self, key: str, path: str, ref: RunRef) -> str:
        namespace, name = _place_of(ref)
        place = self._extra.get(key) or f"{self._client.configuration.host}{path}"
        return str(place).replace("{namespace}", namespace).replace("{name}", name)

    # -- lists ----------------------------------------------------------------------------------------------

    def _list(self, refs: Iterable[RunRef]) -> dict[str, Mapping[str, Any]]:
        """Return RayJobs by the ids of their runs."""
        # Also a single one by a list: that one is not there, and that KubeRay is not, would be one answer else.
        found = {}
        for namespace, those in _by_namespace(refs).items():
            for begin in range(0, len(those), BATCH):
                names = [_place_of(ref)[1] for ref in those[begin : begin + BATCH]]
                for rayjob in self._list_by(namespace, _selector(names)):
                    found[_id_of(rayjob)] = rayjob
        return found

    def _list_by(self, namespace: str, selector: str) -> list[Mapping[str, Any]]:
        with _translated(f"RayJobs in namespace {namespace!r}"):
            answer = self._rayjobs.list_namespaced_custom_object(
                GROUP, VERSION, namespace, PLURAL, label_selector=selector
            )
        return list(answer["items"])

    def _pods(self, namespace: str, names: Sequence[str]) -> dict[str, list[Mapping[str, Any]]]:
        """Return pods by the name of their RayJob."""
        pods = defaultdict(list)
        for begin in range(0, len(names), BATCH):
            with _translated(f"pods in namespace {namespace!r}"):
                answer = self.core_v1_client.list_namespaced_pod(
                    namespace, label_selector=_selector(names[begin : begin + BATCH]), _preload_content=False
                )
                for pod in json.loads(answer.data)["items"]:
                    pods[pod["metadata"]["labels"][RAYJOB]].append(pod)
        return dict(pods)

    def _warnings(self, namespace: str) -> list[Mapping[str, Any]]:
        with _translated(f"events in namespace {namespace!r}"):
            answer = self.core_v1_client.list_namespaced_event(
                namespace, field_selector="type=Warning", limit=500, _preload_content=False
            )
            return list(json.loads(answer.data)["items"])

    # -- the connection -------------------------------------------------------------------------------------

    def get_conn(self) -> Any:
        """Return a client of the cluster."""
        with _configuring:
            return super().get_conn()

    @property
    def _client(self) -> Any:
        with _translated(f"connection {self.conn_id!r}"):
            return self.api_client

    @property
    def _rayjobs(self) -> Any:
        with _translated(f"connection {self.conn_id!r}"):
            return self.custom_object_client

    @cached_property
    def _extra(self) -> Mapping[str, Any]:
        with _translated(f"connection {self.conn_id!r}"):
            return self.conn_extras  # type: ignore[no-any-return]

    @cached_property
    def _namespace(self) -> str:
        with _translated(f"connection {self.conn_id!r}"):
            return self.get_namespace() or self.DEFAULT_NAMESPACE

    @cached_property
    def storage(self) -> Any:
        """The way to S3, by the connection ``aws_conn_id`` of the extra."""
        from airflow_provider_glueray.hooks.glue_connection import GlueConnectionHook

        return GlueConnectionHook(self._extra.get("aws_conn_id", "aws_default"))

    @cached_property
    def _said(self) -> set[str]:
        return set()

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self.log.warning("%s", text)


def _place_of(ref: RunRef) -> tuple[str, str]:
    """Return the namespace and the name of a run's RayJob."""
    namespace, _, name = ref.id.partition("/")
    return namespace, name


def _by_namespace(refs: Iterable[RunRef]) -> dict[str, list[RunRef]]:
    places = defaultdict(list)
    for ref in refs:
        places[_place_of(ref)[0]].append(ref)
    return dict(places)


def _id_of(rayjob: Mapping[str, Any]) -> str:
    return f"{rayjob['metadata']['namespace']}/{rayjob['metadata']['name']}"


def _selector(names: Sequence[str]) -> str:
    return f"{RAYJOB} in ({','.join(names)})"


def _lines(content: bytes) -> Iterator[tuple[int, str, str]]:
    """Yield the time of each line (epoch milliseconds), what tells it from others of that time, and its text."""
    known: Counter[str] = Counter()
    for line in content.decode(errors="replace").split("\n"):
        stamp, _, text = line.partition(" ")
        found = _STAMP.fullmatch(stamp)
        # Where a log is gone, the kubelet says so in its place, without a time.
        if found is None:
            continue
        known[stamp] += 1
        moment = datetime.fromisoformat(f"{found[1]}{found[3]}").timestamp()
        fraction = found[2] or "0"
        yield int(moment) * 1000 + int(f"{fraction:0<3}"[:3]), f"{fraction}#{known[stamp]}", text


def _time_in(key: str) -> int:
    """Return the time that a key of a line begins with."""
    return int(key.partition("/")[0])


# -- failures ---------------------------------------------------------------------------------------------------


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Turn what the Kubernetes client raises into our own tree; ``what`` names the thing that was being done."""
    try:
        yield
    except AirflowNotFoundException as error:
        raise ConnectionMissing(f"{what}: {error}. Make one of type 'kubernetes'") from error
    except ConfigException as error:
        raise ConnectionMissing(f"{what} leads to no cluster: {error}") from error
    except ApiException as error:
        raise _error_for(what, error) from error
    except MaxRetryError as error:
        if isinstance(error.reason, NewConnectionError):
            raise SubmitError(f"{what}: the cluster cannot be reached: {error.reason}") from error
        raise SubmitUnknown(f"{what}: {error}") from error
    except HTTPError as error:
        raise SubmitUnknown(f"{what}: {type(error).__name__} {error}") from error


def _error_for(what: str, error: ApiException) -> SubmitError:
    body = error.body.decode(errors="replace") if isinstance(error.body, bytes) else str(error.body or "")
    try:
        status = json.loads(body)
    except ValueError:
        status = {}
    message = status.get("message") or body.strip()[:500] or error.reason
    text = f"{what}: {message} ({error.status})"
    if error.status == 403 and "exceeded quota" in message:
        return ServiceFull(text)
    if error.status == 429:
        return ServiceFull(text)
    if error.status in (401, 403):
        return RequestRefused(f"{text}. {RIGHTS}")
    if error.status == 404 and (status.get("details") or {}).get("kind") == "namespaces":
        return RequestRefused(f"{text}. The namespace is a field of the connection")
    if error.status == 404:
        return RequestRefused(f"{text}. The cluster knows no RayJobs: is the KubeRay operator installed?")
    if error.status == 409 and status.get("reason") == "AlreadyExists":
        return AlreadyThereError(text)
    if error.status in (400, 413, 422):
        return RequestRefused(text)
    return SubmitUnknown(text) if (error.status or 0) >= 500 else SubmitError(text)
