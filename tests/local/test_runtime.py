"""AWS's runtime, Python 3.9 with Ray 2.4: its build, and jobs and sessions on it."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

import boto3
import httpx
import numpy as np
import pandas as pd
import psutil
import pyarrow.parquet as pq
import pytest
from airflow.sdk import DAG, task

from airflow_provider_glueray.cli.main import main
from airflow_provider_glueray.hooks.glue.jobs import GlueRayJobHook
from airflow_provider_glueray.local import client as local_client
from airflow_provider_glueray.local.runtime import compat_shim, environments, processes
from airflow_provider_glueray.packaging.upload import read_local
from tests.local.conftest import until, write_wheel, zipped
from tests.local.test_scripts import messages
from tests.runner import deserialize

pytestmark = pytest.mark.full

RAY24 = environments.RUNTIME_SPECS[environments.RAY24]
S3 = f"s3://{local_client.BUCKET}/runtime"


@pytest.fixture(scope="module")
def endpoint(ray24: local_client.Endpoint) -> local_client.Endpoint:
    """Return the endpoint on Ray 2.4 instead of the one on the newest runtime."""
    return ray24


@pytest.fixture
def printed(
    glue: Any, logs: Any, make_job: Callable[..., str], wait_for: Callable[..., dict[str, Any]]
) -> Callable[..., list[str]]:
    """Return a function that runs a script and returns its printed and logged lines."""

    def run(script: str, **arguments: str) -> list[str]:
        job = make_job(script)
        given = {f"--{name.replace('_', '-')}": value for name, value in arguments.items()}
        run_id = glue.start_job_run(JobName=job, Arguments=given)["JobRunId"]
        wait_for(job, run_id, "SUCCEEDED")
        return messages(logs, "script-log", f"{job}-{run_id}")

    return run


VERSIONS = """
import importlib.metadata, json, sys
import ray

ray.init("auto")


@ray.remote
def worker():
    import numpy, pandas, pyarrow, ray
    return [sys.version.split()[0][:4], ray.__version__, pandas.__version__, pyarrow.__version__, numpy.__version__]


names = ["ray", "pandas", "pyarrow", "numpy", "boto3", "botocore", "fsspec", "pydantic", "pip"]
print(json.dumps({name: importlib.metadata.version(name) for name in names}))
print(ray.get(worker.remote()))
print(len({node["NodeName"] for node in ray.nodes()}), "nodes,", ray.cluster_resources()["CPU"], "CPUs")
try:
    import IPython
except ImportError:
    print("no IPython")
"""


def test_a_job_has_the_versions_of_aws(printed: Callable[..., list[str]]) -> None:
    """Python and the packages have the versions of Glue's runtime, in the driver and in a task."""
    versions, worker, nodes, last = printed(VERSIONS)[-4:]
    pins = dict(requirement.split("==") for requirement in RAY24.pins if ";" not in requirement)
    found = json.loads(versions)
    assert found == {name: pins[name] for name in found}
    assert worker == "['3.9.', '2.4.0', '1.5.3', '11.0.0', '1.24.3']"
    assert (nodes, last) == ("2 nodes, 16.0 CPUs", "no IPython")


STORES = f"""
import io, os
import boto3, pandas as pd, pyarrow as pa, pyarrow.fs, pyarrow.parquet as pq, ray

ray.init("auto")


def use(name):
    frame = pd.DataFrame({{"a": range(10), "b": list("abcdefghij")}})
    client = boto3.client("s3")
    client.put_object(Bucket="{local_client.BUCKET}", Key="runtime/" + name + ".csv", Body=frame.to_csv(index=False))
    resource = boto3.resource("s3").Object("{local_client.BUCKET}", "runtime/" + name + ".csv")
    assert len(pd.read_csv(io.BytesIO(resource.get()["Body"].read()))) == 10
    filesystem = pyarrow.fs.S3FileSystem()
    wanted = "{local_client.BUCKET}/runtime/" + name + "-1.parquet"
    pq.write_table(pa.Table.from_pandas(frame), wanted, filesystem=filesystem)
    found, path = pyarrow.fs.FileSystem.from_uri("s3://" + wanted)
    assert path == wanted, path
    assert isinstance(found, pyarrow.fs.S3FileSystem) and isinstance(found, pyarrow.fs.FileSystem)
    assert issubclass(pyarrow.fs.LocalFileSystem, pyarrow.fs.FileSystem)
    assert not isinstance(pyarrow.fs.LocalFileSystem(), pyarrow.fs.S3FileSystem)
    assert found.get_file_info(path).size > 100
    assert pq.read_table("{S3}/" + name + "-1.parquet").num_rows == 10
    return [filesystem, found]


here = use("driver")
there = ray.get(ray.remote(use).remote("task"))
assert [one.get_file_info("{local_client.BUCKET}/runtime/task.csv").size > 10 for one in here + there] == [True] * 4
rows = ray.data.from_pandas(pd.DataFrame({{"n": range(100)}})).repartition(4)
for kind in ("parquet", "csv", "json"):
    getattr(rows, "write_" + kind)("{S3}/" + kind)
    read = getattr(ray.data, "read_" + kind)("{S3}/" + kind)
    print(kind, read.count(), read.map_batches(lambda batch: batch * 2, batch_format="pandas").sum("n"))
print(boto3.client("sts").get_caller_identity()["Account"], os.environ["my-arg"])
"""


