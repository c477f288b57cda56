"""`@task.glue_ray` through Airflow's real task runner, on the local endpoint with real Ray."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pytest
from airflow.sdk import DAG, task
from airflow.sdk.definitions._internal import templater

from airflow_provider_glueray.airflow_compat import AirflowFailException
from airflow_provider_glueray.core.errors import (
    FunctionFailed,
    PackagingError,
    ResultMissing,
    SourceFileError,
    SpecError,
)
from airflow_provider_glueray.decorators import glue_ray
from airflow_provider_glueray.hooks.glue.jobs import GlueRayJobHook
from tests.runner import deserialize

if TYPE_CHECKING:
    from collections.abc import Mapping

STAGING = "s3://glueray-local/functions"
#: A plain value of the file: it travels with the functions that use it.
FACTOR = 3


def scaled(number: int) -> int:
    """Multiply; a function of the file that travels with those that use it."""
    return number * FACTOR


@pytest.fixture
def make_step(dag: DAG, fresh: Callable[[], int]) -> Callable[..., Any]:
    """Return what makes a function a task and calls it with arguments; gives the operator."""

    def make(function: Callable[..., Any], *args: Any, with_: Mapping[str, Any] = {}, **kwargs: Any) -> Any:
        defaults = {
            "task_id": f"f-{fresh()}",
            "role": "GlueRayRole",
            "staging_uri": STAGING,
            "deferrable": False,
            "dag": dag,
        }
        return task.glue_ray(**{**defaults, **with_})(function)(*args, **kwargs).operator

    return make


def echo(*args, **kwargs):
    """Return what came, and say of what types it was."""
    types = [type(value).__name__ for value in (*args, *kwargs.values())]
    return {"args": list(args), "kwargs": kwargs, "types": types}


def test_the_body_runs_on_the_cluster(connected, make_step, make_task):
    """What it uses of its file comes along; its value is the XCom."""

    def squares(numbers: list[int], *, ds: str | None = None) -> Mapping[str, Any]:
        import ray

        ray.init()

        @ray.remote
        def square(number):
            return scaled(number * number)

        nodes = len([node for node in ray.nodes() if node["Alive"]])
        return {"day": ds, "squares": ray.get([square.remote(each) for each in numbers]), "nodes": nodes}

    result = make_task(make_step(squares, [1, 2, 3], with_={"deferrable": True})).run_to_end()

    assert result.state == "success", result.error
    assert result.xcoms["return_value"] == {"day": "2026-11-21", "squares": [3, 12, 27], "nodes": 2}
    assert result.xcoms["glueray_run"]["id"].startswith("jr_")
    assert result.xcoms["glueray_usage"]["workers"] == 2


def test_values_arrive_as_they_were(connected, make_step, make_task):
    """JSON values, dates, times, decimals, paths, tuples and sets; not as their text."""
    moment = datetime(2026, 11, 21, 2, 30, tzinfo=timezone.utc)
    args = [None, True, 1, 2.5, "text", moment, date(2026, 11, 21), time(2, 30), timedelta(hours=1), Decimal("1.10")]
    # Airflow 3.0 resolves a path as if it were a reference to another task (docs/airflow.md).
    where = Path("/data") if "PathLike" in inspect.getsource(templater) else "/data"
    result = make_task(make_step(echo, *args, where=where, pair=(1, [2]), odd=float("inf"))).run()

    assert result.state == "success", result.error
    value = deserialize(result.xcoms["return_value"])
    assert value["types"] == [
        "NoneType", "bool", "int", "float", "str", "datetime", "date", "time", "timedelta", "Decimal",
        type(where).__name__, "tuple", "float",
    ]  # fmt: skip
    assert value["args"] == [each.isoformat() if isinstance(each, time) else each for each in args]
    # Airflow's client sends no number that is not finite.
    assert value["kwargs"] == {"where": "/data", "pair": (1, [2]), "odd": None}


def test_tables_arrive_as_they_were(connected, make_step, make_task):
    """Frames, series, Arrow tables and arrays go as Parquet, with their index and their types."""

    def described(frame, series, table):
        import numpy

        assert str(frame.dtypes["when"]).startswith("datetime64"), frame.dtypes
        return {
            "frame": frame[frame["n"] > 1],
            "series": series * 2,
            "table": table.append_column("double", [[value.as_py() * 2 for value in table["n"]]]),
            "array": numpy.arange(3),
            "of": [type(each).__module__.partition(".")[0] for each in (frame, series, table)],
        }

    frame = pd.DataFrame({"n": [1, 2, 3], "when": pd.to_datetime(["2026-01-01"] * 3)}, index=["a", "b", "c"])
    result = make_task(make_step(described, frame, pd.Series([1, 2], name="s"), pa.table({"n": [1, 2]}))).run()

    assert result.state == "success", result.error
    value, hook = result.xcoms["return_value"], GlueRayJobHook()
    assert value["of"] == ["pandas", "pandas", "pyarrow"]
    assert (value["frame"]["rows"], value["frame"]["columns"]["n"]) == (2, "int64")
    assert value["frame"]["bytes"] > 0
    pd.testing.assert_frame_equal(hook.load(value["frame"]), frame[frame["n"] > 1])
    pd.testing.assert_series_equal(hook.load(value["series"]), pd.Series([2, 4], name="s"))
    assert hook.load(value["table"]).to_pydict() == {"n": [1, 2], "double": [2, 4]}
    assert hook.load(value["array"]).tolist() == [0, 1, 2]


@pytest.mark.full
def test_what_one_returns_the_next_one_takes(connected, make_step, make_task):
    """A reference in an XCom is the table again in the next function, also a Ray Dataset and a Modin frame."""

    def made():
        import modin.config
        import modin.pandas
        import ray

        modin.config.NPartitions.put(2)
        return {"dataset": ray.data.range(100), "modin": modin.pandas.DataFrame({"n": [1, 2, 3]})}

    def taken(tables):
        kinds = {name: type(value).__module__.partition(".")[0] for name, value in tables.items()}
        return {"kinds": kinds, "rows": tables["dataset"].count(), "sum": int(tables["modin"]["n"].sum())}

    first = make_task(make_step(made)).run()
    assert first.state == "success", first.error
    references = first.xcoms["return_value"]
    assert (references["dataset"]["rows"], references["dataset"]["columns"]) == (100, {"id": "int64"})
    with pytest.raises(ResultMissing, match="needs a cluster"):
        GlueRayJobHook().load(references["dataset"])

    second = make_task(make_step(taken, references)).run()
    assert second.state == "success", second.error
    assert second.xcoms["return_value"] == {"kinds": {"dataset": "ray", "modin": "modin"}, "rows": 100, "sum": 6}


def test_an_exception_comes_back_whole(connected, make_step, make_task):
    """With the remote traceback: the line of the function, and not our own frames."""

    def fails(number):
        raise ValueError(f"{number} is odd")

    result = make_task(make_step(fails, 7)).run()

    assert isinstance(result.error, FunctionFailed)
    assert (result.error.error_name, result.error.error_value) == ("ValueError", "7 is odd")
    assert str(result.error).startswith("ValueError: 7 is odd")
    assert "in fails" in str(result.error)
    assert 'raise ValueError(f"{number} is odd")' in str(result.error)
    assert "glueray_step" not in str(result.error)
    assert "glueray_usage" in result.xcoms


def test_leaving_is_no_value(connected, make_step, make_task):
    """A function that ends the interpreter, even with 0, has returned nothing."""

    def leaves():
        raise SystemExit(0)

    result = make_task(make_step(leaves)).run()

    assert isinstance(result.error, FunctionFailed)
    assert result.error.error_name == "SystemExit"


def test_a_large_value_stays_in_the_staging_area(connected, make_step, make_task):
    """Airflow's database gets a reference; the next function gets the value."""

    def large():
        return {"text": "x" * 1_000_000}

    def measured(value):
        return len(value["text"])

    first = make_task(make_step(large)).run()
    assert first.state == "success", first.error
    reference = first.xcoms["return_value"]
    assert reference["bytes"] > 1_000_000
    assert len(str(reference)) < 500
    assert len(GlueRayJobHook().load(reference)["text"]) == 1_000_000

    assert make_task(make_step(measured, reference)).run().xcoms["return_value"] == 1_000_000


