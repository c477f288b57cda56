"""What the demo makes of what Airflow says: which task is waited for, and how a failure is told."""

from __future__ import annotations

from typing import Any

import pytest

from demo.airflow_home import AirflowError
from demo.nights import Nightly, Watch
from demo.progress import Progress


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def progress(lines: list[str]) -> Progress:
    return Progress(lines.append, lambda: 0.0)


class Answers:
    """An Airflow whose REST API gives the answers that a test has laid down."""

    def __init__(self) -> None:
        self.dag_runs: list[dict[str, Any]] = []
        self.tasks: list[dict[str, Any]] = []
        self.unpaused: list[str] = []
        self.import_errors: list[dict[str, Any]] = []

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        match method, path.removeprefix("/dags"):
            case "GET", "/importErrors":
                return {"import_errors": self.import_errors}
            case "GET", "":
                return {"dags": [{"dag_id": "nightly"}, {"dag_id": "other"}]}
            case "PATCH", dag:
                return self.unpaused.append(dag)
            case "GET", "/~/dagRuns":
                return {"dag_runs": self.dag_runs}
            case "GET", "/~/dagRuns/~/taskInstances":
                return {"task_instances": self.tasks}
            case "GET", "/nightly/dagRuns/r1/taskInstances/clean":
                return {"try_number": 3}
            case "GET", "/nightly/dagRuns/r1/taskInstances/clean/logs/3":
                return {"content": [{"event": f"line {number}"} for number in range(100)]}
        raise AirflowError(f"{method} {path} is not here")

    def log_tail(self) -> str:
        return "the log of Airflow"


def _task(task: str, state: str | None, run: str = "r1") -> dict[str, Any]:
    return {"dag_id": "nightly", "dag_run_id": run, "task_id": task, "state": state, "start_date": None}


def test_a_failure_names_the_task_and_shows_the_end_of_its_log(progress: Progress, lines: list[str]) -> None:
    """Of the try that has failed, not of the first one."""
    airflow = Answers()
    airflow.dag_runs = [{"dag_id": "nightly", "dag_run_id": "r1", "state": "failed"}]
    airflow.tasks = [_task("check", "success"), _task("clean", "failed"), _task("report", "upstream_failed")]
    watch = Watch(airflow, [Nightly("nightly", "clean", "clean")], progress)  # type: ignore[arg-type]
    with pytest.raises(AirflowError) as caught:
        watch.run_all()
    said = str(caught.value).splitlines()
    assert said[0] == "nightly failed in clean:"
    assert said[1:] == [f"line {number}" for number in range(60, 100)]
    assert airflow.unpaused == ["/nightly"]
    assert lines == [
        "demo:   0 s: nightly / check: success",
        "demo:   0 s: nightly / clean: failed",
        "demo:   0 s: nightly / report: upstream_failed",
    ]


def test_what_is_waited_for(progress: Progress) -> None:
    """Tasks on their way, of the last DAG run only; without one, whoever has to start the next."""
    airflow = Answers()
    watch = Watch(airflow, [Nightly("nightly", "clean", "clean")], progress)  # type: ignore[arg-type]
    assert watch.waited_for() == "the scheduler"
    airflow.dag_runs = [{"dag_id": "nightly", "dag_run_id": run, "state": "running"} for run in ("r0", "r1")]
    airflow.tasks = [_task("old", "running", "r0"), _task("check", "success"), _task("clean", "queued")]
    airflow.tasks.append(_task("report", None))
    assert watch.look() == set()
    assert watch.waited_for() == "nightly / clean: queued"


def test_a_dag_that_cannot_be_imported_is_named(progress: Progress) -> None:
    """With its file and its traceback, before anything is waited for."""
    airflow = Answers()
    airflow.import_errors = [{"filename": "nightly.py", "stack_trace": "SyntaxError"}]
    watch = Watch(airflow, [Nightly("nightly", "clean", "clean")], progress)  # type: ignore[arg-type]
    with pytest.raises(AirflowError, match=r"nightly\.py cannot be imported:\nSyntaxError"):
        watch.run_all()