def test_s3_paths_work_unchanged(printed: Callable[..., list[str]]) -> None:
    """boto3, Arrow and Ray Data use the endpoint's S3 in the driver and in tasks."""
    lines = printed(STORES, my_arg="it's 1 = $HOME")
    assert lines[-4:] == ["parquet 100 9900", "csv 100 9900", "json 100 9900", "123456789012 it's 1 = $HOME"]


def test_pip_install_and_zips_reach_driver_and_tasks(
    printed: Callable[..., list[str]], s3: Any, tmp_path: Path
) -> None:
    """One run has a new package, another version of a package, modules and a working directory."""
    s3.put_object(Bucket=local_client.BUCKET, Key="work.zip", Body=zipped(**{"work/data.txt": "forty-two"}))
    s3.put_object(
        Bucket=local_client.BUCKET, Key="mod.zip", Body=zipped(**{"top/answers.py": "def yes(): return 'yes'"})
    )
    wheels = [
        write_wheel(tmp_path, "tinypackage", "1.0", "WORD = 'tiny'"),
        write_wheel(tmp_path, "tomli", "99.0", "WORD = 'newer'"),
    ]
    script = (
        "import ray\nray.init('auto')\n"
        "def f():\n    import answers, tomli, tinypackage\n    from pyarrow import fs\n"
        f"    assert fs.FileSystem.from_uri('s3://{local_client.BUCKET}/mod.zip')[0].get_file_info('{local_client.BUCKET}/mod.zip').size\n"
        "    return tinypackage.WORD, tomli.WORD, answers.yes(), open('data.txt').read()\n"
        "print(*f(), *ray.get(ray.remote(f).remote()))"
    )
    lines = printed(
        script,
        pip_install=",".join(wheels),
        working_dir=f"s3://{local_client.BUCKET}/work.zip",
        s3_py_modules=f"s3://{local_client.BUCKET}/mod.zip",
    )
    assert lines[-1] == "tiny newer yes forty-two tiny newer yes forty-two"


def test_a_missing_package_fails_the_run(
    glue: Any, make_job: Callable[..., str], wait_for: Callable[..., Any], tmp_path: Path
) -> None:
    """The ErrorMessage has the last line of pip's output."""
    job = make_job()
    arguments = {"--pip-install": f"absent @ {(tmp_path / 'absent.whl').as_uri()}"}
    run = wait_for(job, glue.start_job_run(JobName=job, Arguments=arguments)["JobRunId"], "FAILED")
    assert run["ErrorMessage"].startswith("runtime_env setup failed: pip install exited with code 1: ERROR: ")


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
    """The ErrorMessage has the exception and the exit code, which Ray 2.4 does not report."""
    job = make_job(script)
    run = wait_for(job, glue.start_job_run(JobName=job)["JobRunId"], "FAILED")
    assert run["ErrorMessage"] == words


def test_a_run_can_be_stopped(glue: Any, make_job: Callable[..., str], wait_for: Callable[..., Any]) -> None:
    """The stop ends the driver's process."""
    job = make_job("import time\ntime.sleep(300)")
    run = glue.start_job_run(JobName=job)["JobRunId"]
    wait_for(job, run, "RUNNING")
    glue.batch_stop_job_run(JobName=job, JobRunIds=[run])
    wait_for(job, run, "STOPPED")
    until(lambda: _drivers(run), lambda drivers: not drivers)


def _drivers(run: str) -> list[str]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        found += [word for word in words if f"/runs/{run}/script/" in word]
    return found


