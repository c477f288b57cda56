"""A shared cluster for a few steps in one line: it is made before them and is gone after them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

from airflow.sdk import TaskGroup

from airflow_provider_glueray.operators._group import GroupTasks, shared_parameters
from airflow_provider_glueray.operators.glue_jobs import GlueRayJobOperator
from airflow_provider_glueray.operators.ray_clusters import GlueRayCreateClusterOperator, GlueRayDeleteClusterOperator
from airflow_provider_glueray.task.operator import GlueRayEndOperator

#: The cluster's size is also that of a run which gets a cluster of its own, on AWS Glue.
_SIZE = ("number_of_workers", "min_workers")


class ClusterTasks(GroupTasks):
    """The tasks around one cluster; ``@task.glue_ray(cluster=cluster.id, …)`` runs a function in it.

    :ivar create, delete: its setup and its teardown.
    """

    parameter = "cluster"

    @property
    def delete(self) -> GlueRayEndOperator:
        """The teardown."""
        return self.end

    def script(self, task_id: str, script: str | PurePath, **kwargs: Any) -> GlueRayJobOperator:
        """Add a script that runs in this cluster. Parameters: see :class:`GlueRayJobOperator`."""
        return GlueRayJobOperator(task_id=task_id, script=str(script), **self._parameters(kwargs))


@contextmanager
def glue_ray_cluster(
    group_id: str = "cluster", *, role: str | None = None, staging_uri: str | None = None, **kwargs: Any
) -> Iterator[ClusterTasks]:
    """Make a task group whose tasks share one cluster; its setup creates it, its teardown always deletes it.

    ::

        with glue_ray_cluster(number_of_workers=5, staging_uri="s3://my-bucket/staging") as cluster:
            load = cluster.script("load", script="load.py")
            save = cluster.script("save", script="save.py")
            load >> save

    Where the connection leads to AWS Glue or to a Ray cluster, no cluster is made: on AWS Glue each step has one of its
    own, of the same size; ``object_spilling_config`` and ``object_store_memory_…`` are then to be given to the steps,
    which a shared cluster refuses.

    :param group_id: of the task group.
    :param role, staging_uri: of the steps, as in :class:`GlueRayJobOperator`.

    Further parameters: those of :class:`GlueRayCreateClusterOperator`; ``conn_id`` and how to wait hold for all tasks.
    """
    shared = shared_parameters(kwargs)
    of_runs = {name: kwargs[name] for name in _SIZE if name in kwargs}
    of_runs |= {name: value for name, value in (("role", role), ("staging_uri", staging_uri)) if value is not None}
    with TaskGroup(group_id) as group:
        create = GlueRayCreateClusterOperator(task_id="create", **kwargs)
        delete = GlueRayDeleteClusterOperator(task_id="delete", cluster=create.output, **shared)
        with delete.as_teardown(setups=create):
            yield ClusterTasks(group, create, delete, {**shared, **of_runs})
