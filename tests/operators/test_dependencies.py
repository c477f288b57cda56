"""What a step needs besides its script, through Airflow's task runner, on the local endpoint."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_provider_glueray.airflow_compat import AirflowFailException
from airflow_provider_glueray.core.errors import SpecError
from airflow_provider_glueray.hooks.glue.jobs import GlueRayJobHook
from airflow_provider_glueray.operators.glue_jobs import GlueRayJobOperator
from airflow_provider_glueray.packaging import requirements


@pytest.fixture
def make_step(dag: DAG, tmp_path: Path, fresh: Callable[[], int]) -> Callable[..., GlueRayJobOperator]:
    """Return a factory of operators whose files lie beside the DAG's, given as texts."""
    dag.fileloc = str(tmp_path / "dag.py")

    def make(files: dict[str, str] | None = None, **kwargs: Any) -> GlueRayJobOperator:
        for name, text in {"step.py": "print('done')\n", **(files or {})}.items():
            (tmp_path / name).write_text(text)
        defaults = {
            "task_id": f"needs-{fresh()}",
            "script": "step.py",
            "role": "GlueRayRole",
            "staging_uri": "s3://glueray-local/code",
            "deferrable": False,
            "dag": dag,
        }
        return GlueRayJobOperator(**{**defaults, **kwargs})

    return make


@pytest.fixture
def start(connected, make_task) -> Iterator[Callable[[GlueRayJobOperator], dict[str, str]]]:
    """Return a function that starts a step's run and returns its arguments; no package is installed for it."""
    connected.faults(provisioning_seconds=3600)
    hook, started = GlueRayJobHook(), []

    def start(step: GlueRayJobOperator) -> dict[str, str]:
        step.wait_for_completion = False
        step.max_concurrent_runs = 5
        result = make_task(step).run()
        assert result.state == "success", result.error
        started.append(hook.latest_run(f"walk-{step.task_id}").ref)
        arguments: dict[str, str] = next(hook._run_pages(started[-1].name))[0]["Arguments"]
        return arguments

    yield start
    hook.stop(*started)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that is all the index of pip and uv there is, by their own configuration."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "pip-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("pip-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: pip\nVersion: 1\n")
        wheel.writestr("pip-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("pip-1.dist-info/RECORD", "")
    (tmp_path / "uv.toml").write_text(f'[pip]\nno-index = true\nfind-links = ["{folder}"]\n')
    monkeypatch.setenv("UV_CONFIG_FILE", str(tmp_path / "uv.toml"))
    (tmp_path / "pip.conf").write_text(f"[global]\nno-index = true\nfind-links = {folder}\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    for name in ("PIP_FIND_LINKS", "UV_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(requirements, "CHECK_SECONDS", 250.0)
    return folder


def test_a_requirements_file_reaches_the_service(connected, start, make_step):
    """It lies beside the DAG's file, adds to the list, is read when the task runs, and changes nothing by itself."""
    files = {"requirements-x.txt": "-r more.txt\ns3fs==2023.4.0  # pinned\n", "more.txt": "six; python_version > '3'\n"}
    given = {"requirements": "requirements-{{ 'x' }}.txt", "check_requirements": False}
    step = make_step(files, pip=["modin==0.23"], **given)

    assert start(step)["--pip-install"] == "modin==0.23,six,s3fs==2023.4.0"
    start(step)
    assert (connected.calls()["CreateJob"], connected.calls().get("UpdateJob")) == (1, None)
    (Path(step.dag.fileloc).parent / "more.txt").write_text("")
    assert start(step)["--pip-install"] == "modin==0.23,s3fs==2023.4.0"
    job = GlueRayJobHook().get_job(f"walk-{step.task_id}")
    assert job["DefaultArguments"]["--pip-install"] == "modin==0.23,s3fs==2023.4.0"


def test_warnings_when_the_job_has_changed(start, make_step, index, capfd):
    """What is known to go wrong, and what has no wheel; not in the nights after, nor where nobody wants it."""

    def warned() -> list[str]:
        return [line for line in capfd.readouterr().out.splitlines() if "[warning" in line or " WARNING - " in line]

    for name in ("pydantic-2", "glueray_nil-1"):
        (index / f"{name}.tar.gz").touch()
    step = make_step(pip=["pydantic", "glueray-nil==1"])
    start(step)
    known, *wheels = warned()
    assert "pydantic 2 breaks Ray 2.4" in known
    assert len(wheels) == 2
    assert "glueray-nil==1: no wheels found for Python 3.9" in wheels[1]

    start(step)
    assert warned() == []
    start(make_step(pip=["pydantic"], check_requirements=False))
    assert warned() == []


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"pip": ["pandas 1.5"]}, "not a requirement"),
        ({"pip": ["lib[a,b]"]}, "one extra only"),
        ({"requirements": "s3://bucket/requirements.txt"}, "a local file"),
        ({"py_modules": ["s3://bucket/helpers.py"]}, "a local .py file"),
        ({"py_modules": ["step.py"]}, "is the script"),
    ],
)
def test_while_the_dag_is_parsed(make_step, wrong, words):
    """What is wrong whatever lies beside the DAG's file is an import error."""
    with pytest.raises(SpecError, match=words):
        make_step(**wrong)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"requirements": "bad.txt"}, "bad.txt:2: --hash is an option of pip"),
        ({"requirements": "none.txt"}, "none.txt: No such file"),
        ({"requirements": "good.txt", "pip": ["six==1.15"]}, "'six==1.16', but pip says 'six==1.15'"),
        ({"pip": ["{{ 'six 1' }}"]}, "not a requirement"),
        ({"py_modules": ["none.py"]}, "none.py: No such file"),
        ({"py_modules": ["broken.py"]}, "is not Python 3.9"),
        ({"py_modules": ["helpers.py", "libs"]}, "both have a module 'helpers'"),
    ],
)
def test_before_anything_is_started(connected, make_step, make_task, tmp_path, wrong, words):
    """What is wrong with the files fails the task for good, and no job is made."""
    files = {"bad.txt": "six\nsix --hash=sha256:1\n", "good.txt": "six==1.16", "broken.py": "def f(:\n"}
    (tmp_path / "libs").mkdir()
    result = make_task(make_step({**files, "helpers.py": "X = 1", "libs/helpers.py": ""}, **wrong, retries=3)).run()

    assert isinstance(result.error, AirflowFailException)
    assert words in str(result.error)
    assert "CreateJob" not in connected.calls()


def test_a_module_that_is_one_file(connected, make_step, make_task):
    """The driver and the workers import it by its name."""
    script = (
        "import helpers, ray\nray.init('auto')\nassert ray.get(ray.remote(helpers.double).remote(helpers.HALF)) == 42\n"
    )
    step = make_step(
        {"step.py": script, "helpers.py": "HALF = 21\ndef double(x): return 2 * x\n"}, py_modules=["helpers.py"]
    )
    result = make_task(step).run()

    assert result.state == "success", result.error
    (uploaded,) = GlueRayJobHook().get_job(f"walk-{step.task_id}")["DefaultArguments"]["--s3-py-modules"].split(",")
    assert uploaded.startswith("s3://glueray-local/code/helpers-")
    assert uploaded.endswith(".zip")
