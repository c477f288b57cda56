"""The start and the end of sessions, on real kernels and real Ray."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_glueray.local import client as local_client
from airflow_provider_glueray.local.runtime import processes
from tests.local.conftest import error_code, until, write_wheel, zipped

Run = Callable[[str, str], dict[str, Any]]
Becomes = Callable[..., dict[str, Any]]
LOOP = "import time\nwhile True:\n    time.sleep(0.01)"


def text(statement: dict[str, Any]) -> str:
    return str(statement["Output"]["Data"]["TextPlain"])


def test_stop_while_a_statement_runs(
    glue: Any,
    make_session: Callable[..., str],
    run_code: Run,
    session_becomes: Becomes,
    clean_endpoint: local_client.Endpoint,
) -> None:
    """The session is STOPPING, then STOPPED; the statement is ERROR; both exist until the session is deleted."""
    session = make_session("READY", DefaultArguments={"--auto-scaling-ray-min-workers": "1"})
    directory = Path(text(run_code(session, "import os\nos.getcwd()")).strip("'"))
    assert directory.is_dir()
    statement = glue.run_statement(SessionId=session, Code=LOOP)["Id"]
    glue.stop_session(Id=session)
    assert error_code(glue.stop_session, Id=session) == "IllegalSessionStateException"
    stopped = session_becomes(session, "STOPPED")
    assert stopped["DPUSeconds"] == stopped["ExecutionTime"] * 4
    assert stopped["ExecutionTime"] > 0
    assert "ErrorMessage" not in stopped
    ended = glue.get_statement(SessionId=session, Id=statement)["Statement"]
    assert (ended["State"], ended["Output"]) == ("ERROR", {})
    assert error_code(glue.cancel_statement, SessionId=session, Id=statement) == "IllegalSessionStateException"
    assert not directory.exists()


def test_delete_ends_a_live_session(glue: Any, make_session: Callable[..., str], run_code: Run) -> None:
    """The API removes the session at once; its processes end soon after."""
    session = make_session("READY")
    code = "import os, subprocess\nos.getpid(), subprocess.Popen(['sleep', '600'], start_new_session=True).pid"
    pids = ast.literal_eval(text(run_code(session, code)))
    glue.delete_session(Id=session)
    assert error_code(glue.get_session, Id=session) == "EntityNotFoundException"
    assert error_code(glue.get_statement, SessionId=session, Id=0) == "EntityNotFoundException"
    until(lambda: [pid for pid in pids if processes.alive(pid)], lambda left: not left)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os, time\nos.kill(os.getpid(), 9)\ntime.sleep(600)", "killed by SIGKILL"),
        ("import os\nprint('last', flush=True)\nos._exit(7)", "exit code 7"),
    ],
)
def test_a_dead_kernel_fails_the_session(
    glue: Any, make_session: Callable[..., str], session_becomes: Becomes, code: str, words: str
) -> None:
    """The ErrorMessage has the reason."""
    session = make_session("READY")
    statement = glue.run_statement(SessionId=session, Code=code)["Id"]
    failed = session_becomes(session, "FAILED")
    assert failed["ErrorMessage"] == f"The session's Python process has died: {words}"
    assert glue.get_statement(SessionId=session, Id=statement)["Statement"]["State"] == "ERROR"
    assert error_code(glue.run_statement, SessionId=session, Code="1") == "IllegalSessionStateException"


def test_timeouts(
    glue: Any,
    make_session: Callable[..., str],
    session_becomes: Becomes,
    clean_endpoint: local_client.Endpoint,
) -> None:
    """IdleTimeout ends an idle session, Timeout a busy one; RunStatement then gives InvalidInputException."""
    idle = make_session("READY", IdleTimeout=1)
    busy = make_session("READY", IdleTimeout=1, Timeout=1000)
    looping = glue.run_statement(SessionId=busy, Code=LOOP)["Id"]
    clean_endpoint.faults(minute_seconds=1)
    ended = session_becomes(idle, "TIMEOUT")
    assert (ended["IdleTimeout"], ended["ExecutionTime"] >= 1) == (1, True)
    assert error_code(glue.run_statement, SessionId=idle, Code="1") == "InvalidInputException"
    assert glue.get_session(Id=busy)["Session"]["Status"] == "READY"
    clean_endpoint.faults(minute_seconds=0.001)
    assert session_becomes(busy, "TIMEOUT")["ExecutionTime"] >= 1
    assert glue.get_statement(SessionId=busy, Id=looping)["Statement"]["State"] == "ERROR"


def test_dependencies_reach_driver_and_workers(
    s3: Any, make_session: Callable[..., str], run_code: Run, tmp_path: Path
) -> None:
    """Pip packages, zipped modules and the working directory work as for runs."""
    wheels = {name: write_wheel(tmp_path, name, "1.0", f"WORD = '{name}'") for name in ("tinyone", "tinytwo")}
    s3.put_object(
        Bucket=local_client.BUCKET,
        Key="session-work.zip",
        Body=zipped(**{"work/data.txt": "forty-two", "work/beside.py": "B = 'b'"}),
    )
    s3.put_object(Bucket=local_client.BUCKET, Key="session-mod.zip", Body=zipped(**{"top/answers.py": "Y = 'yes'"}))
    session = make_session(
        "READY",
        DefaultArguments={
            "--working-dir": f"s3://{local_client.BUCKET}/session-work.zip",
            "--s3-py-modules": f"s3://{local_client.BUCKET}/session-mod.zip",
            "--pip-install": wheels["tinyone"],
            "--additional-python-modules": wheels["tinytwo"],
        },
    )
    code = (
        "import ray\ndef words():\n    import answers, beside, tinyone, tinytwo\n"
        "    return open('data.txt').read(), answers.Y, beside.B, tinyone.WORD, tinytwo.WORD\n"
        "ray.init(logging_level='ERROR')\nwords() == ray.get(ray.remote(words).remote()), words()"
    )
    expected = "(True, ('forty-two', 'yes', 'b', 'tinyone', 'tinytwo'))"
    assert text(run_code(session, code)).endswith(expected)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"--working-dir": "s3://glueray-local/absent.zip"}, "LAUNCH ERROR | Error downloading from S3 for bucket"),
        ({"PYTHONHOME": "/absent"}, "The session's Python did not start: "),
    ],
)
def test_a_session_that_cannot_start_fails(
    glue: Any, make_session: Callable[..., str], arguments: dict[str, str], words: str
) -> None:
    """The ErrorMessage has the reason."""
    session = make_session("FAILED", DefaultArguments=arguments)
    assert glue.get_session(Id=session)["Session"]["ErrorMessage"].startswith(words)