def test_a_node_can_fail(
    glue: Any,
    logs: Any,
    clean_endpoint: local_client.Endpoint,
    make_job: Callable[..., str],
    wait_for: Callable[..., Any],
) -> None:
    """The driver runs on the head and outlives a worker node; log streams have different names for each node."""
    job = make_job(
        "import ray, time\nray.init('auto')\nnodes = {n['NodeID']: n for n in ray.nodes()}\n"
        "assert nodes[ray.get_runtime_context().get_node_id()]['NodeName'] == '127.0.0.2'\n"
        "other = [i for i, n in nodes.items() if n['Alive'] and n['NodeName'] != '127.0.0.2'][0]\n"
        "where = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(other, soft=True)\n"
        "@ray.remote(scheduling_strategy=where)\ndef f():\n"
        "    me = ray.get_runtime_context().get_node_id()\n"
        "    if me == other:\n        print('holding', flush=True)\n        time.sleep(600)\n"
        "    return me\n"
        "assert ray.get(f.remote()) != other"
    )
    run = glue.start_job_run(JobName=job)["JobRunId"]
    group = "/aws-glue/ray/jobs/ray-worker-out-logs"

    def written() -> list[dict[str, Any]]:
        with contextlib.suppress(logs.exceptions.ResourceNotFoundException):
            found = logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=f"{job}-{run}")
            return list(found["logStreams"])
        return []

    streams = until(written)
    assert streams[0]["logStreamName"].startswith(f"{job}-{run}-127_0_0_3-")
    clean_endpoint.faults(fail_node=True)
    wait_for(job, run, "SUCCEEDED")
    clean_endpoint.wait_ready()


