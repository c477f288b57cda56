"""What a session is made with, and its translation to the service's request.

Floor 0: standard library only, no clock, no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from typing import Any

from airflow_provider_glueray.rules import MARK_ARGUMENT, check_fields, items_of, minutes_of, text_of
from airflow_provider_glueray.spec import Workers, service_arguments

#: Minutes after which an idle session ends by itself, unless another number is given. Long enough for a retry
#: after Airflow's usual pause of five minutes, short enough for a session that everybody has forgotten.
IDLE_MINUTES = 30
#: Minutes after which a session ends in any case: what the service's text gives for Spark (botocore CreateSession).
SESSION_MINUTES = 2880
#: Added to the id of a session that is made again.
_AGAIN = "-again"


@dataclass(frozen=True)
class RaySessionSpec:
    """A cluster that stays up between steps. Frozen and valid by construction.

    :param role: name or ARN of the IAM role the session assumes; a name is resolved, the service wants an ARN.
    :param idle_timeout: minutes without a statement after which the session ends by itself.
    :param session_timeout: minutes after which it ends in any case.
    :param pip: requirements, installed before the session is ready (one bound each: Glue splits at commas).
    :param py_modules: zip archives, or local folders and ``.py`` files, put on the import path.
    :param working_dir: zip archive, or local folder, unpacked on every node.
    :param spilling: Ray's object spilling configuration, as a mapping or JSON.
    :param logging: switches such as ``{"CLOUDWATCH_METRICS": False}``.
    :param arguments: further default arguments, named without ``--``.
    :raises SpecError: with every broken rule, its value and its source.
    """

    role: str
    workers: Workers = field(default_factory=Workers)
    idle_timeout: int | timedelta = IDLE_MINUTES
    session_timeout: int | timedelta = SESSION_MINUTES
    pip: Sequence[str] = ()
    py_modules: Sequence[str] = ()
    working_dir: str | None = None
    spilling: Mapping[str, Any] | str | None = None
    logging: Mapping[str, bool] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    python_version: str = "3.9"
    glue_version: str = "4.0"

    def __post_init__(self) -> None:
        check_fields({item.name: getattr(self, item.name) for item in fields(self)})
        for name, value in (
            ("idle_timeout", minutes_of(self.idle_timeout)),
            ("session_timeout", minutes_of(self.session_timeout)),
            ("pip", tuple(str(item).strip() for item in items_of(self.pip))),
            ("py_modules", tuple(str(item) for item in items_of(self.py_modules))),
            ("arguments", {f"--{key.removeprefix('--')}": text_of(item) for key, item in self.arguments.items()}),
            ("tags", {str(key): str(text) for key, text in self.tags.items()}),
        ):
            object.__setattr__(self, name, value)

    def local_files(self) -> tuple[str, ...]:
        """Return the paths that have to be uploaded before the service can see them."""
        named = (*self.py_modules, *([self.working_dir] if self.working_dir else ()))
        return tuple(name for name in named if not name.startswith("s3://"))

    def with_uploads(self, uris: Mapping[str, str]) -> RaySessionSpec:
        """Return the spec with each local path replaced by the URI it was uploaded to."""
        return replace(
            self,
            py_modules=tuple(uris.get(name, name) for name in self.py_modules),
            working_dir=uris.get(self.working_dir, self.working_dir) if self.working_dir else None,
        )


def to_glue_session(spec: RaySessionSpec, session_id: str, mark: str, role_arn: str) -> dict[str, Any]:
    """Translate to a CreateSession request for a session that carries ``mark``.

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
        "IdleTimeout": spec.idle_timeout,
        "Timeout": spec.session_timeout,
        "DefaultArguments": {
            **service_arguments(spec, "--auto-scaling-ray-min-workers"),
            **spec.arguments,
            MARK_ARGUMENT: mark,
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
        "Id": successor_of(session["Id"]),
        "Timeout": SESSION_MINUTES,
        **({"Tags": dict(tags)} if tags else {}),
    }


def successor_of(session_id: str) -> str:
    """Return the id of the session that takes the place of one that has timed out; it can be told from the old id."""
    return f"{session_id[: 255 - len(_AGAIN)]}{_AGAIN}"


def session_id_for(dag_id: str, task_id: str, mark: str, prefix: str = "") -> str:
    """Return an id that people recognise and nobody else has: 1 to 255 characters (botocore ``NameString``)."""
    words = re.sub(r"[^A-Za-z0-9_-]+", "-", f"{prefix or dag_id}-{task_id}")
    return f"{words[:200].strip('-')}-{mark[:12]}"
