"""Which hook knows the runs of which backend.

Floor 3, although it names the doors of floor 2: it imports one only when it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from airflow_provider_glueray.runs import GLUE_JOB, GLUE_SESSION, GLUE_STATEMENT

_HOOKS = {
    GLUE_JOB: ("glue_jobs", "GlueRayJobHook"),
    GLUE_SESSION: ("glue_sessions", "GlueRaySessionHook"),
    GLUE_STATEMENT: ("glue_sessions", "GlueRaySessionHook"),
}


def make_hook(backend: str, kwargs: Mapping[str, Any]) -> Any:
    """Return the hook of a backend; the same ``kwargs`` make it in a worker and in a trigger."""
    module, name = _HOOKS[backend]
    return getattr(import_module(f"airflow_provider_glueray.hooks.{module}"), name)(**kwargs)


def sharing_key(backend: str) -> str:
    """Return what the runs of two backends have in common when one poll can answer for both: their hook."""
    return ".".join(_HOOKS[backend])
