"""Glue for Ray jobs: define, start, describe, read, stop, delete.

Floor 2. A hook holds a connection and nothing else: every fact about a job or a run is an argument. All ways
of boto3 to fail are translated here, so no floor above needs to know an AWS error code.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import PurePath
from threading import RLock
from typing import Any
from urllib.parse import quote

from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
from airflow.sdk.exceptions import AirflowNotFoundException
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
)

from airflow_provider_glueray import packaging
from airflow_provider_glueray.errors import (
    ConnectionMissing,
    JobConflict,
    SpecError,
    StopError,
    SubmitError,
    SubmitUnknown,
)
from airflow_provider_glueray.hooks import glue_logs
from airflow_provider_glueray.hooks.glue_answers import (
    BACKEND,
    ChangedMeanwhileError,
    NotFoundError,
    code_of,
    snapshot_of,
    translated,
)
from airflow_provider_glueray.rules import MARK_ARGUMENT, RAY_REGIONS
from airflow_provider_glueray.runs import (
    LogCursor,
    LogPage,
    RunRef,
    RunSnapshot,
    RunState,
)
from airflow_provider_glueray.spec import (
    AUTOMATIC_TAGS,
    RayJobSpec,
    to_glue_job,
    to_glue_job_update,
    to_glue_run,
)

#: Runs per page of GetJobRuns, newest first (botocore: at most 200).
PAGE = 200
#: Pages searched for a run, newest first; a run further back is asked for by its id.
MOST_PAGES = 5
#: Runs per BatchStopJobRun (botocore: at most 25).
STOP_BATCH = 25
#: Errors after which a run may have been started all the same.
UNCERTAIN = ("InternalServiceException", "OperationTimeoutException")
#: Seconds between looks for a run whose start was not answered, and how many looks to take.
LOOK_AGAIN_SECONDS, LOOKS = 2.0, 5


class GlueRayJobHook(AwsBaseHook):
    """Talk to AWS Glue about Ray jobs.

    :param aws_conn_id: an ``aws`` connection; None for boto3's own credentials. A connection that is named
        but missing is an error, not a silent fallback.

    Further parameters are those of ``AwsBaseHook``: ``region_name``, ``verify``, ``config``.
    """

    def __init__(self, aws_conn_id: str | None = "aws_default", **kwargs: Any) -> None:
        super().__init__(aws_conn_id=aws_conn_id, client_type="glue", **kwargs)
        self._clients: dict[str, Any] = {}
        # Reentrant: `on_kill` runs in the thread that may be making a client.
        self._lock = RLock()

    # -- the job's definition -------------------------------------------------------------------------------

    def ensure_job(self, spec: RayJobSpec) -> str:
        """Create the job, or update it where it differs; return "created", "updated" or "unchanged".

        :raises JobConflict: a job of that name exists and is not a Ray job.
        :raises SubmitError: Glue refused the definition.
        """
        region = self.conn_region_name
        if region not in RAY_REGIONS and not self._endpoint("glue"):
            self.log.warning("AWS documents no Glue for Ray in region %s (dg/ray-jobs-section)", region)
        for attempt in range(3):
            current = self.get_job(spec.name)
            try:
                with translated(f"job {spec.name!r}"):
                    return self._create_or_update(spec, current)
            except ChangedMeanwhileError:
                self.log.info("Job %s was changed by somebody else, looking again (%d)", spec.name, attempt + 1)
        raise SubmitError(f"Job {spec.name!r} kept being changed by others while it was being updated")

    def get_job(self, name: str) -> dict[str, Any] | None:
        """Return the definition as the service holds it (botocore ``Job``), or None."""
        try:
            with translated(f"job {name!r}"):
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
        arn = f"arn:{self.conn_partition}:glue:{self.conn_region_name}:{self.account_id}:job/{spec.name}"
        current = glue.get_tags(ResourceArn=arn)["Tags"]
        wanted = {key: text for key, text in spec.tags.items() if current.get(key) != text}
        if wanted:
            glue.tag_resource(ResourceArn=arn, TagsToAdd=wanted)
        return bool(wanted)

    def delete_job(self, name: str) -> None:
        """Delete a job's definition. A job that is not there is not an error."""
        with translated(f"job {name!r}"):
            self._client_for("glue").delete_job(JobName=name)

    def stage(self, spec: RayJobSpec, staging: str | None) -> RayJobSpec:
        """Upload the spec's local files under content-hashed keys; return the spec with their URIs.

        :param staging: ``s3://bucket/prefix``; may be None when nothing is local.
        :raises ScriptError: a file is missing, unreadable or not Python.
        :raises StagingError: the bucket is missing or denied.
        """
        paths = spec.local_files()
        contents = {path: packaging.read_local(path, spec.python_version) for path in paths}
        if contents and not staging:
            raise SpecError([f"staging=None: {paths[0]!r} is local and needs an S3 prefix to be uploaded to"])
        uris = {path: packaging.staged_uri(path, body, str(staging)) for path, body in contents.items()}
        for path, uri in uris.items():
            with translated(f"upload of {path}"):
                sent = packaging.upload(self._client_for("s3"), contents[path], uri)
            self.log.info("%s %s -> %s", "Uploaded" if sent else "Already there:", PurePath(path).name, uri)
        return spec.with_uploads(uris)

    # -- runs -----------------------------------------------------------------------------------------------

    def submit(self, spec: RayJobSpec, mark: str) -> RunRef:
        """Start a run that carries ``mark``, and never a second one with the same mark.

        StartJobRun has no idempotency token, and boto3 would repeat a request whose answer was lost. So it is
        sent once; when the answer is missing, the mark is looked for before it is sent again.

        :raises ServiceFull: a concurrency limit, the account's capacity or throttling; nothing was started.
        :raises SubmitUnknown: no answer, several times over, and no trace of a run.
        """
        for _ in range(3):
            try:
                return self._start(spec, mark)
            except SubmitUnknown as error:
                self.log.warning("No answer to the start of %s (%s); looking for the run", spec.name, error)
            for _ in range(LOOKS):
                found = self.find_runs(spec.name, mark)
                if found:
                    return found[0].ref
                time.sleep(LOOK_AGAIN_SECONDS)
        raise SubmitUnknown(f"Glue did not answer three requests to start {spec.name!r}, and no run is to be seen")

    def _start(self, spec: RayJobSpec, mark: str) -> RunRef:
        with translated(f"start of job {spec.name!r}"):
            try:
                answer = self._client_for("glue", once=True).start_job_run(**to_glue_run(spec, mark))
            except (EndpointConnectionError, ConnectTimeoutError):
                raise  # never reached the service
            except HTTPClientError as error:
                raise SubmitUnknown(str(error)) from error
            except ClientError as error:
                status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
                if status >= 500 or code_of(error) in UNCERTAIN:
                    raise SubmitUnknown(str(error)) from error
                raise
        return RunRef(BACKEND, spec.name, answer["JobRunId"])

    def find_runs(self, name: str, mark: str) -> list[RunSnapshot]:
        """Return the runs of a job that carry ``mark``, newest first, among the latest thousand."""
        try:
            return [
                snapshot_of(name, run)
                for page in self._run_pages(name)
                for run in page
                if run.get("Arguments", {}).get(MARK_ARGUMENT) == mark
            ]
        except NotFoundError:
            return []

    def latest_run(self, name: str) -> RunSnapshot | None:
        """Return the newest run of a job, or None if it never ran.

        :raises SubmitError: there is no such job.
        """
        with translated(f"runs of job {name!r}"):
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
            with translated(f"run {ref.id}"):
                answer = self._client_for("glue").get_job_run(JobName=ref.name, RunId=ref.id)
        except NotFoundError as error:
            return RunSnapshot(ref, RunState.LOST, "LOST", message=str(error))
        return snapshot_of(ref.name, answer["JobRun"])

    def _run_pages(self, name: str) -> Iterator[list[dict[str, Any]]]:
        token: dict[str, str] = {}
        for _ in range(MOST_PAGES):
            with translated(f"runs of job {name!r}"):
                answer = self._client_for("glue").get_job_runs(JobName=name, MaxResults=PAGE, **token)
            yield answer["JobRuns"]
            if not answer.get("NextToken"):
                return
            token = {"NextToken": answer["NextToken"]}

    def read_logs(self, cursors: Mapping[RunRef, LogCursor], sources: Sequence[str]) -> dict[RunRef, LogPage]:
        """Read what is new in the logs of runs. See ``RunBackend``; sources are the keys of ``GROUPS``."""
        with translated("logs"):
            return glue_logs.read_logs(self._client_for("logs"), cursors, sources)

    def stop(self, *refs: RunRef) -> None:
        """Ask Glue to stop runs. A run that has ended, or is stopping already, is no error.

        :raises StopError: Glue accepted the request but refused a run that is still active.
        """
        for name in {ref.name for ref in refs}:
            mine = [ref for ref in refs if ref.name == name]
            for begin in range(0, len(mine), STOP_BATCH):
                self._stop_batch(name, mine[begin : begin + STOP_BATCH])

    def _stop_batch(self, name: str, refs: Sequence[RunRef]) -> None:
        with translated(f"stop of {name!r}"):
            answer = self._client_for("glue").batch_stop_job_run(JobName=name, JobRunIds=[ref.id for ref in refs])
        accepted = {entry["JobRunId"] for entry in answer.get("SuccessfulSubmissions", ())}
        reasons = {entry["JobRunId"]: entry.get("ErrorDetail", {}) for entry in answer.get("Errors", ())}
        for ref in (ref for ref in refs if ref.id not in accepted):
            snapshot = self._describe_one(ref)
            if not snapshot.state.is_terminal and snapshot.state is not RunState.STOPPING:
                detail = reasons.get(ref.id, {})
                raise StopError(
                    f"Glue did not stop run {ref.id} of {name}, which is {snapshot.raw_state}: "
                    f"{detail.get('ErrorCode', 'no reason given')} {detail.get('ErrorMessage', '')}".rstrip()
                )

    # -- places to look -------------------------------------------------------------------------------------

    def url(self, ref: RunRef) -> str:
        """Return the page of a run: in the AWS console, or of the endpoint the connection points at."""
        endpoint = self._endpoint("glue")
        if endpoint:
            return f"{endpoint}/_glueray/runs/{ref.id}"
        region = self.conn_region_name
        job, run = quote(ref.name, safe=""), quote(ref.id, safe="")
        return f"https://{self._console()}/gluestudio/home?region={region}#/job/{job}/run/{run}"

    def logs_url(self, ref: RunRef) -> str:
        """Return the page of a run's script log."""
        endpoint = self._endpoint("glue")
        if endpoint:
            return f"{endpoint}/_glueray/runs/{ref.id}/log"
        region = self.conn_region_name
        # The console wants its own escaping: each "%" of a doubly quoted name written as "$25".
        group = quote(quote(glue_logs.GROUPS["script"], safe=""), safe="").replace("%", "$")
        return (
            f"https://{self._console()}/cloudwatch/home?region={region}#logsV2:log-groups/log-group/{group}"
            f"$3FlogStreamNameFilter$3D{ref.id}"
        )

    def _console(self) -> str:
        domains = {"aws-cn": "amazonaws.cn", "aws-us-gov": "amazonaws-us-gov.com"}
        return f"{self.conn_region_name}.console.{domains.get(self.conn_partition, 'aws.amazon.com')}"

    # -- the connection -------------------------------------------------------------------------------------

    @cached_property
    def conn_config(self) -> Any:
        """The connection. ``AwsBaseHook`` carries on without it when it is missing; we do not."""
        if self.aws_conn_id:
            try:
                self.get_connection(self.aws_conn_id)
            except AirflowNotFoundException as error:
                raise ConnectionMissing(
                    f"There is no connection {self.aws_conn_id!r}. Create one of type 'aws' (AIRFLOW_CONN_"
                    f"{self.aws_conn_id.upper()} will do), or pass conn_id=None to use the machine's own role"
                ) from error
        return super().conn_config

    @cached_property
    def _session(self) -> Any:
        return self.get_session(region_name=self.region_name)

    def _endpoint(self, service: str) -> str | None:
        return self.conn_config.get_service_endpoint_url(service)  # type: ignore[no-any-return]

    def _client_for(self, service: str, *, once: bool = False) -> Any:
        """Return a client, made once per hook; ``once`` for one that never repeats a request by itself."""
        key = f"{service}/{once}"
        with self._lock:
            if key not in self._clients:
                with translated(f"connection {self.aws_conn_id!r}"):
                    config = self._get_config()
                    if once:
                        config = config.merge(Config(retries={"total_max_attempts": 1}))
                    self._clients[key] = self._session.client(
                        service, endpoint_url=self._endpoint(service), config=config, verify=self.verify
                    )
        return self._clients[key]
