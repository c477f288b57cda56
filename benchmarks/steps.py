"""What a DAG step costs beyond the script: the same script through the provider and by `ray job submit`."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from airflow_provider_glueray.local import client
from benchmarks.figures import row, spread, title

SCRIPT = "import ray\nray.init('auto')\nprint(ray.get(ray.remote(lambda: 1).remote()))\n"
DAG_FILE = """
from airflow.sdk import DAG
from airflow_provider_glueray.operators.glue_jobs import GlueRayJobOperator
with DAG("bench", schedule=None):
    GlueRayJobOperator(task_id="step", script="step.py", role="GlueRayRole", staging="s3://glueray-local/code")
"""
PLAY = """
import json, sys, time
from airflow.configuration import conf
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(conf.get("core", "dags_folder"), bundle_name="dags-folder")
seconds = []
for _ in range(int(sys.argv[1])):
    run = bag.dags["bench"].test()
    (ti,) = run.get_task_instances()
    assert ti.state == "success", ti.state
    seconds.append((ti.end_date - ti.start_date).total_seconds())
print("SECONDS " + json.dumps(seconds))
"""


def by_ray(endpoint: client.Endpoint, script: Path) -> tuple[float, float]:
    """Submit the script with Ray's own command line; return the seconds of the command, and of the job within."""
    ray = endpoint.ray()
    began = time.monotonic()
    subprocess.run(
        [str(Path(sys.executable).with_name("ray")), "job", "submit", "--address", ray["dashboard"], "--",
         sys.executable, str(script)],
        env={**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": ray["token"]}, check=True, capture_output=True,
    )  # fmt: skip
    whole = time.monotonic() - began
    jobs = httpx.get(f"{ray['dashboard']}/api/jobs/", headers={"Authorization": f"Bearer {ray['token']}"}).json()
    job = max((job for job in jobs if job["end_time"]), key=lambda job: job["end_time"])
    return whole, (job["end_time"] - job["start_time"]) / 1000


def by_airflow(endpoint: client.Endpoint, home: Path, deferrable: bool, runs: int) -> list[float]:
    """Run the script as a task with `dag.test()`; return the seconds of each task."""
    env = {
        **os.environ,
        "AIRFLOW_HOME": str(home / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE": str(deferrable),
        "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(endpoint.airflow_connection()),
    }
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], env=env, check=True, capture_output=True)
    done = subprocess.run([sys.executable, "-c", PLAY, str(runs)], env=env, check=True, capture_output=True, text=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("SECONDS "))
    return list(json.loads(line.removeprefix("SECONDS ")))


def first_job(endpoint: client.Endpoint, began: float) -> tuple[float, float]:
    """Start a first job; return the seconds from the start of the endpoint to ready, and to RUNNING."""
    import boto3

    ready = time.monotonic() - began
    os.environ.update(endpoint.env())
    glue, s3 = boto3.client("glue"), boto3.client("s3")
    s3.put_object(Bucket=client.BUCKET, Key="first.py", Body=b"import time\ntime.sleep(3)\n")
    command = {"Name": "glueray", "Runtime": "Ray2.4", "PythonVersion": "3.9"}
    command["ScriptLocation"] = f"s3://{client.BUCKET}/first.py"
    glue.create_job(
        Name="first", Role=client.ROLE_ARN, Command=command, GlueVersion="4.0", WorkerType="Z.2X", NumberOfWorkers=2
    )
    run_id = glue.start_job_run(JobName="first")["JobRunId"]
    while glue.get_job_run(JobName="first", RunId=run_id)["JobRun"]["JobRunState"] != "RUNNING":
        time.sleep(0.02)
    running = time.monotonic() - began
    while glue.get_job_run(JobName="first", RunId=run_id)["JobRun"]["JobRunState"] == "RUNNING":
        time.sleep(0.1)
    return ready, running


def main(endpoint: client.Endpoint, began: float, runs: int = 5) -> None:
    """Time the start, then both ways to run one script, in turn on one cluster."""
    title("`glueray local start` (one start)")
    ready, running = first_job(endpoint, began)
    row("until all nodes are up", f"{ready:.1f} s")
    row("until the first job is RUNNING", f"{running:.1f} s")
    row("resident memory of the endpoint process", f"{endpoint.status()['rss_mib']} MiB")
    title(f"One Ray script: as a DAG step, and by `ray job submit` on the same cluster ({runs} runs each)")
    with tempfile.TemporaryDirectory(prefix="glueray-bench-") as folder:
        home = Path(folder)
        (home / "dags").mkdir()
        script = home / "dags" / "step.py"
        script.write_text(SCRIPT)
        (home / "dags" / "bench.py").write_text(DAG_FILE)
        by_ray(endpoint, script)
        plain = [by_ray(endpoint, script) for _ in range(runs)]
        commands, jobs = zip(*plain, strict=True)
        row("ray job submit, whole command (it imports Ray)", spread(commands, "s", 2))
        row("  the job within, by Ray's own clock", spread(jobs, "s", 2))
        for name, deferrable in (("in the worker", False), ("deferred", True)):
            steps = by_airflow(endpoint, home, deferrable, runs)
            row(f"DAG step {name}, start to end of the task", spread(steps, "s", 2))
            for what, others, goal in (
                ("ray job submit", commands, " (goal: at most 3)"),
                ("the job within", jobs, ""),
            ):
                extra = statistics.median(steps) - statistics.median(others)
                row(f"  more than {what}, medians", f"{extra:+.2f} s{goal}")
