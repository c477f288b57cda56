"""An HTTP server that behaves like the API of a Kubernetes cluster with KubeRay, as far as the hook asks of it.

RayJobs and RayClusters are validated as the real one does with ``fieldValidation=Strict``: against the published schema
of KubeRay's custom resources, where a member that the schema does not have is refused. No operator runs: a test says
what the statuses of a thing are, one for each time it is listed. Only what is suspended, deleted or not valid goes its
way by itself, as in kuberay/…/rayjob_controller.go, raycluster_controller.go and utils/validation.go; and a RayJob that
is Running has a cluster with a head, which stays when the run has ended. tests/kubernetes has the real ones.
"""

from __future__ import annotations

import base64
import copy
import gzip
import json
import re
import ssl
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonschema
import yaml

#: KubeRay's published custom resource definitions.
_CRDS = Path(__file__).parents[2] / "data" / "kuberay"
_LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?")
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_RAY = "X-Ray-Authorization"
_ENDED = ("Complete", "Failed", "ValidationFailed")


@cache
def schema_of(plural: str, lacks: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Return the schema of a custom resource, in which what is not named is refused.

    :param lacks: members that it has not in an older release.
    """
    with gzip.open(_CRDS / f"ray.io_{plural}.yaml.gz") as file:
        definition = yaml.load(file, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    version = next(each for each in definition["spec"]["versions"] if each["name"] == "v1")
    schema = _closed(version["schema"]["openAPIV3Schema"], lacks)
    # Of metadata the schema says only that it is an object; the API server knows its members.
    members = ("name", "namespace", "labels", "annotations")
    schema["properties"]["metadata"] = {"type": "object", "additionalProperties": False} | {
        "properties": {member: {} for member in members}
    }
    return schema  # type: ignore[no-any-return]


def _closed(schema: Any, lacks: frozenset[str]) -> Any:
    if isinstance(schema, list):
        return [_closed(each, lacks) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value, lacks) for key, value in schema.items() if key not in lacks}
    is_object = closed.get("type") == "object" and isinstance(closed.get("properties"), dict)
    if is_object and not closed.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    return closed


@cache
def _validator(plural: str, lacks: frozenset[str]) -> Any:
    return jsonschema.Draft202012Validator(schema_of(plural, lacks))


def problems_of(thing: Mapping[str, Any], lacks: frozenset[str] = frozenset()) -> list[str]:
    """Return what the API server would refuse of a RayJob or a RayCluster."""
    validator = _validator(f"{thing['kind'].lower()}s", lacks)
    return [f"{error.json_path}: {error.message}"[:500] for error in validator.iter_errors(thing)]


def refused_by_kuberay(rayjob: Mapping[str, Any]) -> str:
    """Return what KubeRay's operator would refuse of a RayJob (kuberay/…/utils/validation.go ValidateRayJobSpec)."""
    spec = rayjob["spec"]
    selector = spec.get("clusterSelector")
    if spec.get("suspend") and not spec.get("shutdownAfterJobFinishes"):
        return "a RayJob with shutdownAfterJobFinishes set to false is not allowed to be suspended"
    if not spec.get("shutdownAfterJobFinishes") and spec.get("ttlSecondsAfterFinished"):
        return "a RayJob with shutdownAfterJobFinishes set to false cannot have TTLSecondsAfterFinished"
    if spec.get("suspend") and selector:
        return "the ClusterSelector mode doesn't support the suspend operation"
    if not selector and not spec.get("rayClusterSpec"):
        return "one of RayClusterSpec or ClusterSelector must be set"
    if selector and not selector.get("ray.io/cluster"):
        return "cluster name in ClusterSelector should not be empty"
    if selector and spec.get("backoffLimit"):
        return "BackoffLimit is incompatible with ClusterSelector mode"
    return ""


#: How a RayCluster comes up, unless a test says otherwise.
COMES_UP = (
    {"observedGeneration": 1, "desiredWorkerReplicas": 0},
    {"state": "ready", "conditions": [{"type": "RayClusterProvisioned", "status": "True"}]},
)


class Kubernetes:
    """A cluster: what is in it, how it misbehaves, and what it was asked."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.namespaces = {"default", "etl"}
        self.rayjobs: dict[tuple[str, str], dict[str, Any]] = {}
        self.rayclusters: dict[tuple[str, str], dict[str, Any]] = {}
        #: The statuses of every RayCluster that is made from now on.
        self.cluster_statuses: tuple[Mapping[str, Any], ...] = COMES_UP
        #: What answers for the dashboards of heads: a request's method, path, query and body to status and content.
        self.dashboard: Callable[[str, str, Mapping[str, str], bytes], tuple[int, str]] = Dashboard()
        #: RayJobs whose Ray job KubeRay has stopped, because they were deleted while it ran.
        self.stopped: list[str] = []
        self.pods: dict[tuple[str, str], dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []
        #: Lines with their times, by namespace, pod and container.
        self.logs: dict[tuple[str, str, str], list[tuple[str, str]]] = defaultdict(list)
        self.has_kuberay = True
        #: Members that KubeRay's custom resources do not have in an older release.
        self.lacks: frozenset[str] = frozenset()
        #: The token that heads ask for; "" for none.
        self.token = ""
        self.quota: str | None = None
        #: Verbs on resources that the caller may not use, such as ``("create", "rayjobs")``.
        self.denied: set[tuple[str, str]] = set()
        #: How many of the next creations are done without an answer, and the statuses of answers to others.
        self.lost_answers = 0
        self.refusals: deque[int] = deque()
        self.calls: Counter[str] = Counter()
        self.url = ""
        self._plays: dict[tuple[str, str], deque[dict[str, Any]]] = {}
        self._version = 0

    def play(self, place: str, *statuses: Mapping[str, Any]) -> None:
        """Let a thing have these statuses, one after the other, the next each time it is listed."""
        namespace, name = place.split("/")
        with self.lock:
            self._plays[namespace, name] = deque(copy.deepcopy(dict(status)) for status in statuses)

    def age(self, place: str, seconds: float) -> None:
        """Make a thing older than it is."""
        namespace, name = place.split("/")
        moment = datetime.now(timezone.utc) - timedelta(seconds=seconds)
        self._thing(namespace, name)["metadata"]["creationTimestamp"] = moment.strftime("%Y-%m-%dT%H:%M:%SZ")

    def run_pod(self, place: str, role: str = "ray-head", phase: str = "Running", **status: Any) -> tuple[str, str]:
        """Add a pod of a thing as KubeRay would, from its template; return its namespace and name."""
        namespace, name = place.split("/")
        spec = self._thing(namespace, name)["spec"]
        cluster = spec.get("rayClusterSpec", spec)
        group = cluster["headGroupSpec"] if role == "ray-head" else cluster["workerGroupSpecs"][0]
        template = group["template"]
        pod = {
            "metadata": {
                "name": f"{name}-{role}-x7k2p",
                "namespace": namespace,
                "labels": template["metadata"]["labels"],
            },
            "spec": template["spec"],
            "status": {"phase": phase, **status},
        }
        self.pods[namespace, pod["metadata"]["name"]] = pod
        return namespace, pod["metadata"]["name"]

    def make_cluster(self, place: tuple[str, str], *, has_head: bool = True) -> None:
        """Make the cluster of a RayJob, with a head, unless they are there; tell of them in the RayJob's status."""
        rayjob = self.rayjobs[place]
        spec = rayjob["spec"]
        cluster = spec["clusterSelector"]["ray.io/cluster"] if spec.get("clusterSelector") else place[1]
        if "rayClusterSpec" in spec and place not in self.rayclusters:
            labels = {**rayjob["metadata"]["labels"], "ray.io/originated-from-crd": "RayJob"}
            metadata = {"namespace": place[0], "name": place[1], "labels": labels, "creationTimestamp": _now()}
            self.rayclusters[place] = {"metadata": metadata, "spec": spec["rayClusterSpec"], "status": {}}
        if "rayClusterSpec" in spec and has_head and not self._pods_of(place):
            self.run_pod("/".join(place))
        rayjob["status"] |= {"jobId": spec["jobId"], "rayClusterName": cluster}
        if has_head:
            workers = sum(group["maxReplicas"] for group in spec.get("rayClusterSpec", {}).get("workerGroupSpecs", ()))
            head = {"serviceName": f"{cluster}-head-svc", "podIP": "10.0.0.7"}
            rayjob["status"]["rayClusterStatus"] = {"head": head, "availableWorkerReplicas": workers}

    def _thing(self, namespace: str, name: str) -> dict[str, Any]:
        return self.rayjobs.get((namespace, name)) or self.rayclusters[namespace, name]

    def print(self, pod: tuple[str, str], *lines: str, container: str = "ray-head", at: str = "") -> None:
        """Let a container print lines, now or at a given time."""
        for line in lines:
            moment = at or datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f") + "123Z"
            self.logs[(*pod, container)].append((moment, line))

    def config(self, **more: Any) -> dict[str, Any]:
        """Return an Airflow connection to this cluster."""
        kube_config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": {"server": self.url}}],
            "users": [{"name": "test", "user": {"token": "secret-token"}}],
        }
        return {"conn_type": "kubernetes", "extra": {"kube_config": kube_config, "namespace": "etl", **more}}

    # -- answers --------------------------------------------------------------------------------------------

    def answer(
        self, method: str, path: str, query: Mapping[str, str], body: bytes, content_type: str
    ) -> tuple[int, Any] | None:
        """Return status and content for a request, or None to hang up without a word."""
        if path == "/openapi/v3/apis/ray.io/v1":
            return self._openapi()
        proxied = re.fullmatch(r"/api/v1/namespaces/([^/]+)/services/([^/:]+):8265/proxy(/.*)", path)
        if proxied is not None:
            return self._proxied(method, *proxied.groups(), query, body)
        found = re.fullmatch(r"/(?:api/v1|apis/ray\.io/v1)/namespaces/([^/]+)/(\w+)(?:/([^/]+))?(?:/(\w+))?", path)
        if found is None:
            return 404, "404 page not found\n"
        namespace, resource, name, sub = found.groups()
        verb = {"GET": "get" if name else "list", "POST": "create", "PATCH": "patch", "DELETE": "delete"}[method]
        what = f"{resource}/{sub}" if sub else resource
        with self.lock:
            self.calls[f"{verb} {what}"] += 1
            if self.refusals:
                return _status(self.refusals.popleft(), "InternalError", "etcdserver: request timed out")
            if (verb, what) in self.denied:
                group = "ray.io" if resource.startswith("ray") else ""
                return _status(
                    403, "Forbidden", f'{resource} is forbidden: User "airflow" cannot {verb} resource "{what}" in API '
                    f'group "{group}" in the namespace "{namespace}"',
                )  # fmt: skip
            if resource in ("rayjobs", "rayclusters"):
                if not self.has_kuberay:
                    return 404, "404 page not found\n"
                return self._custom(resource, verb, namespace, name or "", query, body, content_type)
            if (
                what == "secrets"
                and self.token
                and (namespace, name) in {(place[0], f"{place[1]}"[-50:]) for place in self.rayclusters}
            ):
                return 200, {"data": {"auth_token": base64.b64encode(self.token.encode()).decode()}}
            if what == "secrets":
                return _status(404, "NotFound", f'secrets "{name}" not found', kind="secrets")
            if what == "pods/log":
                return self._log(namespace, name, query)
            if verb == "list":
                return 200, {"items": self._listed(resource, namespace, query)}
        return 404, "404 page not found\n"

    def _openapi(self) -> tuple[int, Any]:
        """Publish what custom resources may have, as far as a client looks for."""
        self.calls["get openapi"] += 1
        if ("get", "openapi") in self.denied:
            return _status(403, "Forbidden", "forbidden: cannot get path /openapi/v3/apis/ray.io/v1")
        schemas = {}
        for kind in ("RayJob", "RayCluster"):
            of = {"x-kubernetes-group-version-kind": [{"group": "ray.io", "version": "v1", "kind": kind}]}
            schemas[f"io.ray.v1.{kind}"] = {**schema_of(f"{kind.lower()}s", self.lacks), **of}
        return 200, {"components": {"schemas": schemas}}

    def _proxied(
        self, method: str, namespace: str, service: str, path: str, query: Mapping[str, str], body: bytes
    ) -> tuple[int, Any]:
        verb = {"GET": "get", "POST": "create"}[method]
        with self.lock:
            self.calls[f"{verb} services/proxy"] += 1
            if (verb, "services/proxy") in self.denied:
                return _status(403, "Forbidden", f'services "{service}" is forbidden: cannot {verb} services/proxy')
            if (namespace, service.removesuffix("-head-svc")) not in self.rayclusters:
                return _status(404, "NotFound", f'services "{service}" not found', kind="services")
        return self.dashboard(method, path, query, body)

    def _custom(
        self,
        plural: str,
        verb: str,
        namespace: str,
        name: str,
        query: Mapping[str, str],
        body: bytes,
        content_type: str,
    ) -> tuple[int, Any] | None:
        store = self.rayjobs if plural == "rayjobs" else self.rayclusters
        if verb == "create":
            return self._create(plural, store, namespace, json.loads(body), query)
        if verb == "list":
            mine = [
                place
                for place, each in store.items()
                if place[0] == namespace and _selects(query.get("labelSelector", ""), each["metadata"]["labels"])
            ]
            for place in mine[: int(query.get("limit", 2**31))]:
                self._go_on(store, place)
            there = [store[place] for place in mine if place in store]
            return 200, {"items": there[: int(query.get("limit", 2**31))]}
        thing = store.get((namespace, name))
        if thing is None:
            return _status(404, "NotFound", f'{plural}.ray.io "{name}" not found', kind=plural)
        if verb == "delete":
            self._delete(store, (namespace, name), query)
            return _status(200, "", "", kind=plural)
        if verb == "patch":
            if content_type != "application/merge-patch+json":
                return _status(400, "BadRequest", f"the body of the request was no {content_type}")
            _merge(thing, json.loads(body))
            self._touch(thing)
        return 200, thing

    def _create(
        self,
        plural: str,
        store: dict[tuple[str, str], dict[str, Any]],
        namespace: str,
        thing: dict[str, Any],
        query: Mapping[str, str],
    ) -> tuple[int, Any] | None:
        metadata = thing["metadata"]
        name = metadata["name"]
        if namespace not in self.namespaces:
            return _status(404, "NotFound", f'namespaces "{namespace}" not found', kind="namespaces")
        if self.quota:
            return _status(403, "Forbidden", f'{plural}.ray.io "{name}" is forbidden: exceeded quota: {self.quota}')
        wrong = problems_of(thing, self.lacks)
        unknown = [each for each in wrong if "Additional properties" in each]
        if unknown and query.get("fieldValidation") == "Strict":
            return _status(400, "BadRequest", f"strict decoding error: {unknown[0]}")
        odd = [text for text in metadata["labels"].values() if len(text) > 63 or not _LABEL.fullmatch(text)]
        if wrong or odd or not _NAME.fullmatch(name) or len(name) > 253:
            return _status(422, "Invalid", f'{thing["kind"]}.ray.io "{name}" is invalid: {(wrong or odd or [name])[0]}')
        if (namespace, name) in store:
            return _status(409, "AlreadyExists", f'{plural}.ray.io "{name}" already exists', kind=plural)
        stored = copy.deepcopy(thing)
        stored["metadata"] |= {"creationTimestamp": _now(), "uid": name}
        self._touch(stored)
        store[namespace, name] = stored
        if plural == "rayclusters":
            self.play(f"{namespace}/{name}", *self.cluster_statuses)
        if self.lost_answers:
            self.lost_answers -= 1
            return None
        return 201, stored

    def _delete(
        self, store: dict[tuple[str, str], dict[str, Any]], place: tuple[str, str], query: Mapping[str, str]
    ) -> None:
        """Delete a thing: at once, unless KubeRay has its finalizer on it or its pods are to go first."""
        thing = store[place]
        has_finalizer = store is self.rayjobs and bool((thing.get("status") or {}).get("jobDeploymentStatus"))
        goes_first = query.get("propagationPolicy") == "Foreground"
        if has_finalizer or (goes_first and (store is self.rayclusters or self._pods_of(place))):
            thing["metadata"].setdefault("deletionTimestamp", _now())
            self._touch(thing)
        else:
            del store[place]

    def _pods_of(self, place: tuple[str, str]) -> list[tuple[str, str]]:
        return [key for key in self.pods if key[0] == place[0] and key[1].startswith(place[1])]

    def _touch(self, thing: dict[str, Any]) -> None:
        self._version += 1
        thing["metadata"]["resourceVersion"] = str(self._version)

    def _go_on(self, store: dict[tuple[str, str], dict[str, Any]], place: tuple[str, str]) -> None:
        thing = store[place]
        status = thing.setdefault("status", {})
        word = status.get("jobDeploymentStatus", "")
        if thing["metadata"].get("deletionTimestamp"):
            self._go_away(store, place)
        elif store is self.rayjobs and refused_by_kuberay(thing) and word not in _ENDED:
            text = f"The RayJob spec is invalid: {refused_by_kuberay(thing)}"
            thing["status"] = {"jobDeploymentStatus": "ValidationFailed", "reason": "ValidationFailed", "message": text}
        elif store is self.rayjobs and thing["spec"].get("suspend") and word not in _ENDED:
            # Only these two may go over to Suspending, and its resources are gone before it is Suspended.
            following = {"": "Initializing", "Suspending": "Suspended", "Suspended": "Suspended"}
            thing["status"] = {**status, "jobDeploymentStatus": following.get(word, "Suspending")}
            if thing["status"]["jobDeploymentStatus"] == "Suspended":
                thing["status"] |= {"jobStatus": "", "message": "", "reason": "", "jobId": "", "rayClusterName": ""}
                thing["status"]["rayClusterStatus"] = {}
                for key in self._pods_of(place):
                    del self.pods[key]
                self.rayclusters.pop(place, None)
        elif self._has_no_cluster(thing) and word not in _ENDED:
            # KubeRay tries again and again, and the status stays what it was.
            thing["status"] = status or {"jobDeploymentStatus": "Initializing"}
        elif self._plays.get(place):
            thing["status"] = dict(self._plays[place].popleft())
            word = thing["status"].get("jobDeploymentStatus")
            if store is self.rayjobs and word in ("Initializing", "Running"):
                self.make_cluster(place, has_head=word == "Running")
        else:
            return
        self._touch(thing)

    def _go_away(self, store: dict[tuple[str, str], dict[str, Any]], place: tuple[str, str]) -> None:
        """Let a thing be seen once more while it is being deleted, then be gone with its pods."""
        thing = store[place]
        if not thing["metadata"].get("seenGoing"):
            thing["metadata"]["seenGoing"] = True
            status = thing.get("status") or {}
            if store is self.rayjobs and status.get("jobStatus") not in ("SUCCEEDED", "FAILED", "STOPPED"):
                self.stopped.append(place[1])
            return
        for key in self._pods_of(place):
            del self.pods[key]
        del store[place]

    def _has_no_cluster(self, thing: Mapping[str, Any]) -> bool:
        selector = thing["spec"].get("clusterSelector")
        return bool(selector) and (thing["metadata"]["namespace"], selector["ray.io/cluster"]) not in self.rayclusters

    def _listed(self, resource: str, namespace: str, query: Mapping[str, str]) -> list[dict[str, Any]]:
        if resource == "events":
            parts = query.get("fieldSelector", "").split(",")
            return [event for event in self.events if all(_fits(event, part) for part in parts if part)]
        return [
            pod
            for (place, _), pod in self.pods.items()
            if place == namespace and _selects(query.get("labelSelector", ""), pod["metadata"]["labels"])
        ]

    def _log(self, namespace: str, pod: str, query: Mapping[str, str]) -> tuple[int, Any]:
        if (namespace, pod) not in self.pods:
            return _status(404, "NotFound", f'pods "{pod}" not found', kind="pods")
        container = query.get("container", "")
        if self.pods[namespace, pod]["status"]["phase"] == "Pending":
            return _status(400, "BadRequest", f'container "{container}" in pod "{pod}" is waiting to start')
        since = query.get("sinceTime", "")
        lines = [(at, text) for at, text in self.logs[namespace, pod, container] if at[:19] >= since[:19]]
        content = "".join(f"{at} {text}\n" if query.get("timestamps") == "true" else f"{text}\n" for at, text in lines)
        return 200, content.encode()[: int(query.get("limitBytes", 2**31))].decode(errors="replace")


