"""The nightly DAGs of the demo: run all at once by Airflow, watched through its REST API, and what came of them."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from demo.airflow_home import Airflow, AirflowError
from demo.progress import Progress

#: Far more than the DAGs take on two cores: what ends is told by their states.
ALL_SECONDS = 600
#: Seconds between two looks at all DAGs. Each costs two calls, and the API server serves the tasks as well.
LOOK_SECONDS = 1.0
#: In these states a task is on its way and not yet done.
ACTIVE = {"scheduled", "queued", "running", "deferred", "up_for_retry", "up_for_reschedule", "restarting"}


@dataclass(frozen=True)
class Nightly:
    """A DAG, its task that starts the run or the session, and the one that knows at the end what it took."""

    dag: str
    starts: str
    waits: str


@dataclass(frozen=True)
class Night:
    """What came of one DAG run."""

    step: str
    run: dict[str, Any]
    usage: dict[str, Any]
    report: dict[str, Any]

    def state(self) -> str:
        """Ask the service, not Airflow, how the run, or the session, has ended."""
        return state_of(self.run)


def state_of(run: Mapping[str, Any]) -> str:
    """Ask the service for the state of a run or a session that a task has pushed as `glueray_run`."""
    if _is_session(run):
        return str(_glue().get_session(Id=run["id"])["Session"]["Status"])
    return str(_glue().get_job_run(JobName=run["name"], RunId=run["id"])["JobRun"]["JobRunState"])


def short(run: Mapping[str, Any]) -> str:
    """Return enough of the id of a run or a session to find it by."""
    return f"{run['id'][:13]}…"


def _is_session(run: Mapping[str, Any]) -> bool:
    return bool(run["backend"] == "glue-session")


@functools.cache
def _glue() -> Any:
    return boto3.client("glue")


class Watch:
    """Run DAGs at the same time and say which task enters which state."""

    def __init__(self, airflow: Airflow, nightlies: Sequence[Nightly], progress: Progress) -> None:
        self._airflow, self._nightlies, self._progress = airflow, nightlies, progress
        #: (DAG, task) to its state.
        self._states: dict[tuple[str, str], str] = {}
        #: DAG to the path of its DAG run in the REST API.
        self._paths: dict[str, str] = {}

    def run_all(self) -> list[Night]:
        """Unpause the DAGs, so that the scheduler makes their latest scheduled runs, and wait for those."""
        self._wait_for_dags()
        for nightly in self._nightlies:
            self._airflow.call("PATCH", f"/dags/{nightly.dag}", {"is_paused": False})
        end = time.monotonic() + ALL_SECONDS
        open_dags = {nightly.dag for nightly in self._nightlies}
        while open_dags:
            if time.monotonic() > end:
                left = ", ".join(sorted(open_dags))
                raise AirflowError(
                    f"not done after {ALL_SECONDS} s: {left}; {self.waited_for()}\n{self._airflow.log_tail()}"
                )
            time.sleep(LOOK_SECONDS)
            open_dags -= self.look()
            self._progress.remind(self.waited_for)
        return [self._night(nightly) for nightly in self._nightlies]

    def waited_for(self) -> str:
        """Name the tasks that are on their way, and what the service says of their runs."""
        active = [(dag, task) for (dag, task), state in self._states.items() if state in ACTIVE]
        return "; ".join(f"{dag} / {task}: {self._state(dag, task)}" for dag, task in active) or "the scheduler"

    def _state(self, dag: str, task: str) -> str:
        state = self._states[dag, task]
        if state != "deferred":
            return state
        # A sensor and a statement wait for what another task has started.
        for starts in (task, *(nightly.starts for nightly in self._nightlies if nightly.dag == dag)):
            # This line is worth no failure.
            with suppress(AirflowError, BotoCoreError, ClientError):
                run = self._xcom(dag, starts, "glueray_run")
                return f"{'session' if _is_session(run) else 'run'} {short(run)} is {state_of(run)}"
        return state

    def look(self) -> set[str]:
        """Tell what has changed since the last look; return the DAGs whose runs have succeeded."""
        runs = {
            run["dag_id"]: run for run in self._airflow.call("GET", "/dags/~/dagRuns", order_by="run_after")["dag_runs"]
        }
        self._paths = {dag: f"/dags/{dag}/dagRuns/{run['dag_run_id']}" for dag, run in runs.items()}
        tasks = self._airflow.call("GET", "/dags/~/dagRuns/~/taskInstances", limit=100)["task_instances"]
        for task in sorted(tasks, key=lambda task: task["start_date"] or ""):
            key, state = (task["dag_id"], task["task_id"]), task["state"]
            ours = runs.get(task["dag_id"], {}).get("dag_run_id") == task["dag_run_id"]
            if ours and state and self._states.get(key) != state:
                self._states[key] = state
                self._progress.say(f"{task['dag_id']} / {task['task_id']}: {state}")
        for dag, run in runs.items():
            if run["state"] == "failed":
                failed = next(
                    (task for (of, task), state in self._states.items() if (of, state) == (dag, "failed")), ""
                )
                log = self._task_log(dag, failed) if failed else self._airflow.log_tail()
                raise AirflowError(f"{dag} failed{f' in {failed}' if failed else ''}:\n{log}")
        return {dag for dag, run in runs.items() if run["state"] == "success"}

    def _wait_for_dags(self) -> None:
        """Wait until the DAG processor has read the DAGs."""
        end = time.monotonic() + ALL_SECONDS
        while True:
            errors = self._airflow.call("GET", "/importErrors")["import_errors"]
            if errors:
                raise AirflowError(f"{errors[0]['filename']} cannot be imported:\n{errors[0]['stack_trace']}")
            found = {dag["dag_id"] for dag in self._airflow.call("GET", "/dags")["dags"]}
            missing = [nightly.dag for nightly in self._nightlies if nightly.dag not in found]
            if not missing:
                return
            if time.monotonic() > end:
                text = f"The DAG processor did not find {', '.join(missing)} within {ALL_SECONDS} s"
                raise AirflowError(f"{text}:\n{self._airflow.log_tail()}")
            time.sleep(LOOK_SECONDS / 2)
            self._progress.remind(lambda missing=missing: f"the DAG processor to read {', '.join(missing)}")

    def _night(self, nightly: Nightly) -> Night:
        wanted = ((nightly.starts, "glueray_run"), (nightly.waits, "glueray_usage"), ("report", "return_value"))
        return Night(
            f"{nightly.dag}.{nightly.starts}",
            *(self._xcom(nightly.dag, task, key) for task, key in wanted),
        )

    def _xcom(self, dag: str, task: str, key: str) -> Any:
        return self._airflow.call("GET", f"{self._paths[dag]}/taskInstances/{task}/xcomEntries/{key}")["value"]

    def _task_log(self, dag: str, task: str) -> str:
        """Return the end of the log of a task's last try."""
        path = f"{self._paths[dag]}/taskInstances/{task}"
        tries = max(self._airflow.call("GET", path)["try_number"], 1)
        answer = self._airflow.call("GET", f"{path}/logs/{tries}")
        lines = [str(line.get("event", line)) if isinstance(line, dict) else str(line) for line in answer["content"]]
        return "\n".join(lines[-40:])
