"""What to run: the spec of a Ray job, and its translation to the service's requests.

Floor 0: standard library only, no clock, no I/O. Translators are pure, so a request can be printed, compared
and tested without a service.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_glueray.errors import SpecError
from airflow_provider_glueray.rules import (
    MARK_ARGUMENT,
    SERVICE_ARGUMENTS,
    check_fields,
    items_of,
    number,
    text_of,
)

if TYPE_CHECKING:
    from airflow_provider_glueray.sessions import RaySessionSpec

#: M-DPU of one Z.2X worker: 8 vCPU, 64 GB, 128 GB disk. Source: dg/ray-jobs-section.
MDPU_PER_WORKER = 2
#: Tags that the operator puts on every job it makes: which DAG and task it belongs to.
AUTOMATIC_TAGS = frozenset({"airflow_dag_id", "airflow_task_id"})


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
        for name in (
            "number_of_workers",
            "min_workers",
            "object_store_memory_head",
            "object_store_memory_worker",
        ):
            object.__setattr__(self, name, number(getattr(self, name)))


@dataclass(frozen=True)
class RayJobSpec:
    """One step: what to run, with what, on how many workers. Frozen and valid by construction.

    :param name: the job's name at the service, 1 to 255 characters.
    :param script: local path or S3 URI of a ``.py`` file.
    :param role: name or ARN of the IAM role the run assumes; None where there are no such roles.
    :param arguments: reach the script as environment variables, named without ``--``; values become text.
    :param pip: requirements, installed before the script starts (one bound each: Glue splits at commas).
    :param py_modules: zip archives, or local folders and ``.py`` files, put on the import path.
    :param working_dir: zip archive, or local folder, unpacked on every node.
    :param spilling: Ray's object spilling configuration, as a mapping or JSON.
    :param logging: switches such as ``{"CLOUDWATCH_METRICS": False}``; all are on by default.
    :param max_concurrent_runs: how many runs of the job may be active at once; more of them queue.
    :param cluster: the id of a cluster on KubeRay that stays up between runs; None for one of the run's own.
    :param overrides: rarer members of the requests, by backend: ``{"glue": {"job": {…}, "run": {…}}, "ray": {…},
        "kuberay": {…}}``; those of other backends than the run's have no effect.
    :raises SpecError: with every broken rule, its value and its source.
    """

    name: str
    script: str
    role: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    workers: Workers = field(default_factory=Workers)
    pip: Sequence[str] = ()
    py_modules: Sequence[str] = ()
    working_dir: str | None = None
    spilling: Mapping[str, Any] | str | None = None
    logging: Mapping[str, bool] | None = None
    runtime: str = "Ray2.4"
    python_version: str = "3.9"
    glue_version: str = "4.0"
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    max_concurrent_runs: int = 1
    cluster: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields({item.name: getattr(self, item.name) for item in fields(self)})
        arguments = {f"--{key.removeprefix('--')}": text_of(item) for key, item in self.arguments.items()}
        for name, value in (
            ("script", str(self.script)),
            ("arguments", arguments),
            ("pip", tuple(str(item).strip() for item in items_of(self.pip))),
            ("py_modules", tuple(str(item) for item in items_of(self.py_modules))),
            ("tags", {str(key): str(text) for key, text in self.tags.items()}),
            ("cluster", self.cluster or None),
        ):
            object.__setattr__(self, name, value)

    def local_files(self) -> tuple[str, ...]:
        """Return the paths that have to be uploaded before the service can see them."""
        named = (self.script, *self.py_modules, *([self.working_dir] if self.working_dir else ()))
        return tuple(name for name in named if not name.startswith("s3://"))

    def with_uploads(self, uris: Mapping[str, str]) -> RayJobSpec:
        """Return the spec with each local path replaced by the URI it was uploaded to."""
        return replace(
            self,
            script=uris.get(self.script, self.script),
            py_modules=tuple(uris.get(name, name) for name in self.py_modules),
            working_dir=uris.get(self.working_dir, self.working_dir) if self.working_dir else None,
        )

    def service_arguments(self) -> dict[str, str]:
        """Return the arguments that the service reads."""
        return service_arguments(self, "--min-workers")


def service_arguments(spec: RayJobSpec | RaySessionSpec, min_workers: str) -> dict[str, str]:
    """Return the arguments that the service reads. Hyphens in the first four, underscores in the rest.

    :param min_workers: the name of that argument, which is another one for sessions.
    """
    switches = {key: {"IS_ENABLED": str(on)} for key, on in (spec.logging or {}).items()}
    given = {
        min_workers: _given(spec.workers.min_workers),
        "--pip-install": ",".join(spec.pip),
        "--s3-py-modules": ",".join(spec.py_modules),
        "--working-dir": spec.working_dir or "",
        "--object_spilling_config": text_of(spec.spilling) if spec.spilling else "",
        "--object_store_memory_head": _given(spec.workers.object_store_memory_head),
        "--object_store_memory_worker": _given(spec.workers.object_store_memory_worker),
        "--logging_configuration": json.dumps(switches, sort_keys=True) if switches else "",
    }
    return {key: text for key, text in given.items() if text}


def _given(number: int | None) -> str:
    return "" if number is None else str(number)


def to_glue_job(spec: RayJobSpec) -> dict[str, Any]:
    """Translate to a CreateJob request (without Timeout, MaxCapacity and AllocatedCapacity, ever).

    Shape: botocore CreateJob; the minimal known-good definition of a Ray job, facts section 0.

    :raises SpecError: it is to run in a cluster that stays up between runs, which a job of Glue cannot.
    """
    if spec.cluster:
        raise SpecError([f"cluster={spec.cluster!r}: on AWS Glue each run has a cluster of its own; use a session"])
    return {
        "Name": spec.name,
        "Role": spec.role,
        "Command": {
            "Name": "glueray",
            "Runtime": spec.runtime,
            "PythonVersion": spec.python_version,
            "ScriptLocation": spec.script,
        },
        "GlueVersion": spec.glue_version,
        "WorkerType": spec.workers.worker_type,
        "NumberOfWorkers": spec.workers.number_of_workers,
        "ExecutionProperty": {"MaxConcurrentRuns": spec.max_concurrent_runs},
        "DefaultArguments": spec.service_arguments(),
        **({"Description": spec.description} if spec.description else {}),
        **({"Tags": dict(spec.tags)} if spec.tags else {}),
        **spec.overrides.get("glue", {}).get("job", {}),
    }


def to_glue_run(spec: RayJobSpec, mark: str) -> dict[str, Any]:
    """Translate to a StartJobRun request that carries ``mark``.

    Every argument is passed on every run: whether run arguments replace the job's defaults per key or
    wholesale is not stated by AWS (facts 9.26).
    """
    return {
        "JobName": spec.name,
        "Arguments": {**spec.service_arguments(), **spec.arguments, MARK_ARGUMENT: mark},
        "WorkerType": spec.workers.worker_type,
        "NumberOfWorkers": spec.workers.number_of_workers,
        **spec.overrides.get("glue", {}).get("run", {}),
    }


#: What GetJob returns and UpdateJob does not take, or must not be given for Ray (facts 1.3).
_READ_ONLY = frozenset(
    {"Name", "CreatedOn", "LastModifiedOn", "ProfileName", "AutoUpgradeMetadata"}
    | {"AllocatedCapacity", "MaxCapacity", "Timeout"}
)


def to_glue_job_update(spec: RayJobSpec, current: Mapping[str, Any]) -> dict[str, Any] | None:
    """Compare with a job as GetJob returned it; return the UpdateJob request, or None when nothing differs.

    UpdateJob replaces the whole definition, so what others have set is carried over. What the server adds or
    normalises is no difference: a role's name for its ARN, members we did not ask for, foreign arguments.
    """
    wanted = {key: value for key, value in to_glue_job(spec).items() if key not in ("Name", "Tags")}
    kept = {key: value for key, value in current.items() if key not in _READ_ONLY}
    foreign = {key: text for key, text in kept.get("DefaultArguments", {}).items() if key not in SERVICE_ARGUMENTS}
    wanted["DefaultArguments"] = {**foreign, **wanted["DefaultArguments"]}
    for member in ("Command", "ExecutionProperty"):
        wanted[member] = {**kept.get(member, {}), **wanted[member]}
    if str(kept.get("Role", "")).rpartition("/")[2] == wanted["Role"]:
        wanted["Role"] = kept["Role"]
    if all(kept.get(member, {} if value == {} else None) == value for member, value in wanted.items()):
        return None
    return {"JobName": spec.name, "JobUpdate": {**kept, **wanted}}
