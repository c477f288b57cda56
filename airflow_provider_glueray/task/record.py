"""What a task remembers about its run across retries, crashes and clears.

Floor 3. A *series* is the tries between two clears. A retry belongs to the same series and takes its run up
again; a clear begins a new one. Airflow 3.3 keeps the task state store through both, so the record says which
series it belongs to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self, cast
from uuid import uuid4

from airflow_provider_glueray.core.runs import RunRef

if TYPE_CHECKING:
    from airflow.sdk import Context

#: Keys in the task state store: a task's run; a notebook's own session, and its cells. Never rename: runs in flight are
#: found through them.
STORE_KEY, SESSION_KEY, CELL_KEY = "glueray_run", "glueray_session", "glueray_cell_{number}"


@dataclass(slots=True)
class RunRecord:
    """One run of one series, written before the run is started and again after.

    :param series: number of the first try of the series.
    :param mark: unique to the run; travels with it as an argument, so that the run can be found by it.
    :param name: what the run belongs to, as in ``RunRef``.
    :param run_id: None until the service has answered.
    :param submitted: epoch seconds at which the start was first asked for.
    :param deadline: epoch seconds at which the run is to be stopped; None for never.
    :param backend: of the run, as in ``RunRef``; "" in records of before it was written.
    :param door: those arguments of its hook that say where it is; JSON values.
    :param queued_since: epoch seconds since when the service has had no room; None when it is not waiting.
    """

    first_try: int
    client_token: str
    name: str
    submitted: float
    run_id: str | None = None
    deadline: float | None = None
    queued_since: float | None = None
    backend: str = ""
    connection: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def new(cls, context: Context, client_token: str, name: str, now: float) -> Self:
        """Begin a record for the current series."""
        return cls(first_try=first_try_of(context), client_token=client_token, name=name, submitted=now)

    @classmethod
    def load(cls, context: Context, key: str = STORE_KEY) -> Self | None:
        """Return what the task remembers, of whichever series."""
        stored = cast("Mapping[str, Any] | None", context["task_state_store"].get(key))
        return cls(**stored) if stored else None

    def save(self, context: Context, key: str = STORE_KEY) -> None:
        """Remember. The store outlives the worker."""
        context["task_state_store"].set(key, asdict(self))

    def ref(self, backend: str) -> RunRef | None:
        """Return the run, if the service has answered."""
        return RunRef(backend, self.name, self.run_id) if self.run_id else None


def new_client_token() -> str:
    """Return a mark that no other run has."""
    return uuid4().hex


def first_try_of(context: Context) -> int:
    """Return the number of the first try of the current series.

    A clear sets ``max_tries = try_number + retries``, so this grows with each clear and not with a retry. It
    is the formula of Airflow's own task runner.
    """
    ti = context["ti"]
    return int(ti.max_tries) - int(ti.task.retries or 0) + 1
