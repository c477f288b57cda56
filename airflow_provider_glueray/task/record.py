"""What a task remembers about its run across retries, crashes and clears.

An *attempt group* is the tries between two clears; the number of its first try names it. A retry belongs to the same
group and reattaches to its run; a clear begins a new group. Airflow 3.3 keeps the task state store through both, so the
record says which group it belongs to.

The record is the quick way to a run, not the only one: the client token is computed from the task and its try, so
whoever knows the task finds the run at the service.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import count
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID, uuid5

from airflow.sdk import Context

from airflow_provider_glueray.airflow_compat import task_store
from airflow_provider_glueray.core import clock
from airflow_provider_glueray.core.runs import RunRef
from airflow_provider_glueray.hooks import settings

if TYPE_CHECKING:
    from typing_extensions import Self

#: Of the client tokens. Never change: runs in flight are found by them.
_NAMESPACE = UUID("5b1c4d0e-6f0a-4d52-9f0c-1f6f3c6a7d21")

#: Keys in the task state store: a task's run; a notebook's own session, and its cells. Never rename: runs in flight are
#: found through them.
STORE_KEY, SESSION_KEY, CELL_KEY = "glueray_run", "glueray_session", "glueray_cell_{number}"


@dataclass(slots=True)
class RunRecord:
    """One run of one attempt group, written before the run is started and again after.

    :param first_try: number of the first try of the attempt group, as reckoned when the record was made.
    :param client_token: unique to the run, which carries it as an argument and can be found by it; "" for a run that
        the task did not start.
    :param backend: of the run, as in ``RunRef``.
    :param name: what the run belongs to, as in ``RunRef``.
    :param submitted: epoch seconds at which the start was first asked for.
    :param run_id: None until the service has answered.
    :param deadline: epoch seconds at which the run is to be stopped; None for never.
    :param queued_since: epoch seconds since when the service has had no capacity; None while the task does not wait.
    :param connection: those arguments of its hook that say where it is; JSON values.
    :param max_tries: of the task when the record was made; a clear changes it, a retry does not. None in records of
        before it was kept.
    """

    first_try: int
    client_token: str
    backend: str
    name: str
    submitted: float
    run_id: str | None = None
    deadline: float | None = None
    queued_since: float | None = None
    connection: dict[str, Any] = field(default_factory=dict)
    max_tries: int | None = None

    @classmethod
    def new(
        cls,
        context: Context,
        backend: str,
        name: str,
        client_token: str = "",
        connection: Mapping[str, Any] | None = None,
    ) -> Self:
        """Begin a record for the current attempt group."""
        return cls(
            first_try=first_try_of(context),
            client_token=client_token,
            backend=backend,
            name=name,
            submitted=clock.now(),
            connection=dict(connection or {}),
            max_tries=int(context["ti"].max_tries),
        )

    @classmethod
    def load(cls, context: Context, key: str = STORE_KEY) -> Self | None:
        """Return what the task remembers, of whichever attempt group."""
        stored = cast("Mapping[str, Any] | None", task_store(context).get(key))
        # Another version of this package may have written more.
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in stored.items() if name in known}) if stored else None

    def save(self, context: Context, key: str = STORE_KEY) -> None:
        """Write the record to the task state store, which outlives the worker."""
        from airflow_provider_glueray.core.storable import storable  # of no use where a DAG is parsed

        task_store(context).set(key, storable(asdict(self)))

    def is_from_before_clear(self, context: Context) -> bool:
        """Tell whether the task has been cleared since the record was made."""
        if self.max_tries is not None:
            return self.max_tries != context["ti"].max_tries
        return self.first_try < first_try_of(context)

    @property
    def ref(self) -> RunRef | None:
        """The run, once the service has answered."""
        return RunRef(self.backend, self.name, self.run_id) if self.run_id else None


def client_tokens(context: Context, key: str, try_number: int) -> Iterator[str]:
    """Yield the client tokens of a try's runs, in the order in which they are used; few tries use a second one.

    A try number is used once in a DAG run, also by clears, so the attempt group is in the token without being named:
    ``retries`` that have changed in the DAG file since do not hide a run.

    :param key: of the run's record; a task with several runs has a token for each.
    """
    ti = context["ti"]
    task = (settings.deployment(), ti.dag_id, ti.run_id, ti.task_id, ti.map_index, key, try_number)
    return (uuid5(_NAMESPACE, json.dumps([*task, number])).hex for number in count())


def first_try_of(context: Context) -> int:
    """Return the number of the first try of the current attempt group.

    A clear sets ``max_tries = try_number + retries``, so this grows with each clear and not with a retry. It
    is the formula of Airflow's own task runner. Where ``retries`` has changed in the DAG file since, it is off, and may
    be less than 1 or more than the current try.
    """
    ti = context["ti"]
    return int(ti.max_tries) - int(ti.task.retries or 0) + 1


def owner_of(ti: Any) -> dict[str, str]:
    """Return the tags that say which task a job or a run belongs to."""
    return {"airflow_dag_id": ti.dag_id, "airflow_task_id": ti.task_id}


def call_uri(staging_uri: str | None, job_name: str, client_token: str) -> str:
    """Return the folder of one call: what a run reads and leaves besides its log."""
    return f"{str(staging_uri).rstrip('/')}/calls/{job_name}/{client_token}"


def empty_results(folder: Any, sent: str, results: Iterable[str]) -> None:
    """Empty the results in the folder of a call that has been used before.

    A DAG run that is made anew has the client tokens of the one before, whose runs the service may have forgotten.

    :param sent: the file that is written there for each call.
    :param results: the files that its run may have left.
    """
    if folder.read(sent) is None:
        return
    for name in results:
        with folder.write(name) as file:
            file.write(b"{}")
