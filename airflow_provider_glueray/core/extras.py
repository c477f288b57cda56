"""The extras of this package: whatever needs one names it where it is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from airflow_provider_glueray.core.errors import ExtraMissing

AWS, KUBERAY, NOTEBOOKS, PANDAS = "aws", "kuberay", "notebooks", "pandas"


@contextmanager
def extra(name: str, what: str) -> Iterator[None]:
    """Import what an extra brings.

    :param what: needs it, for the error.
    :raises ExtraMissing: a module is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        # A module of our own is never missing, and what an error within it means is for its reader to see.
        if not name or (error.name or "").startswith("airflow_provider_glueray"):
            raise
        raise ExtraMissing(
            f"{what} needs the module {error.name!r}: pip install 'airflow-provider-glueray[{name}]'", name=error.name
        ) from error
