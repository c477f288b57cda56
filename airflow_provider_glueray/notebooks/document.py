"""A notebook on its way through a session: parameters in, outputs in, text out.

Text in, text out, no other I/O and no clock; nbformat, the reference reader of the format, is
imported where it is needed. Parameters, tags and metadata follow papermill, so that its readers understand the result.
"""

from __future__ import annotations

import json
import keyword
import math
from collections.abc import Iterator, Mapping
from copy import deepcopy
from datetime import date, datetime, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_provider_glueray.core.errors import SourceFileError, SpecError
from airflow_provider_glueray.core.extras import NOTEBOOKS, extra
from airflow_provider_glueray.notebooks import magics

if TYPE_CHECKING:
    from types import ModuleType

    from nbformat import NotebookNode

    from airflow_provider_glueray.core.runs import StatementOutput

#: The most characters of printed text that a notebook keeps of one cell, and how many of each end it keeps of more.
MOST_PRINTED, ENDS = 1024 * 1024, 64 * 1024
_INJECTED = "injected-parameters"
#: The tag of papermill on the cells that it adds to a failed notebook.
_BANNER_TAG = "papermill-error-cell-tag"
_ANCHOR = "papermill-error-cell"


class Cell(NamedTuple):
    """A code cell.

    :param index: its position among all cells of the notebook.
    :param number: its position among the code cells, from 1: what people see in errors, and beside it as ``[1]``.
    :param source: as it stands in the notebook.
    :param code: what to run, on the same lines; "" when the cell has magics or comments only.
    """

    index: int  # type: ignore[assignment]  # tuple has a method of that name, which nobody calls
    number: int
    source: str
    code: str


def _nbformat() -> ModuleType:
    with extra(NOTEBOOKS, "A notebook"):
        import nbformat
    return nbformat


def read(text: str, name: str) -> NotebookNode:
    """Read a notebook of format 4, and bring it up to 4.5 in memory.

    :param name: names the notebook in errors.
    :raises SourceFileError: it is not JSON, of another format, or not what the format's schema allows.
    """
    nbformat = _nbformat()

    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SourceFileError(f"{name} is no notebook: it is not JSON ({error})") from error
    if not isinstance(raw, dict) or "nbformat" not in raw:
        raise SourceFileError(f"{name} is no notebook: it is JSON without 'nbformat'")
    if raw["nbformat"] != 4:
        raise SourceFileError(
            f"{name} has notebook format {raw['nbformat']!r}, and only 4 can be run; "
            "open and save it in a current Jupyter"
        )
    cells, minor = raw.get("cells"), raw.get("nbformat_minor")
    if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells) or type(minor) is not int:
        raise SourceFileError(f"{name} is no valid notebook: it needs a list of cells and a number nbformat_minor")
    try:
        if minor >= 5:  # below, the schema allows no ids
            _give_ids(cells)
        nbformat.validate(raw)
    except (nbformat.ValidationError, TypeError) as error:
        raise SourceFileError(f"{name} is no valid notebook: {str(error).strip().partition(chr(10))[0]}") from error
    _give_ids(cells)
    raw["nbformat_minor"] = max(minor, 5)
    upgraded: NotebookNode = nbformat.reads(json.dumps(raw), as_version=4)
    return upgraded


def with_parameters(notebook: NotebookNode, parameters: Mapping[str, Any]) -> NotebookNode:
    """Return a copy whose cell ``injected-parameters`` assigns the parameters, as papermill does it.

    It replaces one that is there already; else it stands behind the cell tagged ``parameters``; else above
    the first cell with code. Without parameters nothing is changed.

    :raises SpecError: a name is no name in Python, or a value cannot be written down in Python.
    """
    copy = deepcopy(notebook)
    if not parameters:
        return copy
    lines, problems = ["# Parameters"], []
    for name, value in parameters.items():
        if not str(name).isidentifier() or keyword.iskeyword(name):
            problems.append(f"parameter {name!r}: is no name for a variable in Python")
            continue
        try:
            lines.append(f"{name} = {_literal(value)}")
        except TypeError as error:
            problems.append(f"parameter {name!r}: {error}")
    if problems:
        raise SpecError(problems)
    cell = _cell("code", _INJECTED, "\n".join(lines), _INJECTED, outputs=[], execution_count=None)
    injected, declared = _tagged(copy, _INJECTED), _tagged(copy, "parameters")
    if injected:
        copy.cells[injected[0]] = cell
    elif declared:
        copy.cells.insert(declared[0] + 1, cell)
    else:
        coded = (found.index for found, _ in _split(copy) if found.code)
        copy.cells.insert(next(coded, len(copy.cells)), cell)
    return copy


