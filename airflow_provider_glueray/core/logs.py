"""The log of a run: its sources, lines, pages, and its end."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
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
