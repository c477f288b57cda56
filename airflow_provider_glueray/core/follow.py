"""The order of steps while a run is followed, once, for workers, triggerers and sensors alike.

 :func:`follow` is a generator that says what to do next and is sent the
answer. It does no I/O and reads no clock, so a test feeds it by hand. The two drivers in ``drivers.py`` carry the steps
out.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple

from airflow_provider_glueray.core.logs import FAILURE_SOURCES, SCRIPT, LogCursor, LogLine, LogPage, LogTail
from airflow_provider_glueray.core.runs import Outcome, RunRef, RunSnapshot, RunState
from airflow_provider_glueray.glueray_step.reports import read_report

#: Seconds between two reads of a log that nobody hands over, at most.
MOST_LOG_PAUSE = 60.0
#: The most reports that are kept of one run; they pass through Airflow's database.
MOST_REPORTS = 100


class Waits(NamedTuple):
    """How long to wait where nothing tells when to look: one policy for the whole package. JSON both ways.

    All are seconds. The defaults fit a real service; a deployment changes them by ``[glueray] waits``.

    :param least_poll: the shortest pause between two polls where a cluster has to start first.
    :param least_poll_in_session: the same of a statement, many of which are over in no time.
    :param quiet: for how long a run that has ended must have written no new line before its log counts as whole; of a
        run that lasted, a twentieth of its time.
    :param drain: the most time that late lines are waited for, however many keep coming.
    :param stop_grace: how long a run may take to stop after its deadline before nobody waits for it any more.
    :param stop_again: after how long a stop that had no effect is asked for again.
    :param lost: for how long a run must stay unknown to the service before it counts as lost: a list may lag behind a
        start.
    :param queue_first: the pause after the first refusal for want of capacity; later ones double.
    :param queue_longest: the longest of these pauses.
    :param look_again: the pause between two looks for a run whose start had no answer, and before a stop that was
        refused is asked for again.
    :param pending_reason: how old a run on KubeRay must be before its pods are asked why it is not under way.
    :param linger: how long a deferrable notebook waits for a cell in the worker before it defers.
    :param worker_end: how long the scheduler may take to hear that a worker has ended.
    """

    least_poll: float = 1.0
    least_poll_in_session: float = 0.3
    quiet: float = 1.0
    drain: float = 60.0
    stop_grace: float = 300.0
    stop_again: float = 60.0
    lost: float = 30.0
    queue_first: float = 5.0
    queue_longest: float = 120.0
    look_again: float = 2.0
    pending_reason: float = 15.0
    linger: float = 5.0
    worker_end: float = 3.0

    def to_json(self) -> dict[str, float]:
        """Return what differs from the defaults: it passes through Airflow's database."""
        return {name: value for name, value in self._asdict().items() if value != self._field_defaults[name]}

    @classmethod
    def from_json(cls, value: Any) -> Waits:
        """Rebuild from :meth:`to_json`.

        :raises TypeError, ValueError: it is no mapping of the names above to seconds.
        """
        if not isinstance(value, dict):
            raise TypeError(f"waits are a JSON object of seconds, not {value!r}")
        for name, seconds in value.items():
            if name not in cls._fields:
                raise ValueError(f"there is no wait {name!r}; there are {', '.join(cls._fields)}")
            if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < float("inf"):
                raise ValueError(f"the wait {name!r} is a number of seconds, not {seconds!r}")
        return cls(**value)


class FollowPolicy(NamedTuple):
    """How to follow a run. JSON both ways: it is an argument of the trigger.

    :param deadline: epoch seconds at which the run is stopped; absolute, so a resumption does not restart it.
    :param poll_interval: the longest pause between two polls. Young runs are polled more often: the pause is
        a tenth of the run's age, at least ``min_poll_interval``.
    :param owns_run: whether to stop the run at the deadline. A sensor only watches.
    :param sources: the logs to show; empty for none.
    :param until_over: whether to go on with a session that has started, until it is over.
    :param waits: how long to wait for everything else.
    """

    deadline: float | None = None
    poll_interval: float = 10.0
    owns_run: bool = True
    sources: tuple[str, ...] = (SCRIPT,)
    until_over: bool = False
    min_poll_interval: float = 1.0
    waits: Waits = Waits()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**self._asdict(), "sources": list(self.sources), "waits": self.waits.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> FollowPolicy:
        """Rebuild from :meth:`to_json`."""
        waits = Waits.from_json(value.get("waits", {}))
        # Another version of this package may have written more.
        known = {name: each for name, each in value.items() if name in cls._fields}
        return cls(**{**known, "sources": tuple(value["sources"]), "waits": waits})


class Poll(NamedTuple):
    """Describe the run, ``after`` seconds from now, or sooner if its raw state is seen to differ."""

    after: float
    last_raw_state: str


