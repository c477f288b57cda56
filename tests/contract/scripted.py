"""A backend of jobs in memory: what its runs do is written down beforehand, and its clock is the test's.

The life of a run knows no backend, so its scenes are played on this one, in milliseconds. What holds of it is what
holds of the real ones: the hook contract is played on it as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from airflow_provider_glueray.core.backend import Prepared
from airflow_provider_glueray.core.errors import CapacityExceeded, SubmitOutcomeUnknown
from airflow_provider_glueray.core.logs import SCRIPT, LogCursor, LogLine, LogPage
from airflow_provider_glueray.core.runs import Backend, RunRef, RunSnapshot, RunState, Usage
from airflow_provider_glueray.core.spec import RayJobSpec
from airflow_provider_glueray.hooks.glue.responses import GLUE_JOB_STATE
from tests.contract.scripts import Clock, Files, Script

BACKEND, CONN_TYPE = "scripted-job", "scripted"
ROW = Backend(
    "tests.contract.scripted.ScriptedHook", "run {id} of {name}", conn_type=CONN_TYPE, override_key="scripted"
)


@dataclass
class Run:
    ref: RunRef
    token: str
    spec: RayJobSpec
    arguments: Mapping[str, str]
    script: Script
    began: float
    stopped: float | None = None

    def raw_state(self, now: float) -> str:
        states = [*self.script.states, *([(self.stopped - self.began, "STOPPED")] if self.stopped is not None else [])]
        raw = ""
        for begins, state in sorted(states, key=lambda each: each[0]):
            if begins <= now - self.began and not (raw and GLUE_JOB_STATE[raw].is_terminal):
                raw = state
        return raw


@dataclass
class Service:
    """The service behind a connection: its runs, its files, and the ways in which it misbehaves."""

    clock: Clock
    script: Script = field(default_factory=Script)
    runs: dict[RunRef, Run] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    #: What the next calls of a verb raise, one after the other.
    errors: dict[str, list[Exception]] = field(default_factory=dict)
    #: For so many seconds a run that was started is not to be seen.
    lag: float = 0.0
    #: So many starts are made, and their answers lost.
    lost_answers: int = 0
    #: The most runs that may be active at once.
    room: int = 100
    #: What a run does to the files when it is started.
    work: Callable[[Run], None] = lambda run: None

    def called(self, verb: str) -> None:
        self.calls[verb] += 1
        if self.errors.get(verb):
            raise self.errors[verb].pop(0)

    def states(self) -> list[str]:
        """Return the raw states of all runs, oldest first."""
        return [run.raw_state(self.clock.now()) for run in self.runs.values()]

    def start(self, spec: RayJobSpec, token: str, arguments: Mapping[str, str]) -> RunRef:
        if sum(not GLUE_JOB_STATE[state].is_terminal for state in self.states()) >= self.room:
            raise CapacityExceeded("There is no room")
        run = Run(
            RunRef(BACKEND, spec.name, f"run-{len(self.runs) + 1}"),
            token,
            spec,
            arguments,
            self.script,
            self.clock.now(),
        )
        self.runs[run.ref] = run
        self.work(run)
        if self.lost_answers:
            self.lost_answers -= 1
            raise SubmitOutcomeUnknown("The answer was lost")
        return run.ref


#: By the id of the connection that leads there.
SERVICES: dict[str | None, Service] = {}


class ScriptedHook:
    """The hook of the scripted backend: a ``RunHook`` (``airflow_provider_glueray/core/runs.py``)."""

    def __init__(self, conn_id: str | None) -> None:
        self._service = SERVICES[conn_id]

    @property
    def storage(self) -> Files:
        return Files(self._service.files)

    def prepare(self, spec: RayJobSpec, staging_uri: str | None, run_timeout: float | None = None) -> Prepared:
        self._service.called("prepare")

        def start(token: str, more: Mapping[str, str]) -> RunRef:
            self._service.called("start")
            return self._service.start(spec, token, {**spec.arguments, **more})

        return Prepared(start, is_new=True)

    def find_runs(self, name: str, client_token: str) -> list[RunSnapshot]:
        self._service.called("find_runs")
        found = [run for run in self._service.runs.values() if (run.ref.name, run.token) == (name, client_token)]
        seen = [self._seen(run.ref) for run in reversed(found)]
        return [snapshot for snapshot in seen if snapshot.state is not RunState.LOST]

    def latest_run(self, name: str) -> RunSnapshot | None:
        self._service.called("latest_run")
        found = [run.ref for run in self._service.runs.values() if run.ref.name == name]
        return self._seen(found[-1]) if found else None

    def describe(self, refs: Collection[RunRef]) -> Mapping[RunRef, RunSnapshot]:
        self._service.called("describe")
        return {ref: self._seen(ref) for ref in refs}

    def _seen(self, ref: RunRef) -> RunSnapshot:
        run, now = self._service.runs.get(ref), self._service.clock.now()
        if run is None or now < run.began + self._service.lag:
            return RunSnapshot(ref, RunState.LOST, "LOST", f"There is no {ref.title}")
        raw = run.raw_state(now)
        state = GLUE_JOB_STATE[raw]
        completed = now if state.is_terminal else None
        seconds = now - run.began
        usage = Usage(seconds, 2, seconds * 4 / 3600) if completed else None
        message = run.script.message if completed else ""
        is_held = state.is_terminal and run.script.holds > 0 and (run.stopped or now) + run.script.holds > now
        return RunSnapshot(ref, state, raw, message, run.began, completed, usage, is_held=is_held)

    def read_logs(self, cursors: Mapping[RunRef, LogCursor], sources: Sequence[str]) -> Mapping[RunRef, LogPage]:
        self._service.called("read_logs")
        return {ref: self._page(ref, cursor) for ref, cursor in cursors.items() if SCRIPT in sources} | {
            ref: LogPage((), cursor) for ref, cursor in cursors.items() if SCRIPT not in sources
        }

    def _page(self, ref: RunRef, cursor: LogCursor) -> LogPage:
        run = self._service.runs[ref]
        there = [
            (int((run.began + at) * 1000), f"{number}", text)
            for number, (at, text) in enumerate(run.script.lines)
            if run.began + at <= self._service.clock.now()
        ]
        new = [each for each in there if each[0] >= cursor.since_ms and each[1] not in cursor.seen]
        since = max([cursor.since_ms, *(each[0] for each in new)])
        seen = frozenset(number for at, number, _ in there if at == since)
        return LogPage([LogLine(SCRIPT, text) for _, _, text in new], LogCursor(since, seen))

    def stop(self, *refs: RunRef) -> None:
        self._service.called("stop")
        for ref in refs:
            run = self._service.runs.get(ref)
            if run is not None and run.stopped is None:
                run.stopped = self._service.clock.now()

    def url(self, ref: RunRef) -> str:
        return f"https://scripted.invalid/{ref.id}"

    def logs_url(self, ref: RunRef) -> str:
        return f"{self.url(ref)}/log"
