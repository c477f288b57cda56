"""The programs of `glueray_step` that are sent as text: their Python, and how they are run."""

from __future__ import annotations

import ast
import base64
import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import httpx
import pytest
from moto.server import ThreadedMotoServer

import airflow_provider_glueray.glueray_step
from airflow_provider_glueray.packaging.programs import program_text

FILES = sorted(Path(airflow_provider_glueray.glueray_step.__file__).parent.glob("*.py"))
PROGRAMS = ["fetch_and_run", "note_start", "run_cells", "run_with_min_workers", "request_min_workers"]
SHOWS = """
import json, os, sys
print(json.dumps([__name__, sys.argv[1:], os.path.basename(__file__), os.environ.get("a"), os.getpid()]), flush=True)
"""


def run(program: str, *words: str, **variables: str) -> subprocess.Popen[str]:
    """Start a program of an environment variable as a request does."""
    env = {**os.environ, "GLUERAY_MAIN": program_text(program), **variables}
    command = [sys.executable, "-c", 'import os; exec(os.environ["GLUERAY_MAIN"])', *words]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_python_39(path):
    """Mypy does not know this version any more."""
    ast.parse(path.read_text(), feature_version=(3, 9))


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_text_that_nothing_expands(name):
    """Ray and Kubernetes expand what follows a dollar sign; Linux takes 128 KiB as one variable."""
    text = program_text(name)

    assert "$" not in text
    assert text.isascii()
    assert len(text) < 2000


def test_an_import_runs_nothing():
    """So that a program can be read by tools as any other module."""
    code = "\n".join(f"import airflow_provider_glueray.glueray_step.{path.stem}" for path in FILES)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


class TestFetchAndRun:
    @pytest.fixture
    def uri(self, tmp_path):
        """Return the URI of a script; `source` is written to it."""
        (tmp_path / "a script.py").write_text(SHOWS)
        return f"file://{tmp_path}/a script.py"

    def test_a_script_of_the_command_line(self, uri):
        """It has the process and the words after its URI."""
        process = run("fetch_and_run", uri, "--a", "$x y")
        out, err = process.communicate(timeout=60)

        assert json.loads(out) == ["__main__", ["--a", "$x y"], "a script.py", None, process.pid], err

    def test_a_script_of_the_environment(self, uri):
        """Its arguments are variables too."""
        process = run("fetch_and_run", GLUERAY_SCRIPT=uri, GLUERAY_ARGUMENTS='{"a": "$x y"}')
        out, err = process.communicate(timeout=60)

        assert json.loads(out) == ["__main__", ["--a", "$x y"], "a script.py", "$x y", process.pid], err

    def test_a_script_of_one_run_in_a_shared_cluster(self, uri):
        given = {"GLUERAY_SCRIPT": uri, "GLUERAY_ARGUMENTS": '{"a": "1"}', "GLUERAY_SECONDS": "0"}
        process = run("fetch_and_run", GLUERAY_RUN=base64.b64encode(json.dumps(given).encode()).decode())
        out, err = process.communicate(timeout=60)

        assert json.loads(out) == ["__main__", ["--a", "1"], "a script.py", "1", process.pid], err

    def test_its_end_is_the_scripts(self, uri, tmp_path):
        """The exit code, and a traceback with no frame of ours."""
        (tmp_path / "a script.py").write_text("def fail():\n    raise SystemError('no')\n\nfail()\n")
        process = run("fetch_and_run", uri)
        _, err = process.communicate(timeout=60)

        assert process.returncode == 1
        frames = [line.split(", ")[1:] for line in err.splitlines() if line.startswith("  File ")]
        assert frames == [["line 4", "in <module>"], ["line 2", "in fail"]]

    def test_signals_are_the_scripts(self, uri, tmp_path):
        (tmp_path / "a script.py").write_text(
            "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(9))\n"
            "print('ready', flush=True)\nsignal.pause()\n"
        )
        process = run("fetch_and_run", uri)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)

        assert process.returncode == 9


