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
from airflow_provider_glueray.task.outcome import announce, is_retried, push_usage
from airflow_provider_glueray.task.record import CELL_KEY, SESSION_KEY, Record, series_of
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


class NotebookInSession:
    """The life of a notebook that runs in a session of AWS Glue.

    :param task: the operator whose notebook it is; it reads the notebook, waits and defers.
    """

    def __init__(self, task: GlueRayNotebookOperator) -> None:
        self._task = task

    def go(self, context: Context, outcome: Outcome | None) -> str:
        """Go on with the notebook; what it was deferred for ended with ``outcome``."""
        play = self._task.read()
        try:
            session_id = str(self._task.session_id or self._ready_session(play, context, outcome))
            value = self._run_cells(play, session_id, context, outcome)
        except Exception as error:
            with suppress(GlueRayError):
                play.write(failed=True)
            self._end_session(context, error)
            raise
        play.write(done=True)
        context["ti"].xcom_push(key="glueray_value", value=value)
        self._end_session(context, None)
        self._task.log.info("The executed notebook is %s", play.place)
        return play.place

    def current_run(self, context: Context) -> RunRef | None:
        """Return the last cell that was started, or the session if none was."""
        record = Record.load(context, SESSION_KEY)
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

    def _ready_session(self, play: ExecutedNotebook, context: Context, outcome: Outcome | None) -> str:
        """Return the notebook's own session, once it is READY."""
        record = Record.load(context, SESSION_KEY)
        if outcome is not None and record is not None:
            ref = self._submission.resume(record)
            if outcome.snapshot.ref != ref:
                return ref.id
        elif record is not None and record.run_id and self._is_done(play, record.run_id, context):
            # The try before died between stopping the session and saying that all is done.
            return self._submission.resume(record).id
        else:
            record, ref = self._submission.obtain(
                context,
                lambda mark: self._session_name(mark, play, context),
                lambda: self._prepare_session(play, context),
            )
            self._announce(ref, context)
            snapshot = self._task.hook.describe([ref])[ref]
            outcome = Outcome(snapshot) if snapshot.state.is_terminal else self._wait_for(record, ref)
        failure = failure_of(outcome, self._task.hook.url(ref))
        if failure is not None:
            raise failure
        return ref.id

    def _prepare_session(self, play: ExecutedNotebook, context: Context) -> Start:
        spec = self._task.hook.stage(self.spec(play, context), self._task.staging)
        # Nothing is started whose result could not be written down.
        play.write()
        return lambda mark: self._task.hook.create(spec, self._session_name(mark, play, context), mark)

    def _announce(self, ref: RunRef, context: Context) -> None:
        context["ti"].xcom_push(key="glueray_run", value=ref.to_json())
        announce(ref, self._task.hook, context, self._task.log)

    def _session_name(self, mark: str, play: ExecutedNotebook, context: Context) -> str:
        ti = context["ti"]
        return session_id_for(ti.dag_id, ti.task_id, mark, play.settings.get("session_id_prefix", ""))

    def spec(self, play: ExecutedNotebook, context: Context) -> RaySessionSpec:
        """Build the session's spec."""
        given = {name: value for name, value in self._task.settings(play).items() if name not in _NOT_OF_THE_SPEC}
        workers = Workers(**{field.name: given.pop(field.name) for field in fields(Workers) if field.name in given})
        return session_spec(context["ti"], workers, {"role": "", **given})

    def _end_session(self, context: Context, error: BaseException | None) -> None:
        """Stop the notebook's own session, unless a later try shall go on in it."""
        if self._task.session_id is not None:
            return
        record = Record.load(context, SESSION_KEY)
        ref = record.ref(GLUE_SESSION) if record else None
        if ref is None:
            return
        if error is not None and not isinstance(error, RunFailed) and is_retried(error, context):
            self._task.log.info("Leaving %s up for the next try", ref.title)
            return
        self._task.hook.stop(ref)
        push_usage(self._task.hook.describe([ref])[ref], context, self._task.log)

    # -- the cells ----------------------------------------------------------------------------------------------

    def _run_cells(self, play: ExecutedNotebook, session_id: str, context: Context, outcome: Outcome | None) -> Any:
        """Run the cells that have not been run, and return the value of the last one."""
        mine = self._cells_of(play, session_id, context)
        succeeded = self._succeeded(session_id) if mine else {}
        if self._task.session_id is not None and outcome is None:
            self._announce(RunRef(GLUE_SESSION, session_id, session_id), context)
            if not mine:
                play.write()
        output = StatementOutput()
        for cell in play.cells:
            record = mine.get(cell.number)
            if not cell.code:
                output = StatementOutput()
                play.note(cell, output, "completed")
            elif record is not None and record.run_id in succeeded and not _is_of(outcome, record):
                output = read_output(succeeded[record.run_id], record.mark)
                play.note(cell, output, "completed")
            else:
                ended = outcome if record is not None and _is_of(outcome, record) else None
                output = self._run_cell(play, cell, session_id, context, ended)
        return output.value

    def _cells_of(self, play: ExecutedNotebook, session_id: str, context: Context) -> dict[int, Record]:
        """Return what this series remembers of cells in a session, by the cell's number."""
        records = {cell.number: Record.load(context, CELL_KEY.format(number=cell.number)) for cell in play.cells}
        current = (series_of(context), session_id)
        return {at: one for at, one in records.items() if one and (one.series, one.name) == current and one.run_id}

    def _succeeded(self, session_id: str) -> Mapping[str | None, Mapping[str, Any]]:
        """Return the session's statements that have succeeded; none, if nobody knows them any more."""
        try:
            return self._task.hook.succeeded(session_id)  # type: ignore[no-any-return]
        except SubmitError as error:
            self._task.log.info("What has run in session %s is not to be learned: %s", session_id, error)
            return {}

    def _is_done(self, play: ExecutedNotebook, session_id: str, context: Context) -> bool:
        """Tell whether every cell has succeeded in a session, be it over or not."""
        mine = self._cells_of(play, session_id, context)
        to_run = [cell for cell in play.cells if cell.code]
        if not all(cell.number in mine for cell in to_run):
            return False
        succeeded = self._succeeded(session_id)
        return all(mine[cell.number].run_id in succeeded for cell in to_run)

    def _run_cell(
        self, play: ExecutedNotebook, cell: Cell, session_id: str, context: Context, outcome: Outcome | None
    ) -> StatementOutput:
        """Run one cell, or take it up, and note what it said; ``outcome`` if it has ended."""
        key = CELL_KEY.format(number=cell.number)
        if outcome is None:
            self._cell_submission = self._task._submission_for(GLUE_STATEMENT, key, self._task.timeout)
            record, ref = self._cell_submission.obtain(
                context, lambda _: session_id, lambda: partial(self._send, play, cell, session_id), within=session_id
            )
            play.note(cell, StatementOutput(started=clock.now()), "running")
            outcome = self._wait_for(record, ref)
        known = Record.load(context, key)
        output = output_of(outcome, self._task.hook, known.mark if known else "")
        self._task.log.info("::group::%s", play.title(cell))
        if output is not None:
            show_output(output, outcome.snapshot, self._task.log)
        self._task.log.info("::endgroup::")
        failure = statement_failure(outcome, output, self._task.hook.url(outcome.snapshot.ref), play.about(cell))
        output = output or StatementOutput(completed=outcome.snapshot.completed)
        play.note(cell, output, "completed" if failure is None else "failed")
        if failure is not None:
            raise failure
        play.write()
        return output

    def _send(self, play: ExecutedNotebook, cell: Cell, session_id: str, mark: str) -> RunRef:
        return self._task.hook.run_statement(  # type: ignore[no-any-return]
            session_id, prepare(cell.code, mark, play.where(cell)), mark
        )

    # -- waiting ------------------------------------------------------------------------------------------------

    def _wait_for(self, record: Record, ref: RunRef) -> Outcome:
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
        return self._task._drive(record, ref)

    @cached_property
    def _submission(self) -> Submission:
        """The way to the notebook's own session."""
        return self._task._submission_for(GLUE_SESSION, SESSION_KEY, START_SECONDS)

    @cached_property
    def _cell_submission(self) -> Submission:
        """The way to the cell that runs now."""
        return self._task._submission_for(GLUE_STATEMENT, CELL_KEY, self._task.timeout)


def _is_of(outcome: Outcome | None, record: Record) -> bool:
    """Tell whether it is the cell's end that the task was deferred for."""
    return outcome is not None and outcome.snapshot.ref == record.ref(GLUE_STATEMENT)
