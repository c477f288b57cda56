"""The lines of the demo: when it says something, and what it says when it has been silent."""

from __future__ import annotations

from threading import Event

import pytest

from demo.progress import SILENCE_SECONDS, Progress


class Clock:
    """Seconds that pass when a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def progress(clock: Clock, lines: list[str]) -> Progress:
    return Progress(lines.append, clock)


def test_a_line_has_the_seconds_since_the_start(progress: Progress, clock: Clock, lines: list[str]) -> None:
    """Whole seconds, in a column for as long as a demo may take."""
    progress.say("starting")
    clock.now += 42.4
    progress.say("running")
    assert lines == ["demo:   0 s: starting", "demo:  42 s: running"]


def test_it_reminds_after_silence_only(progress: Progress, clock: Clock, lines: list[str]) -> None:
    """Every line, a reminder too, begins the ten seconds anew; what is waited for is asked for only when it is due."""
    asked = []

    def what() -> str:
        asked.append(clock.now)
        return "a run"

    progress.say("starting")
    for _ in range(25):
        clock.now += 1
        progress.remind(what)
    assert lines[1:] == ["demo:  10 s: waiting for a run", "demo:  20 s: waiting for a run"]
    assert asked == [1010, 1020]


def test_a_block_that_says_nothing_is_reminded_of(clock: Clock) -> None:
    """What blocks is reminded of beside it, and after it nothing more is said."""
    said = Event()
    progress = Progress(lambda line: said.set() if line.endswith("waiting for Ray's nodes") else None, clock)
    with progress.waiting_for("Ray's nodes"):
        clock.now += SILENCE_SECONDS
        assert said.wait(120)
    said.clear()
    clock.now += SILENCE_SECONDS
    assert not said.wait(0.2)