def test_a_return_value_that_cannot_travel_is_named(connected, make_step, make_task):
    """By the place in the value, and by its type."""

    def odd():
        return {"rows": [1, b"bytes"]}

    result = make_task(make_step(odd)).run()

    assert isinstance(result.error, FunctionFailed)
    assert result.error.error_name == "NotSerializableError"
    assert "the value that was returned['rows'][1] is a builtins.bytes" in str(result.error)


def test_an_argument_that_cannot_travel_is_named(connected, make_step, make_task):
    """Before anything is started, and for good: a retry would not help."""
    result = make_task(make_step(echo, 1, session={"open": [object()]})).run()

    assert isinstance(result.error, AirflowFailException)
    assert "argument 'session'['open'][0] is a builtins.object" in str(result.error)
    assert "StartJobRun" not in connected.calls()


def test_mapped_over_results(connected, dag, make_task):
    """`partial`, `expand` and `override`: each of the mapped tasks is a run with its own arguments."""

    @task.glue_ray(role="GlueRayRole", staging_uri=STAGING, dag=dag, task_id="mapped")
    def product(one, other):
        return one * other

    mapped = product.override(number_of_workers=3).partial(one=7).expand(other=[1, 2]).operator
    values = []
    for number in (1, 2):
        step = mapped.unmap({"op_kwargs": {"one": 7, "other": number}})
        assert step.number_of_workers == 3
        values.append(make_task(step).run().xcoms["return_value"])

    assert values == [7, 14]


