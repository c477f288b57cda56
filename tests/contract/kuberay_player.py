"""The part of KubeRay's operator, played on a real Ray cluster: what a RayJob says really runs.

The stand-in for the API of Kubernetes (tests/hooks/kuberay/kubernetes_api.py) only keeps objects. This looks at its
RayJobs as the operator does, takes a manifest at its word, hands its entrypoint with its environments to Ray and writes
the status back; what is asked of a head goes to that Ray. It has no images, nodes and pods of its own.
"""

from __future__ import annotations

import json
import shlex
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

import httpx

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


class KubeRayPlayer:
    """Plays every RayJob of a stand-in on one Ray cluster.

    :param kubernetes: the stand-in.
    :param dashboard, token: of the Ray cluster.
    """

    def __init__(self, kubernetes: Any, dashboard: str, token: str) -> None:
        self._kubernetes = kubernetes
        self._ray = httpx.Client(base_url=dashboard, headers={"Authorization": f"Bearer {token}"}, timeout=30)
        self._jobs: dict[tuple[str, str], dict[str, Any]] = {}
        self._over = threading.Event()
        #: While this is set, no RayJob gets under way.
        self.paused = threading.Event()
        self.problems: list[str] = []

    @contextmanager
    def playing(self) -> Iterator[KubeRayPlayer]:
        """Play until the end of the block."""
        self._kubernetes.dashboard = self._forward
        thread = threading.Thread(target=self._play, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join(timeout=30)
            for place in list(self._jobs):
                self._stop(place)
            self._ray.close()

    def _forward(self, method: str, path: str, query: Mapping[str, str], body: bytes) -> tuple[int, str]:
        answer = self._ray.request(method, path, params=query, content=body)
        return answer.status_code, answer.text

    def _play(self) -> None:
        while not self._over.wait(0.1):
            try:
                with self._kubernetes.lock:
                    rayjobs = dict(self._kubernetes.rayjobs)
                for place in set(self._jobs) - set(rayjobs):
                    self._stop(place)
                    del self._jobs[place]
                for place, rayjob in rayjobs.items():
                    self._reconcile(place, rayjob)
            except Exception as error:
                self.problems.append(repr(error))

    def _reconcile(self, place: tuple[str, str], rayjob: dict[str, Any]) -> None:
        spec, status = rayjob["spec"], rayjob.get("status") or {}
        if spec.get("suspend") or "deletionTimestamp" in rayjob["metadata"]:  # the stand-in goes on by itself
            self._stop(place)
            return
        if status.get("jobDeploymentStatus") in ("Complete", "Failed"):
            return
        if place not in self._jobs:
            if not self.paused.is_set():
                self._submit(place, rayjob)
            return
        self._look(place, rayjob)

    def _submit(self, place: tuple[str, str], rayjob: Mapping[str, Any]) -> None:
        spec = rayjob["spec"]
        head, worker = self._environments(place[0], spec)
        entrypoint = shlex.join(["env", *(f"{key}={text}" for key, text in head.items())])
        entrypoint += f" {spec['entrypoint']}"
        runtime_env = json.loads(spec.get("runtimeEnvYAML") or "{}")
        plain = {key: text for key, text in worker.items() if "$" not in text}  # Ray would expand the others
        runtime_env["env_vars"] = {**plain, **runtime_env.get("env_vars", {})}
        body = {"entrypoint": entrypoint, "submission_id": spec["jobId"], "runtime_env": runtime_env}
        answer = self._ray.post("/api/jobs/", json=body)
        answer.raise_for_status()
        began = datetime.now(timezone.utc)
        self._jobs[place] = {"id": spec["jobId"], "began": began}
        with self._kubernetes.lock:
            if place not in self._kubernetes.rayjobs:  # deleted meanwhile
                return
            self._say(rayjob, jobDeploymentStatus="Running", jobStatus="PENDING", startTime=_stamp(began))
            self._kubernetes.make_cluster(place)

    def _environments(self, namespace: str, spec: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
        """Return the environment of the head's and of the workers' containers."""
        cluster = spec.get("rayClusterSpec")
        if cluster is None:
            name = spec["clusterSelector"]["ray.io/cluster"]
            cluster = self._kubernetes.rayclusters[namespace, name]["spec"]
        templates = cluster["headGroupSpec"]["template"], cluster["workerGroupSpecs"][0]["template"]
        containers = (template["spec"]["containers"][0] for template in templates)
        head, worker = (
            {each["name"]: each["value"].replace("$$", "$") for each in container["env"] if "value" in each}
            for container in containers
        )
        return head, worker

    def _look(self, place: tuple[str, str], rayjob: dict[str, Any]) -> None:
        job = self._jobs[place]
        details = self._ray.get(f"/api/jobs/{job['id']}").json()
        state, spec = details["status"], rayjob["spec"]
        lasted = (datetime.now(timezone.utc) - job["began"]).total_seconds()
        if state not in ENDED and lasted > spec.get("activeDeadlineSeconds", 1e9):
            self._stop(place)
            message = "The RayJob has passed the activeDeadlineSeconds"
            self._say(rayjob, jobDeploymentStatus="Failed", reason="DeadlineExceeded", message=message, endTime=_now())
        elif state in ENDED:
            word = "Failed" if state == "FAILED" else "Complete"
            why = {"reason": "AppFailed", "message": details["message"]} if state == "FAILED" else {}
            self._say(rayjob, jobDeploymentStatus=word, jobStatus=state, endTime=_now(), **why)
        else:
            self._say(rayjob, jobStatus=state)

    def _say(self, rayjob: dict[str, Any], **status: str) -> None:
        with self._kubernetes.lock:
            rayjob["status"] = {**(rayjob.get("status") or {}), **status}

    def _stop(self, place: tuple[str, str]) -> None:
        job = self._jobs.get(place)
        if job is not None and not job.get("stopped"):
            job["stopped"] = True
            self._ray.post(f"/api/jobs/{job['id']}/stop")


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _now() -> str:
    return _stamp(datetime.now(timezone.utc))
