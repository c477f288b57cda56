"""Scripts run on real Ray: arguments, dependencies, failures, stops, logs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_glueray.local import client as local_client
from airflow_provider_glueray.local.engine.logs import _system_group
from tests.local.conftest import until, write_wheel, zipped

PREFIX = "/aws-glue/ray/jobs/"
SUCCEEDS = """
import logging, os, sys
import ray

logging.basicConfig(level=logging.INFO)
ray.init("auto")


@ray.remote
def where(i):
    print("worker says", i)
    print("worker warns", i, file=sys.stderr)
    return os.environ.get("my-arg"), sys.argv


logging.info("logged live")
print("printed", os.environ["my-arg"], len(sys.argv))
print("reserved", "min-workers" in os.environ)
print("in", os.environ["AWS_DEFAULT_REGION"])
print("remote", ray.get(where.remote(1))[0])
print("€" * 100_000)
"""
SLEEPS = """
import logging, time

logging.basicConfig(level=logging.INFO)
print("printed early")
logging.info("awake")
time.sleep(300)
"""


def messages(logs: Any, leaf: str, prefix: str) -> list[str]:
    pages = logs.get_paginator("filter_log_events").paginate(logGroupName=PREFIX + leaf, logStreamNamePrefix=prefix)
    return [event["message"] for page in pages for event in page["events"]]


def test_a_script_succeeds_and_its_logs_arrive(
    glue: Any,
    logs: Any,
    make_job: Callable[..., str],
    wait_for: Callable[..., dict[str, Any]],
    client: Callable[..., Any],
    elsewhere: local_client.Endpoint,
) -> None:
    """The driver's environment has arguments and Region, prints come after the run, and logs are in that Region."""
    job = make_job(SUCCEEDS, DefaultArguments={"--min-workers": "1"})
    run_id = glue.start_job_run(JobName=job, Arguments={"--my-arg": "it's 1 = $HOME"})["JobRunId"]
    run = wait_for(job, run_id, "SUCCEEDED")
    assert run["CompletedOn"] >= run["StartedOn"]
    assert run["DPUSeconds"] == run["ExecutionTime"] * 4
    assert "ErrorMessage" not in run

    stream = f"{job}-{run_id}"
    # Ray copies the workers' output to the driver, at an unknown moment.
    script = [line for line in messages(logs, "script-log", stream) if "(where pid=" not in line]
    printed = script.index("printed it's 1 = $HOME 1")
    assert printed > next(number for number, line in enumerate(script) if "logged live" in line)
    assert script[printed + 1 : printed + 4] == ["reserved False", f"in {glue.meta.region_name}", "remote None"]
    pieces = [line for line in script if line.startswith("€")]
    assert "".join(pieces) == "€" * 100_000
    assert max(len(piece.encode()) for piece in pieces) <= 256 * 1024 - 26
    assert messages(logs, "ray-worker-out-logs", stream) == ["worker says 1"]
    assert messages(logs, "ray-worker-err-logs", stream) == ["worker warns 1"]
    assert _script_log(client("logs", region=elsewhere.region), job, run_id) == []
    (worker,) = logs.describe_log_streams(logGroupName=PREFIX + "ray-worker-out-logs", logStreamNamePrefix=stream)[
        "logStreams"
    ]
    assert worker["logStreamName"].startswith(f"{stream}-127_0_0_")


def test_ray_writes_log_files_for_every_group(endpoint: local_client.Endpoint) -> None:
    """Every group of the cluster's own logs has files."""
    state = json.loads(endpoint.log_path.with_suffix(".json").read_text())
    head = Path(state["root"]) / "0" / "session_latest" / "logs"
    groups = {"ray-monitor-log", "ray-gcs-logs", "ray-process-logs", "ray-raylet-logs", "ray-runtime-env-log"}
    until(lambda: {_system_group(path.name) for path in head.iterdir()} - {None}, lambda seen: seen == groups)


