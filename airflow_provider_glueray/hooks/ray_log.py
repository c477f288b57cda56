"""The log of a run on a Ray cluster, read on from where it was left.

Floor 2. Ray has no way to ask for a log from a place on, so the bytes that were shown already are read again and
dropped; docs/ray.md has what was measured of the ways there are.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from airflow_provider_glueray.errors import SubmitError
from airflow_provider_glueray.runs import SCRIPT, LogCursor, LogLine, LogPage

#: The most bytes of new lines taken by one read; the rest comes with the next.
LOG_BYTES = 8 * 1024 * 1024
#: Seconds that one read may take.
READ_SECONDS = 30.0
#: Before #46556 of ray-project/ray each piece of a log (BLOCK_SIZE of its log_agent.py) has this before it if all is
#: well, and another byte if what follows are the words of an error.
WELL, PIECE = b"1", 1 << 16
#: What ends a line. A carriage return at the end of what there is may be the first half of the two.
_ENDS = re.compile(r"\r\n|\n|\r")


class Place(NamedTuple):
    """How far a log was shown, in bytes, whether an unended line was left over, and where the log is.

    :param node: the id of the driver's node; empty while it is not known.
    """

    shown: int = 0
    is_inside_line: bool = False
    node: str = ""

    @classmethod
    def of(cls, cursor: LogCursor) -> Place:
        """Read from a cursor."""
        text = next(iter(cursor.seen), "")
        if not text:
            return cls()
        shown, is_inside_line, node = text.split("/")
        return cls(int(shown), is_inside_line == "1", node)

    def to_cursor(self) -> LogCursor:
        """Write to a cursor."""
        return LogCursor(seen=frozenset({f"{self.shown}/{int(self.is_inside_line)}/{self.node}"}))


def page_of(pieces: Iterable[bytes], place: Place, *, is_over: bool) -> LogPage:
    """Return the lines after a place, whole ones only unless the run is over.

    :param pieces: of the whole log; no more of it is taken than is needed.
    :raises SubmitError: the log did not come in time.
    """
    new, size, is_all = _after(pieces, place.shown)
    if size < place.shown:
        return LogPage((), place.to_cursor())  # an answer that was cut short says nothing of how the log ends
    end = len(new) if is_all and is_over else max(new.rfind(b"\n"), new.rfind(b"\r", 0, max(len(new) - 1, 0))) + 1
    if not end and not is_all:
        end = _whole(new)  # a line longer than a read takes is shown in parts, or it would never be
    lines = [LogLine(SCRIPT, text) for text in _texts(new[:end])]
    return LogPage(lines, place._replace(shown=place.shown + end, is_inside_line=end < len(new)).to_cursor())


def _after(pieces: Iterable[bytes], shown: int) -> tuple[bytes, int, bool]:
    """Return what comes after the first bytes, as much as one read takes; how much was read; whether that was all."""
    new, size, deadline = bytearray(), 0, time.monotonic() + READ_SECONDS
    for piece in pieces:
        new += piece[max(shown - size, 0) :]
        size += len(piece)
        if len(new) >= LOG_BYTES:
            return bytes(new[:LOG_BYTES]), size, False
        if time.monotonic() > deadline:
            raise SubmitError(f"The log did not come within {READ_SECONDS:.0f} seconds; {size} bytes of it did")
    return bytes(new), size, True


def _whole(content: bytes) -> int:
    """Return how much of it can be cut off without cutting a character of UTF-8 in two."""
    lead = next((at for at in range(1, 5) if content[-at] & 0xC0 != 0x80), 1)
    return len(content) - (lead if content[-lead] >= 0xC0 else 0)


def _texts(content: bytes) -> Sequence[str]:
    texts = _ENDS.split(content.decode(errors="replace"))
    return texts if texts[-1] else texts[:-1]


def unmarked(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Take the marks away that older Rays put before each piece of a log.

    :raises SubmitError: a mark says that what follows are the words of an error.
    """
    left, words = 0, None
    for piece in pieces:
        rest = memoryview(piece)
        while rest and words is None:
            if left:
                yield bytes(rest[:left])
                left, rest = max(left - len(rest), 0), rest[left:]
            else:
                left, words = PIECE, None if rest[:1] == WELL else bytearray()
                rest = rest[1:]
        if words is not None:
            words += rest
    if words is not None:
        raise SubmitError(f"Ray could not read the log: {words.decode(errors='replace')[:500]}")