class ReadLogs(NamedTuple):
    """Read what is new in the run's logs."""

    cursor: LogCursor
    sources: tuple[str, ...]


class Sleep(NamedTuple):
    """Do nothing for a while."""

    seconds: float


class Stop(NamedTuple):
    """Ask the service to stop the run."""


class Log(NamedTuple):
    """Write one line of our own to the task log."""

    level: int
    message: str


class EmitLogLines(NamedTuple):
    """Write the run's own lines to the task log.

    :param cursor: where to go on reading after them; None for lines that nobody goes on from.
    """

    lines: Sequence[LogLine]
    cursor: LogCursor | None


Step = Poll | ReadLogs | Sleep | Stop | Log | EmitLogLines


class Answer(NamedTuple):
    """What a step brought: the time (epoch seconds), and a value or the exception that came instead."""

    now: float
    value: Any = None
    error: Exception | None = None


Steps = Generator[Step, Answer, Outcome]


def follow(ref: RunRef, policy: FollowPolicy, cursor: LogCursor | None = None) -> Steps:
    """Follow a run to its end.

    A failed poll is not a failed run: it is polled again until the deadline. A failed log read never fails
    anything. At the deadline a run that we own is stopped.

    :returns: the outcome, through ``StopIteration``; judge it with :func:`errors.failure_of`.
    """
    logs = _Logs(policy.sources, cursor or LogCursor())
    last = RunSnapshot(ref, RunState.RUNNING, raw_state="UNKNOWN", message="No poll has succeeded yet.")
    began = 0.0
    failures = 0
    stop_asked: float | None = None
    stop_due, refusals = 0.0, 0
    lost_since: float | None = None
    pause = 0.0
    while True:
        answer = yield Poll(pause, last.raw_state)
        began = began or answer.now
        if answer.error is None and answer.value.state is RunState.LOST:
            lost_since = lost_since or answer.now
            if answer.now - lost_since < policy.waits.lost:
                answer = answer._replace(error=LookupError(f"the service does not know it. {answer.value.message}"))
        elif answer.error is None:
            lost_since = None
        if answer.error is not None:
            failures += 1
            if failures in (1, 10, 100, 1000):
                yield Log(logging.WARNING, f"Poll {failures} of {ref.id} failed, trying again: {answer.error}")
        else:
            failures = 0
            snapshot: RunSnapshot = answer.value
            if snapshot.raw_state != last.raw_state:
                yield _tell_state(snapshot)
            last = snapshot
            ended = snapshot.is_over if policy.until_over else snapshot.state.is_terminal
            if ended or answer.now >= logs.due:
                yield from logs.read(to_end=ended)
            if ended:
                break
        deadline_passed = policy.deadline is not None and answer.now >= policy.deadline
        if deadline_passed and not policy.owns_run:
            return logs.outcome(last, deadline_passed=True)
        if deadline_passed and answer.now >= stop_due:
            if stop_asked is None:
                yield Log(logging.WARNING, f"The deadline of run {ref.id} has passed; stopping it.")
            stop_asked = stop_asked or answer.now
            stopped = yield Stop()
            refused = stopped.error is not None
            stop_due = answer.now + (policy.waits.look_again if refused else policy.waits.stop_again)
            refusals += refused
            if refused and refusals in (1, 10, 100, 1000):
                yield Log(logging.ERROR, f"Could not stop run {ref.id}, trying again: {stopped.error}")
        if policy.deadline is not None and answer.now >= policy.deadline + policy.waits.stop_grace:
            return logs.outcome(last, deadline_passed=True)
        pause = _pause(answer.now - (last.started or began), failures, policy, answer.now, stop_asked)
    yield from logs.drain(max(answer.now - (last.started or began), 0.0), policy.waits)
    if last.state is not RunState.SUCCEEDED and policy.sources:
        since = LogCursor(since_ms=int((last.started or began) * 1000))
        # The UI shows what stands between these two lines folded.
        yield Log(logging.INFO, f"::group::The last of the cluster's logs: {', '.join(FAILURE_SOURCES)}")
        yield from _Logs(FAILURE_SOURCES, since, is_resumed=False).read(to_end=True, most=100)
        yield Log(logging.INFO, "::endgroup::")
    if last.is_held and policy.owns_run:
        last = yield from _take_away(last, policy)
    return logs.outcome(last, deadline_passed=stop_asked is not None)


