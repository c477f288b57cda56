"""`follow` by hand-fed snapshots: no mock, no clock, no service."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace

import pytest

from airflow_provider_glueray.core.drivers import PORTION, run_async, run_sync
from airflow_provider_glueray.core.follow import (
    Answer,
    EmitLogLines,
    FollowPolicy,
    Log,
    Poll,
    ReadLogs,
    Sleep,
    Stop,
    Waits,
    follow,
)
from airflow_provider_glueray.core.logs import LogCursor, LogLine, LogPage
from airflow_provider_glueray.core.runs import Outcome, RunRef, RunSnapshot, RunState
from airflow_provider_glueray.core.watcher import watching

REF = RunRef("glue-job", "nightly", "jr_1")
RAW = {
    "RUNNING": RunState.RUNNING,
    "SUCCEEDED": RunState.SUCCEEDED,
    "FAILED": RunState.FAILED,
    "STOPPED": RunState.STOPPED,
}


def seen(raw: str, started: float = 1000.0) -> RunSnapshot:
    """Return a snapshot in a raw state."""
    return RunSnapshot(REF, RAW[raw], raw, started=started)


@dataclass
class Hand:
    """Feeds `follow` by hand and remembers what it asked for; time passes only when it says so."""

    states: list[RunSnapshot | Exception]
    pages: list[list[str] | Exception] = field(default_factory=list)
    stop_error: Exception | None = None
    now: float = 1000.0
    asked: list = field(default_factory=list)

    def play(self, policy: FollowPolicy) -> Outcome:
        """Run to the end; the last state repeats for ever."""
        steps = follow(REF, policy)
        step = next(steps)
        try:
            while True:
                self.asked.append(step)
                step = steps.send(self.answer(step))
        except StopIteration as end:
            return end.value

    def answer(self, step) -> Answer:
        value = None
        match step:
            case Poll(after=after):
                self.now += after
                value = self.states.pop(0) if len(self.states) > 1 else self.states[0]
            case ReadLogs(cursor=cursor):
                page = self.pages.pop(0) if self.pages else []
                value = (
                    page
                    if isinstance(page, Exception)
                    else LogPage([LogLine("script", text) for text in page], LogCursor(cursor.since_ms + len(page)))
                )
            case Sleep(seconds=seconds):
                self.now += seconds
            case Stop():
                value = self.stop_error
        return Answer(self.now, error=value) if isinstance(value, Exception) else Answer(self.now, value)

    def of(self, kind) -> list:
        """Return the steps of one kind."""
        return [step for step in self.asked if isinstance(step, kind)]


def test_logs_are_read_after_each_look_and_until_quiet_after_the_end():
    """What comes late, as prints do on Glue, is still shown."""
    hand = Hand([seen("RUNNING"), seen("SUCCEEDED")], [["live"], [], [], ["late"], []])
    outcome = hand.play(FollowPolicy())

    assert outcome.snapshot.state is RunState.SUCCEEDED
    assert [line.text for step in hand.of(EmitLogLines) for line in step.lines] == ["live", "late"]
    assert [step.cursor.since_ms for step in hand.of(ReadLogs)][:2] == [0, 1]
    # From the end on nothing may be put off.
    assert [step.cursor.to_end for step in hand.of(ReadLogs)] == [False] + [True] * (len(hand.of(ReadLogs)) - 1)


def test_the_time_of_an_answer_is_that_after_the_step(set_clock):
    """A pause ends at the deadline, and so the deadline strikes then, not a pause later."""
    now = [100.0]
    set_clock(lambda: now[0], lambda seconds: now.__setitem__(0, now[0] + seconds))

    def steps():
        answer = yield Sleep(10.0)
        return answer.now

    assert run_sync(steps(), None, REF, None) == 110.0


def test_many_lines_leave_others_their_turns():
    """A triggerer whose event loop hears of nothing for 30 s counts as dead."""
    shown: list[tuple[int, str]] = []
    turns = [0]

    def steps():
        yield EmitLogLines([LogLine("script", f"{number}") for number in range(10 * PORTION)], None)
        return "over"

    async def others():
        while True:
            turns[0] += 1
            await asyncio.sleep(0)

    async def play():
        task = asyncio.create_task(others())
        log = SimpleNamespace(info=lambda _, line: shown.append((turns[0], line.text)))
        try:
            return await run_async(steps(), None, REF, log)
        finally:
            task.cancel()

    assert asyncio.run(play()) == "over"
    assert [text for _, text in shown] == [f"{number}" for number in range(10 * PORTION)]
    assert max(Counter(turn for turn, _ in shown).values()) == PORTION


def test_a_log_that_nobody_hands_over_is_asked_for_less_often():
    """Each read may take a while, and a look at the run comes after it; when it is there again, so are its lines."""
    refused = [OSError("no route")] * 6
    hand = Hand([*[seen("RUNNING", 0.0)] * 100, seen("SUCCEEDED", 0.0)], [*refused, ["late"]])
    hand.play(FollowPolicy(poll_interval=1.0))

    steps = [step for step in hand.asked if isinstance(step, Poll | ReadLogs)]
    reads = [number for number, step in enumerate(steps) if isinstance(step, ReadLogs)][:8]
    # How many looks are between two reads: 2, 4, 8 … seconds, which are looks here, then all again.
    assert [later - sooner - 1 for sooner, later in pairwise(reads)] == [2, 4, 8, 16, 32, 38, 0]
    assert [line.text for step in hand.of(EmitLogLines) for line in step.lines] == ["late"]


def test_one_line_per_change_of_state():
    """Not one line per poll."""
    hand = Hand([seen("RUNNING")] * 5 + [seen("SUCCEEDED")])
    hand.play(FollowPolicy(sources=()))

    assert [step.message for step in hand.of(Log)] == ["Run is RUNNING; jr_1", "Run is SUCCEEDED; jr_1"]


def test_a_failed_poll_is_not_a_failed_run():
    """It is polled again, less often, and the log says so once and not each time."""
    hand = Hand([seen("RUNNING"), *[OSError("no route")] * 5, seen("SUCCEEDED")])
    outcome = hand.play(FollowPolicy(sources=()))

    assert outcome.snapshot.state is RunState.SUCCEEDED
    assert len([step for step in hand.of(Log) if "no route" in step.message]) == 1
    pauses = [step.after for step in hand.of(Poll)]
    assert pauses[2:6] == sorted(pauses[2:6])
    assert pauses[6] > pauses[1]


def test_a_failed_log_read_fails_nothing():
    """It is said once."""
    hand = Hand([seen("RUNNING"), seen("RUNNING"), seen("SUCCEEDED")], [OSError("denied"), OSError("denied"), ["x"]])
    outcome = hand.play(FollowPolicy())

    assert outcome.snapshot.state is RunState.SUCCEEDED
    assert len([step for step in hand.of(Log) if "denied" in step.message]) == 1
    assert outcome.tail == ("x",)


def test_a_failed_run_shows_the_cluster_too():
    """Worker, runtime-env and autoscaler logs are read without being asked for, from the run's start."""
    hand = Hand([seen("FAILED", started=1234.0)], [["Traceback (most recent call last):", "  x", "E: y"]])
    outcome = hand.play(FollowPolicy())
    last = hand.of(ReadLogs)[-1]

    assert last.sources == ("worker-err", "worker-out", "runtime-env", "monitor")
    assert last.cursor == LogCursor(since_ms=1_234_000, to_end=True)
    assert outcome.tail[-1] == "E: y"
    assert [step.message[:9] for step in hand.of(Log)][-2:] == ["::group::", "::endgrou"]


