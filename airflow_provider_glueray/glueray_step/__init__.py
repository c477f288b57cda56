"""What a step may import on the cluster: ``report``, and, for functions of a DAG, what brings arguments and values.

It is sent along as one small archive where a task needs it. Python 3.9, standard library only at module level; it
knows nothing of Airflow or of any backend.
"""

from .calls import run
from .reports import report

__all__ = ["report", "run"]
