"""A notebook in a session: cell by cell, each cell a statement.

The progress is in the session itself and in the task state store, one record per cell, so a worker or a triggerer may
die at any moment: the next try asks which cells have run, and goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from airflow.sdk import Context

from airflow_provider_glueray.core import clock
from airflow_provider_glueray.core.backend import SessionBackend
from airflow_provider_glueray.core.drivers import TaskLog
from airflow_provider_glueray.core.errors import GlueRayError, RunFailed, SubmitError, raise_failure
from airflow_provider_glueray.core.runs import GLUE_SESSION, GLUE_STATEMENT, Outcome, RunRef, StatementOutput
from airflow_provider_glueray.core.spec import RaySessionSpec
from airflow_provider_glueray.hooks import settings
from airflow_provider_glueray.hooks.glue.requests import session_id_for
from airflow_provider_glueray.hooks.glue.statements import prepare, read_output
from airflow_provider_glueray.notebooks.document import Cell
from airflow_provider_glueray.notebooks.executed import NotebookPlan
from airflow_provider_glueray.task.life import RunLife, Start
from airflow_provider_glueray.task.outcome import publish_links, push, push_usage, will_retry
from airflow_provider_glueray.task.record import CELL_KEY, SESSION_KEY, RunRecord
from airflow_provider_glueray.task.sessions import output_of, session_spec, show_output, statement_failure

#: Seconds that a notebook's own session may take to be READY.
START_SECONDS = 1800.0
#: Magics may also set these: the region to ask, and how the session's id begins.
_NOT_OF_THE_SPEC = ("region_name", "session_id_prefix")


class SessionNotebookRunner:
    """Runs a notebook in a session of AWS Glue.

    :param make_life: returns the life of a run: of a backend, under a key of the task state store, with so many
        seconds.
    :param defer: leaves the worker for a run, None to wait in it; killed while deferred, the task stops the run given
        last.
    """

    def __init__(
        self,
        plan: NotebookPlan,
        hook: SessionBackend,
        log: TaskLog,
        make_life: Callable[[str, str, float | None], RunLife],
        defer: Callable[[RunLife, RunRef | None], None] | None,
    ) -> None:
        self._plan, self._hook, self._log = plan, hook, log
        self._make_life, self._defer = make_life, defer
        self._session_life = make_life(GLUE_SESSION, SESSION_KEY, START_SECONDS)
        self._cell_life: RunLife | None = None

    def go(self, context: Context, outcome: Outcome | None) -> str:
        """Go on with the notebook; the run that it was deferred for ended with ``outcome``."""
        notebook = self._plan.notebook
        try:
            session_id = str(self._plan.session_id or self._ready_session(context, outcome))
            value = self._run_cells(session_id, context, outcome)
        except Exception as error:
            with suppress(GlueRayError):
                notebook.write(failed=True)
            self._end_session(context, error)
            raise
        notebook.write(done=True)
        push(context, "glueray_value", value)
        self._end_session(context, None)
        self._log.info("The executed notebook is %s", notebook.output_path)
        return notebook.output_path

    def current_run(self, context: Context) -> RunRef | None:
        """Return the last cell that was started, or the session if none was."""
        record = RunRecord.load(context, SESSION_KEY)
        own = record.ref if record and self._plan.session_id is None else None
        session_id = own.id if own else str(self._plan.session_id or "")
        cells = self._cells_of(session_id, context)
        return cells[max(cells)].ref if cells else own

    def kill(self) -> None:
        """Stop the notebook's own session, or the cell that runs in a session of others."""
        if self._plan.session_id is None:
            self._session_life.kill()
            if self._cell_life is not None:
                self._cell_life.is_killed = True
        elif self._cell_life is not None:
            self._cell_life.kill()

    # -- the session --------------------------------------------------------------------------------------------

    def _ready_session(self, context: Context, outcome: Outcome | None) -> str:
        """Return the notebook's own session, once it is READY."""
        record = RunRecord.load(context, SESSION_KEY)
        if outcome is not None and record is not None:
            ref = self._session_life.resume(record)
            if outcome.snapshot.ref != ref:
                return ref.id
        elif record is not None and record.run_id and self._is_done(record.run_id, context):
            # The try before died between stopping the session and saying that all is done.
            return self._session_life.resume(record).id
        else:
            ref = self._session_life.submit_or_reattach(
                context,
                lambda client_token: self._session_name(client_token, context),
                lambda: self._prepare_session(context),
            )
            self._publish_links(ref, context)
            outcome = self._look(ref) or self._wait_for(self._session_life, ref)
        raise_failure(outcome, self._hook.url(ref))
        return ref.id

    def _prepare_session(self, context: Context) -> Start:
        spec = self._hook.stage(notebook_session_spec(self._plan, context["ti"]), self._plan.staging_uri)
        # Nothing is started whose result could not be written down.
        self._plan.notebook.write()
        return lambda client_token: self._hook.create(spec, self._session_name(client_token, context), client_token)

    def _publish_links(self, ref: RunRef, context: Context) -> None:
        push(context, "glueray_run", ref.to_json())
        publish_links(ref, self._hook, context, self._log)

    def _session_name(self, client_token: str, context: Context) -> str:
        ti = context["ti"]
        return session_id_for(ti.dag_id, ti.task_id, client_token, self._plan.settings.get("session_id_prefix", ""))

    def _end_session(self, context: Context, error: BaseException | None) -> None:
        """Stop the notebook's own session, unless a later try shall go on in it."""
        record = RunRecord.load(context, SESSION_KEY) if self._plan.session_id is None else None
        ref = record.ref if record else None
        if ref is None:
            return
        if error is not None and not isinstance(error, RunFailed) and will_retry(error, context):
            self._log.info("Leaving %s up for the next try", ref.title)
            return
        self._hook.stop(ref)
        push_usage(self._hook.describe([ref])[ref], context, self._log)

    # -- the cells ----------------------------------------------------------------------------------------------

    def _run_cells(self, session_id: str, context: Context, outcome: Outcome | None) -> Any:
        """Run the cells that have not been run, and return the value of the last one."""
        notebook = self._plan.notebook
        mine = self._cells_of(session_id, context)
        succeeded = self._succeeded(session_id) if mine else {}
        if self._plan.session_id is not None and outcome is None:
            self._publish_links(RunRef(GLUE_SESSION, session_id, session_id), context)
            if not mine:
                notebook.write()
        output = StatementOutput()
        for cell in notebook.cells:
            record = mine.get(cell.number)
            if not cell.code:
                output = StatementOutput()
                notebook.record_cell(cell, output, "completed")
            elif record is not None and (run_id := record.run_id or "") in succeeded and not _is_of(outcome, record):
                output = read_output(succeeded[run_id], record.client_token)
                notebook.record_cell(cell, output, "completed")
            else:
                ended = outcome if record is not None and _is_of(outcome, record) else None
                output = self._run_cell(cell, session_id, context, ended)
        return output.value

    def _cells_of(self, session_id: str, context: Context) -> dict[int, RunRecord]:
        """Return the records of this attempt group's cells in a session, by the cell's number."""
        numbers = [cell.number for cell in self._plan.notebook.cells]
        records = {number: RunRecord.load(context, CELL_KEY.format(number=number)) for number in numbers}
        return {
            at: one
            for at, one in records.items()
            if one and one.run_id and one.name == session_id and not one.is_from_before_clear(context)
        }

    def _succeeded(self, session_id: str) -> Mapping[str, Mapping[str, Any]]:
        """Return the session's statements that have succeeded; none, if nobody knows them any more."""
        try:
            return self._hook.succeeded(session_id)
        except SubmitError as error:
            self._log.info("Cannot list the statements of session %s: %s", session_id, error)
            return {}

    def _is_done(self, session_id: str, context: Context) -> bool:
        """Tell whether every cell has succeeded in a session, be it over or not."""
        mine = self._cells_of(session_id, context)
        to_run = [cell for cell in self._plan.notebook.cells if cell.code]
        if not all(cell.number in mine for cell in to_run):
            return False
        succeeded = self._succeeded(session_id)
        return all(mine[cell.number].run_id in succeeded for cell in to_run)

    def _run_cell(self, cell: Cell, session_id: str, context: Context, outcome: Outcome | None) -> StatementOutput:
        """Run one cell, or reattach to it, and record its output; ``outcome`` if it has ended."""
        notebook, key = self._plan.notebook, CELL_KEY.format(number=cell.number)
        if outcome is None:
            life = self._cell_life = self._make_life(GLUE_STATEMENT, key, self._plan.run_timeout)
            ref = life.submit_or_reattach(
                context, lambda _: session_id, lambda: partial(self._send, cell, session_id), only_in=session_id
            )
            notebook.record_cell(cell, StatementOutput(started=clock.now()), "running")
            outcome = self._wait_for(life, ref)
        known = RunRecord.load(context, key)
        output = output_of(outcome, self._hook, known.client_token if known else "")
        self._log.info("::group::%s", notebook.title(cell))
        if output is not None:
            show_output(output, outcome.snapshot, self._log)
        self._log.info("::endgroup::")
        url = self._hook.url(outcome.snapshot.ref)
        failure = statement_failure(outcome, output, url, notebook.error_context(cell))
        output = output or StatementOutput(completed=outcome.snapshot.completed)
        notebook.record_cell(cell, output, "completed" if failure is None else "failed")
        if failure is not None:
            raise failure
        notebook.write()
        return output

    def _send(self, cell: Cell, session_id: str, client_token: str) -> RunRef:
        code = prepare(cell.code, client_token, self._plan.notebook.where(cell))
        return self._hook.run_statement(session_id, code, client_token)

    def _look(self, ref: RunRef) -> Outcome | None:
        """Return the outcome of what has ended; a look that fails is no end."""
        try:
            snapshot = self._hook.describe([ref])[ref]
        except SubmitError as error:
            self._log.info("Could not look at %s, trying again: %s", ref.title, error)
            return None
        return Outcome(snapshot) if snapshot.state.is_terminal else None

    def _wait_for(self, life: RunLife, ref: RunRef) -> Outcome:
        """Wait for the session or a cell: here, or in the triggerer, which this call then never returns from."""
        if self._defer is not None:
            # Most cells are short, and a deferral costs the start of a worker.
            end = clock.now() + settings.waits().linger
            while clock.now() < end:
                outcome = self._look(ref)
                if outcome is not None:
                    return outcome
                clock.sleep(0.5)
            self._defer(life, self._session_life.ref if self._plan.session_id is None else None)
        return life.wait()


def notebook_session_spec(plan: NotebookPlan, ti: Any) -> RaySessionSpec:
    """Return the spec of a notebook's own session.

    :param ti: the task instance.
    """
    return session_spec(ti, {"role": "", **plan.spec_fields(_NOT_OF_THE_SPEC)})


def _is_of(outcome: Outcome | None, record: RunRecord) -> bool:
    """Tell whether the task was deferred for the end of this cell."""
    return outcome is not None and outcome.snapshot.ref == record.ref