def cleared(notebook: NotebookNode) -> NotebookNode:
    """Return a copy as before its first run: no outputs, every code cell pending, no word of an earlier failure."""
    copy = deepcopy(notebook)
    copy.cells = [cell for cell in copy.cells if _BANNER_TAG not in cell.metadata.get("tags", ())]
    copy.metadata.pop("papermill", None)
    for cell in copy.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            cell.metadata["papermill"] = _times(None, None, exception=None, status="pending")
    return copy


def cells(notebook: NotebookNode) -> tuple[dict[str, Any], list[Cell]]:
    """Return what the magics set (see :func:`magics.settings`), and all code cells.

    :raises SpecError: with every magic that means nothing in a Ray session, comes too late, or contradicts another.
    """
    found: list[magics.Magic] = []
    coded: list[Cell] = []
    started = False
    for cell, own in _split(notebook):
        found += [magic._replace(late=True) for magic in own] if started else own
        coded.append(cell)
        # The parameters we inject may stand above magics that the author had put above all code.
        started = started or bool(cell.code and cell.index not in _tagged(notebook, _INJECTED))
    return magics.settings(found), coded


def record(notebook: NotebookNode, cell: Cell, output: StatementOutput, status: str, *, whole_name: str) -> str | None:
    """Record, in place, the status and the output of a cell.

    :param status: "pending", "running", "completed" or "failed".
    :param whole_name: the file beside the notebook that gets the whole text when too much was printed to keep.
    :return: the text for that file; None when the notebook has all of it.
    """
    outputs, whole = [], None
    if output.printed:
        text = output.printed
        if len(text) > MOST_PRINTED:
            whole, missing = text, len(text) - 2 * ENDS
            note = f"[{missing:,} of {len(text):,} characters are left out here; all of them are in {whole_name}]"
            text = f"{text[:ENDS]}\n\n{note}\n\n{text[-ENDS:]}"
        outputs.append(_node(output_type="stream", name="stdout", text=text))
    if output.shown:
        # Readers fall back on the plain text, so there has to be one.
        data = {"text/plain": "", **output.shown}
        outputs.append(_node(output_type="execute_result", data=data, execution_count=cell.number, metadata={}))
    if output.error:
        name, value, traceback = output.error
        outputs.append(_node(output_type="error", ename=name, evalue=value, traceback=list(traceback)))
    node = notebook.cells[cell.index]
    node.outputs = outputs
    node.execution_count = None if status == "pending" else cell.number
    exception = None if status == "pending" else status == "failed"
    node.metadata["papermill"] = _times(output.started, output.completed, exception=exception, status=status)
    return whole


