"""Hundreds of sources: mapped, a run for each, and fanned out, one run for all; on a real scheduler."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from airflow_provider_glueray.local import client
from benchmarks.figures import row, title
from demo.airflow_home import Airflow

EXAMPLES = Path(__file__).parent.parent / "example_dags"
SOURCES = int(os.environ.get("GLUERAY_BENCH_SOURCES", "300"))
#: Tasks that Airflow runs at once, the default of an installation being 32: what two cores stand.
AT_ONCE = 4


def run(airflow: Airflow, dag: str) -> tuple[float, str]:
    """Run a DAG to its end; return the seconds and where its table is."""
    while not any(each["dag_id"] == dag for each in airflow.call("GET", "/dags")["dags"]):
        time.sleep(1)
    airflow.call("PATCH", f"/dags/{dag}", {"is_paused": False})
    began = time.monotonic()
    body = {"logical_date": None, "conf": {"sources": SOURCES}}
    path = f"/dags/{dag}/dagRuns/" + quote(airflow.call("POST", f"/dags/{dag}/dagRuns", body)["dag_run_id"], safe="")
    while (state := airflow.call("GET", path)["state"]) not in ("success", "failed"):
        time.sleep(1)
    seconds = time.monotonic() - began
    assert state == "success", airflow.log_tail()
    report: dict[str, Any] = airflow.call("GET", f"{path}/taskInstances/report/xcomEntries/return_value")["value"]
    return seconds, f"{report['columns']} rows"


def main(endpoint: client.Endpoint) -> None:
    """Time both, and count what they ask of the service."""
    title(f"{SOURCES} tables profiled, {AT_ONCE} Airflow tasks at once")
    command = [sys.executable, str(EXAMPLES / "datasets.py"), "tables", f"s3://{client.BUCKET}/tables/raw"]
    subprocess.run([*command, "--count", str(SOURCES)], env={**os.environ, **endpoint.env()}, check=True)
    settings = {
        "AIRFLOW__CORE__PARALLELISM": str(AT_ONCE),
        "AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE": "False",
        # Scheduled runs of the same DAGs would begin as soon as these are not paused any more.
        "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False",
    }
    whole = {}
    with Airflow(EXAMPLES, {"aws_default": endpoint.airflow_connection()}, **settings) as airflow:
        for name, dag in (("mapped", "sources_mapped"), ("fanned out", "sources_fanned_out")):
            endpoint.reset_calls()
            whole[name], table = run(airflow, dag)
            calls = endpoint.calls()
            logs = sum(calls.get(each, 0) for each in ("FilterLogEvents", "GetLogEvents", "DescribeLogStreams"))
            row(f"{name}: wall time, result", f"{whole[name]:.0f} s, {table}")
            row("  runs, calls of Glue, calls of CloudWatch Logs",
                f"{calls['StartJobRun']}, {sum(calls.values()) - logs}, {logs}")  # fmt: skip
    row("ratio of the wall times", f"{whole['mapped'] / whole['fanned out']:.1f}")
