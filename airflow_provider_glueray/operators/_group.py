"""What the task groups around a session and around a cluster have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, ClassVar

from airflow.sdk import TaskGroup

from airflow_provider_glueray.operators.notebooks import GlueRayNotebookOperator
from airflow_provider_glueray.task.operator import GlueRayEndOperator, GlueRayStartOperator

_SHARED = ("conn_id", "region_name", "verify", "botocore_config", "deferrable", "poll_interval", "stop_on_kill")


class GroupTasks:
    """The tasks around one session or cluster.

    :param create, end: its setup and its teardown.
    :param shared: parameters that all tasks have in common.
    :ivar group: the task group, for dependencies: ``before >> session.group >> after``.
    """

    #: The parameter by which a task takes the id.
    parameter: ClassVar[str]

    def __init__(
        self, group: TaskGroup, create: GlueRayStartOperator, end: GlueRayEndOperator, shared: Mapping[str, Any]
    ) -> None:
        self.group, self.create, self.end = group, create, end
        self._shared = dict(shared)

    @property
    def id(self) -> Any:
        """The id, known when the setup has run: give it to whatever else shall use the session or the cluster."""
        return self.create.output

    def notebook(self, task_id: str, notebook: str | PurePath, **kwargs: Any) -> GlueRayNotebookOperator:
        """Add a notebook. Parameters: see :class:`GlueRayNotebookOperator`."""
        return GlueRayNotebookOperator(task_id=task_id, notebook=notebook, **self._parameters(kwargs))

    def _parameters(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters of a task: its own, which win, and the shared ones."""
        return {self.parameter: self.id, **self._shared, **own}


def shared_parameters(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return those parameters that all tasks of a group have in common: the connection, and how to wait."""
    return {name: kwargs[name] for name in _SHARED if name in kwargs}
