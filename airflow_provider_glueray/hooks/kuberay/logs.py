"""The logs of pods, read in pieces, each line once; and how far a run's logs were read, its driver's among them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple

from kubernetes.client.exceptions import ApiException  # type: ignore[import-untyped]

from airflow_provider_glueray.core.logs import LogCursor, LogLine, LogPage, LogPlace, cursor_at, places_of
from airflow_provider_glueray.hooks.kuberay.errors import kubernetes_errors
from airflow_provider_glueray.hooks.kuberay.manifests.pods import HEAD, ROLE
from airflow_provider_glueray.hooks.kuberay.status import time_of

#: The most bytes of a log taken by one read; the rest comes with the next.
LOG_BYTES = 4 * 1024 * 1024
#: Seconds to connect, and for an answer, which comes from the kubelet of the node.
READ_SECONDS = (3.0, 5.0)
#: How far behind the newest line to look again, and the most lines that are remembered for it.
OVERLAP_MS, MOST_SEEN = 2_000, 1_000
#: RFC 3339 with nine digits of a second, or fewer.
_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)")


class _Source(NamedTuple):
    """Where a log comes from: the part that a pod plays, and its container."""

    role: str
    container: str


#: The sources there are; the others are empty.
SOURCES = {
    "process": _Source(HEAD, HEAD),
    "monitor": _Source(HEAD, "autoscaler"),
}


#: What tells the position in the driver's log, which is Ray's, from those in the logs of pods.
_DRIVER = "driver "


def split_cursor(cursor: LogCursor) -> tuple[LogCursor, LogCursor]:
    """Return how far the driver's log was read, and how far those of pods."""
    driver = frozenset(each for each in cursor.seen if each.startswith(_DRIVER))
    of_driver = cursor._replace(seen=frozenset(each.removeprefix(_DRIVER) for each in driver))
    return of_driver, cursor._replace(seen=cursor.seen - driver)


def join_cursor(driver: LogCursor, pods: LogCursor) -> LogCursor:
    """Return one cursor for both; see :func:`split_cursor`."""
    return pods._replace(seen=pods.seen | {f"{_DRIVER}{each}" for each in driver.seen})


class PodLogs:
    """What pods of one namespace have printed.

    :param client: an ``ApiClient`` of the cluster.
    """

    def __init__(self, client: Any, namespace: str) -> None:
        self._client = client
        self._namespace = namespace

    def page(self, pods: Sequence[Mapping[str, Any]], cursor: LogCursor, sources: Sequence[str]) -> LogPage:
        """Return what is new in the logs of pods that belong together."""
        places, fresh = places_of(cursor, sources), []
        for source, place in places.items():
            lines: dict[str, int] = {}
            for pod in pods:
                labels, name = pod["metadata"]["labels"], pod["metadata"]["name"]
                if labels.get(ROLE) == SOURCES[source].role and pod["status"].get("phase") != "Pending":
                    for at, key, text in self._fresh(name, source, place):
                        fresh.append((at, LogLine(source, text, name)))
                        lines[key] = at
            places[source] = place.advance(lines, max(lines.values(), default=0) - OVERLAP_MS, MOST_SEEN)
        fresh.sort(key=lambda each: each[0])
        return LogPage([line for _, line in fresh], cursor_at(cursor, places))

    def _fresh(self, pod: str, source: str, place: LogPlace) -> list[tuple[int, str, str]]:
        """Return the time, the key and the text of lines of a source that are new since a place."""
        most = LOG_BYTES
        while True:
            content = self._read(pod, SOURCES[source].container, place.since_ms, most)
            # What was cut off comes whole with the next read.
            whole = content if len(content) < most else content[: content.rfind(b"\n") + 1]
            fresh = [
                (at, f"{at}{key}", text)
                for at, key, text in _lines(whole)
                if at >= place.since_ms and f"{at}{key}" not in place.seen
            ]
            if fresh or len(content) < most:
                return fresh
            # The server tells seconds only, and in this one there is more than one read takes.
            most *= 8

    def _read(self, pod: str, container: str, since_ms: int, most: int) -> bytes:
        """Return the log of a container with times. One that has not begun, or is gone, has none."""
        query: list[tuple[str, Any]] = [("container", container), ("timestamps", "true"), ("limitBytes", most)]
        if since_ms:
            # The generated client knows sinceSeconds only, which depends on whose clock is right.
            query.append(
                ("sinceTime", datetime.fromtimestamp(since_ms // 1000, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"))
            )
        with kubernetes_errors(f"log of pod {self._namespace}/{pod}"):
            try:
                answer = self._client.call_api(
                    "/api/v1/namespaces/{namespace}/pods/{name}/log",
                    "GET",
                    path_params={"namespace": self._namespace, "name": pod},
                    query_params=query,
                    header_params={"Accept": "*/*"},
                    auth_settings=["BearerToken"],
                    _preload_content=False,
                    _request_timeout=READ_SECONDS,
                    _return_http_data_only=True,
                )
            except ApiException as error:
                if error.status not in (400, 404):
                    raise
                return b""
            return bytes(answer.data)


def _lines(content: bytes) -> Iterator[tuple[int, str, str]]:
    """Yield the time of each line (epoch milliseconds), what tells it from others of that time, and its text."""
    known: Counter[str] = Counter()
    for line in content.decode(errors="replace").split("\n"):
        stamp, _, text = line.partition(" ")
        found = _STAMP.fullmatch(stamp)
        # Where a log is gone, the kubelet writes a line without a time instead.
        if found is None:
            continue
        known[stamp] += 1
        moment = time_of(f"{found[1]}{found[3]}")
        fraction = found[2] or "0"
        yield int(moment) * 1000 + int(f"{fraction:0<3}"[:3]), f"{fraction}#{known[stamp]}", text
