"""Run the cells of a notebook on the cluster: in order, in one namespace, each leaving what it has said.

The cells lie in the folder of the run, and what each has said is put there when it has ended, so nothing is lost when
a later one fails or the run is stopped. Python 3.9, standard library; no IPython is needed on the cluster.
"""

from __future__ import annotations

import ast
import asyncio
import codeop
import inspect
import io
import json
import linecache
import os
import sys
import time
from contextlib import closing
from functools import cached_property
from types import ModuleType
from typing import Any

from .calls import CALL, ClusterFolder, describe_exception, write_json
from .display import glueray_describe_value

#: Names in the run's folder: all cells, and what the one with a number has said.
CELLS, CELL_OUTPUT = "cells.json", "cell-{number}.json"
#: The most characters of printed text that are kept of one cell.
MOST_PRINTED = 100_000_000


class Tee(io.TextIOBase):
    """A text stream that also remembers what was written, of both streams in the order in which it came.

    :param stream: where it goes.
    :param pieces: where it is remembered; what is more than can be kept is left out, and its length noted.
    """

    def __init__(self, stream: Any, pieces: OutputBuffer) -> None:
        self._stream, self._pieces = stream, pieces

    def write(self, text: str) -> int:
        """Write a text."""
        self._pieces.add(text)
        written: int = self._stream.write(text)
        return written

    def flush(self) -> None:
        """Pass on what has been written."""
        self._stream.flush()

    def fileno(self) -> int:
        """Return the file that is written to, which is what a child process gets."""
        descriptor: int = self._stream.fileno()
        return descriptor

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """That of the stream."""
        name: str = self._stream.encoding
        return name


class OutputBuffer:
    """What a cell has printed."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._kept = self._left_out = 0

    def add(self, text: str) -> None:
        """Remember a text, or how long it was."""
        room = MOST_PRINTED - self._kept
        self._pieces.append(text[:room])
        self._kept += min(len(text), room)
        self._left_out += max(len(text) - room, 0)

    def text(self) -> str:
        """Return all that was kept."""
        note = f"\n[… {self._left_out:,} characters more were printed]\n" if self._left_out else ""
        return "".join(self._pieces) + note


class Notebook:
    """One namespace in which cells run, which is ``__main__`` to everything in them."""

    def __init__(self) -> None:
        # A module of its own, so that cells do not meet our names; Ray sends what is in __main__ by value.
        self._module = ModuleType("__main__")
        self._compile = codeop.Compile()  # it keeps what a cell imports from __future__ for the next ones
        self._compile.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of all cells that await something."""
        return asyncio.new_event_loop()

    def close(self) -> None:
        """Let the event loop go, if there is one."""
        if "_loop" in self.__dict__:
            self._loop.close()

    def run(self, cell: dict[str, Any]) -> dict[str, Any]:
        """Run one cell; return what it has said, with ``error`` None or ``[name, value, traceback lines]``."""
        pieces, streams = OutputBuffer(), (sys.stdout, sys.stderr)
        result: dict[str, Any] = {"started": time.time(), "shown": {}, "error": None}
        sys.modules["__main__"] = self._module
        sys.stdout, sys.stderr = (Tee(stream, pieces) for stream in streams)
        try:
            value = self._execute(cell["code"], f"<{cell['where']}>")
            if cell["explicit"]:
                result.update(glueray_describe_value(self._module.__dict__[cell["explicit"]], True))
            elif value is not None:
                result.update(glueray_describe_value(value, False))
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            described = describe_exception(error, (__file__, asyncio.base_events.__file__))
            result["error"] = [described["name"], described["value"], described["traceback"].rstrip().splitlines()]
        finally:
            sys.stdout, sys.stderr = streams
        return {**result, "printed": pieces.text(), "completed": time.time()}

    def _execute(self, code: str, name: str) -> Any:
        """Execute code; return the value of its last expression."""
        # Without it, no traceback could show the lines of a cell.
        linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
        body, last = ast.parse(code, name).body, None
        if body and isinstance(body[-1], ast.Expr) and not code.rstrip().endswith(";"):
            last = ast.Expression(body[-1].value)
            body.pop()
        if body:
            self._evaluate(ast.Module(body, []), name, "exec")
        return self._evaluate(last, name, "eval") if last else None

    def _evaluate(self, tree: Any, name: str, mode: str) -> Any:
        code = self._compile(tree, name, mode)
        value = eval(code, self._module.__dict__)
        return self._loop.run_until_complete(value) if code.co_flags & inspect.CO_COROUTINE else value


def run_cells() -> None:
    """Run the cells that lie in this run's folder; leave with 1 when one raises."""
    folder = ClusterFolder(os.environ[CALL])
    # Ray finds its cluster by itself when a cell first asks for something, on every backend.
    os.environ.setdefault("RAY_ADDRESS", "auto")
    with closing(Notebook()) as notebook:
        for cell in json.loads(folder.read(CELLS)):
            print(cell["title"], flush=True)
            name = CELL_OUTPUT.format(number=cell["number"])
            write_json(folder, name, {"started": time.time()})
            result = notebook.run(cell)
            write_json(folder, name, result)
            if result["error"]:
                print("\n".join(result["error"][2]), file=sys.stderr, flush=True)
                sys.exit(1)
