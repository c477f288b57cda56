"""In what the releases of Airflow differ, from 3.0.6 on; nothing else asks. What is there is looked for, no version.

``airflow.providers.common.compat.sdk`` would know most names, but the constraints of 3.0.6 pin a release without it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from airflow.dag_processing.dagbag import DagBag as DagBag
    from airflow.sdk import BaseHook as BaseHook
    from airflow.sdk import Context
    from airflow.sdk import conf as conf
    from airflow.sdk.exceptions import AirflowFailException as AirflowFailException
    from airflow.sdk.exceptions import AirflowNotFoundException as AirflowNotFoundException
    from airflow.sdk.exceptions import TaskDeferralError as TaskDeferralError
    from airflow.sdk.exceptions import TaskDeferralTimeout as TaskDeferralTimeout

_EXCEPTIONS = ("airflow.sdk.exceptions", "airflow.exceptions")
#: Where each name is, in the newest Airflow first.
_MODULES = {
    "AirflowFailException": _EXCEPTIONS,
    "AirflowNotFoundException": _EXCEPTIONS,
    "BaseHook": ("airflow.sdk", "airflow.hooks.base"),
    "DagBag": ("airflow.dag_processing.dagbag", "airflow.models.dagbag"),
    "TaskDeferralError": _EXCEPTIONS,
    "TaskDeferralTimeout": _EXCEPTIONS,
    "conf": ("airflow.sdk", "airflow.configuration"),
}
#: States of a task instance that is over. One that has been cleared has none.
_OVER = ("success", "failed", "skipped", "upstream_failed", "removed")


def __getattr__(name: str) -> Any:
    """Import a name from where this Airflow has it."""
    for module in _MODULES.get(name, ()):
        try:
            return getattr(import_module(module), name)
        except (ImportError, AttributeError):
            continue
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class TaskStore(Protocol):
    """What a task keeps by key, as JSON values."""

    def get(self, key: str) -> Any:
        """Return what was kept, or None."""

    def set(self, key: str, value: Any) -> None:
        """Keep a value."""


def task_store(context: Context) -> TaskStore:
    """Return the task state store; below Airflow 3.3, the task's XComs, which a retry and a clear empty."""
    store: TaskStore | None = context.get("task_state_store")
    return _XComStore(context["ti"]) if store is None else store


class _XComStore:
    def __init__(self, task_instance: Any) -> None:
        self._task_instance = task_instance

    def get(self, key: str) -> Any:
        from airflow.sdk.execution_time import task_runner

        # Airflow's own way to read one warns that there is none, in the log of each first try.
        return _value_of(task_runner.SUPERVISOR_COMMS.send(_request_of(_xcom_key(key), self._task_instance)))

    def set(self, key: str, value: Any) -> None:
        self._task_instance.xcom_push(key=_xcom_key(key), value=value)


def _xcom_key(key: str) -> str:
    # The run's reference is an XCom too, under the name of its record.
    return f"{key}_record"


def _request_of(key: str, task_instance: Any) -> Any:
    from airflow.sdk.execution_time.comms import GetXCom

    return GetXCom(key=key, **task_of(task_instance))


def _value_of(answer: Any) -> Any:
    """Return the value of an XCom, or None where there is none."""
    from airflow.sdk.execution_time.xcom import XCom

    return None if getattr(answer, "value", None) is None else XCom.deserialize_value(answer)


def task_of(task_instance: Any) -> dict[str, Any]:
    """Return which task it is, in the words of Airflow's messages and XComs."""
    return {name: getattr(task_instance, name) for name in ("dag_id", "task_id", "run_id", "map_index")}


class PassesXComPush:
    """What ``DecoratedOperator`` of Airflow 3.0 expects of an operator: it passes this on, and nobody calls it."""

    xcom_push: Any = None


# -- what a trigger asks its triggerer --------------------------------------------------------------------------


def has_kill_of_triggers() -> bool:
    """Tell whether a trigger hears of a kill: Airflow 3.3 calls its ``on_kill``."""
    from airflow.triggers.base import BaseTrigger

    return hasattr(BaseTrigger, "on_kill")


async def is_over_for_user(task_instance: Any) -> bool:
    """Tell, in a trigger, whether its task has been ended or cleared by somebody else, below Airflow 3.3.

    A task that waits, runs or is to run still has its run, also where the trigger moves to another triggerer.
    """
    from airflow.sdk.execution_time.comms import GetTaskStates

    task = task_of(task_instance)
    answer = await _ask(
        GetTaskStates(
            dag_id=task["dag_id"], task_ids=[task["task_id"]], run_ids=[task["run_id"]], map_index=task["map_index"]
        )
    )
    states: Mapping[str, Any] = answer.task_states.get(task["run_id"], {})
    state = next(iter(states.values()), None)
    return state is None or str(state) in _OVER


async def get_xcom(key: str, task_instance: Any) -> Any:
    """Return an XCom of a trigger's task, or None."""
    return _value_of(await _ask(_request_of(key, task_instance)))


async def set_xcom(key: str, value: Any, task_instance: Any) -> None:
    """Write an XCom of a trigger's task."""
    from airflow.sdk.execution_time.comms import SetXCom
    from airflow.sdk.execution_time.xcom import XCom

    where = {"key": key, **task_of(task_instance)}
    await _ask(SetXCom(value=XCom.serialize_value(value, **where), **where))


async def in_thread(threads: ThreadPoolExecutor, function: Callable[[], Any]) -> Any:
    """Run a blocking call in a thread that may ask for connections; see :func:`_ask` for why it is not cancelled."""
    from asgiref.sync import sync_to_async

    # Below Airflow 3.2, a thread that is not asgiref's asks in an event loop of its own, which gets no answer.
    call = sync_to_async(function, thread_sensitive=False, executor=threads)
    return await asyncio.shield(asyncio.ensure_future(call()))


async def _ask(message: Any) -> Any:
    """Ask the supervisor. Below 3.2, an answer that is not awaited is taken for the next one's: never cancel it."""
    from airflow.sdk.execution_time import task_runner

    return await asyncio.shield(asyncio.ensure_future(task_runner.SUPERVISOR_COMMS.asend(message)))
