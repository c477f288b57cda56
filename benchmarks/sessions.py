"""What a session saves: ten small steps as ten job runs, and as ten statements of one session."""

from __future__ import annotations

import json
import os
import tempfile
import time
from functools import partial
from pathlib import Path

from airflow_provider_glueray.core.drivers import run_sync
from airflow_provider_glueray.core.follow import FollowPolicy, follow
from airflow_provider_glueray.local import client
from benchmarks.figures import row, title

STEPS = 10
#: Seconds that a cluster takes to come up at AWS, as its announcement says; so many of them are really waited for.
PROVISIONING, WAITED = 60.0, 6.0
CODE = "import ray\nray.init('auto', ignore_reinit_error=True)\nprint(ray.get(ray.remote(lambda: 1).remote()))\n"


def wait(hook: object, ref: object) -> None:
    """Follow a run as an operator does, and see that it has succeeded."""
    outcome = run_sync(follow(ref, FollowPolicy(poll_interval=1.0, sources=())), hook, ref, hook.log)
    assert outcome.snapshot.message == "", outcome


def by_jobs(folder: Path) -> float:
    """Run the steps as jobs, one after the other; return the seconds."""
    from airflow_provider_glueray.core.spec import RayJobSpec
    from airflow_provider_glueray.hooks.glue.jobs import GlueRayJobHook

    script = folder / "step.py"
    script.write_text(CODE)
    hook = GlueRayJobHook()
    spec = RayJobSpec(name="bench-sessions", script=str(script), role="GlueRayRole")
    began = time.monotonic()
    spec = hook.stage(spec, f"s3://{client.BUCKET}/code")
    hook.ensure_job(spec)
    for step in range(STEPS):
        wait(hook, hook.submit(spec, f"mark-{step}"))
        time.sleep(0.2)  # the service lets go of the one run that may be active a moment after its end
    return time.monotonic() - began


def by_statements() -> float:
    """Run the steps as statements of one session, which is made before and stopped after them; return the seconds."""
    from airflow_provider_glueray.core.spec import RaySessionSpec
    from airflow_provider_glueray.hooks.glue.sessions import GlueRaySessionHook
    from airflow_provider_glueray.hooks.glue.statements import prepare

    hook = GlueRaySessionHook()
    began = time.monotonic()
    session = hook.create(RaySessionSpec(role="GlueRayRole"), "bench-sessions", "mark")
    wait(hook, session)
    send = partial(hook.run_statement, session.id)
    for step in range(STEPS):
        wait(hook, send(prepare(CODE, f"mark-{step}", "the step"), f"mark-{step}"))
    hook.stop(session)
    return time.monotonic() - began


def main(endpoint: client.Endpoint) -> None:
    """Time both in one run, with the same delay before a cluster is there."""
    # Each step would say what it does.
    os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "WARNING"
    title(f"{STEPS} small Ray steps, one after the other, where a cluster takes {PROVISIONING:.0f} s to come up")
    os.environ["AIRFLOW_CONN_AWS_DEFAULT"] = json.dumps(endpoint.airflow_connection())
    endpoint.faults(provisioning_seconds=WAITED)
    row("of which are really waited for, at each start", f"{WAITED:.0f} s")
    whole = {}
    with tempfile.TemporaryDirectory(prefix="glueray-bench-") as folder:
        for name, run in (("as job runs", partial(by_jobs, Path(folder))), ("as statements", by_statements)):
            endpoint.reset_calls()
            seconds = run()
            calls = endpoint.calls()
            starts = calls.get("StartJobRun", 0) + calls.get("CreateSession", 0)
            whole[name] = seconds + starts * (PROVISIONING - WAITED)
            row(f"{name}: measured", f"{seconds:.1f} s with {starts} start(s) of a cluster")
            row("  with the rest of the waiting added for each start", f"{whole[name]:.0f} s")
    endpoint.reset_faults()
    row("ratio (expected: 5 or more)", f"{whole['as job runs'] / whole['as statements']:.1f}")
