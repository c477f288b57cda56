"""Logs of containers, in the format of container runtimes: a time, a stream, F or P for a whole line or a part, text.

A file is rotated at 10 MiB, and only the newest is served, as a real kubelet does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import IO

from tests.kubernetes.kubelet.moments import to_nanosecond

#: The kubelet's own ``containerLogMaxSize``, and the longest part of a line that a runtime writes down.
MOST_BYTES, MOST_LINE = 10 * 2**20, 16384


def copy(source: int, path: Path) -> None:
    """Write down what comes from a file descriptor, to its end."""
    file, rest = path.open("ab", buffering=0), b""
    try:
        while chunk := os.read(source, MOST_LINE):
            rest += chunk
            while b"\n" in rest or len(rest) >= MOST_LINE:
                line, end, after = rest.partition(b"\n")
                if not end or len(line) > MOST_LINE:
                    line, end, after = rest[:MOST_LINE], b"", rest[MOST_LINE:]
                file.write(_record(line, whole=bool(end)))
                rest = after
            if file.tell() > MOST_BYTES:
                file.close()
                path.rename(path.with_name(f"{path.name}.{time.time_ns()}"))
                file = path.open("ab", buffering=0)
        if rest:
            file.write(_record(rest, whole=True))
    finally:
        file.close()


def _record(text: bytes, *, whole: bool) -> bytes:
    return b"%s stdout %s %s\n" % (to_nanosecond().encode(), b"F" if whole else b"P", text)


@dataclass(frozen=True)
class Asked:
    """What of a log is asked for: the query of ``pods/log``."""

    follow: bool = False
    timestamps: bool = False
    since: str = ""
    tail: int | None = None
    limit: int | None = None

    @classmethod
    def of(cls, query: dict[str, str]) -> Asked:
        """Read a query."""
        since = query.get("sinceTime", "")
        if "sinceSeconds" in query:
            moment = datetime.now(timezone.utc) - timedelta(seconds=float(query["sinceSeconds"]))
            since = moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return cls(
            query.get("follow") == "true",
            query.get("timestamps") == "true",
            since,
            int(query["tailLines"]) if "tailLines" in query else None,
            int(query["limitBytes"]) if query.get("limitBytes") else None,
        )


def read(path: Path, asked: Asked, runs: Callable[[], bool]) -> Iterator[bytes]:
    """Yield what is asked for of a log.

    :param runs: tells whether more may come.
    """
    left = asked.limit
    for records in _follow(path, asked, runs):
        text = b"".join(_shown(record, asked) for record in records)
        if left is not None:
            text, left = text[:left], left - len(text)
        if text:
            yield text
        if left is not None and left <= 0:
            return


def _follow(path: Path, asked: Asked, runs: Callable[[], bool]) -> Iterator[list[bytes]]:
    """Yield records as they come, to the end of the file, or of the container."""
    file, rest, first = path.open("rb"), b"", True
    try:
        while True:
            more = runs()
            *records, rest = (rest + file.read()).split(b"\n")
            if first and asked.tail is not None:
                records = records[max(len(records) - asked.tail, 0) :]
            first = False
            yield records
            if not asked.follow or not more:
                return
            if _is_rotated(file, path):
                *records, _ = (rest + file.read()).split(b"\n")
                yield records
                file.close()
                file, rest = path.open("rb"), b""
            time.sleep(0.1)
    finally:
        file.close()


def _is_rotated(file: IO[bytes], path: Path) -> bool:
    return path.exists() and os.fstat(file.fileno()).st_ino != path.stat().st_ino


def _shown(record: bytes, asked: Asked) -> bytes:
    moment, _, kind, text = record.split(b" ", 3)
    if asked.since and _order(moment.decode()) < _order(asked.since):
        return b""
    return (moment + b" " if asked.timestamps else b"") + text + (b"\n" if kind == b"F" else b"")


def _order(moment: str) -> tuple[str, str]:
    """Return what orders times of any precision."""
    return moment[:19], (moment[20:].rstrip("Z") or "0").ljust(9, "0")
