"""What tasks have in common that use a session: its spec, and the end of a statement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_provider_glueray.core.errors import RunFailed, StatementFailed, failure_of
from airflow_provider_glueray.core.runs import Outcome, RunSnapshot, StatementOutput
from airflow_provider_glueray.core.spec import MDPU_PER_WORKER, RaySessionSpec, Workers
from airflow_provider_glueray.task.outcome import log_output


def session_spec(ti: Any, workers: Workers, given: Mapping[str, Any]) -> RaySessionSpec:
    """Build the spec of a session that a task makes; say in it whose it is."""
    whose = {"airflow_dag_id": ti.dag_id, "airflow_task_id": ti.task_id, "airflow_run_id": ti.run_id}
    description = f"Airflow: {ti.dag_id}.{ti.task_id}, {ti.run_id}"
    return RaySessionSpec(
        workers=workers, **{**given, "tags": {**whose, **given.get("tags", {})}, "description": description}
    )


def session_capacity(number_of_workers: int | str) -> str:
    """Say what room a session needs."""
    needed = int(number_of_workers) * MDPU_PER_WORKER
    return f"The session needs {needed} M-DPU; an account has 50 per region for sessions and jobs, not adjustable"


def finish_statement(outcome: Outcome, hook: Any, client_token: str, log: Any) -> Any:
    """Leave a statement: show what it printed, and return its value or raise its failure.

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


def output_of(outcome: Outcome, hook: Any, client_token: str) -> StatementOutput | None:
    """Fetch what a statement has said; None when it did not get as far as that."""
    if outcome.snapshot.raw_state not in ("AVAILABLE", "CANCELLED", "ERROR"):
        return None
    return hook.output(outcome.snapshot.ref, client_token)  # type: ignore[no-any-return]


def show_output(output: StatementOutput, snapshot: RunSnapshot, log: Any) -> None:
    """Write what a statement has said to the task log."""
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
