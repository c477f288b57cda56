"""Tasks on the scripted backend, in each of the ways in which a step can be written and waited for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import pytest
from airflow.sdk import DAG, task
from nbformat.v4 import new_code_cell, new_notebook

from airflow_provider_glueray.core import clock
from airflow_provider_glueray.core.runs import RunState
from airflow_provider_glueray.glueray_step.cells import CELL_OUTPUT
from airflow_provider_glueray.hooks import registry
from airflow_provider_glueray.hooks.glue.responses import GLUE_JOB_STATE
from airflow_provider_glueray.operators.glue_jobs import GlueRayJobOperator
from airflow_provider_glueray.operators.notebooks import GlueRayNotebookOperator
from airflow_provider_glueray.sensors.glue_jobs import GlueRayJobSensor
from tests.contract.scripted import BACKEND, CONN_TYPE, ROW, SERVICES, Run, Service
from tests.contract.scripts import Clock, Script
from tests.runner import START, Result, Task, capture_logs

STAGING = "s3://scripted/staging"
#: The ways to write a step: each in the worker and deferred.
STEPS = ("script", "mapped", "function", "notebook")
WAYS = tuple(f"{step}{mode}" for step in STEPS for mode in ("", ", deferred"))
SENSORS = ("sensor", "sensor, deferred")


class WorkerDied(BaseException):
    """Stands for SIGKILL: nothing after it runs."""


@dataclass
class Life:
    """One task on a scripted service, and what a scene does to both."""

    way: str
    clock: TestClock
    service: Service
    task: Task
    logs: list[Any] = field(default_factory=list)

    @property
    def is_deferred(self) -> bool:
        return self.way.endswith("deferred")

    def run(self) -> Result:
        """Run this try to its end, through the triggerer where the task defers."""
        return self.task.run_to_end()

    def retry(self) -> Result:
        """Run the next try to its end."""
        return self.task.to_end(self.task.retry())

    def clear(self) -> Result:
        """Clear the task, and run it to its end."""
        return self.task.to_end(self.task.clear())

    def states(self) -> list[str]:
        """Return the raw states of all runs there have been, oldest first."""
        return self.service.states()

    def said(self) -> str:
        """Return the task's log."""
        return "\n".join(str(each["event"]) % tuple(each.get("positional_args", ())) for each in self.logs)

    def dies_after(self, seconds: float) -> None:
        """Let the worker die without a word."""

        def die() -> None:
            raise WorkerDied

        self.clock.at(seconds, die)

    def dies_at_message(self, is_it: Callable[[Any], bool]) -> None:
        """Let the worker die when it sends a message to the supervisor."""

        def die(message: Any) -> None:
            if is_it(message):
                self.task.supervisor.revive()
                raise WorkerDied

        self.task.supervisor.before = die

    def killed_after(self, seconds: float) -> None:
        """Let a user mark the task as failed while it waits: in the worker, or in the triggerer."""
        self.clock.at(seconds, lambda: self.task.running.on_kill())

    def on_kill_of(self, deferred: Result) -> None:
        """Let a user mark the deferred task as failed."""
        self.task.kill_deferred(deferred)


class TestClock(Clock):
    """A clock that does something at a time."""

    __test__ = False

    def __init__(self) -> None:
        super().__init__()
        self._due: list[tuple[float, Callable[[], None]]] = []

    def at(self, seconds: float, action: Callable[[], None]) -> None:
        self._due.append((self.seconds + seconds, action))

    def sleep(self, seconds: float) -> None:
        end = self.seconds + max(seconds, 0.0)
        for each in sorted(self._due, key=lambda due: due[0]):
            if each in self._due and each[0] <= end:
                self._due.remove(each)
                self.seconds = max(self.seconds, each[0])
                each[1]()
        self.seconds = max(self.seconds, end)


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    with capture_logs() as caught:
        yield caught


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Service], None]:
    """Return what lets a connection lead to a scripted service."""
    monkeypatch.setitem(registry.BACKENDS, BACKEND, ROW)

    def connect(conn_id: str, service: Service) -> None:
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps({"conn_type": CONN_TYPE}))
        monkeypatch.setitem(SERVICES, conn_id, service)

    return connect


