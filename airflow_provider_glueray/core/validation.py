"""The rules of a spec: what each field may hold, and where that is written.

No clock and no I/O. A rule knows the fields it needs, so the same rules serve
twice: at DAG parse for every value that is not a template, and on the finished spec before any call is made.
"""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import date, time, timedelta
from pathlib import PurePath
from typing import Any, NamedTuple, NoReturn

from airflow_provider_glueray.core.errors import SourceFileError, SpecError
from airflow_provider_glueray.core.logs import LOG_SOURCES

#: Regions with Glue for Ray. Source: dg/ray-jobs-section, general/latest/gr/glue.
RAY_REGIONS = ("us-east-1", "us-east-2", "us-west-2", "ap-northeast-1", "eu-west-1")
#: Carries the client token of a run, so that a run whose id was lost can be found again (StartJobRun has no token).
CLIENT_TOKEN_ARGUMENT = "--glueray_client_token"
#: Arguments of a run that the service itself reads. Source: dg/author-job-ray-job-parameters.
SERVICE_ARGUMENTS = {
    "--min-workers": "min_workers",
    "--pip-install": "pip",
    "--s3-py-modules": "py_modules",
    "--working-dir": "working_dir",
    "--object_spilling_config": "object_spilling_config",
    "--object_store_memory_head": "object_store_memory_head",
    "--object_store_memory_worker": "object_store_memory_worker",
    "--logging_configuration": "logging_configuration",
}
#: The Python of AWS Glue for Ray.
PYTHON = "3.9"
LOGGING_SWITCHES = ("CLOUDWATCH_METRICS", "CLOUDWATCH_LOGS", "S3")

_TEMPLATE = re.compile(r"\{\{|\{%|\{#")
_ARGUMENT_KEY = re.compile(r"[.\-_A-Za-z0-9]+")
_ROLE = re.compile(r"[\w+=,.@-]{1,64}|arn:aws[^:]*:iam::\d{12}:role/.+")
_S3_URI = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?")


def is_template(value: object) -> bool:
    """Tell whether a value still has to be rendered: Jinja text, or a container that holds some."""
    if isinstance(value, str):
        return bool(_TEMPLATE.search(value))
    if isinstance(value, Mapping):
        return any(is_template(part) for pair in value.items() for part in pair)
    if isinstance(value, (list, tuple)):
        return any(is_template(part) for part in value)
    return False


class _Rule(NamedTuple):
    needs: tuple[str, ...]
    check: Callable[..., str | None]
    source: str


_RULES: list[_Rule] = []


def _rule(*needs: str, source: str) -> Callable[[Callable[..., str | None]], Callable[..., str | None]]:
    def register(check: Callable[..., str | None]) -> Callable[..., str | None]:
        _RULES.append(_Rule(needs, check, source))
        return check

    return register


def _must(text: str, holds: Callable[[Any], object]) -> Callable[..., str | None]:
    """Return the check that says what a value must be, unless it is."""
    return lambda value: None if holds(value) else text


def check_fields(values: Mapping[str, Any]) -> None:
    """Apply every rule whose fields are all given, and raise one :class:`SpecError` that lists each breach.

    :param values: flat fields of a spec; leave out those that are still templates.
    """
    problems = []
    for rule in _RULES:
        if all(name in values for name in rule.needs):
            problem = rule.check(*(values[name] for name in rule.needs))
            if problem:
                value = values[rule.needs[0]]
                # A mapping may hold what should not be logged; its rule names the key.
                shown = "" if isinstance(value, Mapping) else f"={getattr(value, 'name', value)!r}"
                problems.append(f"{rule.needs[0]}{shown}: {problem} [{rule.source}]")
    if problems:
        raise SpecError(problems)