def _take_away(last: RunSnapshot, policy: FollowPolicy) -> Generator[Step, Answer, RunSnapshot]:
    """Take away what a run that has ended still holds, its log being read.

    Of one that has not succeeded, what is held may be its driver, and a retry must not run beside that: there is no
    verdict before nothing is held any more.
    """
    ref, due, refusals = last.ref, 0.0, 0
    answer = Answer(0.0)
    while True:
        if answer.now >= due:
            answer = yield Stop()
            due = answer.now + (policy.waits.stop_again if answer.error is None else policy.waits.look_again)
            refusals += answer.error is not None
            if answer.error is not None and refusals in (1, 10, 100, 1000):
                yield Log(logging.WARNING, f"What {ref.title} still holds could not be taken away: {answer.error}")
        if last.state is RunState.SUCCEEDED:
            return last
        answer = yield Poll(policy.waits.least_poll, last.raw_state)
        if answer.error is None and not answer.value.is_held:
            return last._replace(is_held=False)


def _tell_state(snapshot: RunSnapshot) -> Log:
    kind = snapshot.ref.title.partition(f" {snapshot.ref.id}")[0]
    text = f"{kind[0].upper()}{kind[1:]} is {snapshot.raw_state}"
    if not snapshot.recognised:
        text += f", a state this provider does not know, taken as {snapshot.state}"
    if snapshot.message:
        text += f": {snapshot.message}"
    return Log(logging.INFO if snapshot.recognised else logging.WARNING, f"{text}; {snapshot.ref.id}")


def _pause(age: float, failures: int, policy: FollowPolicy, now: float, stop_asked: float | None) -> float:
    """Wait a tenth of the run's age, more after failed polls, never past the deadline."""
    if stop_asked is not None:
        return policy.waits.least_poll
    pause = min(max(age * 0.1, policy.min_poll_interval), policy.poll_interval)
    if failures:
        pause = min(pause * 2 ** min(failures, 6), max(60.0, policy.poll_interval))
    if policy.deadline is not None:
        pause = min(pause, max(policy.deadline - now, 0.0))
    return pause


class _Logs:
    """Reads, shows and remembers the log of one run.

    :param is_resumed: whether a triggerer that restarts goes on where this one has stopped reading.
    """

    def __init__(self, sources: tuple[str, ...], cursor: LogCursor, *, is_resumed: bool = True) -> None:
        self._sources = sources
        self._cursor = cursor
        self._is_resumed = is_resumed
        self._complained = False
        self._was_read = False
        #: From when on it is worth to read (epoch seconds): less often where nobody answers.
        self.due = 0.0
        self._failures = 0
        self._tail = LogTail()
        self._reports: list[dict[str, Any]] = []

    def outcome(self, last: RunSnapshot, *, deadline_passed: bool) -> Outcome:
        """Return how it ended, with what is remembered of the log."""
        return Outcome(last, self._tail.lines(), deadline_passed, self._reports)

    def read(self, *, to_end: bool, most: int | None = None) -> Generator[Step, Answer, bool | None]:
        """Show what is new; with ``most``, only the last of it. Tell whether there was anything; None if unknown.

        :param to_end: whether the run is over.
        """
        if not self._sources:
            return False
        answer = yield ReadLogs(self._cursor._replace(to_end=to_end), self._sources)
        if answer.error is not None:
            self._failures += 1
            self.due = answer.now + min(2.0**self._failures, MOST_LOG_PAUSE)
            if not self._complained:
                self._complained = True
                yield Log(logging.WARNING, f"Could not read the logs, the run is not affected: {answer.error}")
            return None
        self._was_read, self._failures = True, 0
        page: LogPage = answer.value
        self._cursor = page.cursor
        lines = page.lines if most is None else page.lines[-most:]
        self._tail.add(line.text for line in lines)
        reports = (read_report(line.text) for line in lines)
        self._reports = [*self._reports, *(each for each in reports if each is not None)][-MOST_REPORTS:]
        if lines:
            yield EmitLogLines(lines, self._cursor if self._is_resumed else None)
        return bool(lines)

    def drain(self, lasted: float, waits: Waits) -> Generator[Step, Answer, None]:
        """Read until quiet: Glue hands over what a script printed only after the run has ended.

        The longer the run, the longer the patience: a twentieth of its time, ``waits.quiet`` to 10 seconds. A read that
        fails says nothing of the log, unless none has ever succeeded.
        """
        quiet = max(min(lasted * 0.05, 10.0), waits.quiet)
        silent = waited = 0.0
        heard: bool | None = False
        while self._sources and silent < quiet and waited < waits.drain:
            yield Sleep(quiet / 2)
            waited += quiet / 2
            heard = yield from self.read(to_end=True)
            if heard:
                silent = 0.0
            elif heard is not None or not self._was_read:
                silent += quiet / 2
        if self._sources and silent < quiet:
            text = f"The log goes on {waits.drain:.0f} seconds after the run has ended; the rest is at the service only"
            if heard is None:
                text = f"The end of the log could not be read for {waits.drain:.0f} seconds; it is at the service only"
            yield Log(logging.WARNING, text)
