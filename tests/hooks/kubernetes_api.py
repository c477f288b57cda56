"""An HTTP server that behaves like the API of a Kubernetes cluster with KubeRay, as far as the hook asks of it.

RayJobs are validated as the real one does with ``fieldValidation=Strict``: against the published schema of KubeRay's
custom resource, where a member that the schema does not have is refused. No operator runs: a test says what the
statuses of a RayJob are, one for each time it is listed, and only a suspended one goes its way by itself, as in
kuberay/…/rayjob_controller.go.
"""

from __future__ import annotations

import copy
import gzip
import json
import re
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonschema
import yaml

#: KubeRay's published custom resource definitions; they are not part of this repository.
CRDS = Path(__file__).resolve().parents[3] / "shared" / "data" / "kuberay"
NO_CRDS = f"KubeRay's custom resource definitions are not at {CRDS}"
_LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?")
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_ENDED = ("Complete", "Failed", "ValidationFailed")


@cache
def rayjob_schema() -> dict[str, Any]:
    """Return the schema of a RayJob, in which what is not named is refused."""
    with gzip.open(CRDS / "ray.io_rayjobs.yaml.gz") as file:
        definition = yaml.load(file, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    version = next(each for each in definition["spec"]["versions"] if each["name"] == "v1")
    schema = _closed(version["schema"]["openAPIV3Schema"])
    # Of metadata the schema says only that it is an object; the API server knows its members.
    members = ("name", "namespace", "labels", "annotations")
    schema["properties"]["metadata"] = {"type": "object", "additionalProperties": False} | {
        "properties": {member: {} for member in members}
    }
    return schema  # type: ignore[no-any-return]


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    is_object = closed.get("type") == "object" and isinstance(closed.get("properties"), dict)
    if is_object and not closed.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    return closed


@cache
def _validator() -> Any:
    return jsonschema.Draft202012Validator(rayjob_schema())


def problems_of(rayjob: Mapping[str, Any]) -> list[str]:
    """Return what the API server would refuse of a RayJob."""
    if not CRDS.is_dir():
        return []
    return [f"{error.json_path}: {error.message}"[:500] for error in _validator().iter_errors(rayjob)]


class Kubernetes:
    """A cluster: what is in it, how it misbehaves, and what it was asked."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.namespaces = {"default", "etl"}
        self.rayjobs: dict[tuple[str, str], dict[str, Any]] = {}
        self.pods: dict[tuple[str, str], dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []
        #: Lines with their times, by namespace, pod and container.
        self.logs: dict[tuple[str, str, str], list[tuple[str, str]]] = defaultdict(list)
        self.has_kuberay = True
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
        """Let a RayJob have these statuses, one after the other, the next each time it is listed."""
        namespace, name = place.split("/")
        with self.lock:
            self._plays[namespace, name] = deque(dict(status) for status in statuses)

    def age(self, place: str, seconds: float) -> None:
        """Make a RayJob older than it is."""
        namespace, name = place.split("/")
        moment = datetime.now(UTC) - timedelta(seconds=seconds)
        self.rayjobs[namespace, name]["metadata"]["creationTimestamp"] = moment.strftime("%Y-%m-%dT%H:%M:%SZ")

    def run_pod(
        self, place: str, role: str = "ray-job-submitter", phase: str = "Running", **status: Any
    ) -> tuple[str, str]:
        """Add a pod of a RayJob as KubeRay would, from its template; return its namespace and name."""
        namespace, name = place.split("/")
        spec = self.rayjobs[namespace, name]["spec"]
        cluster = spec["rayClusterSpec"]
        template = {
            "ray-job-submitter": spec["submitterPodTemplate"],
            "ray-head": cluster["headGroupSpec"]["template"],
            "ray-worker": cluster["workerGroupSpecs"][0]["template"],
        }[role]
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

    def print(self, pod: tuple[str, str], *lines: str, container: str = "ray-job-submitter", at: str = "") -> None:
        """Let a container print lines, now or at a given time."""
        for line in lines:
            moment = at or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "123Z"
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
                group = "ray.io" if resource == "rayjobs" else ""
                return _status(
                    403, "Forbidden", f'{resource} is forbidden: User "airflow" cannot {verb} resource "{what}" in API '
                    f'group "{group}" in the namespace "{namespace}"',
                )  # fmt: skip
            if resource == "rayjobs":
                if not self.has_kuberay:
                    return 404, "404 page not found\n"
                return self._rayjobs(verb, namespace, name or "", query, body, content_type)
            if what == "pods/log":
                return self._log(namespace, name, query)
            if verb == "list":
                return 200, {"items": self._listed(resource, namespace, query)}
        return 404, "404 page not found\n"

    def _rayjobs(
        self, verb: str, namespace: str, name: str, query: Mapping[str, str], body: bytes, content_type: str
    ) -> tuple[int, Any] | None:
        if verb == "create":
            return self._create(namespace, json.loads(body), query)
        if verb == "list":
            mine = [
                place
                for place, each in self.rayjobs.items()
                if place[0] == namespace and _selects(query.get("labelSelector", ""), each["metadata"]["labels"])
            ]
            for place in mine:
                self._go_on(place)
            return 200, {"items": [self.rayjobs[place] for place in mine]}
        rayjob = self.rayjobs.get((namespace, name))
        if rayjob is None:
            return _status(404, "NotFound", f'rayjobs.ray.io "{name}" not found', kind="rayjobs")
        if verb == "delete":
            del self.rayjobs[namespace, name]
            return _status(200, "", "", kind="rayjobs")
        if verb == "patch":
            if content_type != "application/merge-patch+json":
                return _status(400, "BadRequest", f"the body of the request was no {content_type}")
            _merge(rayjob, json.loads(body))
            self._touch(rayjob)
        return 200, rayjob

    def _create(self, namespace: str, rayjob: dict[str, Any], query: Mapping[str, str]) -> tuple[int, Any] | None:
        metadata = rayjob["metadata"]
        name = metadata["name"]
        if namespace not in self.namespaces:
            return _status(404, "NotFound", f'namespaces "{namespace}" not found', kind="namespaces")
        if self.quota:
            return _status(403, "Forbidden", f'rayjobs.ray.io "{name}" is forbidden: exceeded quota: {self.quota}')
        wrong = problems_of(rayjob)
        unknown = [each for each in wrong if "Additional properties" in each]
        if unknown and query.get("fieldValidation") == "Strict":
            return _status(400, "BadRequest", f"strict decoding error: {unknown[0]}")
        odd = [text for text in metadata["labels"].values() if len(text) > 63 or not _LABEL.fullmatch(text)]
        if wrong or odd or not _NAME.fullmatch(name) or len(name) > 253:
            return _status(422, "Invalid", f'RayJob.ray.io "{name}" is invalid: {(wrong or odd or [name])[0]}')
        if (namespace, name) in self.rayjobs:
            return _status(409, "AlreadyExists", f'rayjobs.ray.io "{name}" already exists', kind="rayjobs")
        stored = copy.deepcopy(rayjob)
        stored["metadata"] |= {"creationTimestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "uid": name}
        self._touch(stored)
        self.rayjobs[namespace, name] = stored
        if self.lost_answers:
            self.lost_answers -= 1
            return None
        return 201, stored

    def _touch(self, rayjob: dict[str, Any]) -> None:
        self._version += 1
        rayjob["metadata"]["resourceVersion"] = str(self._version)

    def _go_on(self, place: tuple[str, str]) -> None:
        rayjob = self.rayjobs[place]
        status = rayjob.setdefault("status", {})
        word = status.get("jobDeploymentStatus", "")
        if rayjob["spec"].get("suspend") and word not in _ENDED:
            # Only these two may go over to Suspending, and its resources are gone before it is Suspended.
            following = {"": "Initializing", "Suspending": "Suspended", "Suspended": "Suspended"}
            rayjob["status"] = {**status, "jobDeploymentStatus": following.get(word, "Suspending")}
            if rayjob["status"]["jobDeploymentStatus"] == "Suspended":
                rayjob["status"] |= {"jobStatus": "", "message": "", "reason": ""}
                name = place[1]
                self.pods = {key: pod for key, pod in self.pods.items() if not key[1].startswith(name)}
        elif self._plays.get(place):
            rayjob["status"] = self._plays[place].popleft()
        else:
            return
        self._touch(rayjob)

    def _listed(self, resource: str, namespace: str, query: Mapping[str, str]) -> list[dict[str, Any]]:
        if resource == "events":
            kind = query.get("fieldSelector", "").removeprefix("type=")
            return [event for event in self.events if not kind or event["type"] == kind]
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


def _status(code: int, reason: str, message: str, kind: str = "") -> tuple[int, Any]:
    """Return an answer as the API server words its own."""
    details = {"details": {"kind": kind}} if kind else {}
    return code, {"kind": "Status", "apiVersion": "v1", "reason": reason, "message": message, "code": code, **details}


def _selects(selector: str, labels: Mapping[str, str]) -> bool:
    for part in re.split(r",(?![^(]*\))", selector):
        if not part:
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


@contextmanager
def serving() -> Iterator[Kubernetes]:
    """Serve a new cluster on a free port."""
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
    cluster.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield cluster
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