def test_multiple_outputs(connected, make_step, make_task):
    """Each key of the mapping is an XCom, as with any other task of TaskFlow."""

    def two() -> dict[str, int]:
        return {"rows": 5, "files": 2}

    result = make_task(make_step(two)).run()

    assert (result.xcoms["rows"], result.xcoms["files"]) == (5, 2)


def test_modules_of_ones_own(connected, dag, make_task, tmp_path, monkeypatch):
    """They travel through py_modules; without that, the DAG does not even parse."""
    (tmp_path / "house_rules.py").write_text("def rule(number):\n    return number + 1\n")
    (tmp_path / "own_dag.py").write_text(
        "import house_rules\nfrom airflow.sdk import task\n\n"
        "def counted(number):\n    return house_rules.rule(number)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import own_dag

    settings = {"role": "GlueRayRole", "staging_uri": STAGING, "dag": dag}
    with pytest.raises(PackagingError, match="uses the module 'house_rules', which is a file of yours"):
        task.glue_ray(**settings)(own_dag.counted)(1)
    dag.fileloc = str(tmp_path / "own_dag.py")
    step = task.glue_ray(py_modules=["house_rules.py"], **settings)(own_dag.counted)(1).operator

    assert make_task(step).run().xcoms["return_value"] == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"staging_uri": None}, "staging_uri=None"),
        ({"wait_for_completion": False}, "wait_for_completion=False"),
        ({"worker_type": "G.1X"}, "Z.2X workers only"),
    ],
)
def test_bad_settings_do_not_parse(make_step, settings, words):
    """They are refused while the DAG is parsed."""
    with pytest.raises(SpecError, match=words):
        make_step(echo, with_=settings)


def test_mapped_tasks_are_checked_while_the_dag_is_parsed(dag):
    """Airflow makes their operators only when they run; nobody wants to hear of a typo then."""
    lock = threading.Lock()

    def locked(one):
        return lock, one

    def plain(one):
        return one

    settings = {"role": "GlueRayRole", "staging_uri": STAGING, "dag": dag}
    with pytest.raises(SourceFileError, match="uses lock, a lock, which has no source to send"):
        task.glue_ray(**settings)(locked).expand(one=[1])
    with pytest.raises(SpecError, match="workers only"):
        task.glue_ray(**settings, worker_type="G.1X")(plain).expand(one=[1])
    with pytest.raises(SourceFileError, match="A lambda has no source"):
        task.glue_ray(**settings)(lambda one: one)


def test_arguments_are_sent_once_however_long_it_queues(connected, make_step, make_task, monkeypatch):
    """They may be large, and each look for room is a new attempt."""
    sent = []
    send = glue_ray._send
    monkeypatch.setattr(glue_ray, "_send", lambda folder, *call: sent.append(folder.uri) or send(folder, *call))
    connected.faults(quota_mdpu=2)

    def make_room() -> None:
        while not connected.calls().get("StartJobRun"):
            threading.Event().wait(0.1)
        connected.faults(quota_mdpu=50)

    threading.Thread(target=make_room, daemon=True).start()
    result = make_task(make_step(echo, 1)).run()

    assert result.state == "success", result.error
    assert connected.calls()["StartJobRun"] == 2
    assert len(sent) == 1
