"""A notebook in a session: cell by cell, each cell a statement.

Floor 3. The progress is in the session itself and in the task state store, one record per cell, so a worker or a
triggerer may die at any moment: the next try asks what has run, and goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from airflow_provider_glueray.core import clock
from airflow_provider_glueray.core.errors import GlueRayError, RunFailed, SubmitError, failure_of
from airflow_provider_glueray.core.runs import GLUE_SESSION, GLUE_STATEMENT, Outcome, RunRef, StatementOutput
from airflow_provider_glueray.core.spec import RaySessionSpec, Workers
from airflow_provider_glueray.hooks import settings
from airflow_provider_glueray.hooks.glue.requests import session_id_for
from airflow_provider_glueray.hooks.glue.statements import prepare, read_output
from airflow_provider_glueray.task.outcome import publish_links, push_usage, will_retry
from airflow_provider_glueray.task.record import CELL_KEY, SESSION_KEY, RunRecord, first_try_of
from airflow_provider_glueray.task.sessions import output_of, session_spec, show_output, statement_failure
from airflow_provider_glueray.task.submission import Start, Submission

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_glueray.notebooks.document import Cell
    from airflow_provider_glueray.notebooks.executed import ExecutedNotebook
    from airflow_provider_glueray.operators.notebooks import GlueRayNotebookOperator

#: Seconds that a notebook's own session may take to be READY.
START_SECONDS = 1800.0
#: What magics may also set: who is asked, and how the session's id begins.
_NOT_OF_THE_SPEC = ("region_name", "session_id_prefix")


class SessionNotebookRunner:
    """The life of a notebook that runs in a session of AWS Glue.

    :param task: the operator whose notebook it is; it reads the notebook, waits and defers.
    """

    def __init__(self, task: GlueRayNotebookOperator) -> None:
        self._task = task

    def go(self, context: Context, outcome: Outcome | None) -> str:
        """Go on with the notebook; what it was deferred for ended with ``outcome``."""
        notebook = self._task.read()
        try:
            session_id = str(self._task.session_id or self._ready_session(notebook, context, outcome))
            value = self._run_cells(notebook, session_id, context, outcome)
        except Exception as error:
            with suppress(GlueRayError):
                notebook.write(failed=True)
            self._end_session(context, error)
            raise
        notebook.write(done=True)
        context["ti"].xcom_push(key="glueray_value", value=value)
        self._end_session(context, None)
        self._task.log.info("The executed notebook is %s", notebook.output_path)
        return notebook.output_path

    def current_run(self, context: Context) -> RunRef | None:
        """Return the last cell that was started, or the session if none was."""
        record = RunRecord.load(context, SESSION_KEY)
        own = record.ref(GLUE_SESSION) if record and self._task.session_id is None else None
        session_id = own.id if own else str(self._task.session_id or "")
        cells = self._cells_of(self._task.read(), session_id, context)
        return cells[max(cells)].ref(GLUE_STATEMENT) if cells else own

    def kill(self) -> None:
        """Stop the notebook's own session, or the cell that runs in a session of others."""
        (self._submission if self._task.session_id is None else self._cell_submission).kill()

    @property
    def was_killed(self) -> bool:
        """Tell whether Airflow has asked for the end of the task."""
        return self._submission.killed or self._cell_submission.killed

    # -- the session --------------------------------------------------------------------------------------------

    def _ready_session(self, notebook: ExecutedNotebook, context: Context, outcome: Outcome | None) -> str:
        """Return the notebook's own session, once it is READY."""
        record = RunRecord.load(context, SESSION_KEY)
        if outcome is not None and record is not None:
            ref = self._submission.resume(record)
            if outcome.snapshot.ref != ref:
                return ref.id
        elif record is not None and record.run_id and self._is_done(notebook, record.run_id, context):
            # The try before died between stopping the session and saying that all is done.
            return self._submission.resume(record).id
        else:
            record, ref = self._submission.submit_or_reattach(
                context,
                lambda client_token: self._session_name(client_token, notebook, context),
                lambda: self._prepare_session(notebook, context),
            )
            self._publish_links(ref, context)
            snapshot = self._task.hook.describe([ref])[ref]
            outcome = Outcome(snapshot) if snapshot.state.is_terminal else self._wait_for(record, ref)
        failure = failure_of(outcome, self._task.hook.url(ref))
        if failure is not None:
            raise failure
        return ref.id

    def _prepare_session(self, notebook: ExecutedNotebook, context: Context) -> Start:
        spec = self._task.hook.stage(self.spec(notebook, context), self._task.staging_uri)
        # Nothing is started whose result could not be written down.
        notebook.write()
        return lambda client_token: self._task.hook.create(
            spec, self._session_name(client_token, notebook, context), client_token
        )

    def _publish_links(self, ref: RunRef, context: Context) -> None:
        context["ti"].xcom_push(key="glueray_run", value=ref.to_json())
        publish_links(ref, self._task.hook, context, self._task.log)

    def _session_name(self, client_token: str, notebook: ExecutedNotebook, context: Context) -> str:
        ti = context["ti"]
        return session_id_for(ti.dag_id, ti.task_id, client_token, notebook.settings.get("session_id_prefix", ""))

    def spec(self, notebook: ExecutedNotebook, context: Context) -> RaySessionSpec:
        """Build the session's spec."""
        given = {name: value for name, value in self._task.settings(notebook).items() if name not in _NOT_OF_THE_SPEC}
        workers = Workers(**{field.name: given.pop(field.name) for field in fields(Workers) if field.name in given})
        return session_spec(context["ti"], workers, {"role": "", **given})

    def _end_session(self, context: Context, error: BaseException | None) -> None:
        """Stop the notebook's own session, unless a later try shall go on in it."""
        if self._task.session_id is not None:
            return
        record = RunRecord.load(context, SESSION_KEY)
        ref = record.ref(GLUE_SESSION) if record else None
        if ref is None:
            return
        if error is not None and not isinstance(error, RunFailed) and will_retry(error, context):
            self._task.log.info("Leaving %s up for the next try", ref.title)
            return
        self._task.hook.stop(ref)
        push_usage(self._task.hook.describe([ref])[ref], context, self._task.log)

    # -- the cells ----------------------------------------------------------------------------------------------

    def _run_cells(self, notebook: ExecutedNotebook, session_id: str, context: Context, outcome: Outcome | None) -> Any:
        """Run the cells that have not been run, and return the value of the last one."""
        mine = self._cells_of(notebook, session_id, context)
        succeeded = self._succeeded(session_id) if mine else {}
        if self._task.session_id is not None and outcome is None:
            self._publish_links(RunRef(GLUE_SESSION, session_id, session_id), context)
            if not mine:
                notebook.write()
        output = StatementOutput()
        for cell in notebook.cells:
            record = mine.get(cell.number)
            if not cell.code:
                output = StatementOutput()
                notebook.record_cell(cell, output, "completed")
            elif record is not None and record.run_id in succeeded and not _is_of(outcome, record):
                output = read_output(succeeded[record.run_id], record.client_token)
                notebook.record_cell(cell, output, "completed")
            else:
                ended = outcome if record is not None and _is_of(outcome, record) else None
                output = self._run_cell(notebook, cell, session_id, context, ended)
        return output.value

    def _cells_of(self, notebook: ExecutedNotebook, session_id: str, context: Context) -> dict[int, RunRecord]:
        """Return what this series remembers of cells in a session, by the cell's number."""
        records = {cell.number: RunRecord.load(context, CELL_KEY.format(number=cell.number)) for cell in notebook.cells}
        current = (first_try_of(context), session_id)
        return {at: one for at, one in records.items() if one and (one.first_try, one.name) == current and one.run_id}

    def _succeeded(self, session_id: str) -> Mapping[str | None, Mapping[str, Any]]:
        """Return the session's statements that have succeeded; none, if nobody knows them any more."""
        try:
            return self._task.hook.succeeded(session_id)  # type: ignore[no-any-return]
        except SubmitError as error:
            self._task.log.info("What has run in session %s is not to be learned: %s", session_id, error)
            return {}

    def _is_done(self, notebook: ExecutedNotebook, session_id: str, context: Context) -> bool:
        """Tell whether every cell has succeeded in a session, be it over or not."""
        mine = self._cells_of(notebook, session_id, context)
        to_run = [cell for cell in notebook.cells if cell.code]
        if not all(cell.number in mine for cell in to_run):
            return False
        succeeded = self._succeeded(session_id)
        return all(mine[cell.number].run_id in succeeded for cell in to_run)

    def _run_cell(
        self, notebook: ExecutedNotebook, cell: Cell, session_id: str, context: Context, outcome: Outcome | None
    ) -> StatementOutput:
        """Run one cell, or take it up, and note what it said; ``outcome`` if it has ended."""
        key = CELL_KEY.format(number=cell.number)
        if outcome is None:
            self._cell_submission = self._task._submission_for(GLUE_STATEMENT, key, self._task.run_timeout)
            record, ref = self._cell_submission.submit_or_reattach(
                context,
                lambda _: session_id,
                lambda: partial(self._send, notebook, cell, session_id),
                only_in=session_id,
            )
            notebook.record_cell(cell, StatementOutput(started=clock.now()), "running")
            outcome = self._wait_for(record, ref)
        known = RunRecord.load(context, key)
        output = output_of(outcome, self._task.hook, known.client_token if known else "")
        self._task.log.info("::group::%s", notebook.title(cell))
        if output is not None:
            show_output(output, outcome.snapshot, self._task.log)
        self._task.log.info("::endgroup::")
        failure = statement_failure(
            outcome, output, self._task.hook.url(outcome.snapshot.ref), notebook.error_context(cell)
        )
        output = output or StatementOutput(completed=outcome.snapshot.completed)
        notebook.record_cell(cell, output, "completed" if failure is None else "failed")
        if failure is not None:
            raise failure
        notebook.write()
        return output

    def _send(self, notebook: ExecutedNotebook, cell: Cell, session_id: str, client_token: str) -> RunRef:
        return self._task.hook.run_statement(  # type: ignore[no-any-return]
            session_id, prepare(cell.code, client_token, notebook.where(cell)), client_token
        )

    # -- waiting ------------------------------------------------------------------------------------------------

    def _wait_for(self, record: RunRecord, ref: RunRef) -> Outcome:
        """Wait for the session or a cell: here, or in the triggerer, which this call then never returns from."""
        if self._task.deferrable:
            # Most cells are short, and a deferral costs the start of a worker.
            end = clock.now() + settings.waits().linger
            while clock.now() < end:
                snapshot = self._task.hook.describe([ref])[ref]
                if snapshot.state.is_terminal:
                    return Outcome(snapshot)
                clock.sleep(0.5)
            self._task._defer(record, ref, kill=self._submission.ref if self._task.session_id is None else None)
        return self._task._wait(record, ref)

    @cached_property
    def _submission(self) -> Submission:
        """The way to the notebook's own session."""
        return self._task._submission_for(GLUE_SESSION, SESSION_KEY, START_SECONDS)

    @cached_property
    def _cell_submission(self) -> Submission:
        """The way to the cell that runs now."""
        return self._task._submission_for(GLUE_STATEMENT, CELL_KEY, self._task.run_timeout)


def _is_of(outcome: Outcome | None, record: RunRecord) -> bool:
    """Tell whether it is the cell's end that the task was deferred for."""
    return outcome is not None and outcome.snapshot.ref == record.ref(GLUE_STATEMENT)
