"""Move every run through the service's states while Ray runs its script.

One thread checks all open runs every 0.15 seconds and gets the status of submitted runs from Ray. Worker threads
download, submit and ship the last logs. No other module changes a run's state, except that StartJobRun decides between
STARTING and WAITING.
"""

from __future__ import annotations

import itertools
import logging
import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from airflow_provider_glueray.local.engine import rules
from airflow_provider_glueray.local.engine.faults import Faults
from airflow_provider_glueray.local.engine.job_inputs import EXIT_CODE, CannotPrepare, prepare
from airflow_provider_glueray.local.engine.logs import LogWriter, RunLogs, Shipper
from airflow_provider_glueray.local.engine.sessions import ENDED
from airflow_provider_glueray.local.engine.state import TERMINAL, Phase, Run, State
from airflow_provider_glueray.local.runtime.cluster import Cluster, RayUnavailable
from airflow_provider_glueray.local.runtime.overlay import Overlays

TICK_SECONDS = 0.15
#: The engine repeats a stop request to Ray after so many seconds, since a pending job may miss the first request.
_STOP_RETRY_SECONDS = 2.0
_RAY_ENDED = {"SUCCEEDED", "FAILED", "STOPPED"}
_EXCEPTION_LINE = re.compile(r"[A-Za-z_][\w.]*(\([\w.]+\))?(: .*)?")

_logger = logging.getLogger(__name__)


