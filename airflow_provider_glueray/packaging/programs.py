"""Programs that are sent to a cluster as text, because ``glueray_step``, in which they are files, is not always there.

Standard library only. Ray and Kubernetes expand what follows a ``$`` in an environment variable, and an image may have
no UTF-8, so a program has neither a ``$`` nor a character outside of ASCII.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def program_text(name: str) -> str:
    """Return the text of the program in ``glueray_step`` with a name."""
    return (files("airflow_provider_glueray.glueray_step") / f"{name}.py").read_text(encoding="utf-8")