def test_a_session(make_session: Callable[..., str], run_code: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """Statements import the same packages and the installed ones, and use Ray and S3."""
    session = make_session(
        "READY", DefaultArguments={"--pip-install": write_wheel(tmp_path, "tomli", "99.0", "WORD = 'new'")}
    )
    code = (
        "import sys, ray, tomli, pyarrow.fs\nray.init('auto')\n"
        "def word():\n    import tomli\n    return tomli.WORD\n"
        f"size = pyarrow.fs.FileSystem.from_uri('s3://{local_client.BUCKET}')[0]\n"
        "print(sys.version_info[:2], ray.__version__, word(), ray.get(ray.remote(word).remote()))\n6 * 7"
    )
    output = run_code(session, code)["Output"]
    assert output["Status"] == "ok", output
    assert output["Data"]["TextPlain"].endswith("(3, 9) 2.4.0 new new\n42")
    assert run_code(session, "1 / 0")["Output"]["ErrorName"] == "ZeroDivisionError"


def test_it_listens_on_loopback_only(endpoint: local_client.Endpoint) -> None:
    """Ray 2.4 has no authentication, so other machines and web pages must not reach its processes."""
    state = json.loads(endpoint.log_path.with_suffix(".json").read_text())
    inside = [*processes.in_sessions(state["sessions"]), *processes.descendants_outside(state["sessions"])]
    addresses = {address for process in inside for address in _listens_at(process)}
    assert addresses <= {"127.0.0.1", "::ffff:127.0.0.1"}
    assert addresses
    headers = {"Origin": "http://example.com", "Content-Type": "text/plain"}
    response = httpx.post(endpoint.ray()["dashboard"] + "/api/jobs/", json={"entrypoint": "true"}, headers=headers)
    assert response.status_code == 403


def _listens_at(process: psutil.Process) -> set[str]:
    """Return the addresses that a process listens on; none if the process has ended, as Ray's processes do."""
    try:
        connections = process.net_connections("tcp")
    except (psutil.Error, OSError):
        if processes.alive(process.pid):
            raise
        return set()
    return {each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN}


def test_status_shows_the_runtime(
    endpoint: local_client.Endpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A start with another runtime is refused."""
    monkeypatch.setenv("GLUERAY_HOME", str(endpoint.log_path.parent))
    assert main(["local", "status", "--name", endpoint.name]) == 0
    assert "runtime    Ray2.4" in capsys.readouterr().out
    assert main(["local", "start", "--name", endpoint.name, "--runtime", "Ray2.4"]) == 0
    assert "is already running at" in capsys.readouterr().out
    assert main(["local", "start", "--name", endpoint.name]) == 1
    assert "is already running on Ray2.4, not on newest; stop it first" in capsys.readouterr().err


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> environments.RuntimeSpec:
    """Return a spec with this Python and one small wheel; the user's cache gets none of its environments."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / f"python{version}").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "plain.txt").write_text(write_wheel(tmp_path, "tinypackage", "1.0", "WORD = 'tiny'"))
    return environments.RuntimeSpec("Plain", version, tmp_path / "plain.txt")


def test_a_missing_python_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error is one sentence that names the missing Python, also if pyenv has a shim for it."""
    shim = tmp_path / "python3.9"
    shim.write_text("#!/bin/sh\necho 'pyenv: python3.9: command not found' >&2\nexit 127\n")
    shim.chmod(0o755)
    for name in ("PATH", "HOME", "PYENV_ROOT", "XDG_CACHE_HOME", "GLUERAY_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    assert main(["local", "start", "--runtime", "Ray2.4"]) == 1
    messages_seen = capsys.readouterr().err
    assert messages_seen.startswith(
        "glueray local: the Ray2.4 runtime needs Python 3.9 on this machine, and there is none"
    )
    assert len(messages_seen.splitlines()) == 1
    with pytest.raises(local_client.EndpointError, match=r"there is no runtime 'Ray9', only newest and Ray2\.4"):
        local_client.start(home=tmp_path, runtime="Ray9")


def test_an_incomplete_environment_is_built_again(spec: environments.RuntimeSpec) -> None:
    """`build` uses an environment only if it has the file `ready` and its Python exists."""
    messages_seen: list[str] = []
    directory = environments.build(spec, messages_seen.append)
    assert directory.parent == environments.cache()
    assert environments.build(spec, messages_seen.append) == directory
    assert messages_seen == [f"building the Plain runtime in {directory} (once; about 1 packages)"]
    left = directory / "left-over"
    left.touch()
    (directory / "ready").unlink()
    environments.build(spec, messages_seen.append)
    assert not left.exists()
    assert (directory / "ready").exists()
    (directory / "bin" / "python").unlink()
    environments.build(spec, messages_seen.append)
    assert len(messages_seen) == 3
    command = [directory / "bin" / "python", "-c", "import tinypackage; print(tinypackage.WORD)"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "tiny\n"


def test_two_builders_build_once(spec: environments.RuntimeSpec) -> None:
    """The second builder waits for the first and uses its environment."""
    messages_seen: list[str] = []
    with ThreadPoolExecutor() as pool:
        first, second = pool.map(lambda _: environments.build(spec, messages_seen.append), range(2))
    assert first == second
    assert sorted(line.partition(" in ")[0] for line in messages_seen) == [
        "building the Plain runtime",
        "waiting for another build of the Plain runtime",
    ]


def test_without_uv_pip_does_it(
    spec: environments.RuntimeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure gives the end of pip's output, and leaves no environment with the file `ready`."""
    monkeypatch.setattr(environments, "_uv", lambda: None)
    directory = environments.build(spec, lambda _: None)
    assert list(directory.glob("lib/python3.*/site-packages/tinypackage.py"))
    (tmp_path / "tinypackage-1.0-py3-none-any.whl").unlink()
    (directory / "ready").unlink()
    with pytest.raises(
        environments.CannotProvide, match=r"the Plain runtime could not be built: .*ERROR: .*tinypackage"
    ):
        environments.build(spec, lambda _: None)
    assert not (directory / "ready").exists()


def test_the_compat_shim_is_kept_up_to_date(spec: environments.RuntimeSpec) -> None:
    """An environment of an older version of this package gets the current shim."""
    directory = environments.build(spec, lambda _: None)
    (module,) = directory.glob("lib/python3.*/site-packages/glueray_compat_shim.py")
    module.write_text("old")
    environments.build(spec, lambda _: None)
    assert module.read_text() == Path(compat_shim.__file__).read_text()


#: The script of the walkthrough; `tests/examples` runs it on the newest Ray.
EXAMPLES = Path(__file__).parents[2] / "example_dags"

RAW = f"s3://{local_client.BUCKET}/walkthrough/raw"
CLEAN = "walkthrough/clean"


@pytest.fixture(scope="module")
def datasets() -> ModuleType:
    """Return the module that creates the examples' data."""
    spec = importlib.util.spec_from_file_location("example_datasets", EXAMPLES / "datasets.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_walkthrough(
    endpoint: local_client.Endpoint, datasets: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The output has every expected row with its ratio, and no other rows."""
    for name, value in endpoint.env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(datasets, "ROWS_PER_FILE", 500)
    datasets.write_reviews(RAW, rows=2_000, seed=11)
    glue, store = (boto3.client(service, endpoint_url=endpoint.url) for service in ("glue", "s3"))

    def frames(prefix: str) -> pd.DataFrame:
        found = store.list_objects_v2(Bucket=local_client.BUCKET, Prefix=prefix)["Contents"]
        keys = [each["Key"] for each in found if each["Size"]]  # Arrow writes empty objects for directories
        bodies = [store.get_object(Bucket=local_client.BUCKET, Key=key)["Body"].read() for key in keys]
        return pd.concat(pq.ParquetFile(io.BytesIO(body)).read().to_pandas() for body in bodies)

    script = EXAMPLES / "scripts" / "customer_reviews_etl.py"
    store.upload_file(str(script), local_client.BUCKET, "walkthrough/etl.py")
    modules = read_local(str(EXAMPLES / "modules" / "steps.py"), "3.9", module=True)
    store.put_object(Bucket=local_client.BUCKET, Key="walkthrough/steps.zip", Body=modules.content)
    command = {
        "Name": "glueray",
        "Runtime": "Ray2.4",
        "ScriptLocation": f"s3://{local_client.BUCKET}/walkthrough/etl.py",
    }
    glue.create_job(Name="walkthrough", Role="r", Command=command, WorkerType="Z.2X", NumberOfWorkers=2)
    given = {
        "--input": f"{RAW}/product_category=Wireless",
        "--output": f"s3://{local_client.BUCKET}/{CLEAN}",
        "--s3-py-modules": f"s3://{local_client.BUCKET}/walkthrough/steps.zip",
    }
    run_id = glue.start_job_run(JobName="walkthrough", Arguments=given)["JobRunId"]
    run = _ended(glue, run_id)
    assert run["JobRunState"] == "SUCCEEDED", run

    raw = frames("walkthrough/raw/product_category=Wireless/")
    wanted = raw.query("0 < total_votes < 100 and marketplace == 'US'").sort_values("review_id")
    written = frames(f"{CLEAN}/parquet/").sort_values("review_id")
    assert len(wanted) > 20
    assert written["review_id"].tolist() == wanted["review_id"].tolist()
    ratio = wanted["helpful_votes"] / wanted["total_votes"]
    np.testing.assert_allclose(written["helpful_votes_ratio"].astype(float), ratio)
    summary = json.load(store.get_object(Bucket=local_client.BUCKET, Key=f"{CLEAN}/_summary.json")["Body"])
    assert (summary["rows_in"], summary["rows_out"]) == (len(raw), len(wanted))


def _ended(glue: Any, run_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 180
    while True:
        seen: dict[str, Any] = glue.get_job_run(JobName="walkthrough", RunId=run_id)["JobRun"]
        if "CompletedOn" in seen:
            return seen
        assert time.monotonic() < deadline, seen
        time.sleep(0.2)


def halves(frame: pd.DataFrame, moment: datetime) -> dict[str, Any]:
    """Return the versions that it runs on, and tables of three kinds."""
    import sys

    import ray

    @ray.remote
    def half(part: pd.DataFrame) -> pd.DataFrame:
        return part.assign(n=part["n"] / 2)

    halved = ray.get(half.remote(frame))
    where = [ray.__version__, sys.version.split(" ", maxsplit=1)[0]]
    return {"where": where, "when": moment, "frame": halved, "dataset": ray.data.from_pandas([halved])}


def test_a_function_with_tables(endpoint: local_client.Endpoint, dag: DAG, make_task: Any, monkeypatch: Any) -> None:
    """A function's arguments and values pass through Python 3.9 and Arrow 11, and this Python reads its Parquet."""
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(endpoint.airflow_connection()))
    frame = pd.DataFrame({"n": [1, 2], "s": ["a", "b"]}, index=pd.to_datetime(["2026-11-21", "2026-11-22"]))
    moment = datetime(2026, 11, 21, 2, tzinfo=timezone.utc)
    given = {
        "role": "GlueRayRole",
        "staging_uri": f"s3://{local_client.BUCKET}/functions",
        "dag": dag,
        "deferrable": False,
    }
    step = task.glue_ray(**given)(halves)(frame, moment).operator

    result = make_task(step).run()

    assert result.state == "success", result.error
    value = deserialize(result.xcoms["return_value"])
    assert value["where"][0].startswith("2.4." if value["where"][1].startswith("3.9") else "2.6")
    assert value["when"] == moment
    assert value["dataset"]["rows"] == 2
    pd.testing.assert_frame_equal(GlueRayJobHook().load(value["frame"]), frame.assign(n=[0.5, 1.0]), check_freq=False)
