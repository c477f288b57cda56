"""A container of a pod: started, probed, restarted, told of."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from tests.kubernetes.kubelet.environment import ConfigMissing, environment_of, expand
from tests.kubernetes.kubelet.images import problem_of
from tests.kubernetes.kubelet.probes import Probe
from tests.kubernetes.kubelet.process import Command, Process

_log = logging.getLogger(__name__)
#: Pauses before restarts: the first is at once, then they double, up to five minutes.
FIRST_PAUSE, MOST_PAUSE = 10.0, 300.0
#: Where a container starts that names no folder.
DIRECTORY = "/tmp/home"


class Surroundings(Protocol):
    """What a container knows of its pod."""

    obj: dict[str, Any]
    logs: Path
    values: Any
    volumes: Any
    sandbox: Any

    def notice(self) -> None:
        """Look at the containers again."""

    def tell(self, kind: str, reason: str, message: str) -> None:
        """Make an event."""


class Container:
    """A container in all its lives. Only the thread of its pod calls what changes its state.

    :ivar state, last_state: as the API has them.
    :ivar is_over: it has ended and is not started again.
    """

    def __init__(self, pod: Surroundings, spec: Mapping[str, Any], *, is_init: bool = False) -> None:
        self._pod, self.spec, self._is_init = pod, spec, is_init
        self.name: str = spec["name"]
        self.restarts = 0
        self.state: dict[str, Any] = _waiting("ContainerCreating" if is_init else "PodInitializing")
        self.last_state: dict[str, Any] = {}
        self.is_ready, self.is_started, self.is_over = False, False, False
        self.process: Process | None = None
        self._due, self._wanted_since, self._told = 0.0, 0.0, ""
        #: What a test wants its end to be called.
        self._verdict: dict[str, Any] | None = None

    # -- its life -------------------------------------------------------------------------------------------

    def advance(self, restart_policy: str) -> None:
        """Do what is due: note an end, restart after its pause, start."""
        if self.is_over:
            return
        if self.process is not None and not self.process.runs and "running" in self.state:
            self._end(restart_policy)
        if "waiting" in self.state and not self.is_over and time.monotonic() >= self._due:
            self._try_to_start()

    def _try_to_start(self) -> None:
        self._wanted_since = self._wanted_since or time.monotonic()
        image, policy = self.spec["image"], self.spec.get("imagePullPolicy", "IfNotPresent")
        problem = problem_of(image, policy, time.monotonic() - self._wanted_since)
        if problem is not None:
            self.state = _waiting(problem.reason, problem.message)
            if problem.event and self._told != problem.reason:
                self._pod.tell(*problem.event)
            self._told = problem.reason
            return
        try:
            self._start()
        except ConfigMissing as error:
            self.state = _waiting("CreateContainerConfigError", str(error))
            if self._told != str(error):
                self._pod.tell("Warning", "Failed", f"Error: {error}")
            self._told, self._due = str(error), time.monotonic() + 2.0

    def _start(self) -> None:
        pod, spec = self._pod, self.spec
        environment = environment_of(spec, pod.obj, pod.sandbox.address, pod.values)
        words = [*(spec.get("command") or ()), *(spec.get("args") or ())] or ["sleep", "infinity"]
        command = Command(
            [expand(word, environment) for word in words],
            environment,
            pod.volumes.mounts_of(spec),
            pod.obj["metadata"]["name"],
            spec.get("workingDir") or DIRECTORY,
        )
        self.process = Process(command, pod.sandbox.name, self.log(self.restarts), pod.notice)
        self.state = {"running": {"startedAt": self.process.started_at}}
        self.is_started = not spec.get("startupProbe")
        self.is_ready = self.is_started and not spec.get("readinessProbe")
        pod.tell("Normal", "Started", f"Started container {self.name}")
        if not self._is_init:
            self._probe(self.process)

    def _end(self, restart_policy: str) -> None:
        assert self.process is not None
        code = self.process.code or 0
        told = {"exitCode": code, "reason": "Completed" if code == 0 else "Error", **(self._verdict or {})}
        times = {"startedAt": self.process.started_at, "finishedAt": self.process.ended_at}
        self._verdict = None
        _log.info("%s %s ended: %s", self._pod.obj["metadata"]["name"], self.name, told)
        self.is_ready, self.is_started = False, False
        terminated = {"terminated": {**told, **times}}
        if restart_policy == "Always" or (restart_policy == "OnFailure" and told["exitCode"]):
            pause = min(FIRST_PAUSE * 2 ** (self.restarts - 1), MOST_PAUSE) if self.restarts else 0.0
            self._due = time.monotonic() + pause
            self.restarts += 1
            self.last_state = terminated
            self.state = terminated if not pause else _waiting("CrashLoopBackOff", _back_off(pause, self.name))
            if pause:
                self._pod.tell("Warning", "BackOff", f"Back-off restarting failed container {self.name}")
            else:
                self._try_to_start()
        else:
            self.state, self.is_over = terminated, True

    def stop(self, grace: float) -> None:
        """End it for good, if it runs; return when it has ended."""
        if self.process is not None and self.process.runs:
            self._pod.tell("Normal", "Killing", f"Stopping container {self.name}")
            hook = ((self.spec.get("lifecycle") or {}).get("preStop") or {}).get("exec") or {}
            self.process.stop(grace, hook.get("command") or ())
        if "running" in self.state:
            self._end("Never")
        self.is_over = True

    # -- what others want of it -----------------------------------------------------------------------------

    def kill(self, reason: str = "Error", code: int = 137) -> None:
        """Kill it as the kernel does, and tell of its end in these words; its pod may restart it."""
        self._verdict = {"reason": reason, "exitCode": code}
        if self.process is not None:
            self.process.signal(signal.SIGKILL)

    def _probe(self, process: Process) -> None:
        grace = float(self._pod.obj["spec"].get("terminationGracePeriodSeconds", 30))

        def ready(verdict: bool) -> None:
            self.is_ready = verdict
            self._pod.notice()

        def started(verdict: bool) -> None:
            if verdict:
                self.is_started = True
                self.is_ready = self.is_ready or not self.spec.get("readinessProbe")
                self._pod.notice()
            else:
                alive("Startup", False)

        def alive(kind: str, verdict: bool) -> None:
            if not verdict:
                self._pod.tell("Warning", "Unhealthy", f"{kind} probe failed")
                process.stop(grace)

        probes: dict[str, tuple[Callable[[bool], None], Callable[[], bool]]] = {
            "startupProbe": (started, lambda: True),
            "readinessProbe": (ready, lambda: self.is_started),
            "livenessProbe": (lambda verdict: alive("Liveness", verdict), lambda: self.is_started),
        }
        for name, (answered, may_begin) in probes.items():
            if self.spec.get(name):
                Probe(self.spec[name], self.spec, process, self._pod.sandbox.address, answered, may_begin)

    # -- what is told of it ---------------------------------------------------------------------------------

    @property
    def succeeded(self) -> bool:
        """Whether it has ended well, as an init container has to."""
        return self.is_over and bool(self.state.get("terminated", {}).get("exitCode") == 0)

    def log(self, life: int) -> Path:
        """Return the log of one of its lives."""
        return self._pod.logs / f"{self.name}-{life}.log"

    def status(self) -> dict[str, Any]:
        """Return its status as the API has it."""
        running = "running" in self.state
        return {
            "name": self.name,
            "image": self.spec["image"],
            "imageID": "",
            "ready": self.succeeded if self._is_init else running and self.is_ready,
            "started": running and self.is_started,
            "restartCount": self.restarts,
            "state": self.state,
            "lastState": self.last_state,
        }


def _waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, **({"message": message} if message else {})}}


def _back_off(pause: float, name: str) -> str:
    return f"back-off {pause:.0f}s restarting failed container={name}"
