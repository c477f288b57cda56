"""The words for one run: its reference, states, snapshots, logs, usage and outcome.

Floor 0: standard library only. No Airflow, no AWS, no Ray, no clock and no I/O. The tables of raw states in
this file are the only ones in the package; a test walks botocore's model and fails when AWS adds a state.
The records are named tuples, not dataclasses: every DAG parse makes these classes anew, and they are cheaper.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, Protocol


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

#: AWS Glue ``JobRunState`` (botocore, all ten). ERROR and EXPIRED end a run that did not do its work;
#: what EXPIRED means for Ray is undocumented, so it fails closed.
GLUE_JOB_STATE: Mapping[str, RunState] = {
    "WAITING": RunState.QUEUED,
    "STARTING": RunState.STARTING,
    "RUNNING": RunState.RUNNING,
    "STOPPING": RunState.STOPPING,
    "STOPPED": RunState.STOPPED,
    "SUCCEEDED": RunState.SUCCEEDED,
    "FAILED": RunState.FAILED,
    "TIMEOUT": RunState.TIMED_OUT,
    "ERROR": RunState.FAILED,
    "EXPIRED": RunState.FAILED,
}

#: AWS Glue ``SessionStatus`` (botocore, all six). What is followed is a session's *start*: READY is its success.
GLUE_SESSION_STATE: Mapping[str, RunState] = {
    "PROVISIONING": RunState.STARTING,
    "READY": RunState.SUCCEEDED,
    "STOPPING": RunState.STOPPING,
    "STOPPED": RunState.STOPPED,
    "FAILED": RunState.FAILED,
    "TIMEOUT": RunState.TIMED_OUT,
}

#: AWS Glue ``StatementState`` (botocore, all six). AVAILABLE is a success only if ``Output.Status`` is "ok"
#: (kernel 1.0.5); whoever reads a statement looks at both.
GLUE_STATEMENT_STATE: Mapping[str, RunState] = {
    "WAITING": RunState.QUEUED,
    "RUNNING": RunState.RUNNING,
    "AVAILABLE": RunState.SUCCEEDED,
    "CANCELLING": RunState.STOPPING,
    "CANCELLED": RunState.STOPPED,
    "ERROR": RunState.FAILED,
}

#: ``JobStatus`` of Ray's Jobs API (ray/dashboard/modules/job/common.py).
RAY_JOB_STATE: Mapping[str, RunState] = {
    "PENDING": RunState.STARTING,
    "RUNNING": RunState.RUNNING,
    "STOPPED": RunState.STOPPED,
    "SUCCEEDED": RunState.SUCCEEDED,
    "FAILED": RunState.FAILED,
}

#: ``jobDeploymentStatus`` and what refines it: ``jobStatus`` for Running and Complete, ``reason`` for Failed; "" is
#: for any other. Source: kuberay/…/apis/ray/v1/rayjob_types.go. Complete without Ray's own SUCCEEDED fails closed.
KUBERAY_JOB_STATE: Mapping[tuple[str, str], RunState] = {
    ("", ""): RunState.QUEUED,  # KubeRay has not looked at it yet
    ("Initializing", ""): RunState.STARTING,
    ("Waiting", ""): RunState.STARTING,
    ("Running", ""): RunState.STARTING,  # the submitter is at work
    ("Running", "PENDING"): RunState.STARTING,
    ("Running", "RUNNING"): RunState.RUNNING,
    # Ray's word is final, and KubeRay may take minutes to repeat it (kuberay#2359, #3553).
    ("Running", "SUCCEEDED"): RunState.SUCCEEDED,
    ("Running", "FAILED"): RunState.FAILED,
    ("Running", "STOPPED"): RunState.STOPPED,
    ("Complete", ""): RunState.FAILED,
    ("Complete", "SUCCEEDED"): RunState.SUCCEEDED,
    ("Complete", "STOPPED"): RunState.STOPPED,
    ("Failed", ""): RunState.FAILED,
    ("Failed", "DeadlineExceeded"): RunState.TIMED_OUT,
    ("Failed", "PreRunningDeadlineExceeded"): RunState.TIMED_OUT,
    # Suspended by somebody else is waiting for a place, which is how Kueue works.
    ("Suspending", ""): RunState.QUEUED,
    ("Suspended", ""): RunState.QUEUED,
    ("Retrying", ""): RunState.STARTING,  # never with our backoffLimit
    # KubeRay leaves it so for ever (kuberay/…/rayjob_controller.go), so it is an end.
    ("ValidationFailed", ""): RunState.FAILED,
}

#: ``state`` of a RayCluster of KubeRay (kuberay/…/apis/ray/v1/raycluster_types.go). What is followed is a cluster's
#: *start*: ready is its success.
KUBERAY_CLUSTER_STATE: Mapping[str, RunState] = {
    "": RunState.STARTING,
    "ready": RunState.SUCCEEDED,
    "failed": RunState.STARTING,  # before 1.3: KubeRay could not make a pod, and goes on trying
    "suspended": RunState.QUEUED,  # by Kueue, until there is room
}


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


#: Where a log line came from. SCRIPT is the driver: what the user wrote to stdout and stderr.
SCRIPT = "script"
#: All sources there are: the driver, and what each part of the cluster writes.
LOG_SOURCES = (SCRIPT, "worker-out", "worker-err", "runtime-env", "monitor", "gcs", "raylet", "process")
#: Read as well when a run has failed; each only adds to the picture, the script's log tells the story.
FAILURE_SOURCES = ("worker-err", "worker-out", "runtime-env", "monitor")


class LogLine(NamedTuple):
    """One line. ``node`` is the address of the machine where the service tells it, else empty."""

    source: str
    text: str
    node: str = ""

    def __str__(self) -> str:
        return f"[{self.source}{' ' + self.node if self.node else ''}] {self.text}"


class LogCursor(NamedTuple):
    """How far a log was read: from ``since_ms`` (epoch milliseconds) on, but not the events in ``seen``.

    ``to_end`` asks for all there is: the run is over, so a line that has not ended will not, and nothing may be put
    off. It belongs to one read and is not kept.
    """

    since_ms: int = 0
    seen: frozenset[str] = frozenset()
    to_end: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"since_ms": self.since_ms, "seen": sorted(self.seen)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LogCursor:
        """Rebuild from :meth:`to_json`."""
        return cls(since_ms=value["since_ms"], seen=frozenset(value["seen"]))


class LogPage(NamedTuple):
    """The lines that are new since a cursor, and the cursor to use next time."""

    lines: Sequence[LogLine]
    cursor: LogCursor


class RunBackend(Protocol):
    """What a hook must be able to do for a run to be followed. Every call may raise; none keeps state.

    The plural arguments are the point: one call answers for everybody who waits.
    """

    def describe(self, refs: Collection[RunRef]) -> Mapping[RunRef, RunSnapshot]:
        """Return one snapshot per run. A run the service does not know is LOST, never left out."""

    def read_logs(self, cursors: Mapping[RunRef, LogCursor], sources: Sequence[str]) -> Mapping[RunRef, LogPage]:
        """Return the new lines of each run. A log that does not exist yet is empty."""

    def stop(self, *refs: RunRef) -> None:
        """Ask for runs to be stopped. Stopping a run that has ended is not an error."""


class Prepared(NamedTuple):
    """A job that can be started.

    :param start: starts a run that carries a mark, with arguments added to those of the spec; twice with one mark
        starts one run. It raises ``ServiceFull`` while there is no room.
    :param is_new: whether its definition was made or changed just now.
    """

    start: Callable[[str, Mapping[str, str]], RunRef]
    is_new: bool


class RunHook(RunBackend, Protocol):
    """What operators need besides: to find a run whose id was lost, to show where it is, and a way to its files."""

    @property
    def storage(self) -> Any:
        """What reads and writes S3 for the runs: the hook itself on AWS, elsewhere that of another connection."""

    def find_runs(self, name: str, mark: str) -> list[RunSnapshot]:
        """Return the runs of ``name`` that carry ``mark``, newest first."""

    def url(self, ref: RunRef) -> str:
        """Return the page of a run."""

    def logs_url(self, ref: RunRef) -> str:
        """Return the page of a run's log."""


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


class LogTail:
    """The end of a log in bounded memory: at most 200 lines of at most 1,000 characters."""

    __slots__ = ("_lines",)

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=200)

    def add(self, texts: Iterable[str]) -> None:
        """Remember lines."""
        self._lines.extend(text[:1000] for text in texts)

    def lines(self, most: int = 30) -> tuple[str, ...]:
        """Return the last traceback, else the last lines; at most ``most``.

        Not simply the last lines: Glue appends what the script printed only after the run, so the
        traceback that explains a failure need not stand at the end.
        """
        lines = list(self._lines)
        begins = [i for i, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
        if not begins:
            return tuple(lines[-most:])
        end = begins[-1] + 1
        # Frames are indented and a message follows; Ray nests a second such pair: the remote traceback.
        while (after := next((i for i in range(end, len(lines)) if not _indented(lines[i])), end)) > end:
            end = after + 1
        traceback = lines[begins[-1] : end]
        # The frame that raised and the message stand at the end, so a long traceback loses its middle.
        return tuple(traceback if len(traceback) <= most else [traceback[0], "  …", *traceback[2 - most :]])


def _indented(line: str) -> bool:
    return line.startswith((" ", "\t"))
