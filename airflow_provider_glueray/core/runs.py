"""The words for one run: its reference, states, snapshots, logs, usage and outcome.

Floor 0: standard library only. No Airflow, no AWS, no Ray, no clock and no I/O. The tables of raw states in
this file are the only ones in the package; a test walks botocore's model and fails when AWS adds a state.
The records are named tuples, not dataclasses: every DAG parse makes these classes anew, and they are cheaper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple


class RunState(StrEnum):
    """What a run is doing, in one vocabulary for every backend."""

    #: Accepted, waiting for room (Glue: WAITING).
    QUEUED = "queued"
    #: The cluster is being made ready; the script has not begun.
    STARTING = "starting"
    #: The script is executing.
    RUNNING = "running"
    #: A stop was accepted and is under way.
    STOPPING = "stopping"
    #: Done, and the script returned normally. The only success.
    SUCCEEDED = "succeeded"
    #: The script or the service failed.
    FAILED = "failed"
    #: The service ended the run because it took too long.
    TIMED_OUT = "timed_out"
    #: Stopped on request. A failure everywhere: the work was not done.
    STOPPED = "stopped"
    #: The service confirms that it does not know this run. A failed poll is *not* this.
    LOST = "lost"

    @property
    def is_terminal(self) -> bool:
        """True when nothing will change any more."""
        return self in _TERMINAL


_TERMINAL = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.TIMED_OUT, RunState.STOPPED, RunState.LOST})


def read_state(table: Mapping[str, RunState], raw: str, *, completed: bool) -> RunState:
    """Translate a raw state; an unknown word is active, unless the service says the run has completed.

    :param completed: whether the service has set a completion time. Then an unknown word fails closed.
    """
    known = table.get(raw)
    if known is not None:
        return known
    return RunState.FAILED if completed else RunState.RUNNING


#: The backends: run of a Glue job, start of a Glue session, statement in one; job on a Ray cluster; RayJob of KubeRay,
#: start of a RayCluster of KubeRay.
GLUE_JOB, GLUE_SESSION, GLUE_STATEMENT = "glue-job", "glue-session", "glue-statement"
RAY_JOB, KUBERAY_JOB, KUBERAY_CLUSTER = "ray-job", "kuberay-job", "kuberay-cluster"
#: How people speak of a run of each.
_TITLES = {
    GLUE_JOB: "run {id} of {name}",
    GLUE_SESSION: "session {id}",
    GLUE_STATEMENT: "statement {id} of session {name}",
    RAY_JOB: "Ray job {id} of {name}",
    KUBERAY_JOB: "RayJob {id}",
    KUBERAY_CLUSTER: "RayCluster {id}",
}


class RunRef(NamedTuple):
    """Which run: enough to find it again from another process. JSON both ways.

    ``name`` is what the run belongs to (a job; for a statement its session), ``id`` the run's own id (``jr_…``).
    """

    backend: str
    name: str
    id: str

    @property
    def title(self) -> str:
        """What to call the run in a sentence."""
        return _TITLES.get(self.backend, _TITLES[GLUE_JOB]).format(id=self.id, name=self.name)

    @property
    def is_in_cluster(self) -> bool:
        """Whether it is one of a cluster's runs, which are listed by one call, while each log is a call of its own."""
        return self.backend in (RAY_JOB, KUBERAY_JOB)

    @property
    def poll_group(self) -> str:
        """What runs on one connection have in common if one call describes them; Glue lists those of one name."""
        return self.backend if self.is_in_cluster else self.name

    def to_json(self) -> dict[str, str]:
        """Return ``{"backend", "name", "id"}``."""
        return {"backend": self.backend, "name": self.name, "id": self.id}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunRef:
        """Rebuild from :meth:`to_json`."""
        return cls(backend=value["backend"], name=value["name"], id=value["id"])


class Usage(NamedTuple):
    """What a run consumed.

    ``seconds``: time during which it held resources. ``mdpu_hours``: memory-optimised DPU hours
    (1 M-DPU = 4 vCPU + 32 GB; one Z.2X worker = 2 M-DPU).
    """

    seconds: float
    workers: int
    mdpu_hours: float

    def to_json(self, price_per_mdpu_hour: float) -> dict[str, float | int]:
        """Return the figures with ``estimated_cost_usd`` at the given price (an estimate, not a bill)."""
        return {
            "seconds": round(self.seconds, 3),
            "workers": self.workers,
            "mdpu_hours": round(self.mdpu_hours, 6),
            "price_per_mdpu_hour": price_per_mdpu_hour,
            "estimated_cost_usd": round(self.mdpu_hours * price_per_mdpu_hour, 6),
        }


class RunSnapshot(NamedTuple):
    """A run as it was seen once. JSON both ways; times are epoch seconds (UTC)."""

    ref: RunRef
    state: RunState
    raw_state: str
    message: str = ""
    started: float | None = None
    completed: float | None = None
    usage: Usage | None = None
    #: False when the service used a word that the table above does not have.
    recognised: bool = True

    @property
    def is_over(self) -> bool:
        """True when nothing of it is left to stop. A session that has started is not over, a RayCluster until gone."""
        if self.ref.backend == KUBERAY_CLUSTER:
            return self.state in (RunState.STOPPED, RunState.LOST)
        return self.state.is_terminal and (self.ref.backend, self.state) != (GLUE_SESSION, RunState.SUCCEEDED)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            **self._asdict(),
            "ref": self.ref.to_json(),
            "state": str(self.state),
            "usage": self.usage._asdict() if self.usage else None,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunSnapshot:
        """Rebuild from :meth:`to_json`."""
        usage = value["usage"]
        return cls(
            **{
                **value,
                "ref": RunRef.from_json(value["ref"]),
                "state": RunState(value["state"]),
                "usage": Usage(**usage) if usage else None,
            }
        )


class Outcome(NamedTuple):
    """How following a run ended: the last snapshot, the end of its log, whether our deadline struck, its reports."""

    snapshot: RunSnapshot
    tail: Sequence[str] = ()
    deadline_passed: bool = False
    reports: Sequence[Mapping[str, Any]] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "snapshot": self.snapshot.to_json(),
            "tail": list(self.tail),
            "deadline_passed": self.deadline_passed,
            "reports": list(self.reports),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Outcome:
        """Rebuild from :meth:`to_json`."""
        return cls(
            snapshot=RunSnapshot.from_json(value["snapshot"]),
            tail=tuple(value["tail"]),
            deadline_passed=value["deadline_passed"],
            reports=tuple(value.get("reports", ())),
        )


class StatementError(NamedTuple):
    """The Python exception that ended a statement."""

    name: str
    value: str
    traceback: tuple[str, ...] = ()


class StatementOutput(NamedTuple):
    """What a statement printed and returned.

    :param printed: stdout and stderr as the session mixed them, without the line that carries the value.
    :param value: the JSON value; None when there is none.
    :param shown: MIME type to text (pictures in base64): how the value of the last expression looks.
    :param error: the exception, if there was one.
    :param started, completed: epoch seconds.
    """

    printed: str = ""
    value: Any = None
    shown: Mapping[str, str] = {}
    error: StatementError | None = None
    execution_count: int | None = None
    started: float | None = None
    completed: float | None = None
