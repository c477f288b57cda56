"""Floor 0 by plain calls: code on its way to a session, and what comes back."""

from __future__ import annotations

import contextlib
import io
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_glueray.core.errors import SourceFileError, SpecError
from airflow_provider_glueray.core.runs import StatementError
from airflow_provider_glueray.hooks.glue.statements import (
    MOST_CHARACTERS,
    carries_token,
    prepare,
    read_output,
    seconds_of,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def play(code: str, names: dict | None = None):
    """Run code as a session would: what it prints is the one text that comes back."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(prepare(code, "m1", "a cell"), "cell", "exec"), names if names is not None else {})
    return read_output({"State": "AVAILABLE", "Output": {"Data": {"TextPlain": printed.getvalue()}}}, "m1")


@pytest.mark.parametrize(
    ("code", "value", "printed"),
    [
        ("1 + 1", 2, ""),
        ("print('one')\nprint('two', end='')\n[1, 2]", [1, 2], "one\ntwo"),
        ("a = 1; (a +\n  1)  # with a comment", 2, ""),
        ("'ü'; 'äö'", "äö", ""),
        ("x = '''\n1\n'''\nx", "\n1\n", ""),
        ("x = 1\r\nx", 1, ""),
        ("(1, 2)", [1, 2], ""),
        ("return_value = {'rows': 3}\nprint('done')", {"rows": 3}, "done\n"),
        ("return_value: int = 5\n7", 5, ""),
        ("import datetime\ndatetime.date(2026, 11, 21)", "2026-11-21", ""),
        ("import decimal\nclass N:\n    def item(self):\n        return 4\nN()", 4, ""),
        ("print('x')", None, "x\n"),
        ("None", None, ""),
        ("5;", None, ""),
        ("x = 5", None, ""),
        ("def f():\n    return_value = 1\nf()", None, ""),
    ],
)
def test_the_value_and_what_was_printed(code, value, printed):
    """The last expression, or an explicit value; the text comes back as it was printed."""
    output = play(code)

    assert output.value == value
    assert output.printed == printed
    assert output.error is None


@given(JSON)
def test_every_json_value_comes_back(value):
    assert play("value", {"value": value}).value == value


@given(st.text(), st.integers())
def test_whatever_is_printed_comes_back(text, value):
    """Also a text that ends without a newline, or looks like one of ours."""
    output = play("print(text, end='')\nvalue", {"text": text, "value": value})

    assert (output.printed, output.value) == (text, value)


def test_lines_keep_their_numbers():
    """A traceback shows the line of the author's own code."""
    code = "a = 1\nb = 2\nfail()"
    with pytest.raises(NameError) as caught:
        exec(compile(prepare(code, "m", "a cell"), "cell", "exec"), {})

    assert traceback.extract_tb(caught.value.__traceback__)[-1].lineno == 3


def test_a_value_without_a_json_form():
    """Of a last expression it is only shown; one that was chosen has to have one."""
    output = play("object()")

    assert output.value is None
    assert output.shown["text/plain"].startswith("<object object at")
    with pytest.raises(TypeError, match="a object has no JSON form"):
        play("return_value = object()")


def test_a_value_that_is_too_large():
    """It would go into Airflow's database."""
    assert play("'x' * 1_000_000").value is None
    with pytest.raises(ValueError, match="more than 1000000"):
        play("return_value = 'x' * 1_000_000")


def test_objects_that_draw_themselves():
    """Tables and pictures come along for notebooks; one that fails to draw is left out."""
    code = (
        "class Chart:\n"
        "    def __repr__(self): return 'a chart'\n"
        "    def _repr_html_(self): return '<b>chart</b>'\n"
        "    def _repr_png_(self): return b'\\x89PNG'\n"
        "Chart()"
    )

    assert play(code).shown == {"text/plain": "a chart", "text/html": "<b>chart</b>", "image/png": "iVBORw=="}
    assert set(play(code.replace("return '<b>chart</b>'", "raise OSError")).shown) == {"text/plain", "image/png"}


def test_it_is_found_by_its_mark():
    sent = prepare("1", "m1", "a cell")

    assert carries_token(sent, "m1")
    assert not carries_token(sent, "m2")
    assert not carries_token("1", "m1")


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("", SourceFileError, "step is empty"),
        ("  \n", SourceFileError, "step is empty"),
        ("x = = 1", SourceFileError, "step is not Python 3.9"),
        ("match x:\n    case 1: pass", SourceFileError, "step is not Python 3.9"),
        ("x = 1\n" * 12_000, SpecError, "at most 68000, .* py_modules"),
    ],
)
def test_code_that_no_session_would_take(code, kind, words):
    with pytest.raises(kind, match=words):
        prepare(code, "m1", "step")


def test_the_limit_holds_for_what_is_sent():
    """What we add counts too."""
    added = len(prepare("x = 1", "m", "step")) - len("x = 1")
    fits = "x = 1 #".ljust(MOST_CHARACTERS - added, "#")

    assert len(prepare(fits, "m", "step")) == MOST_CHARACTERS
    with pytest.raises(SpecError):
        prepare(f"{fits}#", "m", "step")


def test_an_exception_as_the_service_tells_it():
    """Colours of a terminal are no part of it."""
    output = read_output(
        {
            "State": "AVAILABLE",
            "StartedOn": 1_763_690_000_000,
            "CompletedOn": 1_763_690_002.5,
            "Output": {
                "Data": {"TextPlain": "before\n"},
                "Status": "error",
                "ErrorName": "ValueError",
                "ErrorValue": "\x1b[36modd\x1b[39m",
                "Traceback": [
                    "Traceback (most recent call last)\n",
                    "\x1b[31m  one\x1b[0m\n  two",
                    "ValueError: odd",
                ],
                "ExecutionCount": 3,
            },
        },
        "m1",
    )

    assert output.printed == "before\n"
    assert output.error == StatementError(
        "ValueError", "odd", ("Traceback (most recent call last)", "  one", "  two", "ValueError: odd")
    )
    assert (output.started, output.completed, output.execution_count) == (1_763_690_000, 1_763_690_002.5, 3)


def test_a_text_that_was_cut_off():
    """The value is lost; what was printed is not."""
    sent = {"Output": {"Data": {"TextPlain": 'rows\n\nglueray:m1:{"value": "1'}, "Status": "ok"}}

    assert read_output(sent, "m1").value is None
    assert read_output(sent, "m1").printed == "rows\n"
    assert read_output({"State": "RUNNING"}, "m1").printed == ""


def test_times_in_milliseconds_and_in_seconds():
    assert seconds_of(1_763_690_000_000) == seconds_of(1_763_690_000) == 1_763_690_000
    assert seconds_of(None) is None
    assert seconds_of(0) is None
