"""Jobs on any running Ray cluster, over its Jobs HTTP API: no ``ray`` package here.

Ray takes a submission id once, and ours is made of the run's client token, so a request that is sent twice starts one
run. What is local is put into the cluster's own package store, under the hash of its content.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from airflow_provider_glueray.core import clock
from airflow_provider_glueray.core.backend import Prepared
from airflow_provider_glueray.core.errors import (
    InvalidRequest,
    JobConflict,
    StopError,
    SubmitError,
    SubmitOutcomeUnknown,
)
from airflow_provider_glueray.core.logs import SCRIPT, LogCursor, LogPage
from airflow_provider_glueray.core.runs import RAY_JOB, RunRef, RunSnapshot, RunState
from airflow_provider_glueray.core.spec import RayJobSpec
from airflow_provider_glueray.hooks import settings
from airflow_provider_glueray.hooks.dashboard.jobs_api import reason
from airflow_provider_glueray.hooks.ray.connection import RayConnectionHook, other_ray_providers
from airflow_provider_glueray.hooks.ray.packages import Package, packed
from airflow_provider_glueray.hooks.ray.requests import sizing_message, submission_id_of, to_ray_submission
from airflow_provider_glueray.hooks.ray.responses import CLIENT_TOKEN, NAME, ClusterSize, cluster_size, snapshot_of

#: Requests to start one run.
ATTEMPTS = 3


class RayJobsHook(RayConnectionHook):
    """Talk to a Ray cluster about jobs.

    :param ray_conn_id: a connection of type ``ray``: host (a name or a whole URL), port (8265), schema (http or
        https), password (the cluster's token); in the extra ``headers`` (a mapping), ``verify`` (False, or the path of
        a CA), and ``aws_conn_id`` (whose S3 a function's arguments pass through).
    """

    def prepare(self, spec: RayJobSpec, staging_uri: str | None = None, run_timeout: float | None = None) -> Prepared:
        """Put what is local into the cluster's package store.

        :param staging_uri, run_timeout: not needed here.
        :raises SpecError: a field asks for what only somebody who makes the cluster can give.
        :raises SourceFileError: a file is missing, unreadable or of the wrong kind.
        :raises SubmitError: the cluster cannot be reached, refuses the token, or is too old.
        """
        self._check_version()
        for other in other_ray_providers():
            self.log.info("%s is installed too; this run is by RayJobsHook of airflow-provider-glueray", other)
        uris, packages = packed(spec)
        # Refused now, not when the run is started: nothing is wrong with the cluster.
        to_ray_submission(spec, "", uris, {})
        for package in packages:
            self._store(package)
        idle = [name for name in ("role", "logging_configuration") if getattr(spec, name)]
        if idle:
            self.log.info("No effect on a Ray cluster: %s", ", ".join(idle))
        size = self._size() if spec.workers.min_workers else ClusterSize()
        self.log.info(sizing_message(spec.workers, size))

        def start(client_token: str, arguments: Mapping[str, str]) -> RunRef:
            return self._start(spec, to_ray_submission(spec, client_token, uris, arguments, scales=size.scales))

        return Prepared(start, is_new=False)

    def _size(self) -> ClusterSize:
        """Ask how large the cluster is, and whether it scales. A failed request fails nothing."""
        paths = ("/api/cluster_status", "/api/v0/nodes?limit=10000", "/nodes?view=summary")
        try:
            return cluster_size(*(self._content(self._ask("GET", path)) for path in paths))
        except (SubmitError, LookupError, TypeError, AttributeError) as error:
            self.log.warning("How large the cluster is cannot be seen: %r", error)
            return ClusterSize()

    def _start(self, spec: RayJobSpec, body: Mapping[str, Any]) -> RunRef:
        ref = RunRef(RAY_JOB, spec.name, body["submission_id"])
        for attempt in range(1, ATTEMPTS + 1):
            try:
                answer = self._ask("POST", "/api/jobs/", json=body)
            except SubmitOutcomeUnknown as error:
                self.log.warning("No answer to the start of %s (%s); asking again", ref.title, error)
                if attempt == ATTEMPTS:
                    raise
                clock.sleep(settings.waits().look_again)
                continue
            if answer.is_success:
                return ref
            if "already exists" in answer.text:
                return self._ours(ref, body["metadata"][CLIENT_TOKEN])
            kind = SubmitError if answer.is_server_error else InvalidRequest
            raise kind(f"Ray refused {ref.title}: {reason(answer)}", status=answer.status_code, run=ref)
        raise AssertionError("the loop returns or raises")

    def _ours(self, ref: RunRef, client_token: str) -> RunRef:
        """Tell a repeated request from an id that somebody else has taken."""
        details = self._job(ref.id)
        if details is not None and (details.get("metadata") or {}).get(CLIENT_TOKEN) == client_token:
            return ref
        raise JobConflict(f"The submission id {ref.id!r} is taken by a job that is not of this task", run=ref)

    def find_runs(self, name: str, client_token: str) -> list[RunSnapshot]:
        """Return the run that carries the client token, if there is one: its id is made of the token."""
        details = self._job(submission_id_of(client_token))
        return [snapshot_of(details)] if details is not None else []

    def latest_run(self, name: str) -> RunSnapshot | None:
        """Return the newest run of a job, or None if it never ran on this cluster."""
        mine = [each for each in self._list() if (each.get("metadata") or {}).get(NAME) == name]
        return snapshot_of(max(mine, key=lambda each: each.get("start_time") or 0)) if mine else None

    def describe(self, refs: Collection[RunRef]) -> dict[RunRef, RunSnapshot]:
        """Describe runs: one call for many. See ``RunBackend``."""
        known: dict[str, Mapping[str, Any]] = {}
        if len(refs) > 1:
            known = {str(each.get("submission_id")): each for each in self._list()}
        found = {}
        for ref in refs:
            details = known.get(ref.id) or self._job(ref.id)
            found[ref] = (
                snapshot_of(details)._replace(ref=ref)
                if details is not None
                else RunSnapshot(ref, RunState.LOST, "LOST", "The cluster does not know it; was it started anew?")
            )
        return found

    def read_logs(self, cursors: Mapping[RunRef, LogCursor], sources: Sequence[str]) -> dict[RunRef, LogPage]:
        """Read what is new in the drivers' logs: one call for each. See ``RunBackend``.

        An unended line is shown when the run is over. Of many logs, one that cannot be read holds up no other.
        """
        pages = {ref: LogPage((), cursor) for ref, cursor in cursors.items()}
        for ref, cursor in cursors.items() if SCRIPT in sources else ():
            try:
                pages[ref] = self._new_lines(ref.id, cursor)
            except SubmitError as error:
                if len(cursors) == 1:
                    raise
                self.log.warning("Could not read the log of %s: %s", ref.title, error)
        return pages

    def stop(self, *refs: RunRef) -> None:
        """Ask Ray to stop runs. A run that has ended, or is not there, is no error.

        :raises StopError: Ray refused to stop a run that is still active.
        """
        for ref in refs:
            answer = self._ask("POST", f"/api/jobs/{ref.id}/stop")
            if answer.is_success or self._is_unknown(answer):
                continue
            if not self.describe([ref])[ref].is_over:
                raise StopError(f"Ray did not stop {ref.title}: {reason(answer)}", status=answer.status_code, run=ref)

    def url(self, ref: RunRef) -> str:
        """Return the job's page in Ray's dashboard."""
        return f"{self._base}/#/jobs/{ref.id}"

    def logs_url(self, ref: RunRef) -> str:
        """Return the same page: it shows the log."""
        return self.url(ref)

    def _list(self) -> list[Mapping[str, Any]]:
        return self._content(self._ask("GET", "/api/jobs/"), list)  # type: ignore[no-any-return]

    def _store(self, package: Package) -> None:
        """Put a package into the store unless it is there."""
        path = f"/api/packages/{package.uri.replace('://', '/')}"
        answer = self._ask("GET", path)
        if answer.is_success:
            return
        if self._is_unknown(answer):
            answer = self._ask("PUT", path, content=package.content())
        if not answer.is_success:
            raise SubmitError(f"Ray did not take {package.archive.name} into its package store: {reason(answer)}")
        self.log.info("Uploaded %s as %s", package.archive.name, package.uri)
