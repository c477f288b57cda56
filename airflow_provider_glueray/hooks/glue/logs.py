"""The eight CloudWatch log groups of Glue for Ray, read for many runs at once.

One FilterLogEvents answers for every run of a job: stream names begin with ``<job>-<run id>``
(dg/troubleshooting-ray, ray-project/deltacat#202), so the prefix ``<job>-jr_`` finds them all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from botocore.exceptions import ClientError

from airflow_provider_glueray.core.logs import LogCursor, LogLine, LogPage
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
#: How far behind the newest event to look again: CloudWatch may deliver nodes' events out of order.
OVERLAP_MS = 10_000
#: Pages of up to 10,000 events taken by one read; the rest comes with the next.
MOST_PAGES = 20

_RUN_ID = re.compile(r"jr_[0-9a-f]+")


def read_logs(client: Any, cursors: Mapping[RunRef, LogCursor], sources: Sequence[str]) -> dict[RunRef, LogPage]:
    """Return what is new for each run since its cursor, oldest first.

    :param client: a CloudWatch Logs client.
    :param cursors: runs of one or several jobs.
    :raises ClientError: except for a group or stream that does not exist yet, which is empty.
    """
    fresh: dict[RunRef, list[tuple[int, str, LogLine]]] = {ref: [] for ref in cursors}
    for name in {ref.name for ref in cursors}:
        wanted = {ref.id: ref for ref in cursors if ref.name == name}
        prefix = f"{name}-{next(iter(wanted)) if len(wanted) == 1 else 'jr_'}"
        since = min(cursors[ref].since_ms for ref in wanted.values())
        for source in sources:
            for event in _events(client, GROUPS[source], prefix, since):
                stream = event["logStreamName"].removeprefix(f"{name}-")
                found = _RUN_ID.match(stream)
                ref = wanted.get(found[0]) if found else None
                if ref is None or event["timestamp"] < cursors[ref].since_ms or event["eventId"] in cursors[ref].seen:
                    continue
                node = stream[len(ref.id) :].strip("-_.")
                fresh[ref] += [
                    (event["timestamp"], event["eventId"], LogLine(source, text, node))
                    for text in event["message"].splitlines() or [""]
                ]
    return {ref: _page(cursors[ref], events) for ref, events in fresh.items()}


def _events(client: Any, group: str, prefix: str, since_ms: int) -> list[dict[str, Any]]:
    request = {"logGroupName": group, "logStreamNamePrefix": prefix, "startTime": since_ms}
    pages = client.get_paginator("filter_log_events").paginate(**request)
    events: list[dict[str, Any]] = []
    try:
        for page in islice(pages, MOST_PAGES):
            events += page["events"]
    except ClientError as error:
        # Groups and streams appear with their first record.
        if error.response["Error"]["Code"] != "ResourceNotFoundException":
            raise
    return events


def _page(cursor: LogCursor, events: list[tuple[int, str, LogLine]]) -> LogPage:
    if not events:
        return LogPage((), cursor)
    events.sort(key=lambda event: event[0])
    since = max(events[-1][0] - OVERLAP_MS, cursor.since_ms)
    # Ids carried over may stand before `since` by now; they cost little and are gone with the next overlap.
    seen = frozenset(event_id for at, event_id, _ in events if at >= since)
    if since == cursor.since_ms or since <= cursor.since_ms + OVERLAP_MS:
        seen |= cursor.seen
    return LogPage([line for _, _, line in events], LogCursor(since, seen))
