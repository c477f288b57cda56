"""The notebook that a task runs: what there is to run, what has come of it, and where that is written.

With it stands what a task's fields say of it, once they are rendered. It starts nothing and waits for nothing; its
callers give it the outputs of the cells.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, fields
from typing import Any

from airflow_provider_glueray.core.runs import StatementOutput
from airflow_provider_glueray.core.spec import Workers
from airflow_provider_glueray.hooks.glue.statements import check_code
from airflow_provider_glueray.notebooks import document

#: Lines of a failed cell that its error shows.
SOURCE_LINES = 30


class ExecutedNotebook:
    """A notebook with its parameters, and the copy of it that gets the outputs.

    :param text: the notebook, as JSON.
    :param name: of the notebook, in errors and in its metadata.
    :param output_path: where the executed notebook is written.
    :param write: writes a text to a path.
    :ivar cells: all code cells.
    :ivar settings: what its magics set; see :func:`magics.settings`.
    :raises SourceFileError, SpecError: it cannot be run as it is, wholly or in part.
    """

    def __init__(
        self,
        text: str,
        *,
        name: str,
        output_path: str,
        parameters: Mapping[str, Any],
        write: Callable[[str, str], None],
    ) -> None:
        self.name, self.output_path = name, output_path
        self._parameters, self._write_text = parameters, write
        self._began = time.time()
        self._notebook = document.cleared(document.with_parameters(document.read(text, name), parameters))
        self.settings, self.cells = document.cells(self._notebook)
        for cell in self.cells:
            if cell.code:
                check_code(cell.code, self.where(cell))

    def where(self, cell: document.Cell) -> str:
        """Return what to call a cell in an error."""
        return f"Cell {cell.number} of {self.name}"

    def title(self, cell: document.Cell) -> str:
        """Return the headline of a cell in the task log: its first line that is code."""
        first = next((line for line in cell.code.splitlines() if line.strip()), "")
        return f"Cell {cell.number} of {len(self.cells)}: {first.strip()[:80]}"

    def error_context(self, cell: document.Cell) -> tuple[str, ...]:
        """Return the lines with which the error of a failed cell begins."""
        lines = [f"  {line}" for line in cell.source.strip().splitlines()]
        shown = lines if len(lines) <= SOURCE_LINES else [*lines[: SOURCE_LINES - 1], "  …"]
        return (f"{self.where(cell)} failed; the executed notebook is {self.output_path}. The cell:", *shown)

    def record_cell(self, cell: document.Cell, output: StatementOutput, status: str) -> None:
        """Note how a cell stands; a text that is too long for a notebook goes into a file beside it."""
        folder, _, name = self.output_path.rpartition("/")
        beside = f"{name.removesuffix('.ipynb')}-cell-{cell.number}.txt"
        whole = document.record(self._notebook, cell, output, status, whole_name=beside)
        if whole is not None:
            self._write_text(f"{folder}/{beside}", whole)

    def write(self, *, done: bool = False, failed: bool = False) -> None:
        """Write the notebook as it stands.

        :raises StagingError: it cannot be written there.
        """
        copy = deepcopy(self._notebook)
        document.finish(
            copy,
            parameters=self._parameters,
            input_name=self.name,
            output_name=self.output_path,
            started=self._began,
            ended=time.time() if done or failed else None,
            exception=failed,
        )
        self._write_text(self.output_path, document.dump(copy))


@dataclass(frozen=True)
class NotebookPlan:
    """One notebook, and where and how it runs.

    :param settings: fields of the spec: those of the magics, and over them those of the task.
    :param job_name: of the job, where the notebook is one.
    :param run_timeout: seconds for the whole job, in a session for each cell; None for ever.
    :param session_id: of the session to run in; None for one of the notebook's own.
    :param ineffective: parameters of the task that have no effect where it runs.
    """

    notebook: ExecutedNotebook
    settings: Mapping[str, Any]
    job_name: str
    staging_uri: str | None = None
    run_timeout: float | None = None
    session_id: str | None = None
    cluster: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    ineffective: tuple[str, ...] = ()

    def spec_fields(self, left_out: Collection[str]) -> dict[str, Any]:
        """Return the settings as fields of a spec, its workers among them.

        :param left_out: settings that are no fields of it.
        """
        given = {name: value for name, value in self.settings.items() if name not in left_out}
        sizes = {field.name: given.pop(field.name) for field in fields(Workers) if field.name in given}
        return {**given, "workers": Workers(**sizes)}
