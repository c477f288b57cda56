"""The log of a run: its sources, lines, pages, and its end."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

#: Where a log line came from. SCRIPT is the driver: what the user wrote to stdout and stderr.
SCRIPT = "script"


#: All sources there are: the driver, and what each part of the cluster writes.
LOG_SOURCES = (SCRIPT, "worker-out", "worker-err", "runtime-env", "monitor", "gcs", "raylet", "process")


#: Read as well when a run has failed; each only adds to the picture, the script's log tells the story.
FAILURE_SOURCES = ("worker-err", "worker-out", "runtime-env", "monitor")


class LogLine(NamedTuple):
    """One line. ``node`` is the address of the machine where the service tells it, else empty."""

    source: str
    text: str
    node: str = ""

    def __str__(self) -> str:
        return f"[{self.source}{' ' + self.node if self.node else ''}] {self.text}"


class LogCursor(NamedTuple):
    """How far a log was read: from ``since_ms`` (epoch milliseconds) on, but not the events in ``seen``.

    ``to_end`` asks for all there is: the run is over, so a line that has not ended will not, and nothing may be put
    off. It belongs to one read and is not kept.
    """

    since_ms: int = 0
    seen: frozenset[str] = frozenset()
    to_end: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"since_ms": self.since_ms, "seen": sorted(self.seen)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LogCursor:
        """Rebuild from :meth:`to_json`."""
        return cls(since_ms=value["since_ms"], seen=frozenset(value["seen"]))


class LogPlace(NamedTuple):
    """How far one of several logs was read that share a cursor: each source has a place of its own.

    :param since_ms: as in :class:`LogCursor`.
    :param seen: the keys of lines from ``since_ms`` on that were read, each with its time in epoch milliseconds.
    :param is_silent: whether it has had no line so far.
    """

    since_ms: int
    seen: Mapping[str, int] = MappingProxyType({})
    is_silent: bool = True

    def advance(self, lines: Mapping[str, int], since_ms: int, most: int) -> LogPlace:
        """Return the place after a read.

        :param lines: the keys and times of those that were new.
        :param since_ms: from when on to look again; never back.
        :param most: the most lines that are remembered, but for those of one millisecond.
        """
        since = max(self.since_ms, since_ms)
        seen = {key: at for key, at in {**self.seen, **lines}.items() if at >= since}
        if len(seen) > most:
            # A log that runs fast is looked over again by lines, not by time, so that the cursor stays small.
            since = sorted(seen.values())[-most]
            seen = {key: at for key, at in seen.items() if at >= since}
        return LogPlace(since, seen, self.is_silent and not lines)


#: What tells a place that has had lines, and one that has had none, from the keys of lines.
_HEARD, _SILENT = "@", "-"


def places_of(cursor: LogCursor, sources: Iterable[str]) -> dict[str, LogPlace]:
    """Return the places of sources in a cursor; one that was never read begins where the cursor does."""
    known: dict[str, tuple[int, bool]] = dict.fromkeys(sources, (cursor.since_ms, True))
    seen: dict[str, dict[str, int]] = {source: {} for source in known}
    for each in cursor.seen:
        source, _, rest = each.partition(" ")
        if source not in known:
            continue
        if rest[0] in _HEARD + _SILENT:
            known[source] = (int(rest[1:]), rest[0] == _SILENT)
        else:
            at, _, key = rest.partition(" ")
            seen[source][key] = int(at)
    return {source: LogPlace(since, seen[source], is_silent) for source, (since, is_silent) in known.items()}


def cursor_at(cursor: LogCursor, places: Mapping[str, LogPlace]) -> LogCursor:
    """Return a cursor with these places; those of sources that are not among them stay."""
    kept = {each for each in cursor.seen if each.partition(" ")[0] not in places}
    for source, place in places.items():
        kept.add(f"{source} {_SILENT if place.is_silent else _HEARD}{place.since_ms}")
        kept |= {f"{source} {at} {key}" for key, at in place.seen.items()}
    return LogCursor(cursor.since_ms, frozenset(kept))


class LogPage(NamedTuple):
    """The lines that are new since a cursor, and the cursor to use next time."""

    lines: Sequence[LogLine]
    cursor: LogCursor


class LogTail:
    """The end of a log in bounded memory: at most 200 lines of at most 1,000 characters."""

    __slots__ = ("_lines",)

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=200)

    def add(self, texts: Iterable[str]) -> None:
        """Remember lines."""
        self._lines.extend(text[:1000] for text in texts)

    def lines(self, most: int = 30) -> tuple[str, ...]:
        """Return the last traceback, else the last lines; at most ``most``.

        Not simply the last lines: Glue appends what the script printed only after the run, so the
        traceback that explains a failure need not stand at the end.
        """
        lines = list(self._lines)
        begins = [i for i, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
        if not begins:
            return tuple(lines[-most:])
        end = begins[-1] + 1
        # Frames are indented and a message follows; Ray nests a second such pair: the remote traceback.
        while (after := next((i for i in range(end, len(lines)) if not _indented(lines[i])), end)) > end:
            end = after + 1
        traceback = lines[begins[-1] : end]
        # The frame that raised and the message stand at the end, so a long traceback loses its middle.
        return tuple(traceback if len(traceback) <= most else [traceback[0], "  …", *traceback[2 - most :]])


def _indented(line: str) -> bool:
    return line.startswith((" ", "\t"))
