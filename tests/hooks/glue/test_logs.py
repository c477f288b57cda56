"""Each log source of each run has a place of its own: no line is lost, and none is shown twice.

FilterLogEvents is played as it is documented: events of streams with a prefix, from a time on, in the order of their
times, so many on a page.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_glueray.core.logs import LogCursor
from airflow_provider_glueray.core.runs import GLUE_JOB, RunRef
from airflow_provider_glueray.hooks.glue import logs
from airflow_provider_glueray.hooks.glue.logs import GROUPS, read_logs

BEGIN = 1_000_000_000_000
SOURCES = ("script", "worker-out", "monitor")


def ref(number: int) -> RunRef:
    return RunRef(GLUE_JOB, "nightly", f"jr_{number:04x}")


class Service:
    """What CloudWatch holds, and a client of it."""

    def __init__(self, per_page: int = 10) -> None:
        self.per_page = per_page
        self.pages = 0
        self._events: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._number = 0

    def write(self, run: RunRef, source: str, at: int) -> str:
        """Let a run log a line with a time, in milliseconds since the beginning; return the line."""
        self._number += 1
        text = f"{run.id} {source} {self._number}"
        event = {"logStreamName": f"{run.name}-{run.id}", "timestamp": BEGIN + at, "eventId": f"{self._number:056}"}
        self._events[GROUPS[source]].append({**event, "message": text})
        return text

    def get_paginator(self, operation: str) -> Service:
        assert operation == "filter_log_events"
        return self

    def paginate(self, logGroupName: str, logStreamNamePrefix: str, startTime: int) -> Iterator[dict[str, Any]]:  # noqa: N803
        found = [
            event
            for event in self._events[logGroupName]
            if event["logStreamName"].startswith(logStreamNamePrefix) and event["timestamp"] >= startTime
        ]
        found.sort(key=lambda event: event["timestamp"])
        for begin in range(0, max(len(found), 1), self.per_page):
            self.pages += 1
            more = {"nextToken": "t"} if begin + self.per_page < len(found) else {}
            yield {"events": found[begin : begin + self.per_page], **more}


class Reader:
    """Reads the logs of runs, as somebody who follows them, and remembers what was shown."""

    def __init__(self, service: Service, runs: list[RunRef], sources: tuple[str, ...] = SOURCES) -> None:
        self.service, self.sources = service, sources
        self.cursors = {run: LogCursor(BEGIN) for run in runs}
        self.shown: dict[RunRef, list[str]] = {run: [] for run in runs}

    def read(self, *ended: RunRef) -> None:
        asked = {run: cursor._replace(to_end=run in ended) for run, cursor in self.cursors.items()}
        for run, page in read_logs(self.service, asked, self.sources).items():
            self.shown[run] += [line.text for line in page.lines]
            self.cursors[run] = LogCursor.from_json(json.loads(json.dumps(page.cursor.to_json())))

    def read_to_end(self) -> None:
        """Read until nothing comes any more."""
        before = None
        while before != self.shown:
            before = {run: list(lines) for run, lines in self.shown.items()}
            self.read(*self.cursors)


@pytest.fixture(autouse=True)
def few_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a hundred lines are what hundreds of thousands are there."""
    monkeypatch.setattr(logs, "MOST_PAGES", 3)


def test_a_silent_run_silences_no_other():
    """It reads from the beginning, and there may be more between then and now than one read takes."""
    service, runs = Service(), [ref(1), ref(2)]
    reader, written = Reader(service, runs), []
    for poll in range(200):
        written += [service.write(runs[0], "script", poll * 10_000 + n * 1_000) for n in range(8)]
        reader.read()
    assert reader.shown == {runs[0]: written, runs[1]: []}
    late = [service.write(runs[1], "script", n * 1_000) for n in range(50)]  # it has printed, long ago
    reader.read_to_end()

    assert reader.shown == {runs[0]: written, runs[1]: late}


def test_a_silent_run_costs_no_search_of_everything():
    """Only of the last minutes, in which its lines may still come."""
    service, runs = Service(per_page=100), [ref(1), ref(2)]
    reader = Reader(service, runs, ("script",))
    for poll in range(200):
        for n in range(8):
            service.write(runs[0], "script", poll * 10_000 + n * 1_000)
        service.pages = 0
        reader.read()

    assert service.pages <= 3  # of the 16 that there are


def test_a_source_that_is_cut_off_loses_nothing():
    """The other one is ahead of it, and is not waited for."""
    service, run = Service(), ref(1)
    reader = Reader(service, [run], ("script", "worker-out"))
    written = [service.write(run, "script", n * 1_000) for n in range(500)]
    written.append(service.write(run, "worker-out", 3_600_000))
    reader.read_to_end()

    assert sorted(reader.shown[run]) == sorted(written)
    assert [text for text in reader.shown[run] if "script" in text] == written[:-1]


@pytest.mark.parametrize("milliseconds", [0, 1, 250])
def test_a_cursor_stays_small(monkeypatch, milliseconds):
    """It is written to Airflow's database, again and again; but for lines of one millisecond."""
    monkeypatch.setattr(logs, "MOST_SEEN", 50)
    service, run = Service(), ref(1)
    reader, written = Reader(service, [run], ("script",)), []
    for poll in range(100):
        written += [service.write(run, "script", poll * 5_000 + n * milliseconds) for n in range(20)]
        reader.read()
        assert len(reader.cursors[run].seen) <= 50 + 20
    reader.read_to_end()
    assert reader.shown[run] == written


def test_a_flood_within_a_millisecond():
    """What a script has printed is handed over at once; that is more than one read takes."""
    service, run = Service(), ref(1)
    reader = Reader(service, [run], ("script",))
    written = [service.write(run, "script", 5_000) for _ in range(500)]
    reader.read_to_end()

    assert reader.shown[run] == written


#: Who writes to which source: how much later than the one before, and how late it arrives.
WRITES = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(SOURCES), st.integers(0, 3_000), st.integers(0, 9_000), st.booleans()),
    max_size=120,
)


@given(WRITES, st.integers(1, 20))
def test_every_line_once(writes, per_page):
    """Whatever is written when, as long as it comes no later than ten seconds behind others of its run."""
    service, runs = Service(per_page), [ref(number) for number in range(3)]
    reader, written, now = Reader(service, runs), defaultdict(list), 10_000
    for number, source, later, behind, is_read in writes:
        now += later
        written[runs[number]].append(service.write(runs[number], source, now - behind))
        if is_read:
            reader.read()
    reader.read_to_end()

    assert {run: sorted(lines) for run, lines in reader.shown.items()} == {run: sorted(written[run]) for run in runs}
