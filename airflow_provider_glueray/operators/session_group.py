"""A session for a few steps in one line: the cluster is made before them and is gone after them.

Floor 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from airflow.sdk import TaskGroup

from airflow_provider_glueray.operators.glue_sessions import (
    GlueRayCreateSessionOperator,
    GlueRayStatementOperator,
    GlueRayStopSessionOperator,
)
from airflow_provider_glueray.operators.notebooks import GlueRayNotebookOperator

#: What all tasks of a session have in common: how to reach it and how to wait for it.
_SHARED = ("conn_id", "region_name", "verify", "botocore_config", "deferrable", "poll_interval")


class SessionTasks:
    """The tasks around one session.

    :ivar group: the task group, for dependencies: ``before >> session.group >> after``.
    :ivar create, stop: its setup and its teardown.
    """

    def __init__(
        self,
        group: TaskGroup,
        create: GlueRayCreateSessionOperator,
        stop: GlueRayStopSessionOperator,
        shared: dict[str, Any],
        recreate: bool,
    ) -> None:
        self.group, self.create, self.stop = group, create, stop
        self._shared, self._recreate = shared, recreate

    @property
    def id(self) -> Any:
        """The session's id, known when the setup has run: give it to whatever else shall use the session."""
        return self.create.output

    def statement(self, task_id: str, code: str, **kwargs: Any) -> GlueRayStatementOperator:
        """Add a statement. Parameters: see :class:`GlueRayStatementOperator`."""
        given = {"session_id": self.id, "recreate": self._recreate, **self._shared, **kwargs}
        return GlueRayStatementOperator(task_id=task_id, code=code, **given)

    def notebook(self, task_id: str, notebook: str, **kwargs: Any) -> GlueRayNotebookOperator:
        """Add a notebook that runs in this session. Parameters: see :class:`GlueRayNotebookOperator`."""
        given = {"session_id": self.id, **self._shared, **kwargs}
        return GlueRayNotebookOperator(task_id=task_id, notebook=notebook, **given)


@contextmanager
def glue_ray_session(
    group_id: str = "session", *, recreate: bool = False, delete: bool = False, **kwargs: Any
) -> Iterator[SessionTasks]:
    """Make a task group whose tasks share one session; its setup creates the session, its teardown always stops it.

    ::

        with glue_ray_session(role="GlueRayRole", number_of_workers=3) as session:
            load = session.statement("load", "import ray; ds = ray.data.read_parquet('s3://…'); ds.count()")
            save = session.statement("save", "ds.write_parquet('s3://…')")
            load >> save

    :param group_id: of the task group.
    :param recreate: see :class:`GlueRayStatementOperator`; for all statements of the group.
    :param delete: see :class:`GlueRayStopSessionOperator`.

    Further parameters: those of :class:`GlueRayCreateSessionOperator`; ``conn_id`` and how to wait hold for all tasks.
    """
    shared = {name: kwargs[name] for name in _SHARED if name in kwargs}
    with TaskGroup(group_id) as group:
        create = GlueRayCreateSessionOperator(task_id="create", **kwargs)
        stop = GlueRayStopSessionOperator(task_id="stop", session_id=create.output, delete=delete, **shared)
        with stop.as_teardown(setups=create):
            yield SessionTasks(group, create, stop, shared, recreate)