def test_run_with_min_workers(tmp_path):
    """The command has the process, and the program beside it the number and the id."""
    asks = f"import sys; open({str(tmp_path / 'asked.part')!r}, 'w').write(repr(sys.argv)); "
    asks += f"import os; os.rename({str(tmp_path / 'asked.part')!r}, {str(tmp_path / 'asked')!r})"
    waits = (
        f"import os, sys, time\nwhile not os.path.exists({str(tmp_path / 'asked')!r}): time.sleep(0.05)\n"
        "print(os.getpid(), sys.argv[1:])\nsys.exit(7)"
    )
    process = run(
        "run_with_min_workers", "16", sys.executable, "-c", waits, "--a", "b", GLUERAY_REQUEST_MIN_WORKERS=asks
    )
    out, err = process.communicate(timeout=60)

    assert (out, process.returncode) == (f"{process.pid} ['--a', 'b']\n", 7), err
    assert (tmp_path / "asked").read_text() == f"['-c', '16', '{process.pid}']"


@pytest.fixture(scope="module")
def store():
    """Return the environment of who talks to an S3 that has a bucket."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        where = {"AWS_ENDPOINT_URL": "http://127.0.0.1:{1}".format(*server.get_host_and_port())}
        where |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
        with pytest.MonkeyPatch.context() as patch:
            for name, text in where.items():
                patch.setenv(name, text)
            boto3.client("s3").create_bucket(Bucket="starts")
        yield where
    finally:
        server.stop()


def noting(store: dict[str, str], uri: str) -> tuple[int, str]:
    """Run what notes a start; return its status and what it says."""
    process = run("note_start", **store, GLUERAY_STARTED=uri)
    said = process.communicate(timeout=120)[1]
    return process.returncode, said


def test_a_start_is_noted_once(store):
    """A second start of the run ends with a sentence; that of another run goes on."""
    assert noting(store, "s3://starts/staging/a/started/1") == (0, "")
    status, said = noting(store, "s3://starts/staging/a/started/1")

    assert status == 1
    assert said.startswith(
        "glueray: this run has started before (s3://starts/staging/a/started/1 says so) and does not"
    )
    assert noting(store, "s3://starts/staging/a/started/2") == (0, "")


def test_of_many_at_once_one_starts(store):
    """Whoever they are: S3 takes the first note only."""
    processes = [run("note_start", **store, GLUERAY_STARTED="s3://starts/at/once") for _ in range(4)]
    for process in processes:
        process.communicate(timeout=240)

    assert sorted(process.returncode for process in processes) == [0, 1, 1, 1]


def test_what_cannot_be_noted_runs(store):
    """The script's log says that this guard is missing."""
    status, said = noting(store, "s3://nowhere-at-all/started/1")

    assert status == 0
    assert "the start could not be noted, so a second one would not be refused" in said


class Forgetful(BaseHTTPRequestHandler):
    """Passes requests on to S3; of the first that writes, the answer is lost."""

    protocol_version = "HTTP/1.1"
    there = ""
    is_lost = False

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer = httpx.request(self.command, f"{self.there}{self.path}", headers=dict(self.headers), content=body)
        if self.command == "PUT" and not Forgetful.is_lost:
            Forgetful.is_lost = self.close_connection = True
            return
        self.send_response(answer.status_code)
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    do_GET = do_PUT = _pass_on  # noqa: N815

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def test_a_lost_answer_is_no_second_start(store):
    """boto3 repeats the request, and finds its own note."""
    Forgetful.there, Forgetful.is_lost = store["AWS_ENDPOINT_URL"], False
    with ThreadingHTTPServer(("127.0.0.1", 0), Forgetful) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        near = {**store, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}"}
        status, said = noting(near, "s3://starts/lost/1")
        server.shutdown()

    assert Forgetful.is_lost
    assert (status, said) == (0, "")
    assert noting(store, "s3://starts/lost/1")[0] == 1
