"""A notebook as one Ray job: its cells go into the folder of the run, and what they have said comes back from there.

Floor 3. The code at the other end is ``glueray_step/cells.py``.
"""

from __future__ import annotations

import ast
import json
from contextlib import suppress
from dataclasses import fields
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_provider_glueray.core.errors import GlueRayError, RunFailed, ScriptError, SpecError
from airflow_provider_glueray.core.runs import Outcome, RunRef, StatementError, StatementOutput
from airflow_provider_glueray.core.spec import RayJobSpec, Workers
from airflow_provider_glueray.glueray_step.calls import CALL
from airflow_provider_glueray.glueray_step.cells import CELL_OUTPUT, CELLS
from airflow_provider_glueray.hooks.glue.statements import RETURN_NAME, plain, returns
from airflow_provider_glueray.operators.glue_jobs import STEP
from airflow_provider_glueray.task.outcome import push_usage
from airflow_provider_glueray.task.record import RunRecord
from airflow_provider_glueray.task.sessions import statement_failure
from airflow_provider_glueray.task.submission import Start

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_glueray.notebooks.document import Cell
    from airflow_provider_glueray.notebooks.executed import ExecutedNotebook
    from airflow_provider_glueray.operators.notebooks import GlueRayNotebookOperator

#: What is only a session's: how long it lives, and how it is called.
_OF_SESSIONS = ("idle_timeout", "session_timeout", "session_id_prefix", "region_name", "glue_version")
_SCRIPT = "from glueray_step.cells import run_cells\n\nrun_cells()\n"


class _CellResults(NamedTuple):
    """What the cells of a notebook have said.

    :param output: of the last one that began.
    :param last: that cell; None when none began.
    :param is_all: whether all have succeeded.
    """

    output: StatementOutput = StatementOutput()
    last: Cell | None = None
    is_all: bool = False


