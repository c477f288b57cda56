"""The code that is sent to a session as a statement, and the output that the session returns.

Standard library only. A session returns one text per statement and nothing else that is documented (botocore
``StatementOutputData``), so that text has the value too: a few lines behind the code print it as one line of JSON after
a tag with the client token. The lines of the code itself keep their numbers.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from airflow_provider_glueray.core.errors import SourceFileError, SpecError
from airflow_provider_glueray.core.runs import StatementError, StatementOutput
from airflow_provider_glueray.core.validation import parse

#: The most characters of one statement. Source: botocore RunStatement.
MOST_CHARACTERS = 68_000
#: Assign to this name to choose what a statement returns.
RETURN_NAME = "return_value"

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@cache
def _printing_code() -> str:
    """Return the functions that print a value in a session."""
    from airflow_provider_glueray.glueray_step.display import glueray_describe_value, glueray_print_value

    return "".join(f"\n{inspect.getsource(function)}" for function in (glueray_describe_value, glueray_print_value))


def prepare(code: str, client_token: str, where: str) -> str:
    """Return what to send for ``code``: the same lines, and behind them what prints its value.

    :param client_token: unique to the run of this statement, which is found by it.
    :param where: names the code in errors: a file, a task or a cell.
    :raises SourceFileError: the code is empty or is not Python.
    :raises SpecError: the code is too long.
    """
    if not code.strip():
        raise SourceFileError(f"{where} is empty")
    tree = parse(code, where)
    code = code.replace("\r\n", "\n").rstrip()
    last = tree.body[-1] if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    if returns(tree):
        sent = f"{code}\n{_printing_code()}glueray_print_value({_tag(client_token)!r}, {RETURN_NAME}, True)\n"
    elif last is not None and not code.endswith(";"):  # which says, in notebooks, not to show it
        # Assigned where it stands, so that a traceback still shows the line it would have shown.
        begin = _offset(code, last.lineno, last.col_offset)
        end = _offset(code, last.end_lineno, last.end_col_offset)
        assigned = f"{code[:begin]}_glueray_value = ({code[begin:end]}){code[end:]}"
        report = f"glueray_print_value({_tag(client_token)!r}, _glueray_value, False)"
        sent = f"{assigned}\n{_printing_code()}if _glueray_value is not None:\n    {report}\n"
    else:
        sent = f"{code}\n"
    sent += f"# {_tag(client_token)}\n"
    if len(sent) > MOST_CHARACTERS:
        raise SpecError(
            [
                f"{where} has {len(code)} characters, and a statement at most {MOST_CHARACTERS}, of which "
                f"{len(sent) - len(code)} are needed to bring its value back [botocore RunStatement]. Put most of it "
                "into a module that the session gets through py_modules, and import it"
            ]
        )
    return sent


def check_code(code: str, where: str) -> None:
    """Refuse code that no statement could run; see :func:`prepare`."""
    prepare(code, "0" * 32, where)


def carries_token(code: str, client_token: str) -> bool:
    """Tell whether a statement's code is that of the run with a client token."""
    return code.endswith(f"# {_tag(client_token)}\n")


def read_output(statement: Mapping[str, Any], client_token: str = "") -> StatementOutput:
    """Read a ``Statement`` (botocore shape) that was sent with a client token.

    The value is in the line that our own code printed; without that line, there is only printed text.
    """
    output = statement.get("Output") or {}
    text = plain((output.get("Data") or {}).get("TextPlain") or "")
    printed, found, report = text.rpartition(f"\n{_tag(client_token)}")
    line, _, after = report.partition("\n")
    forms: dict[str, Any] = {}
    if found and client_token:
        try:
            forms = json.loads(line)
            printed += after
        except ValueError:
            # The session has cut the line off: the value is lost, what was printed is not.
            forms = {}
    else:
        printed = text
    error = None
    if output.get("Status") == "error" or output.get("ErrorName"):
        lines = (plain(part).rstrip("\n") for part in output.get("Traceback") or ())
        traceback = tuple(line for part in lines for line in part.splitlines())
        error = StatementError(output.get("ErrorName") or "Error", plain(output.get("ErrorValue") or ""), traceback)
    return StatementOutput(
        printed=printed,
        value=json.loads(forms["value"]) if "value" in forms else None,
        shown=forms.get("shown", {}),
        error=error,
        execution_count=output.get("ExecutionCount"),
        started=seconds_of(statement.get("StartedOn")),
        completed=seconds_of(statement.get("CompletedOn")),
    )


def plain(text: str) -> str:
    """Return a text without the colours of a terminal, which Ray puts into what it prints and raises."""
    return _COLOURS.sub("", text)


def seconds_of(stamp: float | None) -> float | None:
    """Read a time of a statement: an epoch number, of which botocore does not say whether in ms or in s."""
    if not stamp:
        return None
    return stamp / 1000 if stamp > 1e11 else float(stamp)


def _tag(client_token: str) -> str:
    return f"glueray:{client_token}:"


def returns(tree: ast.Module) -> bool:
    """Tell whether code chooses its value itself, by assigning to ``return_value``."""
    return any(RETURN_NAME in _assigned(node) for node in tree.body)


def _assigned(node: ast.stmt) -> set[str]:
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, (ast.AnnAssign, ast.AugAssign)):
        targets = [node.target]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _offset(code: str, line: int | None, column: int | None) -> int:
    """Turn a position of `ast` (line from 1, column in bytes of UTF-8) into one in the text."""
    assert line is not None, "ast sets the positions of what it has parsed"
    lines = code.split("\n")
    return sum(len(before) + 1 for before in lines[: line - 1]) + len(lines[line - 1].encode()[:column].decode())
