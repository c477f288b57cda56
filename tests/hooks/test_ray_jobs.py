"""The Ray hook over HTTP on real clusters: Ray 2.9, and the newest, which is that of the local endpoint."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from airflow_provider_glueray.drive import drive
from airflow_provider_glueray.errors import (
    ConnectionMissing,
    JobConflict,
    RequestRefused,
    RunLost,
    SpecError,
    SubmitError,
    failure_of,
)
from airflow_provider_glueray.follow import Policy, follow
from airflow_provider_glueray.hooks.ray_jobs import RayJobsHook
from airflow_provider_glueray.local import control, processes
from airflow_provider_glueray.local.cluster import free_ports
from airflow_provider_glueray.runs import LogCursor, Outcome, RunRef, RunState
from airflow_provider_glueray.spec import RayJobSpec, Workers

#: `make test` makes it.
OLD = Path(__file__).parents[2] / ".venv-ray29"
NUMBERS = itertools.count()
SHOWS = """
import json, os, sys
import ray

ray.init()

@ray.remote
def in_task():
    import helpers
    return [os.environ["day"], helpers.WORDS]

print(json.dumps({"argv": sys.argv[1:], "env": os.environ["day"], "odd": os.environ["with-hyphen"],
                  "price": os.environ["price"], "task": ray.get(in_task.remote()),
                  "data": open("data/table.txt").read()}))
"""


def connection(endpoint: control.Endpoint, **changes: Any) -> dict[str, Any]:
    """Return the JSON of a connection of type `ray` to the endpoint's cluster."""
    ray = endpoint.ray()
    return {"conn_type": "ray", "host": ray["dashboard"], "password": ray["token"], **changes}


@pytest.fixture(scope="module")
def old_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Return the connection to a cluster of the oldest Ray, which knows no tokens."""
    if not (OLD / ".ready").exists():
        pytest.skip(f"there is no {OLD.name}; `make test` makes it")
    port, *others = free_ports("127.0.0.1", 3)
    directory = Path(tempfile.mkdtemp(prefix="ray29-"))  # short: a socket path has 107 characters
    command = [
        str(OLD / "bin" / "ray"), "start", "--head", "--block", "--node-ip-address", "127.0.0.1",
        "--dashboard-host", "127.0.0.1", "--dashboard-port", str(port), "--port", str(others[0]),
        "--ray-client-server-port", str(others[1]), "--min-worker-port", "0", "--max-worker-port", "0",
        "--num-cpus", "8", "--object-store-memory", "100000000", "--disable-usage-stats", "--temp-dir", str(directory),
    ]  # fmt: skip
    environment = {**processes.plain_environment(), "PATH": f"{OLD / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    head = processes.spawn(command, environment, directory / "start.log")
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/api/version").is_success:
                    break
            time.sleep(0.2)
        yield {"conn_type": "ray", "host": url}
    finally:
        processes.end_sessions([head.pid])
        head.wait(timeout=10)
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(params=["newest", "2.9"])
def hook(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> RayJobsHook:
    """Return the hook, at both ends of what it speaks to."""
    if request.param == "newest":
        conn = connection(request.getfixturevalue("endpoint"))
    else:
        conn = request.getfixturevalue("old_cluster")
    monkeypatch.setenv("AIRFLOW_CONN_RAY_DEFAULT", json.dumps(conn))
    return RayJobsHook()


@pytest.fixture
def new_hook(endpoint: control.Endpoint, monkeypatch: pytest.MonkeyPatch) -> RayJobsHook:
    """Return the hook on the newest Ray only."""
    monkeypatch.setenv("AIRFLOW_CONN_RAY_DEFAULT", json.dumps(connection(endpoint)))
    return RayJobsHook()


@pytest.fixture
def make_spec(tmp_path: Path) -> Callable[..., RayJobSpec]:
    """Return a factory of specs for a script given as text."""

    def make(source: str = "print('hello')\n", **fields: Any) -> RayJobSpec:
        script = tmp_path / f"step-{next(NUMBERS)}.py"
        script.write_text(source)
        return RayJobSpec(**{"name": "tried", "script": str(script), "role": None, **fields})

    return make


def start(hook: RayJobsHook, spec: RayJobSpec, mark: str | None = None, **arguments: str) -> RunRef:
    return hook.prepare(spec).start(mark or f"mark{next(NUMBERS)}", arguments)


class Pages:
    """A log that remembers what was written to it."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, level: int, msg: str, /, *args: Any) -> None:
        self.lines.append(msg % args)

    def info(self, msg: str, /, *args: Any) -> None:
        self.lines.append(msg % args)


def follow_to_end(hook: RayJobsHook, ref: RunRef, **policy: Any) -> tuple[Outcome, list[str]]:
    pages = Pages()
    outcome = drive(follow(ref, Policy(poll_seconds=1.0, **policy)), hook, ref, pages)
    return outcome, [line.removeprefix("[script] ") for line in pages.lines if line.startswith("[script]")]