class JobNotebookRunner:
    """The life of a notebook that is one job, as far as it differs from that of any run.

    :param task: the operator whose notebook it is.
    """

    def __init__(self, task: GlueRayNotebookOperator) -> None:
        self._task = task

    @property
    def name(self) -> str:
        """The name of the job."""
        return f"{self._task.dag_id}-{self._task.task_id}"

    def prepare(self, context: Context) -> Start:
        """Make ready what starts the run."""
        task = self._task
        notebook = task.read()
        with TemporaryDirectory() as place:
            prepared = task.hook.prepare(self.spec(notebook, Path(place), context), task.staging_uri, task.run_timeout)
        # Nothing is started whose result could not be written down.
        notebook.write()
        cells = json.dumps(self.cells(notebook)).encode()
        sent = False

        def start(client_token: str) -> RunRef:
            nonlocal sent
            if not sent:  # and not again for each time that there has been no room
                with task.hook.storage.folder(self._place(client_token)).write(CELLS) as file:
                    file.write(cells)
                sent = True
            return prepared.start(client_token, self.call_arguments(client_token))  # type: ignore[no-any-return]

        return start

    def spec(self, notebook: ExecutedNotebook, place: Path, context: Context) -> RayJobSpec:
        """Build the spec; its script is written to a folder, and has to be there for as long as it is used.

        :raises SpecError: a setting breaks a rule, or there is no staging area.
        """
        task, ti = self._task, context["ti"]
        if not task.staging_uri:
            raise SpecError(["staging_uri=None: the cells of a notebook and what they say pass through an S3 prefix"])
        given = task.settings(notebook)
        of_sessions = [name for name in _OF_SESSIONS if given.pop(name, None) is not None]
        if idle := dict.fromkeys([*of_sessions, *task.ineffective_settings()]):
            task.log.info("A notebook is one job here; no effect: %s", ", ".join(idle))
        script = place / f"{PurePath(task.notebook).stem}.py"
        script.write_text(_SCRIPT, encoding="utf-8")
        workers = Workers(**{field.name: given.pop(field.name) for field in fields(Workers) if field.name in given})
        whose = {"airflow_dag_id": ti.dag_id, "airflow_task_id": ti.task_id}
        given |= {
            "name": self.name,
            "script": str(script),
            "workers": workers,
            "py_modules": [*given.get("py_modules", ()), str(STEP)],
            "arguments": {**whose, "airflow_run_id": ti.run_id, **given.get("arguments", {})},
            "tags": {**whose, **given.get("tags", {})},
            "cluster": task.cluster,
            "overrides": task.overrides,
        }
        return RayJobSpec(**given)

    def cells(self, notebook: ExecutedNotebook) -> list[dict[str, Any]]:
        """Return the cells with code, as ``run_cells`` wants them."""
        return [
            {
                "number": cell.number,
                "title": notebook.title(cell),
                "where": notebook.where(cell),
                "code": cell.code,
                "explicit": RETURN_NAME if returns(ast.parse(cell.code)) else None,
            }
            for cell in notebook.cells
            if cell.code
        ]

    def call_arguments(self, client_token: str) -> dict[str, str]:
        """Return where the cells of the run with a mark lie."""
        return {f"--{CALL}": self._place(client_token)}

    def finish(self, outcome: Outcome, context: Context) -> str:
        """Write the executed notebook, and leave with its place or with the failure of the run.

        :raises RunFailed: or one of its kinds.
        """
        task = self._task
        push_usage(outcome.snapshot, context, task.log)
        record = RunRecord.load(context)
        notebook = task.read()
        url = task.hook.url(outcome.snapshot.ref)
        failure: RunFailed | None = statement_failure(outcome, None, url)
        said = _CellResults()
        # Why the run failed is to be told even if what its cells have said cannot be had.
        with suppress(*([GlueRayError] if failure else [])):
            said = self._note_cells(notebook, record.client_token if record else "")
            notebook.write(done=said.is_all and failure is None, failed=not said.is_all or failure is not None)
        if failure is not None:
            about = notebook.error_context(said.last) if said.last else ()
            raise statement_failure(outcome, said.output, url, about) or failure
        if not said.is_all:
            raise ScriptError(
                f"{notebook.where(said.last) if said.last else notebook.name} has left the interpreter by itself; the "
                f"executed notebook is {notebook.output_path}"
            )
        context["ti"].xcom_push(key="glueray_value", value=said.output.value)
        task.log.info("The executed notebook is %s", notebook.output_path)
        return notebook.output_path

    def _note_cells(self, notebook: ExecutedNotebook, client_token: str) -> _CellResults:
        """Note what the cells have said, up to the one that has not succeeded."""
        folder = self._task.hook.storage.folder(self._place(client_token))
        output = StatementOutput()
        last: Cell | None = None
        for cell in notebook.cells:
            if not cell.code:
                output = StatementOutput()
                notebook.record_cell(cell, output, "completed")
                continue
            content = folder.read(CELL_OUTPUT.format(number=cell.number))
            if content is None:
                return _CellResults(output, last)
            said = json.loads(content)
            output, last = _output_of(said), cell
            if "completed" not in said or output.error is not None:
                notebook.record_cell(cell, output, "running" if output.error is None else "failed")
                return _CellResults(output, cell)
            notebook.record_cell(cell, output, "completed")
        return _CellResults(output, last, is_all=True)

    def _place(self, client_token: str) -> str:
        return f"{str(self._task.staging_uri).rstrip('/')}/calls/{self.name}/{client_token}"


def _output_of(said: dict[str, Any]) -> StatementOutput:
    """Read what ``run_cells`` has left of a cell."""
    error = said.get("error")
    return StatementOutput(
        printed=plain(said.get("printed", "")),
        value=json.loads(said["value"]) if "value" in said else None,
        shown=said.get("shown", {}),
        error=StatementError(error[0], plain(error[1]), tuple(map(plain, error[2]))) if error else None,
        started=said["started"],
        completed=said.get("completed"),
    )