def finish(
    notebook: NotebookNode,
    *,
    parameters: Mapping[str, Any],
    input_name: str,
    output_name: str,
    started: float,
    ended: float | None,
    exception: bool,
) -> None:
    """Record, in place, the status of the whole notebook's run.

    On a failure, a cell that was running has failed, and a line on top leads to the cell that failed. So the indexes
    of :class:`Cell` no longer hold.

    :param started, ended: epoch seconds; None while it goes on.
    """
    notebook.metadata["papermill"] = {
        "parameters": _plain(parameters),
        "input_path": input_name,
        "output_path": output_name,
        **_times(started, ended, exception=exception or None),
    }
    for cell in notebook.cells:
        if exception and cell.metadata.get("papermill", {}).get("status") == "running":
            cell.metadata.papermill |= {"status": "failed", "exception": True}
    failed = [at for at, cell in enumerate(notebook.cells) if cell.metadata.get("papermill", {}).get("exception")]
    if exception and failed:
        number = notebook.cells[failed[0]].execution_count
        link = f'**An exception was raised in <a href="#{_ANCHOR}">In [{number}]</a>.**'
        anchor = f'<span id="{_ANCHOR}">**The next cell raised an exception, and the run ended there.**</span>'
        notebook.cells.insert(failed[0], _cell("markdown", f"{_ANCHOR}-anchor", anchor, _BANNER_TAG))
        notebook.cells.insert(0, _cell("markdown", f"{_ANCHOR}-link", link, _BANNER_TAG))


def dump(notebook: NotebookNode) -> str:
    """Return the notebook as text that is valid in format 4 and has a UTF-8 form."""
    nbformat = _nbformat()

    nbformat.validate(notebook)
    # What a program printed may hold halves of characters: JSON can escape them, UTF-8 has no bytes for them.
    text: str = nbformat.writes(notebook)
    return text.encode(errors="backslashreplace").decode() + "\n"


def _node(**fields: Any) -> NotebookNode:
    nbformat = _nbformat()

    node: NotebookNode = nbformat.from_dict(fields)
    return node


def _cell(kind: str, name: str, source: str, tag: str, **more: Any) -> NotebookNode:
    return _node(cell_type=kind, id=name, source=source, metadata={"tags": [tag]}, **more)


def _split(notebook: NotebookNode) -> Iterator[tuple[Cell, list[magics.Magic]]]:
    coded = [at for at, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    for number, at in enumerate(coded, 1):
        source = notebook.cells[at].source
        found, code = magics.split(source, number)
        yield Cell(at, number, source, code), found


def _tagged(notebook: NotebookNode, tag: str) -> list[int]:
    return [
        at
        for at, cell in enumerate(notebook.cells)
        if cell.cell_type == "code" and tag in cell.metadata.get("tags", ())
    ]


def _give_ids(cells: list[Any]) -> None:
    """Give the cells without an id one, and those with the same id different ones: each time the same.

    nbformat would draw them by lot, and the executed notebook of a retry would differ in them.
    """
    taken: set[str] = set()
    for at, cell in enumerate(cells):
        name, spare = cell.get("id"), at
        while name is None or name in taken:
            name, spare = f"cell-{spare}", spare + len(cells)
        taken.add(name)
        cell["id"] = name


def _times(
    started: float | None, ended: float | None, *, exception: bool | None, **more: str
) -> dict[str, str | float | bool | None]:
    return {
        "start_time": None if started is None else datetime.fromtimestamp(started, timezone.utc).isoformat(),
        "end_time": None if ended is None else datetime.fromtimestamp(ended, timezone.utc).isoformat(),
        "duration": None if started is None or ended is None else round(ended - started, 6),
        "exception": exception,
        **more,
    }


def _literal(value: object) -> str:
    """Write a value in Python, such that it is read back equal; dates become ISO text."""
    if value is None or isinstance(value, bool):
        return repr(value)
    # The methods of the base type, because an enumeration's own would name its member.
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return float.__repr__(value) if math.isfinite(value) else f'float("{float.__repr__(value)}")'
    if isinstance(value, str):
        return str.__repr__(value)
    if isinstance(value, date):
        return repr(value.isoformat())
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, tuple):
        return f"({''.join(f'{_literal(item)}, ' for item in value)})"
    if isinstance(value, Mapping) and not any(isinstance(key, (tuple, Mapping)) for key in value):
        return f"{{{', '.join(f'{_literal(key)}: {_literal(item)}' for key, item in value.items())}}}"
    raise TypeError(f"a {type(value).__name__} cannot be written down; pass text, numbers, dates, lists and dicts")


def _plain(value: Any) -> Any:
    """Turn a parameter into what JSON has: dates and the numbers it lacks become text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, date):
        return value.isoformat()
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