def test_everything_of_the_spec_arrives(hook, make_spec, tmp_path):
    """Arguments in the environment, of workers too, and in argv; modules and files from the cluster's own store."""
    (tmp_path / "helpers.py").write_text("WORDS = 'from a module'\n")
    (tmp_path / "work" / "data").mkdir(parents=True)
    (tmp_path / "work" / "data" / "table.txt").write_text("of the working dir")
    spec = make_spec(
        SHOWS,
        arguments={"day": "it's; 1e-5", "with-hyphen": "yes", "price": "$HOME ${HOME}"},
        py_modules=[str(tmp_path / "helpers.py")],
        working_dir=str(tmp_path / "work"),
    )
    outcome, lines = follow_to_end(hook, start(hook, spec))

    assert outcome.snapshot.state is RunState.SUCCEEDED, lines
    said = json.loads(next(line for line in lines if line.startswith("{")))
    assert said == {
        "argv": ["--day", "it's; 1e-5", "--with-hyphen", "yes", "--price", "$HOME ${HOME}"],
        "env": "it's; 1e-5",
        "price": "$HOME ${HOME}",
        "odd": "yes",
        "task": ["it's; 1e-5", "from a module"],
        "data": "of the working dir",
    }
    assert outcome.snapshot.usage is not None
    assert outcome.snapshot.usage.seconds > 0


def test_a_script_in_s3(new_hook, endpoint, make_spec, monkeypatch):
    """The cluster fetches it by itself, and it is the main program."""
    from airflow_provider_glueray.hooks.glue_jobs import GlueRayJobHook

    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(endpoint.airflow_connection()))
    GlueRayJobHook().write_text("s3://glueray-local/ray/main.py", "import sys\nprint(__name__, sys.argv[1:])\n")
    outcome, lines = follow_to_end(new_hook, start(new_hook, make_spec(script="s3://glueray-local/ray/main.py"), a="b"))

    assert outcome.snapshot.state is RunState.SUCCEEDED, lines
    assert "__main__ ['--a', 'b']" in lines


def test_a_failure_has_the_end_of_its_log(hook, make_spec):
    """Exit 7: the state, Ray's words, and what was printed, in order and without a gap."""
    source = (
        "import sys\nfor n in range(200):\n    print('line', n, flush=True)\nsys.stdout.write('no end')\nsys.exit(7)\n"
    )
    outcome, lines = follow_to_end(hook, start(hook, make_spec(source)))

    assert outcome.snapshot.state is RunState.FAILED
    assert "exit code 7" in outcome.snapshot.message
    shown = [line for line in lines if line.startswith("line") or line == "no end"]
    assert shown == [f"line {number}" for number in range(200)] + ["no end"]
    assert "exit code 7" in str(failure_of(outcome, hook.url(outcome.snapshot.ref)))


def test_one_mark_is_one_run(hook, make_spec):
    """The request sent again finds its own run; somebody else's id is not taken over."""
    spec = make_spec()
    prepared = hook.prepare(spec)
    first = prepared.start("same", {})
    assert prepared.start("same", {}) == first
    assert [snapshot.ref for snapshot in hook.find_runs("tried", "same")] == [first]
    assert hook.find_runs("tried", "never") == []

    body = {"entrypoint": "true", "submission_id": "glueray-theirs", "metadata": {"glueray_mark": "another"}}
    hook._ask("POST", "/api/jobs/", json=body)
    with pytest.raises(JobConflict, match="is taken by a job that is not of this task"):
        prepared.start("theirs", {})


def test_stopped_and_stopped_again(hook, make_spec):
    ref = start(hook, make_spec("import time\ntime.sleep(120)\n"))
    hook.stop(ref)
    outcome, _ = follow_to_end(hook, ref)
    assert outcome.snapshot.state is RunState.STOPPED
    hook.stop(ref)
    hook.stop(RunRef("ray-job", "tried", "glueray-nobody"))


def test_the_deadline_stops_it(hook, make_spec):
    ref = start(hook, make_spec("import time\ntime.sleep(120)\n"))
    outcome, _ = follow_to_end(hook, ref, deadline=time.time() + 2)

    assert outcome.deadline_passed
    assert outcome.snapshot.state is RunState.STOPPED


def test_many_are_described_by_one_call(hook, make_spec, monkeypatch):
    refs = [start(hook, make_spec(name=f"n{number}")) for number in range(3)]
    asked = []
    ask = hook._ask
    monkeypatch.setattr(hook, "_ask", lambda *args, **kwargs: asked.append(args) or ask(*args, **kwargs))

    assert set(hook.describe(refs)) == set(refs)
    assert asked == [("GET", "/api/jobs/")]
    assert hook.latest_run("n2").ref == refs[2]
    assert hook.latest_run("nobody") is None


def test_a_cluster_that_does_not_know_it_has_lost_it(hook):
    ref = RunRef("ray-job", "tried", "glueray-gone")
    snapshot = hook.describe([ref])[ref]

    assert snapshot.state is RunState.LOST
    assert isinstance(failure_of(Outcome(snapshot)), RunLost)
    assert hook.read_logs({ref: LogCursor()}, ["script"])[ref].lines == []


