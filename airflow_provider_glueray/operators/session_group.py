"""A session for a few steps in one line: it is made before them and is gone after them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from airflow.sdk import TaskGroup

from airflow_provider_glueray.operators._group import GroupTasks, shared_parameters
from airflow_provider_glueray.operators.glue_sessions import (
    GlueRayCreateSessionOperator,
    GlueRayStatementOperator,
    GlueRayStopSessionOperator,
)
from airflow_provider_glueray.task.operator import GlueRayEndOperator


class SessionTasks(GroupTasks):
    """The tasks around one session.

    :ivar create, stop: its setup and its teardown.
    """

    parameter = "session_id"
    recreate_on_timeout = False

    @property
    def stop(self) -> GlueRayEndOperator:
        """The teardown."""
        return self.end

    def statement(self, task_id: str, code: str, **kwargs: Any) -> GlueRayStatementOperator:
        """Add a statement. Parameters: see :class:`GlueRayStatementOperator`."""
        given = {"recreate_on_timeout": self.recreate_on_timeout, **self._parameters(kwargs)}
        return GlueRayStatementOperator(task_id=task_id, code=code, **given)


@contextmanager
def glue_ray_session(
    group_id: str = "session", *, recreate_on_timeout: bool = False, delete: bool = False, **kwargs: Any
) -> Iterator[SessionTasks]:
    """Make a task group whose tasks share one session; its setup creates the session, its teardown always stops it.

    ::

        with glue_ray_session(role="GlueRayRole", number_of_workers=3) as session:
            load = session.statement("load", "import ray; ds = ray.data.read_parquet('s3://…'); ds.count()")
            save = session.statement("save", "ds.write_parquet('s3://…')")
            load >> save

    :param group_id: of the task group.
    :param recreate_on_timeout: see :class:`GlueRayStatementOperator`; for all statements of the group.
    :param delete: see :class:`GlueRayStopSessionOperator`.

    Further parameters: those of :class:`GlueRayCreateSessionOperator`; ``conn_id`` and how to wait hold for all tasks.
    """
    shared = shared_parameters(kwargs)
    with TaskGroup(group_id) as group:
        create = GlueRayCreateSessionOperator(task_id="create", **kwargs)
        stop = GlueRayStopSessionOperator(task_id="stop", session_id=create.output, delete=delete, **shared)
        with stop.as_teardown(setups=create):
            session = SessionTasks(group, create, stop, shared)
            session.recreate_on_timeout = recreate_on_timeout
            yield session
