"""The one exit: how an outcome becomes a log line, an XCom and a verdict, for operators and sensors alike.

Floor 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from airflow.sdk import conf
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_glueray.errors import GlueRayError
from airflow_provider_glueray.follow import TaskLog
from airflow_provider_glueray.runs import Outcome

#: US dollars per M-DPU-hour: a rate of 2024-11 for sessions in eu-west-1; that jobs cost the same is assumed.
DEFAULT_PRICE = 0.44


def usage_of(outcome: Outcome) -> dict[str, float | int]:
    """Return what the run used, with an estimated cost at ``[glueray] price_per_mdpu_hour``."""
    usage = outcome.snapshot.usage
    price = conf.getfloat("glueray", "price_per_mdpu_hour", fallback=DEFAULT_PRICE)
    return usage.to_json(price) if usage else {}


def close(outcome: Outcome, log: TaskLog) -> None:
    """Write the closing line: the run, its state, and what it used."""
    snapshot = outcome.snapshot
    text = f"Run {snapshot.ref.id} of {snapshot.ref.name} ended {snapshot.raw_state}"
    used = usage_of(outcome)
    if used:
        text += (
            f": {used['seconds']:.0f} s on up to {used['workers']} workers, {used['mdpu_hours']:.4f} "
            f"M-DPU-hours, about {used['estimated_cost_usd']:.4f} USD (an estimate)"
        )
    log.info("%s", text)


@contextmanager
def no_useless_retry() -> Iterator[None]:
    """Fail for good where trying again cannot help; let everything else be retried as the task says."""
    try:
        yield
    except GlueRayError as error:
        if error.retryable:
            raise
        raise AirflowFailException(f"{type(error).__name__}: {error}") from error


def hook_kwargs(
    conn_id: str | None, region_name: str | None, verify: bool | str | None, config: dict[str, Any] | None
) -> dict[str, Any]:
    """Return the arguments of the hook; the same ones build it in a worker and travel into the trigger."""
    rest = {"region_name": region_name, "verify": verify, "config": config}
    return {"aws_conn_id": conn_id, **{key: value for key, value in rest.items() if value is not None}}