def test_the_deadline_stops_a_run_that_we_own():
    """Absolute: it strikes at its time, and the outcome remembers that."""
    hand = Hand([seen("RUNNING")] * 6 + [seen("STOPPED")])
    outcome = hand.play(FollowPolicy(deadline=1003.0, sources=()))

    assert len(hand.of(Stop)) == 1
    assert outcome.deadline_passed
    assert outcome.snapshot.state is RunState.STOPPED


def test_no_poll_sleeps_past_the_deadline():
    """The last pause ends at the deadline, however long the run's polls have become."""
    hand = Hand([seen("RUNNING", started=1.0)] * 4 + [seen("STOPPED")])
    hand.play(FollowPolicy(deadline=1007.0, poll_interval=60, sources=()))

    assert hand.of(Poll)[1].after == 7.0


def test_a_stop_without_effect_is_asked_again_and_given_up_in_the_end():
    """A run that will not die does not hold its task for ever."""
    hand = Hand([seen("RUNNING")], stop_error=OSError("refused"))
    outcome = hand.play(FollowPolicy(deadline=1000.0, sources=()))

    assert len(hand.of(Stop)) > 3
    assert outcome.deadline_passed
    assert outcome.snapshot.state is RunState.RUNNING
    assert any("refused" in step.message for step in hand.of(Log))


