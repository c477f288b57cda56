"""Refuse invalid Ray jobs and sessions with the service's own messages.

Every rule names its source: [cdk], [terraform], [preflight] are public threads and projects that met the real refusal,
[guide] is the Glue developer guide, [botocore] the text of the model. The endpoint enforces no rule without evidence:
no source shows the general minimum of two workers for Ray, so one worker passes here.

INFERRED: every rule about sessions, from the rule about jobs. The following rules are documented or measured, but their
wording (and for arguments the moment of refusal) is this project's own: an unknown Runtime; NumberOfWorkers missing or
below 1; MaxCapacity beside worker fields; FLEX, Connections, MaintenanceWindow and a GlueVersion below 4.0 for Ray;
Runtime or Z.2X for other commands; every rule about the values of job parameters; Timeout on StartJobRun (evidence
exists for CreateJob and UpdateJob only); the quota's message.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from airflow_provider_glueray.local.engine.errors import GlueError

RAY_COMMAND = "glueray"
WORKER_TYPE = "Z.2X"
#: The only runtime ever documented for Ray jobs [guide].
RUNTIME = "Ray2.4"
#: One Z.2X worker has so many memory-optimised DPUs [botocore].
MDPU_PER_WORKER = 2
#: An account may use so many M-DPUs at once per Region, not adjustable [AWS general reference].
QUOTA_MDPU = 50
#: These job parameters configure the cluster; the script does not get them [guide].
RESERVED_ARGUMENTS = frozenset(
    {
        "--min-workers",
        "--pip-install",
        "--s3-py-modules",
        "--working-dir",
        "--object_spilling_config",
        "--object_store_memory_head",
        "--object_store_memory_worker",
        "--logging_configuration",
        "--auto-scaling-ray-min-workers",
    }
)
#: The pip magic of the last Ray-capable kernel sends this parameter, for sessions only [kernel 1.0.5].
ADDITIONAL_MODULES = "--additional-python-modules"
#: A session has so many workers if CreateSession gives no number, as that kernel does [kernel 0.38.3].
SESSION_WORKERS = 5
SESSION_REFUSED = "Account not allowed to submit Glue Ray session"
ACCOUNT_CLOSED = "Account not allowed to submit Glue Ray job Post Deprecation"
TIMEOUT_REFUSED = "Timeout not supported for Ray jobs"
WORKER_TYPE_REFUSED = "Worker type cannot be null and only [Z.2X] worker types are supported for glueray jobs"


def is_ray(definition: Mapping[str, Any]) -> bool:
    """Return whether a job definition names the Ray command."""
    return bool(definition.get("Command", {}).get("Name") == RAY_COMMAND)


def check_job(definition: Mapping[str, Any]) -> None:
    """Refuse a whole job definition (CreateJob, UpdateJob) with GlueError `InvalidInputException`."""
    if not is_ray(definition):
        _check_other_command(definition)
        return
    if definition.get("Timeout") is not None:
        raise invalid(TIMEOUT_REFUSED)  # terraform-provider-aws#35013
    if not definition["Command"].get("Runtime"):
        raise invalid("Runtime parameter is required for GlueRay command")  # aws-cdk#25787
    if definition["Command"]["Runtime"] != RUNTIME:
        raise invalid(f"Runtime {definition['Command']['Runtime']} is not supported, use one of [{RUNTIME}]")
    if definition.get("WorkerType") != WORKER_TYPE:
        raise invalid(WORKER_TYPE_REFUSED)  # aws-cdk#32119
    check_workers(definition)
    if definition.get("ExecutionClass") == "FLEX":
        raise invalid("Execution class FLEX is not supported for glueray jobs")  # [preflight]
    if definition.get("Connections", {}).get("Connections"):
        raise invalid("Connections are not supported for glueray jobs")  # no VPC integration [guide]
    if definition.get("MaintenanceWindow"):
        raise invalid("MaintenanceWindow is supported for streaming jobs only")  # [botocore]
    _check_version(definition, "jobs")
    for arguments in (definition.get("DefaultArguments"), definition.get("NonOverridableArguments")):
        check_arguments(arguments or {}, definition["NumberOfWorkers"])


def check_workers(definition: Mapping[str, Any]) -> None:
    """Refuse capacity fields beside worker fields, and a worker count that is missing or below 1."""
    if definition.get("AllocatedCapacity"):
        # apache/airflow#25996
        raise invalid("Please do not set Allocated Capacity if using Worker Type and Number of Workers")
    if definition.get("MaxCapacity"):
        raise invalid("Please do not set Max Capacity if using Worker Type and Number of Workers")
    workers = definition.get("NumberOfWorkers")
    if workers is None:
        raise invalid("Number of workers cannot be null when Worker Type is set")  # [preflight]
    if workers < 1:
        raise invalid(f"Number of workers must be at least 1, got {workers}")


def check_run(request: Mapping[str, Any], merged: Mapping[str, Any], arguments: Mapping[str, str]) -> None:
    """Refuse a StartJobRun; `merged` is the job with the request's sizes, `arguments` has the run's own arguments."""
    if not is_ray(merged):
        name = merged["Command"]["Name"]
        raise invalid(f"This local endpoint runs {RAY_COMMAND} jobs only; the job's command is {name}")
    if request.get("Timeout") is not None:
        raise invalid(TIMEOUT_REFUSED)
    if merged.get("WorkerType") != WORKER_TYPE:
        raise invalid(WORKER_TYPE_REFUSED)
    if ("WorkerType" in request) != ("NumberOfWorkers" in request):
        raise invalid("Worker Type and Number of Workers must be set together")  # [preflight]
    if request.get("ExecutionClass") == "FLEX":
        raise invalid("Execution class FLEX is not supported for glueray jobs")
    check_workers(merged)
    check_arguments(arguments, merged["NumberOfWorkers"])


def check_session(definition: Mapping[str, Any]) -> None:
    """Refuse a session, given with its defaults filled in, with GlueError `InvalidInputException`."""
    if not is_ray(definition):
        name = definition["Command"].get("Name")
        raise invalid(f"This local endpoint runs {RAY_COMMAND} sessions only; the session's command is {name}")
    if definition["WorkerType"] != WORKER_TYPE:
        raise invalid(f"Only [{WORKER_TYPE}] worker types are supported for glueray sessions")
    check_workers(definition)
    if definition.get("Connections", {}).get("Connections"):
        raise invalid("Connections are not supported for glueray sessions")
    _check_version(definition, "sessions")
    check_arguments(definition.get("DefaultArguments", {}), definition["NumberOfWorkers"])


def check_arguments(arguments: Mapping[str, str], workers: int) -> None:
    """Refuse values of Ray job parameters that the guide does not allow."""
    for name in ("--object_store_memory_head", "--object_store_memory_worker"):
        if name in arguments:
            _whole_number(name, arguments[name], 1, 100)
    if "--min-workers" in arguments:
        _whole_number("--min-workers", arguments["--min-workers"], 0, workers)
    if "--object_spilling_config" in arguments:
        _check_spilling(arguments["--object_spilling_config"])
    if "--logging_configuration" in arguments:
        logging_enabled(arguments["--logging_configuration"])
    for name in ("--s3-py-modules", "--working-dir"):
        uris = locations(arguments.get(name, ""))
        if any(not uri.startswith("s3://") or not uri.endswith(".zip") for uri in uris):
            raise invalid(f"{name} must be an S3 path ending with .zip, got '{arguments[name]}'")
        if name == "--working-dir" and len(uris) > 1:
            raise invalid(f"{name} must be exactly one S3 path, got '{arguments[name]}'")


def locations(value: str) -> list[str]:
    """Split the comma-separated value of `--pip-install` or `--s3-py-modules`."""
    return [part.strip() for part in value.split(",") if part.strip()]


def logging_enabled(configuration: str) -> bool:
    """Return whether `--logging_configuration` leaves CloudWatch Logs on; refuses an invalid value."""
    parsed = _json_object("--logging_configuration", configuration)
    for key, value in parsed.items():
        if key not in {"CLOUDWATCH_METRICS", "CLOUDWATCH_LOGS", "S3"}:
            raise invalid(f"--logging_configuration has an unknown key '{key}'")
        if not isinstance(value, dict) or str(value.get("IS_ENABLED")).lower() not in {"true", "false"}:
            raise invalid(f"--logging_configuration: {key} must be an object with IS_ENABLED True or False")
    return str(parsed.get("CLOUDWATCH_LOGS", {}).get("IS_ENABLED", "True")).lower() == "true"


def invalid(message: str) -> GlueError:
    """Return the error for a violated rule of the service."""
    return GlueError("InvalidInputException", message)


def _check_other_command(definition: Mapping[str, Any]) -> None:
    name = definition.get("Command", {}).get("Name")
    if definition.get("Command", {}).get("Runtime"):
        raise invalid(f"Runtime parameter is not supported for {name} command")  # [preflight]
    if definition.get("WorkerType") == WORKER_TYPE:
        raise invalid(f"Worker type {WORKER_TYPE} is supported for {RAY_COMMAND} jobs only")  # [preflight]
    if ("WorkerType" in definition) != ("NumberOfWorkers" in definition):
        raise invalid("Worker Type and Number of Workers must be set together")  # [preflight]


def _check_version(definition: Mapping[str, Any], noun: str) -> None:
    version = str(definition.get("GlueVersion") or "4.0")
    if version.partition(".")[0] in {"0", "1", "2", "3"}:
        raise invalid(f"GlueVersion {version} is not supported for glueray {noun}, use 4.0 or later")  # [guide]


def _whole_number(name: str, value: str, low: int, high: int) -> None:
    if not value.isascii() or not value.isdigit() or not low <= int(value) <= high:
        raise invalid(f"{name} must be a whole number from {low} to {high}, got '{value}'")


def _json_object(name: str, value: str) -> dict[str, Any]:
    try:
        parsed = json.loads(value)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        raise invalid(f"{name} must be a JSON object, got '{value}'")
    return parsed


def _check_spilling(value: str) -> None:
    kind = _json_object("--object_spilling_config", value).get("type")
    kinds = set(kind) if isinstance(kind, list) else {kind}
    if not kinds <= {"filesystem", "smart_open"}:
        raise invalid(f"--object_spilling_config: type must be filesystem or smart_open, got '{kind}'")
    if len(kinds) > 1:
        raise invalid("--object_spilling_config cannot spill to local disk and to Amazon S3 at once")