def test_nothing_is_uploaded_twice(hook, make_spec, monkeypatch):
    spec = make_spec()
    hook.prepare(spec)
    asked = []
    ask = hook._ask
    monkeypatch.setattr(hook, "_ask", lambda *args, **kwargs: asked.append(args[0]) or ask(*args, **kwargs))
    hook.prepare(spec)

    assert "PUT" not in asked


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"spilling": {"type": "filesystem"}}, "spilling: it is set when a Ray cluster is started"),
        ({"workers": Workers(object_store_memory_head=30)}, "object_store_memory_head: it is set when"),
        ({"overrides": {"ray": {"entrypoint_num_cpu": 1}}}, r"overrides\['ray'\] has 'entrypoint_num_cpu'"),
    ],
)
def test_what_a_running_cluster_cannot_give_is_refused(hook, make_spec, fields, words):
    with pytest.raises(SpecError, match=words):
        hook.prepare(make_spec(**fields))


def test_overrides_reach_the_request(hook, make_spec):
    """Such as the room that the driver itself takes."""
    ref = start(hook, make_spec(overrides={"ray": {"entrypoint_num_cpus": 1, "metadata": {"team": "etl"}}, "glue": {}}))

    assert hook._job(ref.id)["metadata"]["team"] == "etl"


# -- trouble -------------------------------------------------------------------------------------------------


@pytest.fixture
def answering() -> Iterator[Callable[[Callable[[BaseHTTPRequestHandler], None]], str]]:
    """Return what starts a server that answers as a test says, and gives its URL."""
    servers = []

    def serve(answer: Callable[[BaseHTTPRequestHandler], None]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            do_GET = do_POST = do_PUT = answer  # noqa: N815

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def at(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> RayJobsHook:
    monkeypatch.setenv("AIRFLOW_CONN_RAY_DEFAULT", json.dumps({"conn_type": "ray", **fields}))
    return RayJobsHook()


def test_a_wrong_token_is_said_plainly(endpoint, monkeypatch, make_spec):
    hook = at(monkeypatch, **{**connection(endpoint, password="wrong"), "conn_type": "ray"})

    with pytest.raises(RequestRefused, match=r"refuses the token \(40[13]\)"):
        hook.prepare(make_spec())
    assert hook.test_connection()[0] is False


def test_the_button_says_which_ray(hook):
    import ray

    assert hook.test_connection() in ((True, f"Ray {ray.__version__}"), (True, "Ray 2.9.3"))


def test_nobody_there(monkeypatch, make_spec):
    with pytest.raises(SubmitError, match=r"no way to Ray at http://127.0.0.1:9"):
        at(monkeypatch, host="127.0.0.1", port=9).prepare(make_spec())
    monkeypatch.delenv("AIRFLOW_CONN_RAY_DEFAULT")
    with pytest.raises(ConnectionMissing, match="no connection 'ray_default'"):
        RayJobsHook().prepare(make_spec())


def test_a_server_that_is_too_old_or_no_ray(answering, monkeypatch, make_spec):
    def old(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(b'{"version": "4", "ray_version": "2.4.0"}')

    def other(handler: BaseHTTPRequestHandler) -> None:
        handler.send_error(404)

    with pytest.raises(RequestRefused, match=r"has Ray 2\.4\.0; 2\.9 is the oldest"):
        at(monkeypatch, host=answering(old)).prepare(make_spec())
    with pytest.raises(RequestRefused, match="is no Ray Jobs API"):
        at(monkeypatch, host=answering(other)).prepare(make_spec())


def test_plain_http_where_tls_is_spoken_of(answering, monkeypatch, make_spec):
    """A handshake that fails is no way to Ray, in words."""
    url = answering(lambda handler: handler.send_error(404))
    with pytest.raises(SubmitError, match="no way to Ray at https://"):
        at(monkeypatch, host=urlsplit(url).hostname, port=urlsplit(url).port, schema="https").prepare(make_spec())
    with pytest.raises(SpecError, match="not the path of a CA"):
        at(monkeypatch, host=url, extra={"verify": "/nowhere.pem"}).prepare(make_spec())


def test_a_lost_answer_starts_nothing_twice(endpoint, answering, monkeypatch, make_spec):
    """A gateway drops the answer to the start: the request is sent again, and Ray knows its id."""
    ray = endpoint.ray()
    starts = []

    def forward(handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        kept = {name: text for name, text in handler.headers.items() if name.lower() not in ("host", "content-length")}
        answer = httpx.request(handler.command, ray["dashboard"] + handler.path, content=body, headers=kept, timeout=30)
        if (handler.command, handler.path) == ("POST", "/api/jobs/"):
            starts.append(answer.status_code)
            if len(starts) == 1:
                handler.close_connection = True
                return
        handler.send_response(answer.status_code)
        handler.end_headers()
        handler.wfile.write(answer.content)

    hook = at(monkeypatch, host=answering(forward), password=ray["token"], extra={"headers": {"X-Team": "etl"}})
    ref = start(hook, make_spec())

    assert starts[0] == 200
    assert len(starts) == 2
    assert follow_to_end(hook, ref)[0].snapshot.state is RunState.SUCCEEDED
