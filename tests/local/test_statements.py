"""Statements on a real kernel and real Ray: outputs, errors, cancelling, lists, pages."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from botocore.exceptions import ConnectionClosedError

from airflow_provider_glueray.local import client as local_client
from tests.local.conftest import error_code, until

Run = Callable[[str, str], dict[str, Any]]
Becomes = Callable[..., dict[str, Any]]
LOOP = "import time\nprint('looping')\nwhile True:\n    time.sleep(0.01)"
STUBBORN = """
import time
for _ in range(2):
    try:
        print("holding")
        time.sleep(600)
    except KeyboardInterrupt:
        pass
"""
NODES = """
import ray
ray.init("auto")
nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]

@ray.remote
def where():
    return ray.get_runtime_context().get_node_id()

def strategy(node):
    return ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)

ran = ray.get([where.options(scheduling_strategy=strategy(node)).remote() for node in nodes])
"""


def text(statement: dict[str, Any]) -> str:
    return str(statement["Output"]["Data"]["TextPlain"])


def log_ends_with(endpoint: local_client.Endpoint, session: str, end: str) -> None:
    until(lambda: page(endpoint, f"{session}/log"), lambda log: log.endswith(end))


def page(endpoint: local_client.Endpoint, path: str) -> str:
    return httpx.get(f"{endpoint.url}/_glueray/sessions/{path}").raise_for_status().text


def test_a_value_and_the_printed_output(ready_session: str, run_code: Run) -> None:
    """Output is in order, also of stderr and child processes; the value comes last; variables stay."""
    before = time.time() * 1000 - 1
    statement = run_code(
        ready_session,
        "import os, sys\nx = 40\nprint('one')\nprint('two', file=sys.stderr)\nprint('three')\n"
        "sys.stdout.flush()\nos.system('echo four; echo five >&2; sleep 0.1')\nx + 2",
    )
    assert before < statement["StartedOn"] <= statement["CompletedOn"] < time.time() * 1000 + 1
    output = statement["Output"]
    assert output["Data"] == {"TextPlain": "one\ntwo\nthree\nfour\nfive\n42"}
    assert output["Status"] == "ok"
    assert "ErrorName" not in output
    following = run_code(ready_session, "x += 1\nprint(x)")
    assert text(following) == "41\n"
    assert following["Output"]["ExecutionCount"] == output["ExecutionCount"] + 1
    assert following["Id"] == statement["Id"] + 1


def test_arguments_are_environment_variables(ready_session: str, run_code: Run) -> None:
    """A session gets its arguments as a script does, without those that configure the cluster."""
    statement = run_code(ready_session, "import os\nos.environ['my-arg'], 'object_store_memory_head' in os.environ")
    assert text(statement) == '("it\'s 1 = $HOME", False)'


@pytest.mark.parametrize(
    ("code", "name", "value", "printed"),
    [
        ("print('before')\ndef f():\n    raise ValueError('no rows')\nf()", "ValueError", "no rows", "before\n"),
        ("1 +* 2", "SyntaxError", "invalid syntax", ""),
        ("import sys\nsys.exit(3)", "SystemExit", "3", ""),
        ("input()", "StdinNotImplementedError", "raw_input was called", ""),
    ],
)
def test_an_exception_is_an_output(
    ready_session: str, run_code: Run, code: str, name: str, value: str, printed: str
) -> None:
    """The statement is AVAILABLE with Status error, lines without colours, and the output before the error."""
    output = run_code(ready_session, code)["Output"]
    assert output["Status"] == "error"
    assert (output["ErrorName"], value in output["ErrorValue"]) == (name, True), output
    assert output["Data"]["TextPlain"].startswith(printed)
    assert output["Traceback"][-1].startswith(name)
    assert not any("\x1b" in line or "\n" in line for line in output["Traceback"])


def test_statements_use_the_cluster(ready_session: str, run_code: Run) -> None:
    """ray.init("auto") attaches, tasks run on both nodes, and boto3 uses the endpoint's S3."""
    assert text(run_code(ready_session, NODES + "len(nodes), ran == nodes")).endswith("(2, True)")
    buckets = "[b['Name'] for b in boto3.client('s3').list_buckets()['Buckets']]"
    code = f"import boto3\n{buckets}.count('{local_client.BUCKET}')"
    assert text(run_code(ready_session, code)) == "1"


