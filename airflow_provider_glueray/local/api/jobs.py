"""Implement Glue's job API (AWS JSON 1.1) on the records of `State`.

Each Region has its own jobs. `api.server` passes operations that only moto has (databases, crawlers) to moto. This
module refuses the requests that the service refuses; only the engine changes the state of a run.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from airflow_provider_glueray.local.api.operations import Api, Request, Response, page
from airflow_provider_glueray.local.engine import rules
from airflow_provider_glueray.local.engine.errors import GlueError
from airflow_provider_glueray.local.engine.faults import Faults
from airflow_provider_glueray.local.engine.runs import Engine
from airflow_provider_glueray.local.engine.state import TERMINAL, Job, Phase, Run, State

#: These members of CreateJob are no part of the definition.
_NOT_DEFINITION = ("Name", "Tags")
#: The GlueVersion of a job if CreateJob gives none; the service's default for Ray is undocumented [INFERRED].
_GLUE_VERSION = "4.0"


class GlueApi(Api):
    """The job API of one endpoint."""

    kind = "job"

    def __init__(self, state: State, engine: Engine, faults: Faults) -> None:
        super().__init__(state, faults)
        self._engine = engine

    def _tags(self, region: str, name: str) -> dict[str, str]:
        return self._job(region, name).tags

    def _job(self, region: str, name: str) -> Job:
        try:
            return self._state.jobs[region, name]
        except KeyError:
            raise GlueError("EntityNotFoundException", f"Job with name: {name} not found.") from None

    def _create_job(self, request: Request, region: str) -> Response:
        definition = {key: value for key, value in request.items() if key not in _NOT_DEFINITION}
        definition.setdefault("GlueVersion", _GLUE_VERSION)
        if rules.is_ray(definition) and self._faults.values(region)["account_closed"]:
            raise rules.invalid(rules.ACCOUNT_CLOSED)
        rules.check_job(definition)
        name = request["Name"]
        known = self._state.jobs.get((region, name))
        if known is not None and known.definition == definition:
            raise GlueError("AlreadyExistsException", f"Job {name} already exists.")
        if known is not None:
            raise GlueError(
                "IdempotentParameterMismatchException",
                f"Job {name} already submitted with different configuration",
            )
        self._state.jobs[region, name] = Job(name, region, definition, dict(request.get("Tags", {})))
        return {"Name": name}

    def _update_job(self, request: Request, region: str) -> Response:
        job = self._job(region, request["JobName"])
        update = dict(request["JobUpdate"])
        update.setdefault("GlueVersion", job.definition["GlueVersion"])
        for name in ("Role", "Command"):
            if not update.get(name):
                raise rules.invalid(f"{name} cannot be null or empty")  # every update must have it [guide]
        rules.check_job(update)
        job.definition, job.modified = update, time.time()
        return {"JobName": job.name}

    def _get_job(self, request: Request, region: str) -> Response:
        return {"Job": self._job(region, request["JobName"]).to_response()}

    def _in_region(self, region: str, tags: Mapping[str, str] | None = None) -> list[Job]:
        return [
            job
            for (job_region, _), job in sorted(self._state.jobs.items())
            if job_region == region and (tags or {}).items() <= job.tags.items()
        ]

    def _get_jobs(self, request: Request, region: str) -> Response:
        jobs, token = page(self._in_region(region), request, 100)
        return {"Jobs": [job.to_response() for job in jobs], **token}

    def _list_jobs(self, request: Request, region: str) -> Response:
        jobs, token = page(self._in_region(region, request.get("Tags")), request, 100)
        return {"JobNames": [job.name for job in jobs], **token}

    def _batch_get_jobs(self, request: Request, region: str) -> Response:
        found = [self._state.jobs.get((region, name)) for name in request["JobNames"]]
        return {
            "Jobs": [job.to_response() for job in found if job is not None],
            "JobsNotFound": [name for name, job in zip(request["JobNames"], found, strict=True) if job is None],
        }

    def _delete_job(self, request: Request, region: str) -> Response:
        name = request["JobName"]
        self._state.jobs.pop((region, name), None)
        for run in self._state.newest_first.pop((region, name), []):
            if run.phase is Phase.DONE:
                del self._state.runs[run.id]
            else:
                self._engine.request_stop(run)
        return {"JobName": name}

    def _start_job_run(self, request: Request, region: str) -> Response:
        job = self._state.jobs.get((region, request["JobName"]))
        if job is None:
            raise GlueError("EntityNotFoundException", "Failed to start job run due to missing metadata")
        faults = self._faults.values(region)
        if rules.is_ray(job.definition) and faults["account_closed"]:
            raise rules.invalid(rules.ACCOUNT_CLOSED)
        sizes = ("WorkerType", "NumberOfWorkers", "AllocatedCapacity", "MaxCapacity")
        merged = {**job.definition, **{key: request[key] for key in sizes if key in request}}
        arguments = {
            **job.definition.get("DefaultArguments", {}),
            **request.get("Arguments", {}),
            **job.definition.get("NonOverridableArguments", {}),
        }
        rules.check_run(request, merged, arguments)
        previous = self._predecessor(request, region)
        queuing = bool(request.get("JobRunQueuingEnabled", merged.get("JobRunQueuingEnabled", False)))
        shown = ("GlueVersion", "WorkerType", "SecurityConfiguration", "NotificationProperty", "JobMode")
        own = ("SecurityConfiguration", "NotificationProperty", "ExecutionRoleSessionPolicy")
        run = Run(
            job=job.name,
            region=region,
            script=job.definition["Command"].get("ScriptLocation", ""),
            arguments=arguments,
            workers=merged["NumberOfWorkers"],
            max_concurrent_runs=job.max_concurrent_runs,
            previous=previous.id if previous else None,
            attempt=previous.attempt + 1 if previous else 0,
            fields={
                **{key: merged[key] for key in shown if key in merged},
                **{key: request[key] for key in own if key in request},
                "JobRunQueuingEnabled": queuing,
            },
        )
        exceeded = self._state.exceeded_limit(
            job.name, region, run.workers, run.max_concurrent_runs, faults["quota_mdpu"]
        )
        if exceeded is not None and not queuing:
            raise GlueError(*exceeded)
        if exceeded is not None:
            run.state, run.phase, run.detail = "WAITING", Phase.QUEUED, exceeded[1]
        self._state.add(run)
        return {"JobRunId": run.id}

    def _predecessor(self, request: Request, region: str) -> Run | None:
        if "JobRunId" not in request:
            return None
        run = self._run(region, request["JobName"], request["JobRunId"])
        if run.state not in TERMINAL:
            raise rules.invalid(f"Job run {run.id} is {run.state} and cannot be retried")
        return run

    def _run(self, region: str, job: str, run_id: str) -> Run:
        run = self._state.runs.get(run_id)
        if run is None or (run.region, run.job) != (region, job):
            raise GlueError("EntityNotFoundException", f"Job run {run_id} of job {job} not found.")
        return run

    def _get_job_run(self, request: Request, region: str) -> Response:
        self._job(region, request["JobName"])
        return {"JobRun": self._run(region, request["JobName"], request["RunId"]).to_response()}

    def _get_job_runs(self, request: Request, region: str) -> Response:
        job = self._job(region, request["JobName"])
        runs, token = page(self._state.newest_first.get((region, job.name), []), request, 200)
        return {"JobRuns": [run.to_response() for run in runs], **token}

    def _batch_stop_job_run(self, request: Request, region: str) -> Response:
        stopped: list[dict[str, str]] = []
        errors: list[dict[str, Any]] = []
        for run_id in request["JobRunIds"]:
            ids = {"JobName": request["JobName"], "JobRunId": run_id}
            try:
                run = self._run(region, request["JobName"], run_id)
                if (run.forced or run.state) in TERMINAL:
                    raise _terminal(run)
            except GlueError as error:
                errors.append({**ids, "ErrorDetail": {"ErrorCode": error.code, "ErrorMessage": error.message}})
            else:
                self._engine.request_stop(run)
                stopped.append(ids)
        return {"SuccessfulSubmissions": stopped, "Errors": errors}


def _terminal(run: Run) -> GlueError:
    message = f"Job run {run.id} is in terminal state {run.forced or run.state}"
    return GlueError("JobRunInTerminalStateException", message)
