"""What tasks have in common that use a session: its spec, and the end of a statement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_provider_glueray.core.backend import SessionBackend
from airflow_provider_glueray.core.drivers import TaskLog
from airflow_provider_glueray.core.errors import RunFailed, StatementFailed, failure_of
from airflow_provider_glueray.core.runs import Outcome, RunSnapshot, StatementOutput
from airflow_provider_glueray.core.spec import MDPU_PER_WORKER, RaySessionSpec
from airflow_provider_glueray.task.outcome import log_output
from airflow_provider_glueray.task.record import owner_of


def session_spec(ti: Any, fields: Mapping[str, Any]) -> RaySessionSpec:
    """Return the spec of a session that a task makes, with tags that say which task it is.

    :param fields: of the spec.
    """
    tags = {**owner_of(ti), "airflow_run_id": ti.run_id, **fields.get("tags", {})}
    description = f"Airflow: {ti.dag_id}.{ti.task_id}, {ti.run_id}"
    return RaySessionSpec(**{**fields, "tags": tags, "description": description})


def session_capacity(number_of_workers: int | str) -> str:
    """Say what capacity a session needs."""
    needed = int(number_of_workers) * MDPU_PER_WORKER
    return f"The session needs {needed} M-DPU; an account has 50 per region for sessions and jobs, not adjustable"


def finish_statement(outcome: Outcome, hook: SessionBackend, client_token: str, log: TaskLog) -> Any:
    """Leave a statement: log what it printed, and return its value or raise its failure.

    :raises StatementFailed: the code raised an exception.
    :raises RunFailed: or one of its kinds; see :func:`errors.failure_of`.
    """
    output = output_of(outcome, hook, client_token)
    if output is not None:
        show_output(output, outcome.snapshot, log)
    failure = statement_failure(outcome, output, hook.url(outcome.snapshot.ref))
    if failure is not None:
        raise failure
    return output.value if output is not None else None


def output_of(outcome: Outcome, hook: SessionBackend, client_token: str) -> StatementOutput | None:
    """Return the output of a statement that has ended; None when it never ran."""
    if outcome.snapshot.raw_state not in ("AVAILABLE", "CANCELLED", "ERROR"):
        return None
    return hook.output(outcome.snapshot.ref, client_token)


def show_output(output: StatementOutput, snapshot: RunSnapshot, log: TaskLog) -> None:
    """Write the output of a statement to the task log."""
    log_output(output.printed, log)
    if "text/plain" in output.shown:
        log.info("The value is %s", output.shown["text/plain"][:1000])
    took = f" after {output.completed - output.started:.1f} s" if output.started and output.completed else ""
    log.info("Ended %s%s; %s", snapshot.raw_state, took, snapshot.ref.title)


def statement_failure(
    outcome: Outcome, output: StatementOutput | None, url: str, about: Sequence[str] = ()
) -> RunFailed | None:
    """Return the error that the end of a statement deserves, or None."""
    failure = failure_of(outcome, url, about)
    if failure is not None and output is not None and output.error is not None and not outcome.deadline_passed:
        return StatementFailed(outcome, url, output.error, about)
    return failure
