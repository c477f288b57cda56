"""Where the contract holds: one name for each kind of place that a connection can lead to.

The local ones are always there. A real one is there when its environment variable holds an Airflow connection as JSON:
``GLUERAY_TEST_AWS`` (with ``role`` and ``staging_uri`` in its extra), ``GLUERAY_TEST_RAY``, ``GLUERAY_TEST_KUBERAY``
(with ``staging_uri``; S3 by their ``aws_conn_id``). Runs are paid for there. `make test-kuberay` brings a real KubeRay.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_provider_glueray.hooks import registry
from airflow_provider_glueray.local import client as local_client
from airflow_provider_glueray.operators.glue_jobs import GlueRayJobOperator
from tests.contract import kuberay_player, scripted
from tests.contract.scripts import Clock
from tests.hooks.kuberay import kubernetes_api
from tests.kubernetes import layout as kubernetes_layout
from tests.kubernetes.connection import temporary_connection

BACKENDS = {
    "glue": "glue-job",
    "ray": "ray-job",
    "kuberay": "kuberay-job",
    "session": "glue-statement",
    "scripted": scripted.BACKEND,
}
#: Where a task may lead; a session is for statements only, and the scripted backend runs no script.
TASKS = ("glue", "ray", "kuberay")
#: The environment variable that names a real place of a kind.
REAL = {"glue": "GLUERAY_TEST_AWS", "ray": "GLUERAY_TEST_RAY", "kuberay": "GLUERAY_TEST_KUBERAY"}
EXAMPLES = Path(__file__).parents[2] / "example_dags"
#: All places there are: the local ones, and those real ones that are named.
PLACES = [*BACKENDS, *(f"real-{kind}" for kind, name in REAL.items() if name in os.environ)]


@dataclass
class Place:
    """A place where runs run.

    :ivar backend: of its runs, as in ``RunRef``.
    :ivar conn: the connection that leads there.
    :ivar staging, role: what tasks need besides.
    :ivar kubernetes, player: of the stand-in; None elsewhere.
    :ivar session: one that is up, where there are statements.
    """

    name: str
    backend: str
    conn: dict[str, Any]
    staging_uri: str = "s3://glueray-local/contract"
    role: str | None = "GlueRayRole"
    kubernetes: Any = None
    player: Any = None
    session: str = ""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Play a scene at every place, or at those of the kinds that its mark `only` names, with `local` at no real one."""
    if "place" in metafunc.fixturenames:
        only = metafunc.definition.get_closest_marker("only")
        kinds = only.args if only else TASKS
        places = BACKENDS if only and only.kwargs.get("local") else PLACES
        there = [name for name in places if name.removeprefix("real-") in kinds]
        metafunc.parametrize("place", there, indirect=True)


@pytest.fixture
def place(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, set_clock: Callable[..., None]
) -> Iterator[Place]:
    """Let the connection `where` lead to a place."""
    kind = request.param.removeprefix("real-")
    if kind != request.param:
        with real_connection(kind) as conn:
            monkeypatch.setenv("AIRFLOW_CONN_WHERE", json.dumps(conn))
            yield Place(request.param, BACKENDS[kind], conn, conn["extra"]["staging_uri"], conn["extra"].get("role"))
        return
    if kind == "scripted":
        ticking = Clock()
        set_clock(ticking.now, ticking.sleep)
        monkeypatch.setitem(registry.BACKENDS, scripted.BACKEND, scripted.ROW)
        monkeypatch.setitem(scripted.SERVICES, "where", scripted.Service(ticking))
        conn = {"conn_type": scripted.CONN_TYPE}
        monkeypatch.setenv("AIRFLOW_CONN_WHERE", json.dumps(conn))
        yield Place(kind, scripted.BACKEND, conn)
        return
    connected = request.getfixturevalue("connected")
    ray = connected.ray()
    found = Place(kind, BACKENDS[kind], connected.airflow_connection())
    if kind == "ray":
        found.conn = connected.ray_connection()
    if kind == "kuberay":
        with kubernetes_api.serving() as kubernetes:
            settings = {"image": "ours/ray:2.60.0", "ray_version": "2.60.0"}
            found.conn = kubernetes.config(kuberay=settings)
            found.kubernetes = kubernetes
            found.player = kuberay_player.KubeRayPlayer(kubernetes, ray["dashboard"], ray["token"])
            monkeypatch.setenv("AIRFLOW_CONN_WHERE", json.dumps(found.conn))
            with found.player.playing():
                yield found
            assert found.player.problems == []
        return
    if kind == "session":
        found.session = request.getfixturevalue("live_session").id
    monkeypatch.setenv("AIRFLOW_CONN_WHERE", json.dumps(found.conn))
    yield found


@contextlib.contextmanager
def real_connection(kind: str) -> Iterator[dict[str, Any]]:
    """Yield the connection to a real place; in a Kubernetes of our own, to a namespace that is the scene's alone."""
    if kind == "kuberay" and kubernetes_layout.HOME in os.environ:
        with temporary_connection() as conn:
            yield conn
        return
    yield json.loads(os.environ[REAL[kind]])


@pytest.fixture
def make_step(dag: DAG, tmp_path: Path, place: Place, fresh: Callable[[], int]) -> Callable[..., GlueRayJobOperator]:
    """Return a factory of operators that run a script given as text, where the connection leads."""

    def make(source: str, **kwargs: Any) -> GlueRayJobOperator:
        number = fresh()
        script = tmp_path / f"step{number}.py"
        script.write_text(source)
        settings = {
            "role": place.role,
            "staging_uri": place.staging_uri,
            "deferrable": False,
            "conn_id": "where",
            "dag": dag,
        }
        settings |= {"task_id": f"{place.name}-{number}", "script": str(script), "poll_interval": 2}
        return GlueRayJobOperator(**{**settings, **kwargs})

    return make


@pytest.fixture(scope="module")
def play_dags(
    endpoint: local_client.Endpoint, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., dict[str, Any]]:
    """Return what runs DAGs by `dag.test()`, in an Airflow of their own; the examples find their data."""
    dags = tmp_path_factory.mktemp("dags")
    for folder in (EXAMPLES, Path(__file__).with_name("dags")):
        shutil.copytree(folder, dags, dirs_exist_ok=True)
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")},
        **endpoint.env(),
        "AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow")),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__GLUERAY__WAITS": os.environ["AIRFLOW__GLUERAY__WAITS"],
        "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(endpoint.airflow_connection()),
    }

    def run(*command: str, **more: str) -> str:
        done = subprocess.run(
            [sys.executable, *command],
            env={**environment, **more},
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    run("-m", "airflow", "db", "migrate")

    @functools.cache
    def lay_input() -> None:
        run(str(EXAMPLES / "datasets.py"), "reviews", "s3://glueray-local/reviews/raw", "--rows", "5000")
        run(str(EXAMPLES / "datasets.py"), "movies", "s3://glueray-local/movies/raw")

    def play(dags: Mapping[str, Mapping[str, Any]], **more: str) -> dict[str, Any]:
        """Run DAGs with the configurations of their runs; return the state and all XComs of each."""
        if not all(dag_id.startswith("small_") for dag_id in dags):
            lay_input()
        asked = [f"{dag_id}:{json.dumps(conf)}" for dag_id, conf in dags.items()]
        said = run(str(Path(__file__).with_name("play_dags.py")), *asked, **more)
        print(said)  # pytest shows it when a DAG has failed
        (line,) = (line for line in said.splitlines() if line.startswith("PLAYED "))
        return json.loads(line.removeprefix("PLAYED "))  # type: ignore[no-any-return]

    return play
