"""A notebook as one Ray job: its cells go into the folder of the run, and their results come back from there.

The code at the other end is ``glueray_step/cells.py``.
"""

from __future__ import annotations

import ast
import json
from contextlib import suppress
from pathlib import PurePath
from typing import Any, NamedTuple

from airflow.sdk import Context

from airflow_provider_glueray.core.backend import JobBackend
from airflow_provider_glueray.core.drivers import TaskLog
from airflow_provider_glueray.core.errors import GlueRayError, ResultMissing, RunFailed, SpecError
from airflow_provider_glueray.core.runs import Outcome, RunRef, StatementError, StatementOutput
from airflow_provider_glueray.core.spec import STEP_FOLDER, RayJobSpec, SourceFile
from airflow_provider_glueray.glueray_step.calls import CALL
from airflow_provider_glueray.glueray_step.cells import CELL_OUTPUT, CELLS
from airflow_provider_glueray.hooks.glue.statements import RETURN_NAME, plain, returns
from airflow_provider_glueray.notebooks.document import Cell
from airflow_provider_glueray.notebooks.executed import ExecutedNotebook, NotebookPlan
from airflow_provider_glueray.packaging.programs import program_text
from airflow_provider_glueray.task.life import Start
from airflow_provider_glueray.task.outcome import push, push_usage
from airflow_provider_glueray.task.record import RunRecord, call_uri, empty_results, owner_of
from airflow_provider_glueray.task.sessions import statement_failure

#: What is only a session's: how long it lives, and how its id begins.
_OF_SESSIONS = ("idle_timeout", "session_timeout", "session_id_prefix", "region_name", "glue_version")


class _CellResults(NamedTuple):
    """The results of a notebook's cells.

    :param output: of the last cell that began.
    :param last: that cell; None when none began.
    :param is_all: whether all cells have succeeded.
    """

    output: StatementOutput = StatementOutput()
    last: Cell | None = None
    is_all: bool = False


class JobNotebookRunner:
    """Runs a notebook as one job, as far as that differs from any run."""

    def __init__(self, plan: NotebookPlan, hook: JobBackend, log: TaskLog) -> None:
        self._plan, self._hook, self._log = plan, hook, log

    def prepare(self, context: Context) -> Start:
        """Make ready what starts the run."""
        plan = self._plan
        prepared = self._hook.prepare(job_spec(plan, context["ti"]), plan.staging_uri, plan.run_timeout)
        of_sessions = [name for name in _OF_SESSIONS if plan.settings.get(name) is not None]
        if ineffective := dict.fromkeys([*of_sessions, *plan.ineffective]):
            self._log.info("A notebook is one job here; no effect: %s", ", ".join(ineffective))
        # Nothing is started whose result could not be written down.
        plan.notebook.write()
        cells = json.dumps(cells_of(plan.notebook)).encode()
        is_sent = False

        def start(client_token: str) -> RunRef:
            nonlocal is_sent
            if not is_sent:  # and not again for each time that there has been no capacity
                folder = self._hook.storage.folder(_call_uri(plan, client_token))
                outputs = [CELL_OUTPUT.format(number=cell.number) for cell in plan.notebook.cells]
                empty_results(folder, CELLS, outputs)
                with folder.write(CELLS) as file:
                    file.write(cells)
                is_sent = True
            return prepared.start(client_token, call_arguments(plan, client_token))

        return start

    def finish(self, outcome: Outcome, context: Context) -> str:
        """Write the executed notebook, and leave with its path or with the failure of the run.

        :raises RunFailed: or one of its kinds.
        :raises ResultMissing: a cell has left the interpreter by itself.
        """
        push_usage(outcome.snapshot, context, self._log)
        record = RunRecord.load(context)
        notebook = self._plan.notebook
        url = self._hook.url(outcome.snapshot.ref)
        failure: RunFailed | None = statement_failure(outcome, None, url)
        results = _CellResults()
        # The error has to say why the run failed even if the results of its cells cannot be had.
        with suppress(*([GlueRayError] if failure else [])):
            results = self._record_cells(record.client_token if record else "")
            is_well = results.is_all and failure is None
            notebook.write(done=is_well, failed=not is_well)
        if failure is not None:
            about = notebook.error_context(results.last) if results.last else ()
            raise statement_failure(outcome, results.output, url, about) or failure
        if not results.is_all:
            where = notebook.where(results.last) if results.last else notebook.name
            raise ResultMissing(
                f"{where} has left the interpreter by itself; the executed notebook is {notebook.output_path}"
            )
        push(context, "glueray_value", results.output.value)
        self._log.info("The executed notebook is %s", notebook.output_path)
        return notebook.output_path

    def _record_cells(self, client_token: str) -> _CellResults:
        """Record the results of the cells, up to the one that has not succeeded."""
        folder = self._hook.storage.folder(_call_uri(self._plan, client_token))
        notebook = self._plan.notebook
        output = StatementOutput()
        last: Cell | None = None
        for cell in notebook.cells:
            if not cell.code:
                output = StatementOutput()
                notebook.record_cell(cell, output, "completed")
                continue
            content = folder.read(CELL_OUTPUT.format(number=cell.number))
            result = json.loads(content) if content else {}
            if not result:
                return _CellResults(output, last)
            output, last = _output_of(result), cell
            if "completed" not in result or output.error is not None:
                notebook.record_cell(cell, output, "running" if output.error is None else "failed")
                return _CellResults(output, cell)
            notebook.record_cell(cell, output, "completed")
        return _CellResults(output, last, is_all=True)


def job_spec(plan: NotebookPlan, ti: Any) -> RayJobSpec:
    """Return the spec of a notebook's job.

    :param ti: the task instance.
    :raises SpecError: a setting breaks a rule, or there is no staging area.
    """
    if not plan.staging_uri:
        raise SpecError(["staging_uri=None: the cells of a notebook and their results pass through an S3 prefix"])
    given = plan.spec_fields(_OF_SESSIONS)
    given |= {
        "name": plan.job_name,
        "script": SourceFile(f"{PurePath(plan.notebook.name).stem}.py", program_text("run_cells")),
        "py_modules": [*given.get("py_modules", ()), STEP_FOLDER],
        "arguments": {**owner_of(ti), "airflow_run_id": ti.run_id, **given.get("arguments", {})},
        "tags": {**owner_of(ti), **given.get("tags", {})},
        "cluster": plan.cluster,
        "overrides": plan.overrides,
    }
    return RayJobSpec(**given)


def cells_of(notebook: ExecutedNotebook) -> list[dict[str, Any]]:
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


def call_arguments(plan: NotebookPlan, client_token: str) -> dict[str, str]:
    """Return the argument that tells the run with a client token where its cells lie."""
    return {f"--{CALL}": _call_uri(plan, client_token)}


def _call_uri(plan: NotebookPlan, client_token: str) -> str:
    return call_uri(plan.staging_uri, plan.job_name, client_token)


def _output_of(result: dict[str, Any]) -> StatementOutput:
    """Read what ``run_cells`` has left of a cell."""
    error = result.get("error")
    return StatementOutput(
        printed=plain(result.get("printed", "")),
        value=json.loads(result["value"]) if "value" in result else None,
        shown=result.get("shown", {}),
        error=StatementError(error[0], plain(error[1]), tuple(map(plain, error[2]))) if error else None,
        started=result["started"],
        completed=result.get("completed"),
    )