def test_one_statement_at_a_time_and_cancel(
    glue: Any, ready_session: str, run_code: Run, statement_becomes: Becomes, clean_endpoint: local_client.Endpoint
) -> None:
    """The log has an endless loop's output live, and late output of a thread; a cancel ends the loop only."""
    late = "import threading\nthreading.Timer(0.2, print, ['late']).start()\nkept = 'kept'"
    assert text(run_code(ready_session, late)) == ""
    log_ends_with(clean_endpoint, ready_session, "late\n")
    looping = glue.run_statement(SessionId=ready_session, Code=LOOP)["Id"]
    assert error_code(glue.run_statement, SessionId=ready_session, Code="1") == "SessionBusyException"
    statement_becomes(ready_session, looping, "RUNNING")
    log_ends_with(clean_endpoint, ready_session, "looping\n")
    glue.cancel_statement(SessionId=ready_session, Id=looping)
    cancelled = statement_becomes(ready_session, looping, "CANCELLED")
    assert cancelled["Output"] == {}
    assert text(run_code(ready_session, "kept")) == "'kept'"
    glue.cancel_statement(SessionId=ready_session, Id=looping)
    assert glue.get_statement(SessionId=ready_session, Id=looping)["Statement"] == cancelled


def test_a_cancel_is_repeated(
    glue: Any, ready_session: str, statement_becomes: Becomes, clean_endpoint: local_client.Endpoint
) -> None:
    """SIGINT comes again; a statement that then ends by itself is CANCELLED too."""
    statement = glue.run_statement(SessionId=ready_session, Code=STUBBORN)["Id"]
    log_ends_with(clean_endpoint, ready_session, "holding\n")
    glue.cancel_statement(SessionId=ready_session, Id=statement)
    statement_becomes(ready_session, statement, "CANCELLED")


def test_a_dropped_response_hides_a_statement_that_runs_once(
    glue: Any, ready_session: str, run_code: Run, statement_becomes: Becomes, clean_endpoint: local_client.Endpoint
) -> None:
    """The caller gets no id; the list has the statement as its last one."""
    before = run_code(ready_session, "count = 0")["Id"]
    clean_endpoint.faults(drop_next={"RunStatement": 1})
    with pytest.raises(ConnectionClosedError):
        glue.run_statement(SessionId=ready_session, Code="count += 1")
    assert listed(glue, ready_session)[-1]["Code"] == "count += 1"
    statement_becomes(ready_session, before + 1, "AVAILABLE")
    following = run_code(ready_session, "count")
    assert (following["Id"], text(following)) == (before + 2, "1")


def listed(glue: Any, session: str) -> list[dict[str, Any]]:
    token: dict[str, str] = {}
    found: list[dict[str, Any]] = []
    while True:
        response = glue.list_statements(SessionId=session, **token)
        found += response["Statements"]
        if "NextToken" not in response:
            return found
        token = {"NextToken": response["NextToken"]}


def test_lists_are_paged(glue: Any, ready_session: str, run_code: Run) -> None:
    """Statements are listed oldest first, 50 per page."""
    while len(statements := listed(glue, ready_session)) <= 50:
        run_code(ready_session, "None")
    assert [statement["Id"] for statement in statements] == list(range(len(statements)))
    first = glue.list_statements(SessionId=ready_session)
    assert (len(first["Statements"]), "NextToken" in first) == (50, True)


def test_fifty_megabytes_of_output_are_complete(
    glue: Any, client: Callable[..., Any], ready_session: str, clean_endpoint: local_client.Endpoint
) -> None:
    """The endpoint responds to other requests meanwhile, and the log keeps the end of the output."""
    unchecked = client("glue")
    code = "for n in range(500):\n    print(f'{n:03}' + 'x' * 99_996)"
    statement = glue.run_statement(SessionId=ready_session, Code=code)["Id"]

    def read() -> dict[str, Any]:
        found: dict[str, Any] = unchecked.get_statement(SessionId=ready_session, Id=statement)["Statement"]
        return found

    with ThreadPoolExecutor() as pool:
        polling = pool.submit(until, read, lambda found: found["State"] == "AVAILABLE")
        requests = 0
        while not polling.done():
            clean_endpoint.status()
            requests += 1
            time.sleep(0.02)
    assert text(polling.result()) == "".join(f"{n:03}" + "x" * 99_996 + "\n" for n in range(500))
    assert requests >= 5
    log = page(clean_endpoint, f"{ready_session}/log")
    assert log.startswith("(the beginning is left out)\n")
    assert log.endswith("x\n")
    assert len(log) < 1_100_000


def test_the_page_of_a_session(ready_session: str, run_code: Run, clean_endpoint: local_client.Endpoint) -> None:
    """The page has the session's fields and each statement with its output."""
    statement = run_code(ready_session, "print('shown')\n1 / 0")
    shown = page(clean_endpoint, ready_session)
    assert re.search(f"^Id +{ready_session}$", shown, re.MULTILINE)
    assert f"\nStatement {statement['Id']}  AVAILABLE  2" in shown
    assert "\nprint('shown')\n1 / 0\nshown\n" in shown
    assert shown.endswith("ZeroDivisionError: division by zero\n")
    assert httpx.get(f"{clean_endpoint.url}/_glueray/sessions/absent").status_code == 404
