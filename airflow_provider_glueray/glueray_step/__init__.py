"""What a step may import on the cluster: ``report``, and, for functions of a DAG, what brings arguments and values.

It is sent along as one small archive where a task needs it. Python 3.9, standard library only at module level; it
knows nothing of Airflow or of any backend.
"""

from typing import TYPE_CHECKING, Any

from .reports import report

if TYPE_CHECKING:
    from .calls import run

__all__ = ["report", "run"]


def __getattr__(name: str) -> Any:
    # Only a function's script needs it; whoever follows a run reads reports.
    if name == "run":
        from .calls import run

        return run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