def test_an_unused_prefix_finds_no_events(logs: Any) -> None:
    """The endpoint applies the prefix, which moto ignores; an unknown group gives ResourceNotFoundException."""
    logs.create_log_group(logGroupName="/mine")
    logs.create_log_stream(logGroupName="/mine", logStreamName="a")
    logs.put_log_events(
        logGroupName="/mine",
        logStreamName="a",
        logEvents=[{"timestamp": int(time.time() * 1000), "message": "m"}],
    )
    assert logs.filter_log_events(logGroupName="/mine", logStreamNamePrefix="b")["events"] == []
    assert len(logs.filter_log_events(logGroupName="/mine", logStreamNamePrefix="a")["events"]) == 1
    arn = f"arn:aws:logs:{logs.meta.region_name}:123456789012:log-group:/mine:*"
    assert len(logs.filter_log_events(logGroupIdentifier=arn, logStreamNamePrefix="a")["events"]) == 1
    with pytest.raises(logs.exceptions.ResourceNotFoundException):
        logs.filter_log_events(logGroupName="/absent", logStreamNamePrefix="a")
    logs.delete_log_group(logGroupName="/mine")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (
            "import ray\nray.init('auto')\n@ray.remote\ndef f():\n    raise ValueError('no rows: 0')\n"
            "ray.get(f.remote())",
            "ValueError: no rows: 0. Job entrypoint command failed with exit code 1",
        ),
        ("raise SystemExit(7)", "Job entrypoint command failed with exit code 7"),
    ],
)
def test_a_script_fails_with_its_reason(
    glue: Any, make_job: Callable[..., str], wait_for: Callable[..., Any], script: str, words: str
) -> None:
    """The ErrorMessage has the exception, if there is one, and the exit code."""
    job = make_job(script)
    run = wait_for(job, glue.start_job_run(JobName=job)["JobRunId"], "FAILED")
    assert run["ErrorMessage"] == words


def test_stop_while_running(glue: Any, logs: Any, make_job: Callable[..., str], wait_for: Callable[..., Any]) -> None:
    """The run is RUNNING, then STOPPED; log records arrive while it runs, prints do not."""
    job = make_job(SLEEPS)
    run = glue.start_job_run(JobName=job)["JobRunId"]
    wait_for(job, run, "RUNNING")
    until(lambda: any("awake" in line for line in _script_log(logs, job, run)))
    assert "printed early" not in _script_log(logs, job, run)
    assert glue.batch_stop_job_run(JobName=job, JobRunIds=[run])["Errors"] == []
    wait_for(job, run, "STOPPED")


def _script_log(logs: Any, job: str, run: str) -> list[str]:
    return _lines(logs, "script-log", job, run)


def _lines(logs: Any, leaf: str, job: str, run: str) -> list[str]:
    try:
        return messages(logs, leaf, f"{job}-{run}")
    except logs.exceptions.ResourceNotFoundException:
        return []


def test_logs_can_be_switched_off(
    glue: Any, logs: Any, make_job: Callable[..., str], wait_for: Callable[..., Any]
) -> None:
    """--logging_configuration switches CloudWatch Logs off for a run."""
    off = json.dumps({"CLOUDWATCH_LOGS": {"IS_ENABLED": "False"}})
    job = make_job("print('quiet')")
    run = glue.start_job_run(JobName=job, Arguments={"--logging_configuration": off})["JobRunId"]
    wait_for(job, run, "SUCCEEDED")
    assert _script_log(logs, job, run) == []


def test_zips_reach_the_script(
    glue: Any, s3: Any, logs: Any, make_job: Callable[..., str], wait_for: Callable[..., Any]
) -> None:
    """The zip's one directory is the working directory; driver and workers import the modules."""
    s3.put_object(Bucket=local_client.BUCKET, Key="work.zip", Body=zipped(**{"work/data.txt": "forty-two"}))
    s3.put_object(
        Bucket=local_client.BUCKET, Key="mod.zip", Body=zipped(**{"top/answers.py": "def yes(): return 'yes'"})
    )
    job = make_job(
        "import ray, answers\nray.init('auto')\n"
        "@ray.remote\ndef f():\n    import answers\n    return answers.yes() + open('data.txt').read()\n"
        "print(answers.yes(), open('data.txt').read(), ray.get(f.remote()))",
        DefaultArguments={
            "--working-dir": f"s3://{local_client.BUCKET}/work.zip",
            "--s3-py-modules": f"s3://{local_client.BUCKET}/mod.zip",
        },
    )
    run = glue.start_job_run(JobName=job)["JobRunId"]
    wait_for(job, run, "SUCCEEDED")
    assert "yes forty-two yesforty-two" in _script_log(logs, job, run)


