"""What to run and on what: the specs of jobs, sessions and clusters.

Pure: no clock and no I/O. Each backend translates a spec to its own requests (``hooks/*/requests.py``, ``manifests``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_provider_glueray.core.errors import SpecError
from airflow_provider_glueray.core.validation import PYTHON, check_fields, items_of, number, seconds_of, text_of

if TYPE_CHECKING:
    from typing_extensions import Self

#: M-DPU of one Z.2X worker: 8 vCPU, 64 GB, 128 GB disk. Source: dg/ray-jobs-section.
MDPU_PER_WORKER = 2
#: After so long an idle session ends by itself, unless a task says otherwise. Long enough for a retry after Airflow's
#: usual pause of five minutes, short enough for a session that everybody has forgotten.
IDLE_TIMEOUT = timedelta(minutes=30)
#: After so long a session ends in any case: what the service's text gives for Spark (botocore CreateSession).
SESSION_TIMEOUT = timedelta(hours=48)


class SourceFile(NamedTuple):
    """A script that is there as text, such as a function's, and not as a file.

    :param name: what to call the file, with ``.py``.
    """

    name: str
    text: str


#: What a script may import to report, and what the script of a function or a notebook imports.
STEP_FOLDER = str(Path(__file__).parent.parent / "glueray_step")
#: What a spec names and somebody has to upload: a path, or a text.
LocalFile = str | SourceFile


@dataclass(frozen=True)
class Workers:
    """The cluster: ``number_of_workers`` is the ceiling of autoscaling, ``min_workers`` its floor.

    :param worker_type: "Z.2X" (8 vCPU, 64 GB, Graviton); the only one there is.
    :param object_store_memory_head: share of the head's free memory for the object store, percent.
    :param object_store_memory_worker: the same on each worker, percent.
    """

    number_of_workers: int = 2
    min_workers: int | None = None
    worker_type: str = "Z.2X"
    object_store_memory_head: int | None = None
    object_store_memory_worker: int | None = None

    def __post_init__(self) -> None:
        check_fields({item.name: getattr(self, item.name) for item in fields(self)})
        for item in fields(self):
            if item.name != "worker_type":
                object.__setattr__(self, item.name, number(getattr(self, item.name)))


@dataclass(frozen=True, kw_only=True)
class ClusterSpec:
    """What every Ray cluster has, whatever it is for. Frozen and valid by construction.

    :param object_spilling_config: Ray's object spilling configuration, as a mapping or JSON.
    :param tags: whose it is, and what else its owner wants to find it by.
    :raises SpecError: with every broken rule, its value and its source.
    """

    workers: Workers = field(default_factory=Workers)
    object_spilling_config: Mapping[str, Any] | str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    description: str = ""

    def __post_init__(self) -> None:
        check_fields({item.name: getattr(self, item.name) for item in fields(self)})
        for name, value in self._as_kept().items():
            object.__setattr__(self, name, value)

    def _as_kept(self) -> dict[str, Any]:
        """Return the fields whose values are kept in another form than they may be given in."""
        return {"tags": {str(key): str(text) for key, text in self.tags.items()}}


@dataclass(frozen=True, kw_only=True)
class StepSpec(ClusterSpec):
    """A cluster that runs a user's code on Glue's terms: its role, its arguments, and its Python environment.

    :param role: name or ARN of the IAM role; None where there are no such roles.
    :param arguments: named without ``--``; values become text.
    :param pip: requirements, installed before the code runs (one bound each: Glue splits at commas).
    :param py_modules: zip archives, or local folders and ``.py`` files, put on the import path.
    :param working_dir: zip archive, or local folder, unpacked on every node.
    :param logging_configuration: switches such as ``{"CLOUDWATCH_METRICS": False}``; all are on by default.
    """

    role: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    pip: Sequence[str] = ()
    py_modules: Sequence[str] = ()
    working_dir: str | None = None
    logging_configuration: Mapping[str, bool] | None = None
    python_version: str = PYTHON
    glue_version: str = "4.0"

    def _as_kept(self) -> dict[str, Any]:
        return {
            **super()._as_kept(),
            "arguments": {f"--{key.removeprefix('--')}": text_of(item) for key, item in self.arguments.items()},
            "pip": tuple(str(item).strip() for item in items_of(self.pip)),
            "py_modules": tuple(str(item) for item in items_of(self.py_modules)),
        }

    def local_files(self) -> tuple[LocalFile, ...]:
        """Return what has to be uploaded before the service can see it."""
        named = (*self.py_modules, *([self.working_dir] if self.working_dir else ()))
        return tuple(name for name in named if not name.startswith("s3://"))

    def with_uploads(self, uris: Mapping[LocalFile, str]) -> Self:
        """Return the spec with each local file replaced by the URI it was uploaded to."""
        return replace(
            self,
            py_modules=tuple(uris.get(name, name) for name in self.py_modules),
            working_dir=uris.get(self.working_dir, self.working_dir) if self.working_dir else None,
        )


@dataclass(frozen=True, kw_only=True)
class RayJobSpec(StepSpec):
    """One step: what to run, with what, on how many workers. Further fields: those of the classes it stands on.

    :param name: the job's name at the service, 1 to 255 characters.
    :param script: local path or S3 URI of a ``.py`` file, or its text; arguments reach it as environment variables.
    :param max_concurrent_runs: how many runs of the job may be active at once; more of them queue.
    :param cluster: the id of a cluster on KubeRay that stays up between runs; None for one of the run's own.
    :param overrides: rarer members of the requests, by backend: ``{"glue": {"job": {…}, "run": {…}}, "ray": {…},
        "kuberay": {…}}``; those of other backends than the run's have no effect.
    """

    name: str
    script: str | SourceFile
    runtime: str = "Ray2.4"
    max_concurrent_runs: int = 1
    cluster: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def _as_kept(self) -> dict[str, Any]:
        script = self.script if isinstance(self.script, SourceFile) else str(self.script)
        return {**super()._as_kept(), "script": script, "cluster": self.cluster or None}

    @property
    def script_uri(self) -> str:
        """Where the script is, once it has been uploaded.

        :raises SpecError: it has not.
        """
        if isinstance(self.script, SourceFile):
            raise SpecError([f"script={self.script.name!r} has not been uploaded"])
        return self.script

    def local_files(self) -> tuple[LocalFile, ...]:
        """Return what has to be uploaded, the script first."""
        is_remote = isinstance(self.script, str) and self.script.startswith("s3://")
        return (*(() if is_remote else (self.script,)), *super().local_files())

    def with_uploads(self, uris: Mapping[LocalFile, str]) -> Self:
        """Return the spec with each local file replaced by the URI it was uploaded to."""
        return replace(super().with_uploads(uris), script=uris.get(self.script, self.script))


@dataclass(frozen=True, kw_only=True)
class RaySessionSpec(StepSpec):
    """A cluster of Glue that stays up between statements. Further fields: those of the classes it stands on.

    :param role: name or ARN of the IAM role the session assumes; a name is resolved, the service wants an ARN.
    :param idle_timeout: the session ends by itself after so long without a statement: a timedelta, or seconds.
    :param session_timeout: it ends in any case after so long: a timedelta, or seconds.
    """

    role: str
    idle_timeout: float | timedelta = IDLE_TIMEOUT
    session_timeout: float | timedelta = SESSION_TIMEOUT

    def _as_kept(self) -> dict[str, Any]:
        seconds = {name: seconds_of(getattr(self, name)) for name in ("idle_timeout", "session_timeout")}
        return {**super()._as_kept(), **seconds}


@dataclass(frozen=True, kw_only=True)
class RayClusterSpec(ClusterSpec):
    """A cluster on KubeRay that stays up between runs. Further fields: those of :class:`ClusterSpec`.

    :param name: what people recognise it by, 1 to 255 characters.
    :param runtime: Glue's name of one, for where the settings name no version of Ray.
    :param tags: whose it is; ``airflow_dag_id``, ``airflow_task_id`` and ``airflow_run_id`` become labels.
    :param overrides: ``{"kuberay": {…}}``, as for a run.
    """

    name: str
    runtime: str = "Ray2.4"
    overrides: Mapping[str, Any] = field(default_factory=dict)
