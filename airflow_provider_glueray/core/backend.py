"""What a hook must be able to do for a run to be started, followed and stopped.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from airflow_provider_glueray.core.logs import LogCursor, LogPage
from airflow_provider_glueray.core.runs import RunRef, RunSnapshot


class RunBackend(Protocol):
    """What a hook must be able to do for a run to be followed. Every call may raise; none keeps state.

    The plural arguments are the point: one call answers for everybody who waits.
    """

    def describe(self, refs: Collection[RunRef]) -> Mapping[RunRef, RunSnapshot]:
        """Return one snapshot per run. A run the service does not know is LOST, never left out."""

    def read_logs(self, cursors: Mapping[RunRef, LogCursor], sources: Sequence[str]) -> Mapping[RunRef, LogPage]:
        """Return the new lines of each run. A log that does not exist yet is empty."""

    def stop(self, *refs: RunRef) -> None:
        """Ask for runs to be stopped. Stopping a run that has ended is not an error."""


class Prepared(NamedTuple):
    """A job that can be started.

    :param start: starts a run that carries a mark, with arguments added to those of the spec; twice with one mark
        starts one run. It raises ``ServiceFull`` while there is no room.
    :param is_new: whether its definition was made or changed just now.
    """

    start: Callable[[str, Mapping[str, str]], RunRef]
    is_new: bool


class RunHook(RunBackend, Protocol):
    """What operators need besides: to find a run whose id was lost, to show where it is, and a way to its files."""

    @property
    def storage(self) -> Any:
        """What reads and writes S3 for the runs: the hook itself on AWS, elsewhere that of another connection."""

    def find_runs(self, name: str, client_token: str) -> list[RunSnapshot]:
        """Return the runs of ``name`` that carry ``mark``, newest first."""

    def url(self, ref: RunRef) -> str:
        """Return the page of a run."""

    def logs_url(self, ref: RunRef) -> str:
        """Return the page of a run's log."""