def test_pip_install(
    glue: Any, logs: Any, make_job: Callable[..., str], wait_for: Callable[..., Any], tmp_path: Path
) -> None:
    """Driver and workers import the installed package; ray-runtime-env-log has pip's output."""
    job = make_job(
        "import ray, tinypackage\nray.init('auto')\n"
        "@ray.remote\ndef f():\n    import tinypackage\n    return tinypackage.WORD\n"
        "print(tinypackage.WORD, ray.get(f.remote()))",
        ExecutionProperty={"MaxConcurrentRuns": 2},
    )
    good = {"--pip-install": write_wheel(tmp_path, "tinypackage", "1.0", "WORD = 'tiny'")}
    bad = {"--pip-install": f"absent @ {(tmp_path / 'absent.whl').as_uri()}"}
    run, failing = (glue.start_job_run(JobName=job, Arguments=each)["JobRunId"] for each in (good, bad))
    wait_for(job, run, "SUCCEEDED")
    assert "tiny tiny" in _script_log(logs, job, run)
    assert any("Successfully installed tinypackage" in line for line in _lines(logs, "ray-runtime-env-log", job, run))
    message = wait_for(job, failing, "FAILED")["ErrorMessage"]
    assert message.startswith("runtime_env setup failed: pip install exited with code 1: ERROR: ")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (zipped(**{"a/x.py": "", "__MACOSX/y": ""}), "exactly one top-level directory and nothing else"),
        (zipped(**{"x.py": ""}), "found: x.py"),
        (b"no zip", "is not a zip file"),
        (None, "LAUNCH ERROR | Error downloading from S3 for bucket: glueray-local, key: bad.zip."),
    ],
)
def test_a_bad_zip_fails_the_run(
    glue: Any, s3: Any, make_job: Callable[..., str], wait_for: Callable[..., Any], body: bytes | None, words: str
) -> None:
    """The run fails, and its ErrorMessage has the reason."""
    s3.delete_object(Bucket=local_client.BUCKET, Key="bad.zip")
    if body is not None:
        s3.put_object(Bucket=local_client.BUCKET, Key="bad.zip", Body=body)
    job = make_job("", DefaultArguments={"--working-dir": f"s3://{local_client.BUCKET}/bad.zip"})
    run = wait_for(job, glue.start_job_run(JobName=job)["JobRunId"], "FAILED")
    assert words in run["ErrorMessage"]


def test_a_missing_script_fails_the_run(
    glue: Any, s3: Any, make_job: Callable[..., str], wait_for: Callable[..., Any]
) -> None:
    """CreateJob does not check the script; the run fails."""
    job = make_job()
    s3.delete_object(Bucket=local_client.BUCKET, Key=f"{job}.py")
    run = wait_for(job, glue.start_job_run(JobName=job)["JobRunId"], "FAILED")
    assert f"bucket: {local_client.BUCKET}, key: {job}.py" in run["ErrorMessage"]
    assert run["ExecutionTime"] == 0


def test_ray_data_reads_and_writes_the_endpoints_s3(
    glue: Any, s3: Any, logs: Any, make_job: Callable[..., str], wait_for: Callable[..., Any]
) -> None:
    """s3:// paths work in a script without endpoint settings."""
    uri = f"s3://{local_client.BUCKET}/rows"
    job = make_job(
        f"import ray\nray.init('auto')\nray.data.range(100, override_num_blocks=2).write_parquet('{uri}')\n"
        f"print('rows', ray.data.read_parquet('{uri}').count())"
    )
    run = glue.start_job_run(JobName=job)["JobRunId"]
    wait_for(job, run, "SUCCEEDED")
    assert "rows 100" in _script_log(logs, job, run)
    assert s3.list_objects_v2(Bucket=local_client.BUCKET, Prefix="rows/")["KeyCount"] > 0
