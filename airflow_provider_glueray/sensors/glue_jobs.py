"""Wait for a run of a job that was started elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from airflow.sdk import Context

from airflow_provider_glueray.core.runs import Outcome, RunRef
from airflow_provider_glueray.hooks.registry import backend_for_connection
from airflow_provider_glueray.task.outcome import finish
from airflow_provider_glueray.task.sensor import GlueRayRunSensor


class GlueRayJobSensor(GlueRayRunSensor):
    """Wait until a run of a job has succeeded; fail when it failed. Returns the run's id.

    :param job_name: the job; of the backend that ``conn_id`` leads to. (templated)
    :param run_id: the run; None for the newest one of the job when the sensor first looks. While the job has
        no run yet, the sensor waits for one. (templated)

    :param conn_id: where the job is, by its type; the default is ``[glueray] conn_id``. (templated)

    Further parameters: see :class:`GlueRayRunSensor`.
    """

    template_fields: Sequence[str] = ("job_name", "run_id", "conn_id", "region_name")

    def __init__(self, *, job_name: str, run_id: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.job_name = job_name
        self.run_id = run_id

    @cached_property
    def backend(self) -> str:  # type: ignore[override]
        """Where the job is: what the type of the connection says."""
        return backend_for_connection(self.conn_id)

    def _look(self) -> RunRef | None:
        if self.run_id:
            return RunRef(self.backend, self.job_name, self.run_id)
        latest = self.hook.latest_run(self.job_name)
        return latest.ref if latest else None

    def _finish(self, outcome: Outcome, context: Context) -> str:
        return finish(outcome, self.hook, context, self.log)
