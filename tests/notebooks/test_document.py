"""Notebooks as text: parameters in, outputs in, and always valid in the eyes of nbformat."""

from __future__ import annotations

import enum
import json
import math
import warnings
from datetime import date, datetime, timezone
from pathlib import Path

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_glueray.core.errors import SourceFileError, SpecError
from airflow_provider_glueray.core.runs import StatementOutput
from airflow_provider_glueray.hooks.glue.statements import StatementError, prepare
from airflow_provider_glueray.notebooks.document import (
    ENDS,
    MOST_PRINTED,
    cells,
    cleared,
    dump,
    finish,
    read,
    record,
    with_parameters,
)

EXAMPLE = Path(__file__).parents[2] / "example_dags" / "notebooks" / "customer_reviews.ipynb"
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
STARTED = datetime(2026, 11, 22, 2, tzinfo=timezone.utc).timestamp()


def code(source, *tags):
    """Return a code cell as JSON, with an output of an earlier run."""
    old = {"output_type": "stream", "name": "stdout", "text": ["old\n"]}
    return {
        "cell_type": "code",
        "metadata": {"tags": list(tags)} if tags else {},
        "source": source.splitlines(True),
        "execution_count": 7,
        "outputs": [old],
    }


def text(*cells, minor=4, **more):
    """Return a notebook as text; strings are markdown cells."""
    nodes = [
        {"cell_type": "markdown", "metadata": {}, "source": cell} if isinstance(cell, str) else cell for cell in cells
    ]
    return json.dumps({"nbformat": 4, "nbformat_minor": minor, "metadata": {}, "cells": nodes, **more})


def sources(notebook):
    """Return the sources of the cells."""
    return [cell.source for cell in notebook.cells]


