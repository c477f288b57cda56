"""A pod on its node, from the moment in which it is bound to it until it is deleted."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.kubernetes.api import AWAY, STRATEGIC, Api, ApiError
from tests.kubernetes.kubelet import moments
from tests.kubernetes.kubelet.container import Container
from tests.kubernetes.kubelet.environment import ConfigMissing, Values
from tests.kubernetes.kubelet.sandbox import Sandbox
from tests.kubernetes.kubelet.volumes import Volumes
from tests.kubernetes.layout import GATEWAY, Layout

_log = logging.getLogger(__name__)
#: Seconds until its containers are looked at again, if nothing is noticed before.
_LOOK_AGAIN = 0.5
#: Seconds until volumes that could not be made are tried again.
_MOUNT_AGAIN = 2.0
#: Seconds that containers of a pod have which the kubelet itself ends.
_GRACE = 2.0


class Pod:
    """A pod; all that happens to it happens in its own thread.

    :ivar obj: as the API server last had it.
    :ivar logs: the folder of its containers' logs, which outlives it.
    :ivar verdict: phase, reason and message of a pod that the kubelet has given up, such as an evicted one.
    """

    def __init__(
        self, obj: dict[str, Any], address: str, layout: Layout, api: Api, gone: Callable[[Pod], None]
    ) -> None:
        self.obj, self._api, self._gone = obj, api, gone
        metadata, spec = obj["metadata"], obj["spec"]
        self.name, self.namespace, self.uid = metadata["name"], metadata["namespace"], metadata["uid"]
        self.path = f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"
        self.logs = layout.logs / "pods" / f"{self.namespace}_{self.name}_{self.uid[:8]}"
        self.logs.mkdir(parents=True)
        self.sandbox = Sandbox(self.uid, address)
        self.values = Values(api, self.namespace)
        self.volumes = Volumes(layout.pods / self.uid, obj, address, api)
        self.inits = [Container(self, each, is_init=True) for each in spec.get("initContainers") or ()]
        self.main = [Container(self, each) for each in spec["containers"]]
        self.verdict: dict[str, str] = {}
        self._noticed, self._deleted = threading.Event(), threading.Event()
        self._began, self._started_at = time.monotonic(), moments.to_second()
        self._conditions: dict[str, dict[str, Any]] = {}
        self._mount_due, self._has_volumes, self._told = 0.0, False, ""
        self._reported: Any = None
        threading.Thread(target=self._live, daemon=True, name=self.name).start()

    # -- what others want of it -----------------------------------------------------------------------------

    def notice(self) -> None:
        """Look at the containers again, now."""
        self._noticed.set()

    def see(self, obj: dict[str, Any]) -> None:
        """Take note of what the API server has of it; what somebody else has said of its state is said anew."""
        self.obj = obj
        told = {each["type"]: each["status"] for each in obj["status"].get("conditions") or ()}
        if self._reported and told.get("Ready") != self._conditions["Ready"]["status"]:
            self._reported = None
            self.notice()

    def delete(self) -> None:
        """End it, within the grace that its deletion has."""
        self._deleted.set()
        self.notice()

    def give_up(self, reason: str, message: str) -> None:
        """Fail it, as a node does that is short of something."""
        self.verdict = {"phase": "Failed", "reason": reason, "message": message}
        self.notice()

    def tell(self, kind: str, reason: str, message: str) -> None:
        """Make an event of it."""
        now = moments.to_second()
        about = {"kind": "Pod", "apiVersion": "v1", "namespace": self.namespace, "name": self.name, "uid": self.uid}
        event = {
            "metadata": {"generateName": f"{self.name}."},
            "involvedObject": about,
            "type": kind,
            "reason": reason,
            "message": message[:1024],
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
            "source": {"component": "kubelet", "host": self.obj["spec"]["nodeName"]},
        }
        try:
            self._api.ask("POST", f"/api/v1/namespaces/{self.namespace}/events", event)
        except (ApiError, *AWAY) as error:
            _log.warning("%s: no event %s: %s", self.name, reason, error)

    # -- its life -------------------------------------------------------------------------------------------

    def _live(self) -> None:
        try:
            self.sandbox.open()
            while not (self._deleted.is_set() or self._is_over()):
                with self._whoever_is_away():
                    self._advance()
                    self._report()
                self._noticed.wait(_LOOK_AGAIN)
                self._noticed.clear()
            self._finish()
        except Exception:
            _log.exception("%s", self.name)

    @contextlib.contextmanager
    def _whoever_is_away(self) -> Iterator[None]:
        """Go on when the API server does not answer or refuses: what could not be done is done at the next look."""
        try:
            yield
        except (ApiError, *AWAY) as error:
            _log.warning("%s: %s", self.name, error)

    def _is_over(self) -> bool:
        limit = self.obj["spec"].get("activeDeadlineSeconds")
        if limit and time.monotonic() - self._began >= limit and not self.verdict:
            self.give_up("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
        return bool(self.verdict) or self._phase() in ("Succeeded", "Failed")

    def _advance(self) -> None:
        if not self._has_volumes and not self._make_volumes():
            return
        policy = self.obj["spec"].get("restartPolicy", "Always")
        ahead = next((each for each in self.inits if not each.succeeded), None)
        if ahead is not None:
            ahead.advance("Never" if policy == "Never" else "OnFailure")
            return
        for each in self.main:
            each.advance(policy)

    def _make_volumes(self) -> bool:
        if time.monotonic() < self._mount_due:
            return False
        try:
            self.volumes.make()
        except ConfigMissing as error:
            self._mount_due = time.monotonic() + _MOUNT_AGAIN
            for each in (*self.inits, *self.main):
                each.state = {"waiting": {"reason": "ContainerCreating"}}
            if self._told != str(error):
                self.tell("Warning", "FailedMount", f"MountVolume.SetUp failed: {error}")
            self._told = str(error)
            return False
        self._has_volumes = True
        return True

    def _finish(self) -> None:
        """End what runs, say so, and let go of the pod when it is deleted."""
        grace = self._grace() if self._deleted.is_set() else _GRACE
        with ThreadPoolExecutor(max_workers=len(self.inits) + len(self.main)) as pool:
            list(pool.map(lambda each: each.stop(grace), (*self.inits, *self.main)))
        self.sandbox.close()
        while not self._reports_at_last():
            threading.Event().wait(_LOOK_AGAIN)
        self._deleted.wait()
        self.volumes.remove()
        while not self._is_deleted():
            threading.Event().wait(_LOOK_AGAIN)
        self._gone(self)

    def _reports_at_last(self) -> bool:
        with self._whoever_is_away():
            self._report()
            return True
        return False

    def _is_deleted(self) -> bool:
        with self._whoever_is_away():
            self._api.delete(self.path, gracePeriodSeconds=0, preconditions={"uid": self.uid})
            return True
        return False

    def _grace(self) -> float:
        return float(self.obj["metadata"].get("deletionGracePeriodSeconds") or 0)

    # -- what is told of it ---------------------------------------------------------------------------------

    def _phase(self) -> str:
        if any(each.is_over and not each.succeeded for each in self.inits):
            return "Failed"
        if all(each.is_over for each in self.main):
            return "Succeeded" if all(each.succeeded for each in self.main) else "Failed"
        has_begun = any(each.process is not None for each in self.main)
        return "Running" if has_begun else "Pending"

    def status(self) -> dict[str, Any]:
        """Return its status as the API has it."""
        phase = self.verdict.get("phase") or self._phase()
        main = [each.status() for each in self.main]
        ready = phase == "Running" and all(each["ready"] for each in main)
        self._set("Initialized", all(each.succeeded for each in self.inits))
        why = {} if ready else {"reason": "ContainersNotReady"}
        for kind in ("ContainersReady", "Ready"):
            self._set(kind, ready, **why)
        if self.verdict.get("reason") == "Evicted":
            self._set("DisruptionTarget", True, reason="TerminationByKubelet", message=self.verdict["message"])
        address = self.sandbox.address
        return {
            "startTime": self._started_at,
            "hostIP": GATEWAY,
            "podIP": address,
            "podIPs": [{"ip": address}],
            "phase": phase,
            **self.verdict,
            "conditions": list(self._conditions.values()),
            "containerStatuses": main,
            **({"initContainerStatuses": [each.status() for each in self.inits]} if self.inits else {}),
        }

    def _set(self, kind: str, holds: bool, **why: str) -> None:
        before = self._conditions.get(kind, {})
        status = "True" if holds else "False"
        since = before["lastTransitionTime"] if before.get("status") == status else moments.to_second()
        self._conditions[kind] = {"type": kind, "status": status, "lastTransitionTime": since, **why}

    def _report(self) -> None:
        """Tell the API server what has changed."""
        status = self.status()
        if json.dumps(status, sort_keys=True) == self._reported:
            return
        try:
            self._api.patch(f"{self.path}/status", {"metadata": {"uid": self.uid}, "status": status}, STRATEGIC)
        except ApiError as error:
            # It is gone, or another one has its name.
            if error.status not in (404, 409):
                raise
        self._reported = json.dumps(status, sort_keys=True)
