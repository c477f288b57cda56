"""One real Airflow on the local endpoint, and a vocabulary for what the tests do to it."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import boto3
import psutil
import pytest

from airflow_provider_glueray.local import client as local_client
from demo.airflow_home import Airflow, AirflowError, kill_session

T = TypeVar("T")

DAGS = Path(__file__).parent / "dags"
#: How many there are in `dags/life.py`.
DAG_COUNT = 11
#: An example whose mapped tasks only a real scheduler can run side by side, and how many DAGs it has.
EXAMPLE, EXAMPLE_DAGS = Path(__file__).parents[2] / "example_dags" / "hundreds_of_sources.py", 2
#: Seconds in which a loaded machine does anything that takes a few on an idle one. Only a failure waits so long.
PATIENCE = 240.0
#: Airflow misses a dead worker after five minutes by default: too long for a test. What is alive but has to share
#: the machine may be late by many seconds all the same, and is not to be taken for dead.
SETTINGS = {
    "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
    # Nothing but what a test triggers.
    "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "40",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "1",
    "AIRFLOW__SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": "2",
    "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "2",
    # A worker kills its task after so many heartbeats that the API server was too busy to answer.
    "AIRFLOW__WORKERS__MAX_FAILED_HEARTBEATS": "20",
    # So does one whose start or state it was too busy to take.
    "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
    "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "30",
    "AIRFLOW__TRIGGERER__RUNNER_HEALTH_CHECK_THRESHOLD": "120",
}
#: What the health of an Airflow is made of, by the last word of the command line that starts it, and what the REST
#: API calls its job.
COMPONENTS = {"scheduler": "SchedulerJob", "dag-processor": "DagProcessorJob", "triggerer": "TriggererJob"}


def until(
    seen: Callable[[], T], wanted: Callable[[T], Any] = bool, seconds: float = PATIENCE, *, moves: bool = False
) -> T:
    """Look until what is seen is what is wanted, and return it.

    :param moves: whether ``seconds`` begin anew with each change of what is seen: for what takes many steps.
    """
    end = time.monotonic() + seconds
    before = None
    while not wanted(last := seen()):
        if moves and last != before:
            before, end = last, time.monotonic() + seconds
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

    def __init__(self, airflow: Airflow, endpoint: local_client.Endpoint) -> None:
        self.airflow, self.endpoint = airflow, endpoint
        there = endpoint.env()
        self.glue, self.s3 = (
            boto3.client(
                service,
                region_name=there["AWS_REGION"],
                endpoint_url=there["AWS_ENDPOINT_URL"],
                aws_access_key_id=there["AWS_ACCESS_KEY_ID"],
                aws_secret_access_key=there["AWS_SECRET_ACCESS_KEY"],
            )
            for service in ("glue", "s3")
        )
        self._steps: list[Step] = []
        self._started: list[subprocess.Popen[bytes]] = []

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """Call the REST API; again while sqlite, under this Airflow, is locked."""
        end = time.monotonic() + PATIENCE / 2
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
        # The steps are ended one after the other, all of them even if one of them cannot be.
        with contextlib.ExitStack() as stack:
            while self._steps:
                stack.callback(self._steps.pop().end)

    def processes(self, component: str) -> list[psutil.Process]:
        """Return the main processes of a component; those that one of them has forked are not among them."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                ours = process.environ().get("AIRFLOW_HOME") == str(self.airflow.home)
                parent = process.parent()
                forked = parent is not None and parent.cmdline()[-1:] == [component]
                if ours and process.cmdline()[-1:] == [component] and not forked and _lives(process):
                    found.append(process)
        return found

    def end(self, processes: list[psutil.Process], sign: signal.Signals) -> None:
        """Signal processes, and with SIGKILL all below them; return when they are gone.

        What does not end when told to is killed: it takes 20 s by design when a triggerer has to kill its triggers,
        and longer where others need the machine too.
        """
        assert processes
        below = {child for process in processes for child in process.children(recursive=True)}
        for process in {*processes, *below} if sign is signal.SIGKILL else processes:
            process.send_signal(sign)
        # What is left of a process whose parent has not fetched its end counts as gone.
        end = time.monotonic() + PATIENCE / 2
        while (left := [process for process in (*processes, *below) if _lives(process)]) and time.monotonic() < end:
            time.sleep(0.2)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        until(lambda: [process for process in left if _lives(process)], lambda left: not left)

    def make_whole(self) -> None:
        """Start each component that is not there and wait for its heartbeat; nobody else replaces one."""
        for component, job_type in COMPONENTS.items():
            if self.processes(component):
                continue
            before = self._jobs(job_type)
            self._start(component)
            until(lambda kind=job_type, known=before: self._jobs(kind) - known)
        until(self.airflow.health, lambda health: set(health.values()) == {"healthy"})

    def _jobs(self, job_type: str) -> set[int]:
        """Return the ids of the jobs of a type that have had a heartbeat, dead ones among them."""
        jobs = self.call("GET", "/jobs", job_type=job_type, limit=100)["jobs"]
        return {job["id"] for job in jobs if job["latest_heartbeat"]}

    def _start(self, component: str) -> None:
        with (self.airflow.home / f"{component}-{len(self._started)}.log").open("wb") as log:
            self._started.append(
                subprocess.Popen(
                    ["airflow", component],
                    env=self.airflow.env,
                    cwd=self.airflow.home,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    def stop(self) -> None:
        """Stop what `make_whole` has started."""
        for process in self._started:
            kill_session(process)


@dataclass(frozen=True)
class Step:
    """The one task of one DAG run, as Airflow sees it, and its runs, as the service sees them."""

    house: House
    dag: str
    run: str
    task: str = "step"
    map_index: int = -1

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

    def mapped(self, number: int) -> Step:
        """Return one of the task instances of a mapped task, to read its log."""
        return replace(self, map_index=number)

    def process(self) -> psutil.Process:
        """Return the process that executes the task; the worker is its parent."""
        return psutil.Process(self.instance()["pid"])

    def wait(self, *states: str, seconds: float = PATIENCE) -> dict[str, Any]:
        """Wait until the task is in one of the states; anything it cannot leave any more ends the wait."""
        final = {"success", "failed", "upstream_failed", "skipped", "removed"}
        task = until(self.instance, lambda task: task["state"] in {*states, *final}, seconds)
        assert task["state"] in states, (
            f"{task['state']} instead of {states}:\n{self.log()}\n\nAirflow:\n{self.house.airflow.log_tail(60)}"
        )
        return task

    def log(self, number: int = 1) -> str:
        """Return the task log of a try as the UI shows it."""
        lines = self.house.call("GET", f"{self.path}/logs/{number}", map_index=self.map_index)["content"]
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

    def client_token(self, state: str) -> None:
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

    def end(self) -> None:
        """End the DAG run and its runs, whatever they are doing."""
        if self.dag_run()["state"] not in {"success", "failed"}:
            self.mark_dag_run("failed")
        for run in self.runs():
            if "CompletedOn" not in run:
                self.house.glue.batch_stop_job_run(JobName=run["JobName"], JobRunIds=[run["Id"]])
        until(self.runs, lambda runs: all("CompletedOn" in run for run in runs))

    def open_gate(self) -> None:
        """Let the script end."""
        self.house.s3.put_object(Bucket=local_client.BUCKET, Key=f"gates/{self.dag}/{self.run}", Body=b"")


@pytest.fixture(scope="module")
def shared_house(endpoint: local_client.Endpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
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
            house.stop()


@pytest.fixture
def house(shared_house: House, clean_endpoint: local_client.Endpoint) -> Iterator[House]:
    """Return the shared Airflow, whole, on an endpoint that behaves; what a test takes away comes back after it."""
    shared_house.make_whole()
    try:
        yield shared_house
    finally:
        # A test that has failed may have failed for want of a component, and those that follow need it.
        try:
            shared_house.make_whole()
        finally:
            shared_house.clear_away()
