"""AWS's own Jupyter kernel, aws-glue-sessions 1.0.5, the last one that knows Ray, works with the local sessions.

The tests replace no part of the kernel: its magics send the requests, with its own Glue model, and it checks the
responses.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from airflow_provider_glueray.local import client as local_client
from tests.local.conftest import until

pytestmark = pytest.mark.full

#: `make test` creates this environment.
VENV = Path(__file__).parents[2] / ".venv-kernel"
#: This proxy accepts no connections: the kernel requests its newest version from PyPI and would wait without end.
NOWHERE = "http://127.0.0.1:9"
SETTINGS = """
%profile glueray-local
%region {region}
%iam_role arn:aws:iam::123456789012:role/GlueRayRole
%glue_ray
%worker_type Z.2X
%number_of_workers 2
%idle_timeout 60
%min_workers 1
%session_id_prefix notebook
"""
TASKS = """
@ray.remote
def inverse(number):
    return 1 / number

print("inverses:", ray.get([inverse.remote(number) for number in (1, 2, 4)]))
"""


@dataclasses.dataclass
class Cell:
    """A cell that was run: the kernel's reply and the output below the cell."""

    reply: dict[str, Any]
    shown: str

    @property
    def new_session(self) -> str:
        found = re.search(r"Session (notebook-[-0-9a-f]{36}) has been created\.", self.shown)
        assert found, self.shown
        return found[1]


class Notebook:
    """A notebook with that kernel."""

    def __init__(self, manager: KernelManager) -> None:
        self.manager = manager
        self.client = manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)

    def run(self, code: str) -> Cell:
        shown: list[str] = []

        def append_output(message: dict[str, Any]) -> None:
            content = message["content"]
            shown.append(content.get("text", "") + content.get("data", {}).get("text/plain", ""))

        reply = self.client.execute_interactive(code, timeout=120, allow_stdin=False, output_hook=append_output)
        return Cell(reply["content"], "".join(shown))


@pytest.fixture
def notebook(clean_endpoint: local_client.Endpoint, tmp_path: Path) -> Iterator[Notebook]:
    """Return a notebook; its own kernel.json starts the kernel, with an AWS profile for the endpoint.

    Without a profile, the kernel calls https://sts.us-east-1.amazonaws.com, whatever %endpoint and the environment are.
    """
    python = VENV / "bin" / "python"
    if not python.exists():
        pytest.fail(f"{python} is missing: run `make test`, or `make .venv-kernel/.ready` before pytest")
    (found,) = VENV.glob("lib/*/site-packages/aws_glue_interactive_sessions_kernel/glue_pyspark/kernel.json")
    spec = json.loads(found.read_text())
    spec["argv"][0] = str(python)  # jupyter_client would replace "python" by its own interpreter
    installed = tmp_path / "kernels" / "glue_pyspark" / "kernel.json"
    installed.parent.mkdir(parents=True)
    installed.write_text(json.dumps(spec))
    (tmp_path / "aws-config").write_text(
        "[profile glueray-local]\n"
        f"endpoint_url = {clean_endpoint.url}\n"
        f"aws_access_key_id = {local_client.ACCESS_KEY}\n"
        f"aws_secret_access_key = {local_client.SECRET_KEY}\n"
    )
    environment = {
        "PATH": f"{python.parent}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "AWS_CONFIG_FILE": str(tmp_path / "aws-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "no-credentials"),
        "HTTPS_PROXY": NOWHERE,
    }
    manager = KernelManager(
        kernel_name="glue_pyspark",
        kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(tmp_path / "kernels")]),
        connection_file=str(tmp_path / "connection.json"),
    )
    manager.start_kernel(env=environment, cwd=str(tmp_path))
    try:
        yield Notebook(manager)
    finally:
        if manager.has_kernel:
            manager.shutdown_kernel()