# -- reading ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("minor", range(6))
def test_all_minor_versions_of_format_4_are_read(minor):
    """In memory they are all 4.5, with ids that are the same each time, and no warning about missing ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        notebook, again = (read(text("# Title", code("x = 1"), minor=minor), "n.ipynb") for _ in range(2))

    assert sources(notebook) == ["# Title", "x = 1"]
    assert notebook.nbformat_minor == 5
    assert [cell.id for cell in notebook.cells] == ["cell-0", "cell-1"]
    assert dump(notebook) == dump(again)


def test_ids_are_kept_and_made_unique():
    """A copied cell may have come with its id."""
    notebook = read(text(*({**code("x"), "id": name} for name in ("cell-2", "a", "a", "b")), minor=5), "n.ipynb")

    assert [cell.id for cell in notebook.cells] == ["cell-2", "a", "cell-6", "b"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is not JSON"),
        ("x = 1", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "without 'nbformat'"),
        ("{}", "without 'nbformat'"),
        (json.dumps({"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": []}), "notebook format 3"),
        (json.dumps({"nbformat": "4", "nbformat_minor": 0, "metadata": {}, "cells": []}), "notebook format '4'"),
        (json.dumps({"nbformat": 4, "metadata": {}, "cells": []}), "nbformat_minor"),
        (json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}}), "list of cells"),
        (text(minor=4, cells=[1]), "list of cells"),
        (text(minor=4, metadata=[]), "is not of type 'object'"),
        (text({"cell_type": "code"}), "is a required property"),
        (text({"cell_type": "odd", "metadata": {}, "source": ""}), "'odd'"),
        (text({**code("x"), "id": "a b"}, minor=5), "'a b'"),
        (text({**code("x"), "id": ["a"]}, minor=5), "unhashable"),
        (text({**code("x"), "more": 1}), "'more' was unexpected"),
        (text({**code("x"), "outputs": [{"output_type": "stream"}]}), "n.ipynb is no valid notebook"),
    ],
)
def test_what_is_no_notebook_is_refused_in_one_line(content, words):
    """With its name and the first reason."""
    with pytest.raises(SourceFileError) as caught:
        read(content, "n.ipynb")

    assert str(caught.value).startswith("n.ipynb ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# -- parameters ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["# T", code("a = 1", "parameters"), code("b = 2")], ["# T", "a = 1", "NEW", "b = 2"]),
        (["# T", code("b = 2"), code("c = 3")], ["# T", "NEW", "b = 2", "c = 3"]),
        ([code("%glue_ray\n# only"), code("%timeout 9\nb = 2")], ["%glue_ray\n# only", "NEW", "%timeout 9\nb = 2"]),
        ([code("a = 1", "parameters"), "# T", code("a = 5", "injected-parameters")], ["a = 1", "# T", "NEW"]),
        ([code("a = 5", "injected-parameters"), code("b = 2")], ["NEW", "b = 2"]),
        ([code("%pip install x"), code("!ls\nb = 2")], ["%pip install x", "NEW", "!ls\nb = 2"]),
        (["# T"], ["# T", "NEW"]),
        ([], ["NEW"]),
    ],
)
def test_parameters_stand_where_papermill_would_put_them(given, expected):
    """Behind the cell that declares them, in place of older ones, else above the first code."""
    notebook = read(text(*given), "n.ipynb")
    before = dump(notebook)
    injected = with_parameters(notebook, {"a": 2})

    assert sources(injected) == [source.replace("NEW", "# Parameters\na = 2") for source in expected]
    assert [cell.metadata.tags for cell in injected.cells if cell.source.startswith("# P")] == [["injected-parameters"]]
    assert dump(notebook) == before
    assert sources(with_parameters(notebook, {})) == sources(notebook)
    assert sources(with_parameters(injected, {"a": 2})) == sources(injected)


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(values)
def test_values_survive_being_written_down(value):
    """What the notebook sees is equal to what the task was given, and of the same type."""
    notebook = dump(with_parameters(read(text(), "n.ipynb"), {"name": value}))
    seen = {}
    exec(read(notebook, "n.ipynb").cells[0].source, seen)

    assert seen["name"] == value
    assert repr(seen["name"]) == repr(value)


class Colour(str, enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (math.inf, 'a = float("inf")'),
        ([-math.inf], 'a = [float("-inf")]'),
        (math.nan, 'a = float("nan")'),
        (date(2026, 11, 22), "a = '2026-11-22'"),
        (datetime(2026, 11, 22, tzinfo=timezone.utc), "a = '2026-11-22T00:00:00+00:00'"),
        ({"day": date(2026, 11, 22), None: (1,)}, "a = {'day': '2026-11-22', None: (1, )}"),
        (Colour.RED, "a = 'red'"),
        (enum.IntEnum("Size", "BIG").BIG, "a = 1"),
    ],
)
def test_values_without_a_literal_of_their_own(value, line):
    """Numbers that have no literal, dates, and members of enumerations."""
    (cell,) = with_parameters(read(text(), "n.ipynb"), {"a": value}).cells

    assert cell.source == f"# Parameters\n{line}"


def test_parameters_that_cannot_be_are_all_told():
    """A name that is none, and values that no one can write down in Python."""
    bad = {"a b": 1, "class": 1, "ok": 1, "thing": object(), "deep": [{"x": {1, 2}}], "key": {(1, 2): 3}}
    with pytest.raises(SpecError) as caught:
        with_parameters(read(text(), "n.ipynb"), bad)

    problems = caught.value.problems
    assert [problem.split(":")[0] for problem in problems] == [
        f"parameter {name!r}" for name in ("a b", "class", "thing", "deep", "key")
    ]
    assert "a object cannot be written down" in problems[2]


# -- cells --------------------------------------------------------------------------------------------------


def test_cells_are_numbered_as_people_see_them():
    """Markdown has a position but no number; a cell of magics has a number but no code."""
    notebook = read(text("# T", code("%glue_ray\n%timeout 9"), "text", code("%%time\nx = 1")), "n.ipynb")
    settings, coded = cells(notebook)

    assert settings == {"session_timeout": 540}
    assert [(cell.index, cell.number, cell.code) for cell in coded] == [(1, 1, ""), (3, 2, "\nx = 1")]
    assert coded[1].source == "%%time\nx = 1"


def test_a_setting_below_the_first_code_is_refused_unless_it_repeats_one():
    """In the old kernel the session existed by then."""
    said_before = [code("%timeout 9"), code("x = 1"), code("%timeout 9\n%status")]
    assert cells(read(text(*said_before), "n.ipynb"))[0] == {"session_timeout": 540}

    with pytest.raises(SpecError) as caught:
        cells(read(text(code("%glue_ray\nx = 1"), code("y = 1"), code("%timeout 9\nz = 1")), "n.ipynb"))
    (problem,) = caught.value.problems
    assert problem.startswith("cell 3, line 1, '%timeout 9': session_timeout comes after code")


def test_injected_parameters_make_no_magic_late():
    """They may come to stand above the magics of the first cell that has code."""
    notebook = with_parameters(read(text(code("%timeout 9\nx = a")), "n.ipynb"), {"a": 1})

    assert cells(notebook)[0] == {"session_timeout": 540}
    assert [cell.code for cell in cells(notebook)[1]] == ["# Parameters\na = 1", "\nx = a"]


# -- the executed notebook ----------------------------------------------------------------------------------


def run_of(*sources):
    """Return a notebook before its first run, and its cells."""
    notebook = cleared(read(text("# T", *(code(source) for source in sources)), "n.ipynb"))
    return notebook, cells(notebook)[1]


def test_a_cleared_notebook_knows_of_no_run():
    """No outputs or counts of an earlier one; every code cell is pending."""
    source = read(text("# T", code("x = 1"), metadata={"papermill": {"exception": True}}), "n.ipynb")
    notebook = cleared(source)

    assert notebook.cells[1].outputs == []
    assert notebook.cells[1].execution_count is None
    assert notebook.cells[1].metadata.papermill.status == "pending"
    assert "papermill" not in notebook.metadata
    assert source.cells[1].outputs[0].text == "old\n"


def test_a_cell_gets_everything_it_printed_showed_and_raised():
    """As streams, a bundle of MIME types and an error; the times as papermill writes them."""
    notebook, (cell,) = run_of("frame")
    shown = {"text/plain": "a\n1", "text/html": "<table></table>", "image/png": PNG}
    error = StatementError("ValueError", "odd", ("Traceback", "ValueError: odd"))
    output = StatementOutput("hello\n", None, shown, error, 1, STARTED, STARTED + 2.5)
    whole = record(notebook, cell, output, "failed", whole_name="cell-1.txt")
    node = read(dump(notebook), "n.ipynb").cells[1]

    assert whole is None
    assert [made.output_type for made in node.outputs] == ["stream", "execute_result", "error"]
    assert (node.outputs[0].name, node.outputs[0].text) == ("stdout", "hello\n")
    assert node.outputs[1].data == shown
    assert node.outputs[1].execution_count == node.execution_count == 1
    assert (node.outputs[2].ename, node.outputs[2].evalue) == ("ValueError", "odd")
    assert node.outputs[2].traceback == ["Traceback", "ValueError: odd"]
    assert node.metadata.papermill == {
        "start_time": "2026-11-22T02:00:00+00:00",
        "end_time": "2026-11-22T02:00:02.500000+00:00",
        "duration": 2.5,
        "exception": True,
        "status": "failed",
    }


@pytest.mark.parametrize(
    ("status", "exception", "count"),
    [("pending", None, None), ("running", False, 1), ("completed", False, 1), ("failed", True, 1)],
)
def test_each_status_is_valid_without_output(status, exception, count):
    """A cell that runs has no end yet; one that was never sent has nothing."""
    notebook, (cell,) = run_of("x = 1")
    record(notebook, cell, StatementOutput(), status, whole_name="cell-1.txt")
    node = read(dump(notebook), "n.ipynb").cells[1]

    assert (node.outputs, node.execution_count) == ([], count)
    assert (node.metadata.papermill.status, node.metadata.papermill.exception) == (status, exception)


def test_a_picture_alone_gets_a_plain_text_beside_it():
    """Readers without pictures fall back on it."""
    notebook, (cell,) = run_of("picture")
    record(notebook, cell, StatementOutput(shown={"image/png": PNG}), "completed", whole_name="cell-1.txt")

    assert read(dump(notebook), "n.ipynb").cells[1].outputs[0].data == {"text/plain": "", "image/png": PNG}


def test_recording_again_replaces():
    """First it runs, then it has run."""
    notebook, (cell,) = run_of("x")
    record(notebook, cell, StatementOutput("so far\n"), "running", whole_name="cell-1.txt")
    record(notebook, cell, StatementOutput("so far\nand on\n"), "completed", whole_name="cell-1.txt")

    assert [made.text for made in notebook.cells[1].outputs] == ["so far\nand on\n"]


def test_fifty_megabytes_of_printing_leave_the_notebook_small():
    """It keeps both ends, and says how much is missing and where all of it is."""
    notebook, (cell,) = run_of("x")
    printed = "".join(f"{number:09d}\n" for number in range(5_000_000))
    whole = record(notebook, cell, StatementOutput(printed), "completed", whole_name="out/cell-1.txt")
    kept = read(dump(notebook), "n.ipynb").cells[1].outputs[0].text

    assert whole is printed
    assert len(dump(notebook)) < 300_000
    assert kept.startswith(printed[:ENDS])
    assert kept.endswith(printed[-ENDS:])
    assert "[49,868,928 of 50,000,000 characters are left out here; all of them are in out/cell-1.txt]" in kept


def test_a_megabyte_is_kept_whole():
    """The bound itself."""
    notebook, (cell,) = run_of("x")

    assert record(notebook, cell, StatementOutput("x" * MOST_PRINTED), "completed", whole_name="c") is None
    assert len(notebook.cells[1].outputs[0].text) == MOST_PRINTED


@given(st.text(max_size=200))
def test_whatever_is_printed_the_text_is_utf_8_and_valid(printed):
    """Control characters, halves of surrogate pairs, all kinds of line ends."""
    notebook, (cell,) = run_of("x")
    record(notebook, cell, StatementOutput(printed + "\ud800"), "completed", whole_name="cell-1.txt")
    again = nbformat.reads(dump(notebook).encode().decode(), as_version=4)

    assert again.cells[1].outputs[0].text == printed + "\ud800"


def finished(exception):
    """Return a notebook of three cells after its run; the second failed if anything did."""
    notebook, coded = run_of("%glue_ray", "x = 1", "y = 2")
    record(notebook, coded[1], StatementOutput(), "failed" if exception else "completed", whole_name="c")
    parameters = {"day": date(2026, 11, 22), "most": math.inf, "deep": {"a": (1, None)}}
    finish(
        notebook,
        parameters=parameters,
        input_name="in.ipynb",
        output_name="s3://b/out.ipynb",
        started=STARTED,
        ended=STARTED + 60,
        exception=exception,
    )
    return read(dump(notebook), "n.ipynb")


def test_a_finished_notebook_tells_of_its_run():
    """In the words of papermill, and in JSON that is strict."""
    notebook = finished(exception=False)

    assert notebook.metadata.papermill == {
        "parameters": {"day": "2026-11-22", "most": "inf", "deep": {"a": [1, None]}},
        "input_path": "in.ipynb",
        "output_path": "s3://b/out.ipynb",
        "start_time": "2026-11-22T02:00:00+00:00",
        "end_time": "2026-11-22T02:01:00+00:00",
        "duration": 60.0,
        "exception": None,
    }
    assert sources(notebook) == ["# T", "%glue_ray", "x = 1", "y = 2"]


def test_a_failed_notebook_leads_to_the_cell_that_failed():
    """And a new run of it knows nothing of that."""
    notebook = finished(exception=True)

    assert notebook.metadata.papermill.exception is True
    assert 'href="#papermill-error-cell">In [2]<' in notebook.cells[0].source
    assert 'id="papermill-error-cell"' in notebook.cells[3].source
    assert notebook.cells[4].source == "x = 1"
    assert notebook.cells[5].metadata.papermill.status == "pending"
    assert sources(cleared(notebook)) == ["# T", "%glue_ray", "x = 1", "y = 2"]
    assert dump(cleared(notebook)) == dump(cleared(cleared(notebook)))


# -- the example --------------------------------------------------------------------------------------------


def test_the_example_notebook_can_be_run():
    """Its magics are understood, its parameters can be set, and a session would take each cell."""
    notebook = with_parameters(read(EXAMPLE.read_text(), EXAMPLE.name), {"source": "s3://b/in", "target": "s3://b/out"})
    settings, coded = cells(notebook)

    assert settings == {"glue_version": "4.0", "worker_type": "Z.2X", "number_of_workers": 2, "idle_timeout": 3600}
    assert [cell.number for cell in coded if not cell.code] == [1]
    for cell in coded[1:]:
        prepare(cell.code, "mark", f"cell {cell.number}")
    headings = [cell.source.partition(".")[0] for cell in notebook.cells if cell.source.startswith("## ")]
    assert headings == [f"## {step}" for step in range(1, 16)]
    assert dump(cleared(notebook)).encode()