def test_a_watcher_of_somebody_elses_run_stops_nothing():
    """At its deadline it only stops looking."""
    hand = Hand([seen("RUNNING")])
    outcome = hand.play(FollowPolicy(deadline=1003.0, owns_run=False, sources=()))

    assert not hand.of(Stop)
    assert outcome.deadline_passed


def test_never_seen_until_the_deadline():
    """A service that cannot be reached at all still ends, with words."""
    hand = Hand([OSError("no route")])
    outcome = hand.play(FollowPolicy(deadline=1010.0, sources=()))

    assert outcome.deadline_passed
    assert "No poll has succeeded" in outcome.snapshot.message


def test_young_runs_are_polled_often_and_old_ones_seldom():
    """A tenth of the age, at least a second, at most what was asked for."""
    hand = Hand([seen("RUNNING")] * 60 + [seen("SUCCEEDED")])
    hand.play(FollowPolicy(poll_interval=10, sources=()))
    pauses = [step.after for step in hand.of(Poll)]

    assert pauses[0] == 0
    assert pauses[1] == 1
    assert pauses[1:] == sorted(pauses[1:])
    assert pauses[-1] == 10


def test_an_unknown_state_is_said_once_and_waited_on():
    """It counts as active."""
    odd = RunSnapshot(REF, RunState.RUNNING, "PAUSED", recognised=False)
    hand = Hand([odd, odd, odd, seen("SUCCEEDED")])
    outcome = hand.play(FollowPolicy(sources=()))

    assert len([step for step in hand.of(Log) if "does not know" in step.message]) == 1
    assert outcome.snapshot.state is RunState.SUCCEEDED


def test_a_run_is_lost_only_when_it_stays_unknown():
    """A list that lags behind the start of a run must not leave the run alone."""
    lost = RunSnapshot(REF, RunState.LOST, "LOST")
    hand = Hand([lost, lost, seen("RUNNING"), lost, seen("SUCCEEDED")])
    assert hand.play(FollowPolicy(sources=())).snapshot.state is RunState.SUCCEEDED

    hand = Hand([lost])
    outcome = hand.play(FollowPolicy(sources=()))
    assert outcome.snapshot.state is RunState.LOST
    assert hand.now - 1000.0 >= 30


def test_the_policy_survives_json():
    """It travels into the trigger."""
    policy = FollowPolicy(deadline=5.0, poll_interval=2, owns_run=False, sources=("script", "monitor"))

    assert FollowPolicy.from_json(policy.to_json()) == policy


class Backend:
    """A service with a script of states; what it is asked is counted."""

    def __init__(self, raws: list[str]) -> None:
        self.raws = raws
        self.calls: list[str] = []

    def describe(self, refs):
        self.calls.append("describe")
        raw = self.raws.pop(0) if len(self.raws) > 1 else self.raws[0]
        if raw == "error":
            raise OSError("no route")
        return {ref: RunSnapshot(ref, RAW[raw], raw, started=1000.0) for ref in refs}

    def read_logs(self, cursors, sources):
        self.calls.append("read_logs")
        return {ref: LogPage([LogLine("script", "line")], cursor) for ref, cursor in cursors.items()}

    def stop(self, ref):
        self.calls.append("stop")


