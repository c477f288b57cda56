"""Run the example DAGs as Airflow's scheduler runs them at night, deferred, on real Ray, and show the result.

Everything it starts it stops again. It ends with one line: `DEMO OK run=… state=… rows_in=… rows_out=… seconds=…`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_provider_glueray.local import control
from demo.airflow_home import Airflow, AirflowError

EXAMPLES = Path(__file__).parent.parent / "example_dags"
ROWS = int(os.environ.get("GLUERAY_DEMO_ROWS", "100000"))
DAG_SECONDS = 600


@dataclass
class Nightly:
    """One DAG of the demo and what came of it."""

    step: str
    run: dict[str, Any]
    usage: dict[str, Any]
    report: dict[str, Any]

    def state(self) -> str:
        """Ask the service, not Airflow, how the run, or the session, has ended."""
        import boto3

        glue = boto3.client("glue")
        if self.run["backend"] == "glue-session":
            return str(glue.get_session(Id=self.run["id"])["Session"]["Status"])
        answer = glue.get_job_run(JobName=self.run["name"], RunId=self.run["id"])
        return str(answer["JobRun"]["JobRunState"])


def main() -> int:
    """Run the demo; return the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    begun = time.monotonic()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="glueray-demo-") as home,
            control.start(f"demo-{os.getpid()}", port=0, home=Path(home)) as endpoint,
        ):
            os.environ.update(endpoint.env())
            say("laying the input into S3")
            lay_input()
            say("starting Airflow: scheduler, triggerer, DAG processor, API server")
            with Airflow(EXAMPLES, {"aws_default": endpoint.airflow_connection()}) as airflow:
                nights = [
                    run_night(airflow, "customer_reviews_nightly", starts="clean", waits="clean"),
                    run_night(airflow, "movie_ratings_nightly", starts="start", waits="wait"),
                    run_night(airflow, "customer_reviews_session", starts="session.create", waits="session.stop"),
                    run_night(airflow, "customer_reviews_notebook", starts="walk", waits="walk"),
                ]
            state = show_table(nights)
            show_rows(nights[0].report["output"])
            say("stopping Ray and the endpoint")
    except (AirflowError, control.EndpointError, subprocess.CalledProcessError) as error:
        print(f"DEMO FAILED: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("DEMO STOPPED", file=sys.stderr)
        return 130
    first = nights[0]
    print(
        f"DEMO OK run={first.run['id']} state={state} rows_in={first.report['rows_in']} "
        f"rows_out={first.report['rows_out']} seconds={time.monotonic() - begun:.0f}"
    )
    return 0


def say(text: str) -> None:
    """Show what is being done."""
    print(f"demo: {text}", flush=True)


def lay_input() -> None:
    """Write the reviews and the movies to where the DAGs look for them."""
    for arguments in (
        ["reviews", "s3://glueray-local/reviews/raw", "--rows", str(ROWS)],
        ["movies", "s3://glueray-local/movies/raw"],
    ):
        subprocess.run([sys.executable, str(EXAMPLES / "datasets.py"), *arguments], check=True)


def run_night(airflow: Airflow, dag_id: str, *, starts: str, waits: str) -> Nightly:
    """Unpause a nightly DAG, so that the scheduler makes its latest scheduled run, and wait for that."""
    wait_for_dag(airflow, dag_id)
    airflow.call("PATCH", f"/dags/{dag_id}", {"is_paused": False})
    end = time.monotonic() + DAG_SECONDS
    seen: dict[str, str] = {}
    while time.monotonic() < end:
        runs = airflow.call("GET", f"/dags/{dag_id}/dagRuns", order_by="-run_after", limit=1)["dag_runs"]
        if runs:
            run_id = runs[0]["dag_run_id"]
            tasks = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances"
            for task in airflow.call("GET", tasks)["task_instances"]:
                if task["state"] and seen.get(task["task_id"]) != task["state"]:
                    seen[task["task_id"]] = task["state"]
                    say(f"{dag_id} / {task['task_id']}: {task['state']}")
            if runs[0]["state"] == "success":
                wanted = ((starts, "glueray_run"), (waits, "glueray_usage"), ("report", "return_value"))
                return Nightly(
                    f"{dag_id}.{starts}",
                    *(airflow.call("GET", f"{tasks}/{task}/xcomEntries/{key}")["value"] for task, key in wanted),
                )
            if runs[0]["state"] == "failed":
                failed = next((name for name, state in seen.items() if state == "failed"), starts)
                raise AirflowError(f"{dag_id} failed in {failed}:\n{task_log(airflow, tasks, failed)}")
        time.sleep(0.5)
    raise AirflowError(f"{dag_id} was not done after {DAG_SECONDS} s; its tasks: {seen}\n{airflow.log_tail()}")


def wait_for_dag(airflow: Airflow, dag_id: str) -> None:
    """Wait until the DAG processor has read the DAG."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        errors = airflow.call("GET", "/importErrors")["import_errors"]
        if errors:
            raise AirflowError(f"{errors[0]['filename']} cannot be imported:\n{errors[0]['stack_trace']}")
        if any(dag["dag_id"] == dag_id for dag in airflow.call("GET", "/dags")["dags"]):
            return
        time.sleep(0.5)
    raise AirflowError(f"The DAG processor did not find {dag_id} within 60 s:\n{airflow.log_tail()}")


def task_log(airflow: Airflow, tasks: str, task: str) -> str:
    """Return the end of a task's log."""
    answer = airflow.call("GET", f"{tasks}/{task}/logs/1")
    lines = [str(line.get("event", line)) if isinstance(line, dict) else str(line) for line in answer["content"]]
    return "\n".join(lines[-40:])


def show_table(nights: list[Nightly]) -> str:
    """Print one line per step; return the state of the first."""
    head = ("step", "run or session", "state", "seconds", "workers", "M-DPU-hours", "rows in", "rows out")
    form = "{:<40} {:<14} {:<10} {:>7} {:>7} {:>11} {:>8} {:>8}"
    print("\n" + form.format(*head))
    for night in nights:
        print(
            form.format(
                night.step,
                night.run["id"][:13] + "…",
                night.state(),
                f"{night.usage['seconds']:.0f}",
                night.usage["workers"],
                f"{night.usage['mdpu_hours']:.4f}",
                night.report["rows_in"],
                night.report["rows_out"],
            )
        )
    return nights[0].state()


def show_rows(output: str) -> None:
    """Print the three rows with the most votes that the first DAG has written."""
    import pyarrow.parquet as parquet
    from pyarrow import fs

    filesystem, path = fs.FileSystem.from_uri(f"{output.rstrip('/')}/parquet")
    table = parquet.read_table(path, filesystem=filesystem)
    columns = ["review_id", "product_title", "star_rating", "helpful_votes", "total_votes", "helpful_votes_ratio"]
    print(f"\nThree of {table.num_rows} rows in {output}:")
    for row in table.select(columns).sort_by([("total_votes", "descending")]).slice(0, 3).to_pylist():
        print(json.dumps(row, default=str))
    print()


if __name__ == "__main__":
    sys.exit(main())
