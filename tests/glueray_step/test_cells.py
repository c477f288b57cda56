"""The cells of a notebook at the other end, by plain calls."""

from __future__ import annotations

import json
import sys

import pytest

from airflow_provider_glueray.glueray_step import cells
from airflow_provider_glueray.glueray_step.cells import Notebook


@pytest.fixture
def run(monkeypatch):
    """Return what runs cells one after the other in one notebook, and gives what the last one has said."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    notebook = Notebook()
    count = 0

    def run(*codes: str) -> dict:
        nonlocal count
        for code in codes:
            count += 1
            explicit = "return_value" if "return_value" in code else None
            result = notebook.run({"code": code, "where": f"Cell {count} of x", "explicit": explicit})
        return result

    yield run
    notebook.close()


@pytest.mark.parametrize(
    ("codes", "value", "printed"),
    [
        (["a = 40", "a + 2"], 42, ""),
        (["print('one')\nimport sys\nprint('two', file=sys.stderr)\n(1, 2)"], [1, 2], "one\ntwo\n"),
        (["5;"], None, ""),
        (["None"], None, ""),
        (["# nothing but a comment"], None, ""),
        (["return_value = {'n': 1}\n7"], {"n": 1}, ""),
        (["import asyncio", "await asyncio.sleep(0, result='waited')"], "waited", ""),
        (["from __future__ import annotations", "def f(x: Nowhere): return x\nf(3)"], 3, ""),
        (["class Own: pass", "Own.__module__"], "__main__", ""),
        (["import __main__\nx = 1", "__main__.x"], 1, ""),
    ],
)
def test_cells_share_a_namespace(run, codes, value, printed):
    result = run(*codes)

    assert result["error"] is None
    assert (json.loads(result["value"]) if "value" in result else None) == value
    assert result["printed"] == printed
    assert result["started"] <= result["completed"]


@pytest.mark.parametrize(
    ("codes", "name", "lines"),
    [
        (["def f():\n    raise ValueError('odd')", "1\nf()"], "ValueError", ["line 2, in <module>", "line 2, in f"]),
        (["import sys; sys.exit(0)"], "SystemExit", ["line 1, in <module>"]),
        (["async def g():\n    raise KeyError", "await g()"], "KeyError", ["line 1, in <module>", "line 2, in g"]),
        (["return_value = object()"], "TypeError", None),
    ],
)
def test_an_exception_is_told_without_our_frames(run, codes, name, lines):
    result = run(*codes)

    assert result["error"][0] == name
    frames = [line.split(", ", 1)[1] for line in result["error"][2] if line.startswith('  File "<Cell')]
    assert lines in (None, frames)
    assert not any("cells.py" in line for line in result["error"][2])
    assert (name != "ValueError") or "    raise ValueError('odd')" in result["error"][2]
    assert run("'still here'")["value"] == '"still here"'


def test_what_is_printed_is_also_shown_and_bounded(run, monkeypatch, capsys):
    monkeypatch.setattr(cells, "MOST_PRINTED", 10)
    result = run("print('x' * 8)\nprint('y' * 8)")

    assert result["printed"] == "x" * 8 + "\ny\n[… 8 characters more were printed]\n"
    assert capsys.readouterr().out == "x" * 8 + "\n" + "y" * 8 + "\n"