class Engine(threading.Thread):
    """The thread that moves runs. `client(service, region)` returns a boto3 client of this endpoint."""

    def __init__(
        self,
        state: State,
        cluster: Cluster,
        faults: Faults,
        client: Callable[[str, str], Any],
        overlays: Overlays,
    ) -> None:
        super().__init__(name="engine", daemon=True)
        self._state, self._cluster, self._faults, self._client = state, cluster, faults, client
        self._pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="run")
        self._shipper = Shipper()
        self._overlays = overlays
        self._ended = threading.Event()

    def request_stop(self, run: Run) -> None:
        """Start to stop a run that is not terminal; a second call does nothing."""
        with self._state.lock:
            run.stop_requested = True
            if run.phase is Phase.QUEUED:
                self._done(run, "STOPPED", None)
            elif run.phase is not Phase.DONE and run.state != "STOPPING":
                run.move("STOPPING")

    def run(self) -> None:
        """Check all runs periodically until `end` is called."""
        self._shipper.start()
        while not self._ended.wait(TICK_SECONDS):
            try:
                self.tick()
            except Exception:
                _logger.exception("unexpected error in the engine")

    def end(self, patience_seconds: float = 5.0) -> None:
        """Stop all runs, wait up to `patience_seconds` for them, then end the thread."""
        with self._state.lock:
            for run in self._state.active():
                self.request_stop(run)
        deadline = time.monotonic() + patience_seconds
        while time.monotonic() < deadline and self._state.active() and not self._cluster.lost:
            time.sleep(0.1)
        self._ended.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def tick(self) -> None:
        """Check every open run once."""
        with self._state.lock:
            self._force_states()
            self._admit()
            open_runs = self._state.active()
        if not open_runs:
            return
        known = {run.id: self._ray_job(run) for run in open_runs if run.phase is Phase.SUBMITTED}
        with self._state.lock:
            for run in open_runs:
                self._advance(run, known.get(run.id))

    def _ray_job(self, run: Run) -> Mapping[str, Any] | None:
        if self._cluster.lost:
            return None
        try:
            return self._cluster.job(run.id)
        except RayUnavailable as error:
            _logger.warning("Ray does not respond: %s", error)
            return None

    def _force_states(self) -> None:
        for region in self._state.regions():
            forced = self._faults.values(region)["force_state"]
            if forced:
                self._force_states_in(region, forced)

    def _force_states_in(self, region: str, forced: Mapping[str, str | None]) -> None:
        for run_id, state in forced.items():
            run = self._state.runs.get(run_id)
            if run is None or run.region != region or run.forced == state:
                continue
            run.forced = state
            if state in TERMINAL and run.phase is not Phase.DONE:
                if run.phase is Phase.SUBMITTED:
                    self._pool.submit(self._cluster.stop_job, run.id)
                self._done(run, str(state), None)
        for session in self._state.sessions.values():
            if session.region == region and session.id in forced and session.forced != forced[session.id]:
                session.forced = forced[session.id]
                if session.forced in ENDED:
                    session.request_end(session.forced, None)

    def _admit(self) -> None:
        for run in [run for run in self._state.active() if run.phase is Phase.QUEUED]:
            quota = self._faults.values(run.region)["quota_mdpu"]
            exceeded = self._state.exceeded_limit(run.job, run.region, run.workers, run.max_concurrent_runs, quota)
            if exceeded is None:
                run.phase, run.detail, run.admitted = Phase.PROVISIONING, None, time.time()
                run.move("STARTING")

    def _advance(self, run: Run, info: Mapping[str, Any] | None) -> None:
        if run.phase is Phase.PROVISIONING:
            delay = self._faults.values(run.region)["provisioning_seconds"]
            if run.stop_requested:
                self._done(run, "STOPPED", None)
            elif self._cluster.lost:
                self._close(run, "FAILED", "The Ray cluster of this endpoint has died")
            elif self._cluster.ready and time.time() >= run.admitted + delay:
                run.phase, run.work = Phase.PREPARING, self._pool.submit(self._launch, run)
        elif run.phase is Phase.PREPARING:
            if run.work is not None and run.work.done():
                self._after_launch(run, run.work.exception())
        elif run.phase is Phase.SUBMITTED:
            self._advance_submitted(run, info)
        elif run.phase is Phase.CLOSING and run.work is not None and run.work.done():
            self._done(run, *run.outcome)

    def _launch(self, run: Run) -> None:
        directory = self._directory(run)
        directory.mkdir(parents=True)
        if rules.logging_enabled(run.arguments.get("--logging_configuration", "{}")):
            writer = LogWriter(self._client("logs", run.region))
            self._shipper.attach(run.id, RunLogs(run, lambda: list(self._cluster.nodes), directory, writer))
        entrypoint, runtime_env = prepare(run, self._client("s3", run.region), self._overlays, directory)
        if run.stop_requested:
            raise CannotPrepare("stopped")
        self._cluster.submit(run.id, entrypoint, runtime_env)

    def _after_launch(self, run: Run, error: BaseException | None) -> None:
        if error is None:
            run.phase = Phase.SUBMITTED
        elif run.stop_requested:
            self._close(run, "STOPPED", None)
        else:
            if not isinstance(error, CannotPrepare | RayUnavailable):
                _logger.error("run %s could not be launched", run.id, exc_info=error)
            self._close(run, "FAILED", str(error))

    def _advance_submitted(self, run: Run, info: Mapping[str, Any] | None) -> None:
        if self._cluster.lost:
            self._close(run, "FAILED", "The Ray cluster of this endpoint has died")
            return
        if info is not None:
            run.ray_job = info.get("job_id") or run.ray_job
            if info["status"] != "PENDING" and run.running_since is None:
                run.running_since = time.time()
                if not run.stop_requested:
                    run.move("RUNNING")
            if info["status"] in _RAY_ENDED:
                self._close(run, *_outcome(run, self._with_exit_code(run, info)))
                return
        if run.stop_requested and time.time() - run.stop_sent > _STOP_RETRY_SECONDS:
            run.stop_sent = time.time()
            self._pool.submit(self._cluster.stop_job, run.id)

    def _with_exit_code(self, run: Run, info: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return Ray's information about a job, with the exit code from the start file if Ray does not report it."""
        try:
            return {**info, "driver_exit_code": int((self._directory(run) / EXIT_CODE).read_text())}
        except (FileNotFoundError, ValueError):
            return info

    def _close(self, run: Run, state: str, message: str | None) -> None:
        run.outcome = (state, message)
        run.phase, run.work = Phase.CLOSING, self._pool.submit(self._clean_up, run)

    def _clean_up(self, run: Run) -> None:
        self._shipper.finish(run.id)
        shutil.rmtree(self._directory(run), ignore_errors=True)

    def _done(self, run: Run, state: str, message: str | None) -> None:
        run.message = message
        run.phase, run.work, run.completed = Phase.DONE, None, time.time()
        run.move(state)

    def _directory(self, run: Run) -> Path:
        return self._cluster.root / "runs" / run.id


def _outcome(run: Run, info: Mapping[str, Any]) -> tuple[str, str | None]:
    if run.stop_requested:
        return "STOPPED", None
    if info["status"] == "SUCCEEDED":
        return "SUCCEEDED", None
    if info["status"] == "STOPPED":
        return "STOPPED", "Stopped through the Ray cluster"
    return "FAILED", failure_message(info.get("driver_exit_code"), info.get("message") or "")


def failure_message(exit_code: int | None, report: str) -> str:
    """Return the reason of a failure: the last exception line of `report` and the exit code, or Ray's own report."""
    if exit_code is None:
        return report[:2000] or "Ray gave no reason"
    ended = f"Job entrypoint command failed with exit code {exit_code}"
    lines = report.splitlines()
    # Ray keeps the last lines only, so the traceback's first line may be missing; its frames are indented.
    ends = [
        line
        for before, line in itertools.pairwise(lines)
        if before.startswith("  ") and _EXCEPTION_LINE.fullmatch(line)
    ]
    return f"{ends[-1]}. {ended}" if ends else ended
