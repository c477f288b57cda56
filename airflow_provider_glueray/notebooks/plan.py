"""What a task's fields say of the notebook that it runs, once they are rendered."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from airflow_provider_glueray.core.spec import Workers
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

    def spec_fields(self, left_out: Collection[str]) -> dict[str, Any]:
        """Return the settings as fields of a spec, its workers among them.

        :param left_out: settings that are no fields of it.
        """
        given = {name: value for name, value in self.settings.items() if name not in left_out}
        sizes = {field.name: given.pop(field.name) for field in fields(Workers) if field.name in given}
        return {**given, "workers": Workers(**sizes)}
