"""What a session is made with, and its translation to the service's request."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from airflow_provider_glueray.core.errors import SpecError
from airflow_provider_glueray.core.spec import SESSION_TIMEOUT, RayJobSpec, RaySessionSpec
from airflow_provider_glueray.core.validation import CLIENT_TOKEN_ARGUMENT, SERVICE_ARGUMENTS, seconds_of, text_of

#: Added to the id of a session that is made again.
_SUFFIX = "-again"


def to_glue_session(spec: RaySessionSpec, session_id: str, client_token: str, role_arn: str) -> dict[str, Any]:
    """Translate to a CreateSession request for a session that carries the client token.

    Shape: what the last Ray-capable kernel sent (aws-glue-sessions 1.0.5); which of the job's parameters a
    session honours is not documented, ``--pip-install`` is the one that users report.
    """
    workers = spec.workers
    return {
        "Id": session_id,
        "Role": role_arn,
        "Command": {"Name": "glueray", "PythonVersion": spec.python_version},
        "GlueVersion": spec.glue_version,
        "WorkerType": workers.worker_type,
        "NumberOfWorkers": workers.number_of_workers,
        "IdleTimeout": _minutes(spec.idle_timeout),
        "Timeout": _minutes(spec.session_timeout),
        "DefaultArguments": {
            **service_arguments(spec, "--auto-scaling-ray-min-workers"),
            **spec.arguments,
            CLIENT_TOKEN_ARGUMENT: client_token,
        },
        **({"Description": spec.description} if spec.description else {}),
        **({"Tags": dict(spec.tags)} if spec.tags else {}),
    }


def to_glue_session_again(session: Mapping[str, Any], tags: Mapping[str, str]) -> dict[str, Any]:
    """Translate a ``Session`` (botocore shape) that has ended to a CreateSession request for its successor.

    What the service does not tell, the lifetime, is our default.
    """
    kept = ("Role", "Command", "Description", "DefaultArguments", "GlueVersion", "WorkerType", "NumberOfWorkers")
    return {
        **{name: session[name] for name in (*kept, "IdleTimeout") if session.get(name) is not None},
        "Id": replacement_session_id(session["Id"]),
        "Timeout": _minutes(SESSION_TIMEOUT),
        **({"Tags": dict(tags)} if tags else {}),
    }


def replacement_session_id(session_id: str) -> str:
    """Return the id of the session that replaces one which has timed out; it is derived from the old id."""
    return f"{session_id[: 255 - len(_SUFFIX)]}{_SUFFIX}"


def session_id_for(dag_id: str, task_id: str, client_token: str, prefix: str = "") -> str:
    """Return an id that people recognise and nobody else has: 1 to 255 characters (botocore ``NameString``)."""
    words = re.sub(r"[^A-Za-z0-9_-]+", "-", f"{prefix or dag_id}-{task_id}")
    return f"{words[:200].strip('-')}-{client_token[:12]}"


#: Tags that the operator puts on every job it makes: which DAG and task it belongs to.
AUTOMATIC_TAGS = frozenset({"airflow_dag_id", "airflow_task_id"})


def service_arguments(spec: RayJobSpec | RaySessionSpec, min_workers: str) -> dict[str, str]:
    """Return the arguments that the service reads. Hyphens in the first four, underscores in the rest.

    :param min_workers: the name of that argument, which is another one for sessions.
    """
    switches = {key: {"IS_ENABLED": str(on)} for key, on in (spec.logging_configuration or {}).items()}
    given = {
        min_workers: _given(spec.workers.min_workers),
        "--pip-install": ",".join(spec.pip),
        "--s3-py-modules": ",".join(spec.py_modules),
        "--working-dir": spec.working_dir or "",
        "--object_spilling_config": text_of(spec.object_spilling_config) if spec.object_spilling_config else "",
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
            "ScriptLocation": spec.script_uri,
        },
        "GlueVersion": spec.glue_version,
        "WorkerType": spec.workers.worker_type,
        "NumberOfWorkers": spec.workers.number_of_workers,
        "ExecutionProperty": {"MaxConcurrentRuns": spec.max_concurrent_runs},
        "DefaultArguments": service_arguments(spec, "--min-workers"),
        **({"Description": spec.description} if spec.description else {}),
        **({"Tags": dict(spec.tags)} if spec.tags else {}),
        **spec.overrides.get("glue", {}).get("job", {}),
    }


def to_glue_run(spec: RayJobSpec, client_token: str) -> dict[str, Any]:
    """Translate to a StartJobRun request that carries the client token.

    Every argument is passed on every run: whether run arguments replace the job's defaults per key or
    wholesale is not stated by AWS (facts 9.26).
    """
    over = spec.overrides.get("glue", {}).get("run", {})
    return {
        "JobName": spec.name,
        # Those of the overrides are added: by the client token a run is found.
        "Arguments": {
            **service_arguments(spec, "--min-workers"),
            **spec.arguments,
            **over.get("Arguments", {}),
            CLIENT_TOKEN_ARGUMENT: client_token,
        },
        "WorkerType": spec.workers.worker_type,
        "NumberOfWorkers": spec.workers.number_of_workers,
        **{name: value for name, value in over.items() if name != "Arguments"},
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


def _minutes(duration: float | timedelta) -> int:
    """Return the minutes in which the service counts: a part of one counts as one."""
    return math.ceil((seconds_of(duration) or 0.0) / 60)