@pytest.mark.parametrize("raws", [["RUNNING", "error", "SUCCEEDED"], ["RUNNING", "FAILED"]])
def test_both_drivers_bring_the_same_outcome(raws, monkeypatch, set_clock):
    """The worker and the triggerer obey the same steps."""
    monkeypatch.setattr("airflow_provider_glueray.core.watcher.Watcher.pause", lambda self, seconds: asyncio.sleep(0))
    set_clock(lambda: 1000.0, lambda seconds: None)
    log = logging.getLogger("both")
    policy = FollowPolicy(poll_interval=0.01, min_poll_interval=0.01, waits=Waits(drain=2))
    blocking, awaited = Backend(list(raws)), Backend(list(raws))
    first = run_sync(follow(REF, policy), blocking, REF, log)

    async def wait() -> Outcome:
        async with watching("both", lambda: awaited) as watcher:
            return await run_async(follow(REF, policy), watcher, REF, log)

    assert asyncio.run(wait()) == first
    assert awaited.calls == blocking.calls


def test_what_the_log_reports_is_carried_home():
    """Also when it is many; the last ones stay. JSON both ways, as for the trigger."""
    told = [f'glueray-report: {{"rows": {number}}}' for number in range(150)]
    hand = Hand([seen("RUNNING"), seen("SUCCEEDED")], [["words", *told[:80]], told[80:]])

    outcome = hand.play(FollowPolicy())

    assert [report["rows"] for report in outcome.reports] == list(range(50, 150))
    assert Outcome.from_json(json.loads(json.dumps(outcome.to_json()))).reports == tuple(outcome.reports)


@pytest.mark.parametrize(("pages", "goes_on"), [(3, False), (500, True)])
def test_a_log_that_goes_on_after_its_run(pages, goes_on):
    """It is read for a minute, and what is left over is not left out without a word."""
    hand = Hand([seen("RUNNING"), seen("SUCCEEDED")], [["line"]] * pages)
    hand.play(FollowPolicy())

    told = [step.message for step in hand.of(Log) if "goes on" in step.message]
    assert told == ["The log goes on 60 seconds after the run has ended; the rest is at the service only"] * goes_on


def ends(raw: str, *held: bool) -> list[RunSnapshot]:
    """Return snapshots of a run that ends, and of what it holds then."""
    return [seen("RUNNING"), *(seen(raw)._replace(is_held=each) for each in held)]


@pytest.mark.parametrize("raw", ["FAILED", "STOPPED"])
def test_no_verdict_while_something_of_it_may_run(raw):
    """Its log is read first, and then what it holds is taken away and waited for: a retry must not run beside it."""
    hand = Hand(ends(raw, True, True, True, False), [["live"], ["last"]])
    outcome = hand.play(FollowPolicy())

    assert outcome.snapshot.state is RunState[raw]
    assert not outcome.snapshot.is_held
    assert len(hand.of(Stop)) == 1
    asked = [type(step) for step in hand.asked]
    assert ReadLogs not in asked[asked.index(Stop) :]
    assert asked[asked.index(Stop) :] == [Stop, Poll, Poll, Poll]


def test_a_success_is_told_at_once():
    """Its driver has ended; what it still holds is taken away, and nobody waits for it."""
    hand = Hand(ends("SUCCEEDED", True), [["last"]])
    outcome = hand.play(FollowPolicy())

    assert outcome.snapshot.state is RunState.SUCCEEDED
    assert isinstance(hand.asked[-1], Stop)


def test_what_cannot_be_taken_away_is_asked_for_again():
    """Said once and not each time, and there is still no verdict."""
    hand = Hand(ends("FAILED", *[True] * 30, False), stop_error=OSError("denied"))
    outcome = hand.play(FollowPolicy(sources=()))

    assert outcome.snapshot.state is RunState.FAILED
    assert len(hand.of(Stop)) > 5
    assert len([step for step in hand.of(Log) if "could not be taken away: denied" in step.message]) == 2  # 1st, 10th


def test_the_run_of_somebody_else_is_left_alone():
    """A sensor tells how it has ended, and takes nothing away."""
    hand = Hand(ends("FAILED", True), [["last"]])

    assert hand.play(FollowPolicy(owns_run=False)).snapshot.state is RunState.FAILED
    assert hand.of(Stop) == []
