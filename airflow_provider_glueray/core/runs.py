"""The words for one run: its backend, reference, states, snapshots, usage and outcome.

No clock and no I/O. Each backend translates the service's states to :class:`RunState` beside its other responses
(``hooks/*/responses.py``, ``hooks/kuberay/status.py``). The records are named tuples, not dataclasses: every DAG parse
makes these classes anew, and they are cheaper.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple


class RunState(str, Enum):
    """What a run is doing, in one vocabulary for every backend."""

    __str__ = str.__str__

    #: Accepted, waiting for capacity (Glue: WAITING).
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
    return table.get(raw, RunState.FAILED if completed else RunState.RUNNING)


#: The backends: run of a Glue job, start of a Glue session, statement in one; job on a Ray cluster; RayJob of KubeRay,
#: start of a RayCluster of KubeRay.
GLUE_JOB, GLUE_SESSION, GLUE_STATEMENT = "glue-job", "glue-session", "glue-statement"
RAY_JOB, KUBERAY_JOB, KUBERAY_CLUSTER = "ray-job", "kuberay-job", "kuberay-cluster"


class Backend(NamedTuple):
    """All that the package knows of a backend besides its folder in ``hooks/``.

    :param hook: the class path of the hook.
    :param title: what a sentence calls a run: a template of ``{id}`` and ``{name}``.
    :param conn_arg: the argument of the hook that takes the connection's id.
    :param conn_type: the type of the connections that lead jobs there; "" for what is no job.
    :param override_key: what it reads in ``overrides``; "" for nothing.
    :param has_client: whether its hook takes ``region_name``, ``verify`` and ``config``, as boto3's do.
    :param lists_together: whether one call lists the runs of all names, while each log is a call of its own.
    :param over: the states in which nothing is left to stop; None for all that are terminal.
    :param extra: of this package, which its hook needs; "" for none.
    :param has_queue: whether it refuses a run while it has no capacity; one that has not takes it and lets it wait.
    """

    hook: str
    title: str
    conn_arg: str = "conn_id"
    conn_type: str = ""
    override_key: str = ""
    has_client: bool = False
    lists_together: bool = False
    over: frozenset[RunState] | None = None
    has_queue: bool = True
    extra: str = ""


_HOOKS = "airflow_provider_glueray.hooks"


def _glue(hook: str, title: str, **more: Any) -> Backend:
    return Backend(f"{_HOOKS}.glue.{hook}", title, "aws_conn_id", has_client=True, extra="aws", **more)


#: One row per backend; a fifth one is a row here and a folder in ``hooks/``.
BACKENDS: dict[str, Backend] = {
    GLUE_JOB: _glue("jobs.GlueRayJobHook", "run {id} of {name}", conn_type="aws", override_key="glue"),
    # That it is READY is the success of its start; it is over when it has ended.
    GLUE_SESSION: _glue("sessions.GlueRaySessionHook", "session {id}", over=_TERMINAL - {RunState.SUCCEEDED}),
    GLUE_STATEMENT: _glue("sessions.GlueRaySessionHook", "statement {id} of session {name}"),
    RAY_JOB: Backend(
        f"{_HOOKS}.ray.jobs.RayJobsHook",
        "Ray job {id} of {name}",
        "ray_conn_id",
        "ray",
        "ray",
        lists_together=True,
        has_queue=False,
    ),
    KUBERAY_JOB: Backend(
        f"{_HOOKS}.kuberay.jobs.KubeRayHook",
        "RayJob {id}",
        conn_type="kubernetes",
        override_key="kuberay",
        lists_together=True,
        extra="kuberay",
    ),
    KUBERAY_CLUSTER: Backend(
        f"{_HOOKS}.kuberay.clusters.KubeRayClusterHook",
        "RayCluster {id}",
        over=frozenset({RunState.STOPPED, RunState.LOST}),
        extra="kuberay",
    ),
}


def _row(backend: str) -> Backend:
    """Return the row of a backend; a record of another version of this package may name one that is not here."""
    return BACKENDS.get(backend, BACKENDS[GLUE_JOB])


class RunRef(NamedTuple):
    """Which run: enough to find it again from another process. JSON both ways.

    ``name`` is what the run belongs to (a job; for a statement its session), ``id`` the run's own id (``jr_…``).
    """

    backend: str
    name: str
    id: str

    @property
    def title(self) -> str:
        """What a sentence calls the run."""
        return _row(self.backend).title.format(id=self.id, name=self.name)

    @property
    def is_listed_together(self) -> bool:
        """Whether one call lists it beside the runs of all names, while each log is a call of its own."""
        return _row(self.backend).lists_together

    @property
    def poll_group(self) -> str:
        """What runs on one connection have in common if one call describes them; Glue lists those of one name."""
        return self.backend if self.is_listed_together else self.name

    def to_json(self) -> dict[str, str]:
        """Return ``{"backend", "name", "id"}``."""
        return self._asdict()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunRef:
        """Rebuild from :meth:`to_json`."""
        return cls(backend=value["backend"], name=value["name"], id=value["id"])


class Prices(NamedTuple):
    """US dollars for an hour of each unit; None where a deployment has not said."""

    mdpu: float
    vcpu: float | None = None
    gib: float | None = None


class Usage(NamedTuple):
    """What a run consumed.

    ``seconds``: time during which it held resources. ``mdpu_hours``: memory-optimised DPU hours, which Glue bills
    (1 M-DPU = 4 vCPU + 32 GB; one Z.2X worker = 2 M-DPU). ``vcpu_hours``, ``gib_hours``: what pods requested while
    they ran; None where there are no pods.
    """

    seconds: float
    workers: int
    mdpu_hours: float
    vcpu_hours: float | None = None
    gib_hours: float | None = None

    def to_json(self, prices: Prices) -> dict[str, float | int | None]:
        """Return the figures with ``estimated_cost_usd`` (an estimate, not a bill; None without a price)."""
        used: dict[str, float | int | None] = {"seconds": round(self.seconds, 3), "workers": self.workers}
        if self.vcpu_hours is None or self.gib_hours is None:
            used |= {"mdpu_hours": round(self.mdpu_hours, 6), "price_per_mdpu_hour": prices.mdpu}
            return {**used, "estimated_cost_usd": round(self.mdpu_hours * prices.mdpu, 6)}
        used |= {"vcpu_hours": round(self.vcpu_hours, 6), "price_per_vcpu_hour": prices.vcpu}
        used |= {"gib_hours": round(self.gib_hours, 6), "price_per_gib_hour": prices.gib}
        cost = self.vcpu_hours * (prices.vcpu or 0.0) + self.gib_hours * (prices.gib or 0.0)
        return {**used, "estimated_cost_usd": None if prices.vcpu is prices.gib is None else round(cost, 6)}


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
    #: True when a run that has ended still holds what may run on, such as the head of a cluster of its own.
    is_held: bool = False

    @property
    def is_over(self) -> bool:
        """True when nothing of it is left to stop. A session that has started is not over, a RayCluster until gone."""
        over = _row(self.ref.backend).over
        return not self.is_held and (self.state.is_terminal if over is None else self.state in over)

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


#: The most characters of all reports of a run in the event of a trigger.
MOST_REPORTED = 100_000


class Outcome(NamedTuple):
    """How following a run ended: the last snapshot, the end of its log, whether our deadline struck, its reports."""

    snapshot: RunSnapshot
    tail: Sequence[str] = ()
    deadline_passed: bool = False
    reports: Sequence[Mapping[str, Any]] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values that Airflow's database can hold: of too many reports the latest."""
        from airflow_provider_glueray.core.storable import storable  # of no use where a DAG is parsed

        reports: list[Any] = []
        room = MOST_REPORTED
        for report in reversed(self.reports):
            room -= len(json.dumps(report := storable(report)))
            if room < 0:
                break
            reports.insert(0, report)
        given = {**self._asdict(), "snapshot": self.snapshot.to_json(), "tail": list(self.tail), "reports": reports}
        return storable(given)  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Outcome:
        """Rebuild from :meth:`to_json`."""
        return cls(
            snapshot=RunSnapshot.from_json(value["snapshot"]),
            tail=tuple(value["tail"]),
            deadline_passed=value["deadline_passed"],
            reports=tuple(value["reports"]),
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
