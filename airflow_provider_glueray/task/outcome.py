"""What operators and sensors do alike: announce a run, and leave with its outcome.

There is one exit, so both modes of both give the same verdict, XComs and closing line.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from airflow.sdk import Context

from airflow_provider_glueray.airflow_compat import AirflowFailException
from airflow_provider_glueray.core.backend import RunHook
from airflow_provider_glueray.core.drivers import TaskLog
from airflow_provider_glueray.core.errors import GlueRayError, raise_failure
from airflow_provider_glueray.core.runs import GLUE_JOB, Outcome, RunRef, RunSnapshot
from airflow_provider_glueray.hooks.settings import prices
from airflow_provider_glueray.links.runs import LINKS

#: The most characters of a statement's output in the task log.
MOST_SHOWN = 200_000


def push(context: Context, key: str, value: Any) -> None:
    """Push an XCom; whatever the value is, Airflow can store it."""
    from airflow_provider_glueray.core.storable import storable_value  # of no use where a DAG is parsed

    context["ti"].xcom_push(key=key, value=storable_value(value))


def returned(value: Any, log: TaskLog) -> Any:
    """Return what a task returns, as Airflow can store it; say so if that is another value."""
    from airflow_provider_glueray.core.storable import storable_value

    stored = storable_value(value)
    if json.dumps(stored, default=str) != json.dumps(value, default=str):
        text = "The value holds what Airflow cannot store: %s"
        log.log(logging.WARNING, text, "NaN and infinite numbers are None, NUL characters are U+FFFD")
    return stored


def publish_links(ref: RunRef, hook: RunHook, context: Context, log: TaskLog) -> None:
    """Tell the UI where a run is, now and not only when the task ends; XComs of an earlier try are gone."""
    url = hook.url(ref)
    for link, target in zip(LINKS, (url, hook.logs_url(ref)), strict=True):
        push(context, link.xcom_key, target)
    log.info("The page of %s: %s", ref.title, url)


def finish(outcome: Outcome, hook: RunHook, context: Context, log: TaskLog) -> str:
    """Leave: push what was used, write the closing line, and return the run's id or raise its failure.

    :raises RunFailed: or one of its kinds; see :func:`errors.failure_of`.
    """
    ref = outcome.snapshot.ref
    push_usage(outcome.snapshot, context, log)
    raise_failure(outcome, hook.url(ref))
    return ref.id


def push_usage(snapshot: RunSnapshot, context: Context, log: TaskLog) -> None:
    """Push what a run has used as an XCom, and say it in the closing line."""
    used = snapshot.usage.to_json(prices()) if snapshot.usage else {}
    push(context, "glueray_usage", used)
    # What matters first: the log view cuts long lines off, and a run's id is long.
    text = f"Ended {snapshot.raw_state}"
    if used:
        text += f": {used['seconds']:.0f} s"
    if used.get("workers"):
        units = {"mdpu_hours": "M-DPU-hours", "vcpu_hours": "vCPU-hours", "gib_hours": "GiB-hours"}
        what = "workers" if "mdpu_hours" in used else "pods"
        text += f" on up to {used['workers']} {what}, "
        text += ", ".join(f"{used[unit]:.4f} {words}" for unit, words in units.items() if unit in used)
        if used["estimated_cost_usd"] is not None:
            text += f", about {used['estimated_cost_usd']:.4f} USD (an estimate)"
    ref = snapshot.ref
    log.info("%s; %s", text, f"{ref.id} of {ref.name}" if ref.backend == GLUE_JOB else ref.title)


def log_output(text: str, log: TaskLog) -> None:
    """Write what a statement printed to the task log; of a very long text, the beginning and the end."""
    left_out, lines = len(text) - MOST_SHOWN, text.splitlines()
    if left_out > 0:
        note = f"[… {left_out} characters are left out here; the session keeps all of them until it is deleted]"
        lines = [*text[: MOST_SHOWN // 2].splitlines(), note, *text[-MOST_SHOWN // 2 :].splitlines()]
    for line in lines:
        log.info("%s", line)


@contextmanager
def fail_without_retry() -> Iterator[None]:
    """Fail for good where trying again cannot help; let everything else be retried as the task says."""
    try:
        yield
    except GlueRayError as error:
        if error.retryable:
            raise
        raise AirflowFailException(f"{type(error).__name__}: {error}") from error


def will_retry(error: BaseException, context: Context) -> bool:
    """Tell whether Airflow will run the task once more after this error."""
    ti = context["ti"]
    return int(ti.try_number) <= int(ti.max_tries) and getattr(error, "retryable", True)
