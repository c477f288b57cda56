"""The log of a run on a Ray cluster, read on from where it was left.

Ray cannot serve a log from an offset on, so the bytes that were shown already are read again and
dropped, unless the end of the log is what it was; docs/ray.md has what was measured of the ways there are.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from airflow_provider_glueray.core.errors import SubmitError
from airflow_provider_glueray.core.logs import SCRIPT, LogCursor, LogLine, LogPage

#: The most bytes of new lines taken by one read; the rest comes with the next.
LOG_BYTES = 8 * 1024 * 1024
#: Seconds that one read may take.
READ_SECONDS = 30.0
#: Bytes of a log from which on its end is looked at first, and how many lines of it.
LARGE, END_LINES = 256 * 1024, 100
#: Before #46556 of ray-project/ray each piece of a log (BLOCK_SIZE of its log_agent.py) has this before it if all is
#: well, and another byte if what follows are the words of an error.
OK_BYTE, CHUNK_SIZE = b"1", 1 << 16
#: What ends a line. A carriage return at the end of what there is may be the first half of the two.
_ENDS = re.compile(r"\r\n|\n|\r")


class LogOffset(NamedTuple):
    """How far a log was shown, in bytes, where the log is, and what its end was then.

    :param node: the id of the driver's node; empty while it is not known.
    :param end: by :func:`mark_of`; empty while more is left, or where it tells nothing.
    """

    shown: int = 0
    node: str = ""
    end: str = ""

    @classmethod
    def of(cls, cursor: LogCursor) -> LogOffset:
        """Read from a cursor."""
        text = next(iter(cursor.seen), "")
        if not text:
            return cls()
        shown, node, end = text.split("/")
        return cls(int(shown), node, end)

    def to_cursor(self) -> LogCursor:
        """Write to a cursor."""
        return LogCursor(seen=frozenset({f"{self.shown}/{self.node}/{self.end}"}))


def tail_digest(pieces: Iterable[bytes]) -> str:
    """Return a digest of the last lines of a log: as long as it stays, the log has not grown.

    Empty for lines that repeat themselves: with more of them the end would be the same; and for very long ones. A log
    that says all of these lines once more, word for word, has the same client token too, so a run that is over is read
    without asking for it.
    """
    end = bytearray()
    for piece in pieces:
        end += piece
        if len(end) > LARGE:
            return ""
    begins = (found.end() for found in re.finditer(rb"\n", end))
    if any(at < len(end) and end.startswith(end[at:]) for at in begins):
        return ""
    return hashlib.blake2b(end, digest_size=8).hexdigest()


def lines_after(pieces: Iterable[bytes], offset: LogOffset, *, to_end: bool, end: str = "") -> LogPage:
    """Return the lines after an offset, whole ones only unless the run is over.

    :param pieces: of the whole log; no more of it is taken than is needed.
    :param to_end: whether the run is over.
    :param end: the digest of the log's end, as it was before.
    :raises SubmitError: the log did not come in time, or the run is over and not even what is known came.
    """
    new, size, is_all = _after(pieces, offset.shown)
    if size < offset.shown:
        if to_end:  # nobody may take this for the end of the log
            raise SubmitError(f"The answer was cut short: {size} bytes of a log that had {offset.shown} before")
        return LogPage((), offset.to_cursor())  # it says nothing of how the log ends
    length = len(new) if is_all and to_end else max(new.rfind(b"\n"), new.rfind(b"\r", 0, max(len(new) - 1, 0))) + 1
    if not length and not is_all:
        length = _whole(new)  # a line longer than a read takes is shown in parts, or it would never be
    lines = [LogLine(SCRIPT, text) for text in _texts(new[:length])]
    return LogPage(lines, LogOffset(offset.shown + length, offset.node, end if is_all else "").to_cursor())


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


def strip_status_bytes(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Remove the status bytes that older Rays put before each chunk of a log.

    :raises SubmitError: a status byte says that an error message follows.
    """
    left, words = 0, None
    for piece in pieces:
        rest = memoryview(piece)
        while rest and words is None:
            if left:
                yield bytes(rest[:left])
                left, rest = max(left - len(rest), 0), rest[left:]
            else:
                left, words = CHUNK_SIZE, None if rest[:1] == OK_BYTE else bytearray()
                rest = rest[1:]
        if words is not None:
            words += rest
    if words is not None:
        raise SubmitError(f"Ray could not read the log: {words.decode(errors='replace')[:500]}")
