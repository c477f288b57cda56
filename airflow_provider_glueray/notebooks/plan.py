"""What a task's fields say of the notebook that it runs, once they are rendered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_glueray.notebooks.executed import ExecutedNotebook


@dataclass(frozen=True)
class NotebookPlan:
    """One notebook, and where and how it runs.

    :param settings: fields of the spec: those of the magics, and over them those of the task.
    :param job_name: of the job, where the notebook is one.
    :param run_timeout: seconds for the whole job, in a session for each cell; None for ever.
    :param session_id: of the session to run in; None for one of the notebook's own.
    :param ineffective: parameters of the task that have no effect where it runs.
    """

    notebook: ExecutedNotebook
    settings: Mapping[str, Any]
    job_name: str
    staging_uri: str | None = None
    run_timeout: float | None = None
    session_id: str | None = None
    cluster: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    ineffective: tuple[str, ...] = ()