def test_a_notebook_on_ray(notebook: Notebook, glue: Any, session_becomes: Callable[..., dict[str, Any]]) -> None:
    """Magics set the session's settings, cells run on Ray, and an error, tags and the session's magics work."""
    settings = notebook.run(SETTINGS.format(region=glue.meta.region_name))
    assert "Installed kernel version: 1.0.5" in settings.shown
    assert "Setting new session type to glueray" in settings.shown

    first = notebook.run("import ray\nray.init('auto')\nsum(node['Alive'] for node in ray.nodes())")
    session = first.new_session
    assert first.reply["status"] == "ok"
    assert first.shown.splitlines()[-1] == "2"

    assert "inverses: [1.0, 0.5, 0.25]" in notebook.run(TASKS).shown.splitlines()

    failed = notebook.run("ray.get(inverse.remote(0))")
    assert (failed.reply["status"], failed.reply["ename"]) == ("error", "RayTaskError(ZeroDivisionError)")
    assert any("ray.get(inverse.remote(0))" in line for line in failed.reply["traceback"])
    assert failed.shown.rstrip().endswith("ZeroDivisionError: division by zero")

    assert "0.125" in notebook.run("print(ray.get(inverse.remote(8)))").shown.splitlines()

    notebook.run('%%tags\n{"tagged": "by the kernel"}')
    status = notebook.run("%status").shown.splitlines()
    assert {f"Session ID: {session}", "Status: READY", "Session Type: glueray", "Worker Type: Z.2X"} <= set(status)
    (tags,) = (line for line in status if line.startswith("Tags: "))
    assert "'tagged': 'by the kernel'" in tags
    # The column is as wide as the longest id of all sessions.
    assert re.search(rf"{session} +\| READY ", notebook.run("%list_sessions").shown)
    assert "Stopped session." in notebook.run("%stop_session").shown

    stopped = session_becomes(session, "STOPPED")
    assert stopped["Command"] == {"Name": "glueray", "PythonVersion": "3.9"}
    assert stopped["DefaultArguments"] == {
        "--glue_kernel_version": "1.0.5",
        "--enable-glue-datacatalog": "true",
        "--auto-scaling-ray-min-workers": "1",
    }
    shown = ("Role", "GlueVersion", "WorkerType", "NumberOfWorkers", "IdleTimeout")
    assert [stopped[name] for name in shown] == [local_client.ROLE_ARN, "4.0", "Z.2X", 2, 60]
    assert glue.list_sessions(Tags={"tagged": "by the kernel"})["Ids"] == [session]
    assert "There is no current session." in notebook.run("%status").shown


def test_the_kernel_handles_refusal_cancel_and_timeout(
    notebook: Notebook,
    clean_endpoint: local_client.Endpoint,
    session_becomes: Callable[..., dict[str, Any]],
    statement_becomes: Callable[..., dict[str, Any]],
) -> None:
    """It reports a closed account and a timed out session, cancels on interrupt, and stops the session at shutdown."""
    notebook.run(SETTINGS.format(region=clean_endpoint.region))
    clean_endpoint.faults(account_closed=True)
    assert "Glue Ray session type is not available in selected region." in notebook.run("print(1)").shown
    clean_endpoint.reset_faults()

    session = notebook.run("import time").new_session

    # The test does not wait for a reply: the kernel returns none for an interrupted cell, so ipykernel sends none.
    notebook.client.execute("time.sleep(600)", allow_stdin=False)
    requests_before = clean_endpoint.calls()["GetStatement"]
    until(lambda: clean_endpoint.calls()["GetStatement"], lambda count: count >= requests_before + 2)
    notebook.manager.interrupt_kernel()
    statement_becomes(session, 1, "CANCELLED")
    assert notebook.run("print('here')").shown.rstrip() == "here"

    clean_endpoint.faults(minute_seconds=0.01)
    session_becomes(session, "TIMEOUT")
    clean_endpoint.reset_faults()
    assert f"session_id={session} has reached TIMEOUT status." in notebook.run("print('again')").shown
    again = notebook.run("print('again')")
    assert again.shown.rstrip().endswith("again")

    notebook.manager.shutdown_kernel()
    session_becomes(again.new_session, "STOPPED")