class Dashboard:
    """Answers for a head as Ray's dashboard does, of jobs that a test describes.

    :ivar statuses: of Ray jobs, by their ids; :ivar logs: what their drivers have written.
    """

    def __init__(self) -> None:
        self.statuses: dict[str, str] = defaultdict(lambda: "RUNNING")
        self.logs: dict[str, str] = defaultdict(str)

    def __call__(self, method: str, path: str, query: Mapping[str, str], body: bytes) -> tuple[int, str]:
        """Answer a request."""
        job = re.fullmatch(r"/api/jobs/([^/]+)(/stop)?", path)
        if job is not None and job[2]:
            self.statuses[job[1]] = "STOPPED"
            return 200, json.dumps({"stopped": True})
        if job is not None:
            status = self.statuses[job[1]]
            ended = {} if status in ("PENDING", "RUNNING") else {"end_time": 1}
            return 200, json.dumps({"submission_id": job[1], "status": status, "driver_node_id": "n", **ended})
        if query["node_id"] != "n":  # of a node that is gone Ray knows nothing
            return 500, "Agent is dead"
        job_id = query["filename"].removeprefix("job-driver-").removesuffix(".log")
        if job_id not in self.logs:
            return 500, "file is not found"
        return 200, self.logs[job_id]


def _status(code: int, reason: str, message: str, kind: str = "") -> tuple[int, Any]:
    """Return an answer as the API server words its own."""
    details = {"details": {"kind": kind}} if kind else {}
    return code, {"kind": "Status", "apiVersion": "v1", "reason": reason, "message": message, "code": code, **details}


