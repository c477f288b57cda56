"""The eight CloudWatch log groups of Glue for Ray, read for many runs at once.

One FilterLogEvents answers for every run of a job: stream names begin with ``<job>-<run id>``
(dg/troubleshooting-ray, ray-project/deltacat#202), so the prefix ``<job>-jr_`` finds them all.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

from airflow_provider_glueray.core.logs import LogCursor, LogLine, LogPage, LogPlace, cursor_at, places_of
from airflow_provider_glueray.core.runs import RunRef

#: Source to log group. Source of the names: dg/troubleshooting-ray.
GROUPS = {
    "script": "/aws-glue/ray/jobs/script-log",
    "worker-out": "/aws-glue/ray/jobs/ray-worker-out-logs",
    "worker-err": "/aws-glue/ray/jobs/ray-worker-err-logs",
    "runtime-env": "/aws-glue/ray/jobs/ray-runtime-env-log",
    "monitor": "/aws-glue/ray/jobs/ray-monitor-log",
    "gcs": "/aws-glue/ray/jobs/ray-gcs-logs",
    "raylet": "/aws-glue/ray/jobs/ray-raylet-logs",
    "process": "/aws-glue/ray/jobs/ray-process-logs",
}
#: How far behind the newest event of a run to look again: CloudWatch may deliver nodes' events out of order.
OVERLAP_MS = 10_000
#: The same for a run that has had no event yet, behind the newest of others: what it has printed may come late.
LATE_MS = 300_000
#: Pages with something new taken by one read, of up to 10,000 events each; the rest comes with the next.
MOST_PAGES = 20
#: The most events of a run and a source that are remembered, so that none is shown twice.
MOST_SEEN = 2_000

_RUN_ID = re.compile(r"jr_[0-9a-f]+")


class _Found(NamedTuple):
    """What a search has found: new events by run id, the time of the newest of all, whether there are more."""

    events: Mapping[str, Sequence[Mapping[str, Any]]]
    newest_ms: int
    is_cut: bool


def read_logs(client: Any, cursors: Mapping[RunRef, LogCursor], sources: Sequence[str]) -> dict[RunRef, LogPage]:
    """Return what is new for each run since its cursor, oldest first.

    The runs of a job are read together. One that has ended without a line is read alone, from its beginning: what a
    script prints, Glue hands over at the end, and when it says that this was is not documented.

    :param client: a CloudWatch Logs client.
    :param cursors: runs of one or several jobs.
    :raises ClientError: except for a group or stream that does not exist yet, which is empty.
    """
    fresh: dict[RunRef, list[tuple[int, LogLine]]] = {ref: [] for ref in cursors}
    places = {ref: places_of(cursor, sources) for ref, cursor in cursors.items()}
    for name in dict.fromkeys(ref.name for ref in cursors):
        for source in sources:
            mine = [ref for ref in cursors if ref.name == name]
            alone = [ref for ref in mine if cursors[ref].to_end and places[ref][source].is_silent]
            for ref in alone:
                places[ref][source] = LogPlace(cursors[ref].since_ms)
            for refs in filter(None, ([ref for ref in mine if ref not in alone], *([ref] for ref in alone))):
                at = {ref: places[ref][source] for ref in refs}
                found = _search(client, GROUPS[source], name, at)
                for ref, place in at.items():
                    lines, places[ref][source] = _new_lines(found, ref, place, source)
                    fresh[ref] += lines
    return {
        ref: LogPage([line for _, line in sorted(fresh[ref], key=_time)], cursor_at(cursor, places[ref]))
        for ref, cursor in cursors.items()
    }


def _time(line: tuple[int, LogLine]) -> int:
    return line[0]


def _search(client: Any, group: str, name: str, places: Mapping[RunRef, LogPlace]) -> _Found:
    """Look for new events of a job's runs, from the earliest place on."""
    prefix = f"{name}-{next(iter(places)).id if len(places) == 1 else 'jr_'}"
    since = min(place.since_ms for place in places.values())
    pages = client.get_paginator("filter_log_events").paginate(
        logGroupName=group, logStreamNamePrefix=prefix, startTime=since
    )
    events: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    by_id = {ref.id: place for ref, place in places.items()}
    newest, taken, more = 0, 0, ""
    try:
        for page in pages:
            before = sum(map(len, events.values()))
            for event in page["events"]:
                newest = max(newest, event["timestamp"])
                run = _RUN_ID.match(event["logStreamName"].removeprefix(f"{name}-"))
                place = by_id.get(run[0]) if run else None
                if run and place and event["timestamp"] >= place.since_ms and event["eventId"] not in place.seen:
                    events[run[0]].append(event)
            more = page.get("nextToken", "")
            # A page of what was seen already does not count: there may be more of it than one read takes.
            taken += sum(map(len, events.values())) > before
            if taken == MOST_PAGES:
                break
    except ClientError as error:
        # Groups and streams appear with their first record.
        if error.response["Error"]["Code"] != "ResourceNotFoundException":
            raise
    return _Found(events, newest, bool(more))


def _new_lines(found: _Found, ref: RunRef, place: LogPlace, source: str) -> tuple[list[tuple[int, LogLine]], LogPlace]:
    """Return the lines of a run that are new among what was found, and its place after them."""
    lines, keys = [], {}
    for event in found.events.get(ref.id, ()):
        at = keys[event["eventId"]] = event["timestamp"]
        node = event["logStreamName"].removeprefix(f"{ref.name}-{ref.id}").strip("-_.")
        lines += [(at, LogLine(source, text, node)) for text in event["message"].splitlines() or [""]]
    # Up to the newest one of a search that was cut off everything was seen, also of a run that had nothing there.
    newest = max(keys.values(), default=0)
    behind = OVERLAP_MS if newest or found.is_cut else LATE_MS
    return lines, place.advance(keys, (newest or found.newest_ms) - behind, MOST_SEEN)
