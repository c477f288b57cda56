"""What a deferred run costs its triggerer: ours and amazon's trigger, each in a process of its own.

    python -m benchmarks.triggers ours|amazon RUNS_JSON SECONDS

Prints JSON: MiB and CPU milliseconds per deferred run, and the longest stall of the event loop.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from typing import Any

from airflow_provider_glueray.local import client
from benchmarks.figures import row, title

N = 200
SECONDS = 25.0


def memory_mib() -> float:
    """Return the resident memory of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def make(kind: str, run: dict[str, str]) -> Any:
    """Return the trigger that waits for a run."""
    if kind == "ours":
        from airflow_provider_glueray.core.follow import FollowPolicy
        from airflow_provider_glueray.triggers.runs import GlueRayRunTrigger

        cursor = {"since_ms": int(time.time() * 1000), "seen": []}
        return GlueRayRunTrigger(
            run=run, hook={"aws_conn_id": "aws_default"}, policy=FollowPolicy().to_json(), cursor=cursor
        )
    from airflow.providers.amazon.aws.triggers.glue import GlueJobCompleteTrigger

    return GlueJobCompleteTrigger(
        job_name=run["name"], run_id=run["id"], verbose=False, aws_conn_id="aws_default", waiter_delay=60
    )


async def measure(kind: str, runs: list[dict[str, str]], seconds: float) -> dict[str, float]:
    """Let all triggers wait for a while; the first one pays for imports and is not counted."""

    async def wait(trigger: Any) -> None:
        async for _ in trigger.run():
            return

    waiting = [asyncio.create_task(wait(make(kind, runs[0])))]
    await asyncio.sleep(5)
    before, cpu = memory_mib(), time.process_time()
    waiting += [asyncio.create_task(wait(make(kind, run))) for run in runs[1:]]
    stall, end = 0.0, time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        await asyncio.sleep(0.05)
        stall = max(stall, time.monotonic() - began - 0.05)
    count = len(runs) - 1
    figures = {
        "mib": (memory_mib() - before) / count,
        "cpu_ms": (time.process_time() - cpu) * 1000 / count,
        "stall_s": stall,
    }
    for task in waiting:
        task.cancel()
    return figures


def main(endpoint: client.Endpoint) -> None:
    """Start the runs, measure both triggers on them, and count the calls each needed."""
    import boto3

    title(f"{N} deferred runs of one job in one event loop, {SECONDS:.0f} s, each trigger in its own process")
    os.environ.update(endpoint.env())
    endpoint.faults(provisioning_seconds=3600, quota_mdpu=100_000)
    glue = boto3.client("glue")
    command = {"Name": "glueray", "Runtime": "Ray2.4", "ScriptLocation": "s3://glueray-local/none.py"}
    glue.create_job(
        Name="crowd", Role=client.ROLE_ARN, Command=command, GlueVersion="4.0", WorkerType="Z.2X", NumberOfWorkers=2,
        ExecutionProperty={"MaxConcurrentRuns": N + 1},
    )  # fmt: skip
    ids = [glue.start_job_run(JobName="crowd")["JobRunId"] for _ in range(N + 1)]
    runs = json.dumps([{"backend": "glue-job", "name": "crowd", "id": run_id} for run_id in ids])
    python = os.environ.get("GLUERAY_BENCH_PYTHON", sys.executable)
    env = {**os.environ, "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(endpoint.airflow_connection())}
    row("", "ours (polls every 1 to 10 s)", "amazon (polls every 60 s)")
    found: list[dict[str, float]] = []
    for kind in ("ours", "amazon"):
        endpoint.reset_calls()
        done = subprocess.run(
            [python, "-m", "benchmarks.triggers", kind, runs, str(SECONDS)],
            env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            row(f"{kind} could not be measured", done.stderr.strip().splitlines()[-1][:80])
            return
        calls = endpoint.calls()
        looks = calls.get("GetJobRun", 0) + calls.get("GetJobRuns", 0)
        logs = calls.get("FilterLogEvents", 0)
        found.append({**json.loads(done.stdout.splitlines()[-1]), "looks": looks, "logs": logs})
    for name, key, digits in (
        ("memory per deferred run, MiB (goal: 0.1)", "mib", 4),
        ("CPU per deferred run, ms", "cpu_ms", 2),
        ("longest stall of the event loop, s", "stall_s", 3),
        ("status calls, all runs together", "looks", 0),
        ("log calls, all runs together", "logs", 0),
    ):
        row(name, *(f"{figures[key]:.{digits}f}" for figures in found))
    ours, peer = found
    row("ours / amazon", f"memory {ours['mib'] / peer['mib']:.3f}, CPU {ours['cpu_ms'] / peer['cpu_ms']:.3f}")
    glue.batch_stop_job_run(JobName="crowd", JobRunIds=ids[:25])


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(sys.argv[1], json.loads(sys.argv[2]), float(sys.argv[3])))))
