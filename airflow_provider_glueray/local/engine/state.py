"""Keep the jobs, runs and sessions of one endpoint, per Region, and compute the free capacity.

One lock protects all records. `runs` decides the next step of a run, `rules` decides whether a request is allowed. The
state is in memory only, so it is gone when the endpoint stops.
"""

from __future__ import annotations

import enum
import math
import secrets
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_glueray.local.engine.rules import MDPU_PER_WORKER
from airflow_provider_glueray.local.engine.sessions import ENDED, Session

ACCOUNT = "123456789012"
#: A run in one of these states never changes its state again; EXPIRED as in Airflow's amazon provider [botocore].
TERMINAL = frozenset({"SUCCEEDED", "FAILED", "STOPPED", "TIMEOUT", "ERROR", "EXPIRED"})
#: A finished run still counts against MaxConcurrentRuns for so many seconds [amazon provider, sleep_before_return].
SLOT_RELEASE_SECONDS = 0.2
#: GetJob reports this Timeout for a job without one at Glue 4.0, Ray jobs included [terraform-provider-aws#35013].
REPORTED_TIMEOUT_MINUTES = 2880


class Phase(enum.Enum):
    """The engine's step with a run; finer than the ten states of the service."""

    QUEUED = "queued"
    PROVISIONING = "provisioning"
    PREPARING = "preparing"
    SUBMITTED = "submitted"
    CLOSING = "closing"
    DONE = "done"


@dataclass
class Job:
    """A job definition from CreateJob or UpdateJob, with defaults."""

    name: str
    region: str
    definition: dict[str, Any]
    tags: dict[str, str]
    created: float = field(default_factory=time.time)
    modified: float = field(default_factory=time.time)

    @property
    def max_concurrent_runs(self) -> int:
        """The maximum of active runs; 1 unless ExecutionProperty gives another number [botocore]."""
        return int(self.definition.get("ExecutionProperty", {}).get("MaxConcurrentRuns", 1))

    def to_response(self) -> dict[str, Any]:
        """Return the job in the shape of botocore's `Job`."""
        return {
            "MaxRetries": 0,
            "Timeout": REPORTED_TIMEOUT_MINUTES,
            "ExecutionClass": "STANDARD",
            **capacity(self.definition.get("NumberOfWorkers")),
            **self.definition,
            "Name": self.name,
            "CreatedOn": self.created,
            "LastModifiedOn": self.modified,
            "ExecutionProperty": {"MaxConcurrentRuns": self.max_concurrent_runs},
        }


@dataclass
class Run:
    """One execution: responses show `state`, the engine uses `phase`. Times are epoch seconds."""

    job: str
    region: str
    script: str
    arguments: dict[str, str]
    workers: int
    max_concurrent_runs: int
    fields: dict[str, Any]
    previous: str | None = None
    attempt: int = 0
    id: str = field(default_factory=lambda: "jr_" + secrets.token_hex(32))
    state: str = "STARTING"
    phase: Phase = Phase.PROVISIONING
    detail: str | None = None
    message: str | None = None
    started: float = field(default_factory=time.time)
    admitted: float = field(default_factory=time.time)
    modified: float = field(default_factory=time.time)
    running_since: float | None = None
    completed: float | None = None
    stop_requested: bool = False
    stop_sent: float = 0.0
    forced: str | None = None
    work: Future[Any] | None = None
    outcome: tuple[str, str | None] = ("FAILED", None)
    ray_job: str | None = None

    def move(self, state: str) -> None:
        """Set a new state and the time of the change."""
        self.state, self.modified = state, time.time()

    def holds_slot(self, now: float) -> bool:
        """Return whether the run counts against MaxConcurrentRuns."""
        if self.phase is Phase.DONE:
            return self.completed is not None and now - self.completed < SLOT_RELEASE_SECONDS
        return self.phase is not Phase.QUEUED

    def to_response(self) -> dict[str, Any]:
        """Return the run in botocore's shape `JobRun`; DPUSeconds counts every worker for the whole time."""
        end = self.completed or time.time()
        # AWS bills every second begun, so a run of half a second has used one second.
        seconds = math.ceil(end - self.running_since) if self.running_since else 0
        optional = {
            "PreviousRunId": self.previous,
            "CompletedOn": self.completed,
            "ErrorMessage": self.message,
            "StateDetail": self.detail,
        }
        return {
            **self.fields,
            **capacity(self.workers),
            **{key: value for key, value in optional.items() if value is not None},
            "Id": self.id,
            "Attempt": self.attempt,
            "JobName": self.job,
            "StartedOn": self.started,
            "LastModifiedOn": self.modified,
            "JobRunState": self.forced or self.state,
            "Arguments": dict(self.arguments),
            "PredecessorRuns": [],
            "ExecutionTime": seconds,
            "Timeout": REPORTED_TIMEOUT_MINUTES,
            "NumberOfWorkers": self.workers,
            "LogGroupName": "/aws-glue/ray/jobs",
            "DPUSeconds": float(seconds * self.workers * MDPU_PER_WORKER),
            "ExecutionClass": "STANDARD",
        }


def capacity(workers: int | None) -> dict[str, Any]:
    """Return the capacity members that the service derives from a number of workers, in M-DPU."""
    if workers is None:
        return {}
    return {"AllocatedCapacity": workers * MDPU_PER_WORKER, "MaxCapacity": float(workers * MDPU_PER_WORKER)}


class State:
    """All jobs, runs and sessions of one endpoint. Hold `lock` to read or change any of them."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.jobs: dict[tuple[str, str], Job] = {}
        self.runs: dict[str, Run] = {}
        self.newest_first: dict[tuple[str, str], list[Run]] = {}
        self.sessions: dict[tuple[str, str], Session] = {}

    def add(self, run: Run) -> None:
        """Store a new run as the first of its job's list."""
        self.runs[run.id] = run
        self.newest_first.setdefault((run.region, run.job), []).insert(0, run)

    def active(self) -> list[Run]:
        """Return the runs that are not done, oldest first."""
        return [run for run in self.runs.values() if run.phase is not Phase.DONE]

    def regions(self) -> set[str]:
        """Return the Regions that have runs or sessions."""
        return {run.region for run in self.runs.values()} | {region for region, _ in self.sessions}

    def exceeded_limit(self, job: str, region: str, workers: int, limit: int, quota: int) -> tuple[str, str] | None:
        """Return (error code, message) if one more run of `workers` workers exceeds a limit, else None."""
        now = time.time()
        holding = [run for run in self.runs.values() if run.holds_slot(now)]
        same = sum(1 for run in holding if (run.region, run.job) == (region, job))
        if same >= limit:
            return "ConcurrentRunsExceededException", f"Concurrent runs exceeded for {job}"
        return self.over_quota(region, workers, quota)

    def over_quota(self, region: str, workers: int, quota: int) -> tuple[str, str] | None:
        """Return (error code, message) if `workers` more workers exceed the quota, else None."""
        now = time.time()
        running = sum(run.workers for run in self.runs.values() if run.region == region and run.holds_slot(now))
        sessions = self.sessions.values()
        live = sum(each.workers for each in sessions if each.region == region and each.state not in ENDED)
        used, wanted = MDPU_PER_WORKER * (running + live), MDPU_PER_WORKER * workers
        if used + wanted > quota:
            return (
                "ResourceNumberLimitExceededException",
                f"Concurrent M-DPUs for Ray workers exceeded in {region}: "
                f"{used} in use, {wanted} requested, quota {quota}",
            )
        return None