def number(value: object) -> int | None:
    """Read a whole number, also from the text that a rendered template leaves behind."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    return int(value) if isinstance(value, str) and re.fullmatch(r"\s*-?\d+\s*", value) else None


def seconds_of(value: object) -> float | None:
    """Read a duration: a timedelta, or a number of seconds, also from the text that a rendered template leaves behind.

    :return: seconds; None for what is no duration.
    """
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        seconds = float(value)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) else None


_rule("worker_type", source="aws/aws-cdk#32119")(
    _must("Glue for Ray runs on Z.2X workers only", lambda value: value == "Z.2X")
)


@_rule("number_of_workers", source="botocore CreateJob; that 2 is the least is unverified for Ray")
def _some_workers(value: object) -> str | None:
    count = number(value)
    if count is None:
        return "must be a whole number"
    if count == 1:
        warnings.warn(
            "number_of_workers=1: AWS Glue refuses fewer than 2 workers for other job types; "
            "whether it does for Ray is unverified",
            stacklevel=2,
        )
    return None if count >= 1 else "must be 1 or more"


_rule("max_concurrent_runs", source="botocore ExecutionProperty")(
    _must("must be a whole number, 1 or more", lambda value: (number(value) or 0) >= 1)
)


@_rule("min_workers", "number_of_workers", source="dg/author-job-ray-job-parameters: 0 to NumberOfWorkers")
def _floor_below_ceiling(low: object, high: object) -> str | None:
    if low is None:
        return None
    count, most = number(low), number(high)
    if count is None or count < 0:
        return "must be a whole number, 0 or more"
    return f"must not exceed number_of_workers={most}" if most is not None and count > most else None


for _node in ("head", "worker"):
    _rule(f"object_store_memory_{_node}", source="dg/author-job-ray-job-parameters")(
        _must("must be a whole percentage, 1 to 100", lambda value: value is None or 1 <= (number(value) or 0) <= 100)
    )
_rule("name", source="botocore CreateJob: 1 to 255 characters")(
    _must("must be 1 to 255 characters", lambda value: isinstance(value, str) and 1 <= len(value) <= 255)
)


@_rule("script", source="dg/ray-jobs-section: a Ray job runs one Python script")
def _python_script(value: object) -> str | None:
    text = str(getattr(value, "name", value))
    if PurePath(text).suffix != ".py":
        return "must end in .py"
    if "://" in text and not _S3_URI.fullmatch(text):
        return "must be a local path or s3://bucket/key.py"
    return None


_rule("role", source="botocore CreateJob: a role's name or ARN")(
    _must(
        "must be the name or the ARN of an IAM role that glue.amazonaws.com may assume",
        # A cluster of one's own has none; the hook for Glue asks for it.
        lambda value: value is None or _ROLE.fullmatch(str(value)),
    )
)
_rule("staging_uri", source="local files are uploaded before the run")(
    _must("must be s3://bucket/prefix", lambda value: value is None or _S3_URI.fullmatch(str(value)))
)


@_rule("arguments", source="dg/author-job-ray-job-parameters: arguments become environment variables")
def _arguments(value: object) -> str | None:
    if not isinstance(value, Mapping):
        return "must be a mapping of names to values"
    for key, item in value.items():
        if not isinstance(key, str) or not _ARGUMENT_KEY.fullmatch(key):
            return f"{key!r} is not a usable name (letters, digits, '.', '-' and '_')"
        flag = f"--{key.removeprefix('--')}"
        if flag in SERVICE_ARGUMENTS:
            return f"{key!r} is read by the service; use the field {SERVICE_ARGUMENTS[flag]!r}"
        if flag == CLIENT_TOKEN_ARGUMENT:
            return f"{key!r} is reserved: it carries the client token, so that the run is never started twice"
        try:
            text_of(item)
        except TypeError as error:
            return f"{key!r}: {error}"
    return None


def parse(source: str | bytes, name: str, python_version: str = PYTHON) -> ast.Module:
    """Parse source as a cluster's Python does.

    :param name: names the source in errors.
    :raises SourceFileError: it is not Python of that version.
    """
    major, minor = (int(part) for part in python_version.split("."))
    try:
        return ast.parse(source, filename=name, feature_version=(major, minor))
    except (SyntaxError, ValueError) as error:
        raise SourceFileError(f"{name} is not Python {python_version}: {error}") from error


_FETCHED = re.compile(r"(\w+\+)?https?://")
_PIP_OPTION = re.compile(r"(?:^|\s)(--[\w-]+|-\w)")


@_rule("pip", source="dg/author-job-ray-job-parameters: a comma list")
def _requirements(value: object) -> str | None:
    return next((problem for problem in map(requirement_problem, items_of(value)) if problem), None)


def requirement_problem(item: object) -> str | None:
    """Tell why Glue would not take a requirement, if it would not."""
    # It comes with Airflow. Most DAGs have no requirements, and their parses should not pay for the import.
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    if not isinstance(item, str) or not item.strip():
        return f"{item!r} is not a requirement"
    option = _PIP_OPTION.search(item)
    if option:
        # What follows an option may be an address with a password in it.
        return f"{option[1]} is an option of pip; Glue takes requirements only"
    try:
        requirement = Requirement(item)
    except InvalidRequirement as error:
        reason = str(error).partition("\n")[0]
        return f"{item!r} is not a requirement such as name==1.0 or name @ https://host/name.whl (PEP 508): {reason}"
    if canonicalize_name(requirement.name) == "ray":
        return f"{item!r}: Ray itself cannot be upgraded (dg/edit-script-ray-env-dependencies)"
    if requirement.url and not _FETCHED.match(requirement.url):
        return f"{item!r}: pip on Glue fetches https:// only"
    if len(requirement.extras) > 1:
        return f"{item!r}: Glue splits the list at commas, also between extras, so give one extra only"
    if "," in item:
        return f"{item!r}: Glue splits the list at commas, so give one bound only, such as == or ~="
    return None


_rule("requirements", source="read where the task runs")(
    _must("must be the path of a local file", lambda value: "://" not in str(value))
)


_ARCHIVE = "must be a local folder, or a .zip with exactly one folder at its root"
_MODULE = f"{_ARCHIVE}, or a local .py file"


def _is_archive(value: object) -> bool:
    """Tell whether it may be an archive, or a folder that is made one."""
    text = str(value)
    return text.endswith(".zip") or (not text.startswith("s3://") and not PurePath(text).suffix)


def _is_module(value: object) -> bool:
    """Tell whether it may be an archive, or a file that is made one."""
    text = str(value)
    return _is_archive(value) or (not text.startswith("s3://") and text.endswith(".py"))


@_rule("py_modules", source="dg/author-job-ray-job-parameters: zip archives")
def _modules(value: Sequence[object]) -> str | None:
    odd = [item for item in items_of(value) if not _is_module(item)]
    return f"{odd[0]!r} {_MODULE}" if odd else None


@_rule("py_modules", "script", source="a module is uploaded as an archive, a script as it is")
def _script_is_no_module(modules: Sequence[object], script: object) -> str | None:
    return f"{script!r} is the script" if str(script) in map(str, items_of(modules)) else None


_rule("working_dir", source="dg/author-job-ray-job-parameters: one zip archive")(
    _must(_ARCHIVE, lambda value: value is None or _is_archive(value))
)


@_rule("object_spilling_config", source="dg/author-job-ray-job-parameters: local disk or S3, not both")
def _spilling(value: object) -> str | None:
    if value is None:
        return None
    try:
        config = json.loads(value) if isinstance(value, str) else value
        text = json.dumps(config)
    except (TypeError, ValueError) as error:
        return f"is not JSON ({error})"
    if not isinstance(config, Mapping):
        return "must be a JSON object such as {'type': 'smart_open', 'params': {'uri': 's3://…'}}"
    both = '"directory_path"' in text and '"uri"' in text
    return "names local disk (directory_path) and S3 (uri) at once" if both else None


@_rule("logging_configuration", source="dg/author-job-ray-job-parameters")
def _logging(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or not all(isinstance(on, bool) for on in value.values()):
        return "must map switches to True or False"
    odd = sorted(set(value) - set(LOGGING_SWITCHES))
    return f"unknown switch {odd[0]!r}; there are {', '.join(LOGGING_SWITCHES)}" if odd else None


@_rule("log_sources", source="dg/troubleshooting-ray: the eight log groups")
def _log_sources(value: object) -> str | None:
    odd = [item for item in items_of(value) if item not in LOG_SOURCES]
    return f"unknown source {odd[0]!r}; there are {', '.join(LOG_SOURCES)}" if odd else None


@_rule("tags", source="botocore TagResource: at most 50, key 1 to 128, value at most 256 characters")
def _tags(value: object) -> str | None:
    if not isinstance(value, Mapping):
        return "must be a mapping of names to texts"
    if len(value) > 50:
        return f"has {len(value)} tags"
    for key, text in value.items():
        if not 1 <= len(str(key)) <= 128 or len(str(text)) > 256:
            return f"tag {key!r} is too long"
    return None


#: Members that must never reach the service for a Ray job, and why.
_REFUSED_MEMBERS = {
    "Timeout": "Glue refuses it for Ray (terraform-provider-aws#35013); use the operator's run_timeout",
    "MaxCapacity": "it clashes with the worker fields (botocore CreateJob); use number_of_workers",
    "AllocatedCapacity": "it clashes with the worker fields (apache/airflow#25996); use number_of_workers",
    "Connections": "Ray jobs have no VPC integration (dg/edit-script-ray-connections-formats)",
    "ExecutionClass": "FLEX is for glueetl only (badmintoncryer/cdk-preflight)",
    "MaintenanceWindow": "it is for streaming jobs only (botocore CreateJob)",
    "JobName": "a run is found by it; use job_name",
    "Name": "runs are found by it; use job_name",
    "JobRunId": "it would run another run again",
    "MaxRetries": "a retry by Glue would be a second run that nobody watches; use the task's retries",
}


_DURATION = "as a timedelta or a number of seconds"
for _timeout in ("idle_timeout", "session_timeout"):
    _rule(_timeout, source="botocore CreateSession: minutes, at least 1")(
        # A bare number below is most likely meant as minutes, in which the service counts.
        _must(f"must be a minute or more, {_DURATION}", lambda value: (seconds_of(value) or 0) >= 60)
    )
_rule("poll_interval", source="the pause between two polls")(
    _must(f"must be more than 0, {_DURATION}", lambda value: (seconds_of(value) or 0) > 0)
)
_bound = _must(
    f"must be more than 0, {_DURATION}, or None", lambda value: value is None or (seconds_of(value) or 0) > 0
)
_rule("run_timeout", source="the operator stops the run itself; Glue has no such bound for Ray")(_bound)
_rule("max_lifetime", source="Kubernetes: activeDeadlineSeconds of the pods")(_bound)


@_rule("queue_timeout", source="how long the operator waits for capacity")
def _zero_or_more(value: object) -> str | None:
    seconds = seconds_of(value)
    return None if seconds is not None and seconds >= 0 else f"must be 0 or more, {_DURATION}"


_rule("session_id", source="botocore CreateSession: 1 to 255 characters; these also fit an address")(
    _must(
        "must be 1 to 255 letters, digits, '_', '.' and '-'",
        lambda value: value is None or re.fullmatch(r"[A-Za-z0-9_.-]{1,255}", str(value)),
    )
)
_rule("cluster", source="kuberay/…/apis/ray/v1/rayjob_types.go: clusterSelector")(
    _must(
        "must be the id of a cluster, namespace/name: what GlueRayCreateClusterOperator returns",
        # Where each run has a cluster of its own, there is no cluster to make, and its id is empty.
        lambda value: not value or re.fullmatch(r"[a-z0-9-]{1,63}/[a-z0-9.-]{1,253}", str(value)),
    )
)


#: The keys of ``overrides``, one per backend that runs jobs.
OVERRIDE_KEYS = ("glue", "ray", "kuberay")


@_rule("overrides", source="GlueRayJobOperator")
def _overrides(value: object) -> str | None:
    if not isinstance(value, Mapping) or not all(isinstance(part, Mapping) for part in value.values()):
        return "must be {'glue': {'job': {…}, 'run': {…}}, 'ray': {…}, 'kuberay': {…}}"
    odd = sorted(set(value) - set(OVERRIDE_KEYS))
    if odd:
        return f"has {odd[0]!r}; there are {', '.join(OVERRIDE_KEYS)}"
    glue = value.get("glue", {})
    if set(glue) - {"job", "run"}:
        return "must be {'glue': {'job': {…}, 'run': {…}}}"
    for member in (name for part in glue.values() for name in part):
        if member in _REFUSED_MEMBERS:
            return f"{member}: {_REFUSED_MEMBERS[member]}"
    return None


def items_of(value: object) -> Sequence[object]:
    """Accept one text where a list is meant."""
    if value is None:
        return ()
    return (value,) if isinstance(value, (str, PurePath)) else tuple(value)  # type: ignore[arg-type]


def text_of(value: object) -> str:
    """Render an argument the way a shell user would write it; containers become JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, (int, float, PurePath)) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, (bool, Mapping, list, tuple)):
        return json.dumps(value, sort_keys=True, default=_no_text)
    return _no_text(value)


def _no_text(value: object) -> NoReturn:
    raise TypeError(f"a {type(value).__name__} has no text form; pass a string, number, boolean, date or JSON value")
