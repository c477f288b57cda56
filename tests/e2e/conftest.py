"""One real Airflow on the local endpoint, and a vocabulary for what the tests do to it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import boto3
import psutil
import pytest

from airflow_provider_glueray.local import control
from demo.airflow_home import Airflow, AirflowError

T = TypeVar("T")

DAGS = Path(__file__).parent / "dags"
#: How many there are in `dags/life.py`.
DAG_COUNT = 11
#: An example whose mapped tasks only a real scheduler can run side by side, and how many DAGs it has.
EXAMPLE, EXAMPLE_DAGS = Path(__file__).parents[2] / "example_dags" / "hundreds_of_sources.py", 2
#: Airflow's own defaults are minutes; a dead worker or triggerer is to be missed within seconds here.
SETTINGS = {
    "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
    # Nothing but what a test triggers.
    "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "10",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "1",
    "AIRFLOW__SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": "2",
    "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "2",
    "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "6",
}


def until(seen: Callable[[], T], wanted: Callable[[T], Any] = bool, seconds: float = 120) -> T:
    """Look until what is seen is what is wanted, and return it."""
    end = time.monotonic() + seconds
    while not wanted(last := seen()):
        assert time.monotonic() < end, f"after {seconds:.0f} s still {last}"
        time.sleep(0.2)
    return last


def _lives(process: psutil.Process) -> bool:
    """Tell whether a process is there and not a zombie that its parent has not fetched."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class House:
    """The Airflow of all tests, its endpoint, and the processes in it."""

    def __init__(self, airflow: Airflow, endpoint: control.Endpoint) -> None:
        self.airflow, self.endpoint = airflow, endpoint
        self.glue, self.s3 = (
            boto3.client(
                service,
                region_name=endpoint.region,
                endpoint_url=endpoint.url,
                aws_access_key_id="local",
                aws_secret_access_key="local",
            )
            for service in ("glue", "s3")
        )
        self._steps: list[Step] = []
        self._triggerers: list[subprocess.Popen[bytes]] = []

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """Call the REST API; again while sqlite, under this Airflow, is locked."""
        end = time.monotonic() + 20
        while True:
            try:
                return self.airflow.call(method, path, body, **query)
            except AirflowError as error:
                if "Database error" not in str(error) or time.monotonic() > end:
                    raise

    def trigger(self, kind: str, task: str = "step") -> Step:
        """Start a DAG run of one kind of `dags/life.py`; the step is its one task, or the one that is named."""
        dag = f"e2e_{kind}"
        run = self.call("POST", f"/dags/{dag}/dagRuns", {"logical_date": None})
        self._steps.append(Step(self, dag, run["dag_run_id"], task))
        return self._steps[-1]

    def clear_away(self) -> None:
        """End what a failed test has left."""
        while self._steps:
            step = self._steps.pop()
            if step.dag_run()["state"] not in {"success", "failed"}:
                step.mark_dag_run("failed")
            for run in step.runs():
                if "CompletedOn" not in run:
                    self.glue.batch_stop_job_run(JobName=run["JobName"], JobRunIds=[run["Id"]])
            until(step.runs, lambda runs: all("CompletedOn" in run for run in runs))

    def triggerers(self) -> list[psutil.Process]:
        """Return the main processes of the triggerers."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                ours = process.environ().get("AIRFLOW_HOME") == str(self.airflow.home)
                if (
                    ours
                    and process.cmdline()[-1:] == ["triggerer"]
                    and process.parent().cmdline()[-1:] != ["triggerer"]
                ):
                    found.append(process)
        return found

    def end(self, processes: list[psutil.Process], sign: signal.Signals) -> None:
        """Signal processes, and with SIGKILL all below them; return when they are gone, well within 15 s.

        A triggerer whose triggers do not end when told to takes 20 s: it kills them then.
        """
        assert processes
        below = {child for process in processes for child in process.children(recursive=True)}
        for process in {*processes, *below} if sign is signal.SIGKILL else processes:
            process.send_signal(sign)
        until(lambda: [process for process in (*processes, *below) if _lives(process)], lambda left: not left, 15)

    def start_triggerer(self) -> None:
        """Start a triggerer; `airflow standalone` does not replace a dead one."""
        with (self.airflow.home / f"triggerer-{len(self._triggerers)}.log").open("wb") as log:
            self._triggerers.append(
                subprocess.Popen(
                    ["airflow", "triggerer"],
                    env=self.airflow.env,
                    cwd=self.airflow.home,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    def stop_triggerers(self) -> None:
        """Stop what `start_triggerer` has started."""
        for process in self._triggerers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=10)


@dataclass(frozen=True)
class Step:
    """The one task of one DAG run, as Airflow sees it, and its runs, as the service sees them."""

    house: House
    dag: str
    run: str
    task: str = "step"

    @property
    def path(self) -> str:
        """The task instance's address in the REST API."""
        return f"/dags/{self.dag}/dagRuns/{quote(self.run, safe='')}/taskInstances/{self.task}"

    # -- Airflow's word

    def instance(self) -> dict[str, Any]:
        """Return the task instance."""
        return self.house.call("GET", self.path)  # type: ignore[no-any-return]

    def instances(self) -> list[dict[str, Any]]:
        """Return all task instances of a mapped task."""
        path = self.path.removesuffix(f"/{self.task}")
        return self.house.call("GET", path, limit=100)["task_instances"]  # type: ignore[no-any-return]

    def process(self) -> psutil.Process:
        """Return the process that executes the task; the worker is its parent."""
        return psutil.Process(self.instance()["pid"])

    def wait(self, *states: str, seconds: float = 90) -> dict[str, Any]:
        """Wait until the task is in one of the states; anything it cannot leave any more ends the wait."""
        final = {"success", "failed", "upstream_failed", "skipped", "removed"}
        task = until(self.instance, lambda task: task["state"] in {*states, *final}, seconds)
        assert task["state"] in states, f"{task['state']} instead of {states}:\n{self.log()}"
        return task

    def log(self, number: int = 1) -> str:
        """Return the task log of a try as the UI shows it."""
        lines = self.house.call("GET", f"{self.path}/logs/{number}")["content"]
        errors = [error for line in lines for error in line.get("error_detail") or ()]
        said = [line["event"] for line in lines] + [f"{error['exc_type']}: {error['exc_value']}" for error in errors]
        return "\n".join(said)

    def xcom(self, key: str = "return_value") -> Any:
        """Return an XCom; None while there is none."""
        try:
            return self.house.call("GET", f"{self.path}/xcomEntries/{key}")["value"]
        except AirflowError:
            return None

    def links(self) -> dict[str, str]:
        """Return the buttons of the UI: name to target."""
        return dict(self.house.call("GET", f"{self.path}/links")["extra_links"])

    def mark(self, state: str) -> None:
        """Mark the task as a user does."""
        self.house.call("PATCH", self.path, {"new_state": state})

    def dag_run(self) -> dict[str, Any]:
        """Return the DAG run."""
        return self.house.call("GET", self.path.partition("/taskInstances")[0])  # type: ignore[no-any-return]

    def mark_dag_run(self, state: str) -> None:
        """Mark the whole DAG run as a user does."""
        self.house.call("PATCH", self.path.partition("/taskInstances")[0], {"state": state})

    def clear(self) -> None:
        """Clear the task as a user does."""
        body = {"dag_run_id": self.run, "task_ids": [self.task], "dry_run": False, "only_failed": False}
        self.house.call("POST", f"/dags/{self.dag}/clearTaskInstances", body)

    # -- the service's word

    def runs(self) -> list[dict[str, Any]]:
        """Return the runs which the service has for this DAG run, oldest first."""
        try:
            runs = self.house.glue.get_job_runs(JobName=f"{self.dag}-step")["JobRuns"]
        except self.house.glue.exceptions.EntityNotFoundException:
            return []
        return [run for run in reversed(runs) if run["Arguments"]["--airflow_run_id"] == self.run]

    def sessions(self) -> list[dict[str, Any]]:
        """Return the sessions which the service has for this DAG run."""
        return self.house.glue.list_sessions(Tags={"airflow_run_id": self.run})["Sessions"]  # type: ignore[no-any-return]

    def states(self) -> list[str]:
        """Return the states of the runs, oldest first."""
        return [run["JobRunState"] for run in self.runs()]

    def started(self, count: int = 1) -> str:
        """Wait until the service runs the script of the last of ``count`` runs; return that run's id."""
        return until(self.runs, lambda runs: len(runs) == count and runs[-1]["JobRunState"] == "RUNNING")[-1]["Id"]

    def open_gate(self) -> None:
        """Let the script end."""
        self.house.s3.put_object(Bucket=control.BUCKET, Key=f"gates/{self.dag}/{self.run}", Body=b"")


@pytest.fixture(scope="module")
def shared_house(endpoint: control.Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Return the Airflow of the tests of a file, with its DAGs read; there is one file, because two take too much."""
    dags = shutil.copytree(DAGS, tmp_path_factory.mktemp("e2e") / "dags")
    shutil.copy(EXAMPLE, dags)
    connections = {"aws_default": endpoint.airflow_connection(), "ray_default": endpoint.ray_connection()}
    with Airflow(dags, connections, **SETTINGS) as airflow:
        house = House(airflow, endpoint)
        try:
            until(
                lambda: airflow.call("GET", "/dags")["total_entries"], lambda count: count == DAG_COUNT + EXAMPLE_DAGS
            )
            yield house
        finally:
            house.stop_triggerers()


@pytest.fixture
def house(shared_house: House, clean_endpoint: control.Endpoint) -> Iterator[House]:
    """Return the shared Airflow on an endpoint that behaves."""
    yield shared_house
    shared_house.clear_away()
