"""What a hook can do for operators: a run is prepared, started, followed, found again and stopped."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from airflow_provider_glueray.core.logs import LogCursor, LogPage
from airflow_provider_glueray.core.runs import RunRef, RunSnapshot, StatementOutput

if TYPE_CHECKING:
    from airflow_provider_glueray.core.spec import RayClusterSpec, RayJobSpec, RaySessionSpec


class RunBackend(Protocol):
    """What a hook must be able to do for a run to be followed. Every call may raise.

    The plural arguments are the point: one call answers for everybody who waits.
    """

    def describe(self, refs: Collection[RunRef]) -> Mapping[RunRef, RunSnapshot]:
        """Return one snapshot per run. A run the service does not know is LOST, never left out."""

    def read_logs(self, cursors: Mapping[RunRef, LogCursor], sources: Sequence[str]) -> Mapping[RunRef, LogPage]:
        """Return the new lines of each run. A log that does not exist yet is empty."""

    def stop(self, *refs: RunRef) -> None:
        """Ask for runs to be stopped. Stopping a run that has ended is not an error."""


class Storage(Protocol):
    """What reads and writes the files of runs."""

    def read_text(self, path: str) -> str:
        """Return a text file, local or in S3."""

    def write_text(self, path: str, text: str) -> None:
        """Write a text file, local or to S3, whole or not at all."""

    def folder(self, uri: str) -> Any:
        """Return a folder for the files of one call, as :class:`glueray_step.values.Folder` wants it."""


class RunHook(RunBackend, Protocol):
    """What every operator needs besides: to find a run whose id was lost, and to show where a run is."""

    def find_runs(self, name: str, client_token: str) -> list[RunSnapshot]:
        """Return the runs of ``name`` that carry the client token, newest first."""

    def url(self, ref: RunRef) -> str:
        """Return the page of a run."""

    def logs_url(self, ref: RunRef) -> str:
        """Return the page of a run's log."""


class Prepared(NamedTuple):
    """A job that can be started.

    :param start: starts a run that carries a client token, with arguments added to those of the spec; twice with one
        token starts one run. It raises ``CapacityExceeded`` while there is no capacity.
    :param is_new: whether its definition was made or changed just now.
    """

    start: Callable[[str, Mapping[str, str]], RunRef]
    is_new: bool


class JobBackend(RunHook, Protocol):
    """Runs scripts as jobs."""

    @property
    def storage(self) -> Storage:
        """S3, for what passes between tasks and runs."""

    def prepare(self, spec: RayJobSpec, staging_uri: str | None = None, run_timeout: float | None = None) -> Prepared:
        """Upload what is local and define the job.

        :param run_timeout: seconds after which the service itself ends the run, where it can.
        """

    def latest_run(self, name: str) -> RunSnapshot | None:
        """Return the newest run of a job, or None if it never ran."""


class SessionBackend(RunHook, Protocol):
    """Makes sessions and runs statements in them."""

    @property
    def storage(self) -> Storage:
        """S3, for notebooks."""

    def stage(self, spec: RaySessionSpec, staging_uri: str | None) -> RaySessionSpec:
        """Upload what is local; return the spec with its URIs."""

    def create(self, spec: RaySessionSpec, session_id: str, client_token: str) -> RunRef:
        """Create a session, or return the one with this id that carries the client token."""

    def recreate(self, session_id: str) -> RunRef:
        """Make the replacement of a session that has ended, with its settings."""

    def session(self, session_id: str) -> dict[str, Any] | None:
        """Return a session (botocore ``Session``), or None."""

    def delete(self, session_id: str) -> None:
        """Delete a session. One that is not there is no error."""

    def run_statement(self, session_id: str, code: str, client_token: str) -> RunRef:
        """Run code that carries the client token, and never twice."""

    def succeeded(self, session_id: str) -> Mapping[str, Mapping[str, Any]]:
        """Return those statements of a session that have succeeded (botocore ``Statement``), by id."""

    def output(self, ref: RunRef, client_token: str = "") -> StatementOutput:
        """Return what a statement printed and returned."""


class ClusterBackend(RunHook, Protocol):
    """Makes clusters that runs share."""

    def prepare(self, spec: RayClusterSpec, max_lifetime: float | None) -> Callable[[str], RunRef]:
        """Return what creates a cluster that carries a client token; twice with one token makes one.

        :param max_lifetime: seconds after which the cluster ends by itself; None for never.
        """