@pytest.fixture
def life_of(
    connect: Callable[[str, Service], None], logs: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Life]:
    """Return what makes a task in one of the ways, on a service of its own."""
    # On a clock of the test, the waits are those that people have.
    monkeypatch.setenv("AIRFLOW__GLUERAY__WAITS", "")
    ticking = TestClock()
    monkeypatch.setattr(clock, "now", ticking.now)
    monkeypatch.setattr(clock, "sleep", ticking.sleep)
    # Airflow's own sensor loop and the triggers ask the standard library.
    for module in ("airflow.sdk.bases.sensor", "airflow_provider_glueray.triggers.runs"):
        monkeypatch.setattr(f"{module}.time", _Time(ticking))

    def make(way: str, script: Script | None = None, **kwargs: Any) -> Life:
        service = Service(ticking, script or Script())
        connect("scripted", service)
        make_operator = _MAKERS[way.partition(",")[0]]
        interval = "poke_interval" if way.startswith("sensor") else "poll_interval"
        given = {"task_id": "step", "conn_id": "scripted", "deferrable": way.endswith("deferred"), interval: 2}
        dag = DAG("walk", schedule=None, start_date=START, default_args={"retries": 0})
        dag.fileloc = str(tmp_path / "dag.py")
        operator = make_operator(service, tmp_path, {**given, "dag": dag, **kwargs})
        return Life(way, ticking, service, Task(operator, clock=ticking, map_index=3 if "mapped" in way else -1), logs)

    return make


class _Time:
    """The part of the module ``time`` that others use, on a test's clock."""

    def __init__(self, ticking: TestClock) -> None:
        self.time = self.monotonic = ticking.now
        self.sleep = ticking.sleep


def _make_script(service: Service, folder: Path, given: dict[str, Any]) -> Any:
    (folder / "step.py").write_text("print('the script of a run that nobody executes')\n")
    return GlueRayJobOperator(**{"script": "step.py", "staging_uri": STAGING, **given})


def _make_mapped(service: Service, folder: Path, given: dict[str, Any]) -> Any:
    (folder / "step.py").write_text("print('the script of a run that nobody executes')\n")
    partial = GlueRayJobOperator.partial(**{"script": "step.py", "staging_uri": STAGING, **given})
    return partial.expand(arguments=[{"n": "1"}, {"n": "2"}]).unmap({"arguments": {"n": "2"}})


def _make_function(service: Service, folder: Path, given: dict[str, Any]) -> Any:
    def work(run: Run) -> None:
        ends = {GLUE_JOB_STATE[state] for _, state in run.script.states}
        if RunState.FAILED in ends:
            result: Any = {"error": {"name": "ValueError", "value": "odd", "traceback": "ValueError: odd\n"}}
        else:
            result = {"value": f"value of {run.ref.id}"}
        service.files[f"{run.arguments['--glueray_call']}/result.json"] = json.dumps(result).encode()

    def step(one):
        return one

    service.work = work
    return task.glue_ray(**{"staging_uri": STAGING, **given})(step)(1).operator


def _make_notebook(service: Service, folder: Path, given: dict[str, Any]) -> Any:
    cells = ["1", "2"]

    def work(run: Run) -> None:
        ends = {GLUE_JOB_STATE[state] for _, state in run.script.states}
        for number in (1, 2):
            said: dict[str, Any] = {"started": 1.0, "completed": 2.0, "printed": "", "shown": {}, "error": None}
            said["value"] = json.dumps(f"value of {run.ref.id}")
            if number == 2 and RunState.FAILED in ends:
                said["error"] = ["ValueError", "odd", ["ValueError: odd"]]
            place = f"{run.arguments['--glueray_call']}/{CELL_OUTPUT.format(number=number)}"
            service.files[place] = json.dumps(said).encode()

    service.work = work
    (folder / "walk.ipynb").write_text(nbformat.writes(new_notebook(cells=[new_code_cell(cell) for cell in cells])))
    where = {"notebook": "walk.ipynb", "output_notebook": str(folder / "out.ipynb"), "staging_uri": STAGING}
    return GlueRayNotebookOperator(**{**where, **given})


def _make_sensor(service: Service, folder: Path, given: dict[str, Any]) -> Any:
    return GlueRayJobSensor(**{"job_name": "theirs", **given})


_MAKERS = {
    "script": _make_script,
    "mapped": _make_mapped,
    "function": _make_function,
    "notebook": _make_notebook,
    "sensor": _make_sensor,
}
