"""Glue for Ray jobs: define, start, describe, read, stop, delete.

A hook holds a connection and nothing else: every fact about a job or a run is an argument. All ways
of boto3 to fail are translated here, so no floor above needs to know an AWS error code.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count, islice
from typing import Any
from urllib.parse import quote

from airflow_provider_glueray.core.backend import Prepared
from airflow_provider_glueray.core.errors import JobConflict, SpecError, StopError, SubmitError
from airflow_provider_glueray.core.logs import LogCursor, LogPage
from airflow_provider_glueray.core.runs import GLUE_JOB, RunRef, RunSnapshot, RunState
from airflow_provider_glueray.core.spec import RayJobSpec
from airflow_provider_glueray.core.validation import CLIENT_TOKEN_ARGUMENT
from airflow_provider_glueray.hooks.glue import logs
from airflow_provider_glueray.hooks.glue.connection import GlueConnectionHook
from airflow_provider_glueray.hooks.glue.errors import ChangedMeanwhileError, NotFoundError, aws_errors
from airflow_provider_glueray.hooks.glue.requests import AUTOMATIC_TAGS, to_glue_job, to_glue_job_update, to_glue_run
from airflow_provider_glueray.hooks.glue.responses import snapshot_of
from airflow_provider_glueray.packaging.upload import stage

#: Runs per page of GetJobRuns, newest first (botocore: at most 200).
PAGE = 200
#: Pages searched for a run, newest first; a run further back is asked for by its id.
MOST_PAGES = 5
#: Runs per BatchStopJobRun (botocore: at most 25).
STOP_BATCH = 25


class GlueRayJobHook(GlueConnectionHook):
    """Talk to AWS Glue about Ray jobs. Parameters: see :class:`GlueConnectionHook`."""

    def prepare(self, spec: RayJobSpec, staging_uri: str | None = None, run_timeout: float | None = None) -> Prepared:
        """Upload what is local, and create or update the job.

        :param staging_uri: ``s3://bucket/prefix`` for what is local.
        :param run_timeout: not sent: Glue refuses one for Ray jobs.
        :raises SubmitError: see :func:`packaging.upload.stage` and :meth:`ensure_job`.
        """
        if not spec.role:
            raise SpecError(["role=None: AWS Glue runs a job as an IAM role; name the one"])
        staged = stage(spec, staging_uri, self.storage, self.log)
        change = self.ensure_job(staged)
        self.log.info("Job %s: %s", staged.name, change)

        starts = count()

        def start(client_token: str, arguments: Mapping[str, str]) -> RunRef:
            if next(starts):  # it has waited since: a task with the same job may have defined it otherwise
                self.ensure_job(staged)
            return self.submit(replace(staged, arguments={**staged.arguments, **arguments}), client_token)

        return Prepared(start, is_new=change != "unchanged")

    # -- the job's definition -------------------------------------------------------------------------------

    def ensure_job(self, spec: RayJobSpec) -> str:
        """Create the job, or update it where it differs; return "created", "updated" or "unchanged".

        :raises JobConflict: a job of that name exists and is not a Ray job.
        :raises SubmitError: Glue refused the definition.
        """
        self.warn_of_region()
        for attempt in range(3):
            current = self.get_job(spec.name)
            try:
                with aws_errors(f"job {spec.name!r}"):
                    return self._create_or_update(spec, current)
            except ChangedMeanwhileError:
                self.log.info("Job %s was changed by somebody else, looking again (%d)", spec.name, attempt + 1)
        raise SubmitError(f"Job {spec.name!r} kept being changed by others while it was being updated")

    def get_job(self, name: str) -> dict[str, Any] | None:
        """Return the definition as the service holds it (botocore ``Job``), or None."""
        try:
            with aws_errors(f"job {name!r}"):
                return self._client_for("glue").get_job(JobName=name)["Job"]  # type: ignore[no-any-return]
        except NotFoundError:
            return None

    def _create_or_update(self, spec: RayJobSpec, current: Mapping[str, Any] | None) -> str:
        glue = self._client_for("glue")
        if current is None:
            glue.create_job(**to_glue_job(spec))
            return "created"
        command = current.get("Command", {}).get("Name")
        if command != "glueray":
            raise JobConflict(
                f"Job {spec.name!r} exists and is a {command} job, not a Ray job. It is left alone; choose "
                "another job_name"
            )
        update = to_glue_job_update(spec, current)
        if update is not None:
            glue.update_job(**update)
        elif set(spec.tags) <= AUTOMATIC_TAGS:
            # They were set when the job was made; looking would cost two calls on every run.
            return "unchanged"
        retagged = self._add_tags(spec)
        return "unchanged" if update is None and not retagged else "updated"

    def _add_tags(self, spec: RayJobSpec) -> bool:
        """Set the tags that differ; the tags of others stay."""
        if not spec.tags:
            return False
        glue = self._client_for("glue")
        arn = self._arn(f"job/{spec.name}")
        current = glue.get_tags(ResourceArn=arn)["Tags"]
        wanted = {key: text for key, text in spec.tags.items() if current.get(key) != text}
        if wanted:
            glue.tag_resource(ResourceArn=arn, TagsToAdd=wanted)
        return bool(wanted)

    def delete_job(self, name: str) -> None:
        """Delete a job's definition. A job that is not there is not an error."""
        with aws_errors(f"job {name!r}"):
            self._client_for("glue").delete_job(JobName=name)

    # -- runs -----------------------------------------------------------------------------------------------

    def submit(self, spec: RayJobSpec, client_token: str) -> RunRef:
        """Start a run that carries the client token, and never a second one with it; see :meth:`start_once`.

        :raises CapacityExceeded: a concurrency limit, the account's capacity or throttling; nothing was started.
        :raises SubmitOutcomeUnknown: no answer, several times over, and no trace of a run.
        """

        def send(glue: Any) -> RunRef:
            return RunRef(GLUE_JOB, spec.name, glue.start_job_run(**to_glue_run(spec, client_token))["JobRunId"])

        return self.start_once(f"job {spec.name!r}", send, lambda: self.find_runs(spec.name, client_token))

    def find_runs(self, name: str, client_token: str) -> list[RunSnapshot]:
        """Return the runs of a job that carry the client token, newest first, among the latest thousand."""
        try:
            return [
                snapshot_of(name, run)
                for page in self._run_pages(name)
                for run in page
                if run.get("Arguments", {}).get(CLIENT_TOKEN_ARGUMENT) == client_token
            ]
        except NotFoundError:
            return []

    def latest_run(self, name: str) -> RunSnapshot | None:
        """Return the newest run of a job, or None if it never ran.

        :raises SubmitError: there is no such job.
        """
        with aws_errors(f"runs of job {name!r}"):
            runs = self._client_for("glue").get_job_runs(JobName=name, MaxResults=1)["JobRuns"]
        return snapshot_of(name, runs[0]) if runs else None

    def describe(self, refs: Collection[RunRef]) -> dict[RunRef, RunSnapshot]:
        """Describe runs: one call for up to 200 of a job, if they are its latest. See ``RunBackend``."""
        found: dict[RunRef, RunSnapshot] = {}
        for name in {ref.name for ref in refs}:
            missing = {ref.id: ref for ref in refs if ref.name == name}
            if len(missing) > 1:
                for page in self._run_pages(name):
                    for run in page:
                        ref = missing.pop(run["Id"], None)
                        if ref is not None:
                            found[ref] = snapshot_of(name, run)
                    if not missing:
                        break
            for ref in missing.values():
                found[ref] = self._describe_one(ref)
        return found

    def _describe_one(self, ref: RunRef) -> RunSnapshot:
        try:
            with aws_errors(f"run {ref.id}", ref):
                answer = self._client_for("glue").get_job_run(JobName=ref.name, RunId=ref.id)
        except NotFoundError as error:
            return RunSnapshot(ref, RunState.LOST, "LOST", message=str(error))
        return snapshot_of(ref.name, answer["JobRun"])

    def _run_pages(self, name: str) -> Iterator[list[dict[str, Any]]]:
        answers = self._answers("get_job_runs", f"runs of job {name!r}", JobName=name, MaxResults=PAGE)
        return (answer["JobRuns"] for answer in islice(answers, MOST_PAGES))

    def read_logs(self, cursors: Mapping[RunRef, LogCursor], sources: Sequence[str]) -> dict[RunRef, LogPage]:
        """Read what is new in the logs of runs. See ``RunBackend``; sources are the keys of ``GROUPS``."""
        with aws_errors("logs"):
            return logs.read_logs(self._client_for("logs"), cursors, sources)

    def stop(self, *refs: RunRef) -> None:
        """Ask Glue to stop runs. A run that has ended, or is stopping already, is no error.

        :raises StopError: Glue accepted the request but refused a run that is still active.
        """
        for name in {ref.name for ref in refs}:
            mine = [ref for ref in refs if ref.name == name]
            for begin in range(0, len(mine), STOP_BATCH):
                self._stop_batch(name, mine[begin : begin + STOP_BATCH])

    def _stop_batch(self, name: str, refs: Sequence[RunRef]) -> None:
        with aws_errors(f"stop of {name!r}"):
            answer = self._client_for("glue").batch_stop_job_run(JobName=name, JobRunIds=[ref.id for ref in refs])
        accepted = {entry["JobRunId"] for entry in answer.get("SuccessfulSubmissions", ())}
        reasons = {entry["JobRunId"]: entry.get("ErrorDetail", {}) for entry in answer.get("Errors", ())}
        for ref in (ref for ref in refs if ref.id not in accepted):
            snapshot = self._describe_one(ref)
            if not snapshot.state.is_terminal and snapshot.state is not RunState.STOPPING:
                detail = reasons.get(ref.id, {})
                raise StopError(
                    f"Glue did not stop run {ref.id} of {name}, which is {snapshot.raw_state}: "
                    f"{detail.get('ErrorCode', 'no reason given')} {detail.get('ErrorMessage', '')}".rstrip(),
                    code=detail.get("ErrorCode", ""),
                    run=ref,
                )

    # -- pages ---------------------------------------------------------------------------------------------

    def url(self, ref: RunRef) -> str:
        """Return the page of a run: in the AWS console, or of the endpoint the connection points at."""
        job, run = quote(ref.name, safe=""), quote(ref.id, safe="")
        return self._page(f"runs/{ref.id}", "gluestudio", f"/job/{job}/run/{run}")

    def logs_url(self, ref: RunRef) -> str:
        """Return the page of a run's script log."""
        # The console wants its own escaping: each "%" of a doubly quoted name written as "$25".
        group = quote(quote(logs.GROUPS["script"], safe=""), safe="").replace("%", "$")
        fragment = f"logsV2:log-groups/log-group/{group}$3FlogStreamNameFilter$3D{ref.id}"
        return self._page(f"runs/{ref.id}/log", "cloudwatch", fragment)