def _fits(event: Mapping[str, Any], part: str) -> bool:
    """Tell whether an event is of those that one part of a field selector asks for."""
    key, operator, wanted = re.fullmatch(r"([\w.]+)(!?=)(.*)", part).groups()  # type: ignore[union-attr]
    value: Any = event
    for name in key.split("."):
        value = value.get(name, "")
    return (value == wanted) is (operator == "=")


def _selects(selector: str, labels: Mapping[str, str]) -> bool:
    for part in re.split(r",(?![^(]*\))", selector):
        if not part:
            continue
        if "=" not in part and " in " not in part:
            if part not in labels:
                return False
            continue
        if "!=" in part:
            key, _, unwanted = part.partition("!=")
            if labels.get(key) == unwanted:
                return False
            continue
        many = re.fullmatch(r"(\S+) in \((.*)\)", part)
        key, wanted = (many[1], many[2].split(",")) if many else (part.split("=")[0], [part.split("=")[1]])
        if labels.get(key) not in wanted:
            return False
    return True


def _merge(target: dict[str, Any], patch: Mapping[str, Any]) -> None:
    for key, value in patch.items():
        if isinstance(value, Mapping):
            _merge(target.setdefault(key, {}), value)
        else:
            target[key] = value


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[Kubernetes]:
    """Serve a new cluster on a free port, with TLS if there is a context for it."""
    cluster = Kubernetes()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # An answer goes out in one piece: in two, the kernel holds the second back for 40 ms.
        wbufsize = -1

        def _any(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            if self.headers.get("Authorization") != "Bearer secret-token":
                answer: tuple[int, Any] | None = _status(401, "Unauthorized", "Unauthorized")
            elif "/proxy/" in parts.path and cluster.token and self.headers.get(_RAY) != f"Bearer {cluster.token}":
                answer = 401, "Unauthorized: Missing authentication token"
            else:
                content_type = self.headers.get("Content-Type", "")
                answer = cluster.answer(self.command, parts.path, query, body, content_type)
            if answer is None:
                self.close_connection = True
                return
            code, content = answer
            data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Type", "text/plain" if isinstance(content, str) else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = do_DELETE = _any  # noqa: N815

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    cluster.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield cluster
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
