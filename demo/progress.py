"""What the demo says while it runs: what it does, and after some silence what it waits for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Seconds after the last line in which nobody wonders whether anything is going on.
SILENCE_SECONDS = 10.0


def _print(line: str) -> None:
    print(line, flush=True)


class Progress:
    """Plain lines with the seconds since the start: for terminals and for the logs of CI.

    :param write: takes each line.
    :param clock: seconds on a clock that never goes back.
    """

    def __init__(self, write: Callable[[str], None] = _print, clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._begun = self._last = clock()
        self._lock = threading.Lock()

    @property
    def seconds(self) -> float:
        """The time since the start."""
        return self._clock() - self._begun

    def say(self, text: str) -> None:
        """Write a line."""
        with self._lock:
            self._last = self._clock()
            self._write(f"demo: {self.seconds:3.0f} s: {text}")

    def remind(self, what: Callable[[], str]) -> None:
        """Write what is waited for, if nothing was written for ten seconds; call it as often as you like."""
        if self._clock() - self._last >= SILENCE_SECONDS:
            self.say(f"waiting for {what()}")

    @contextmanager
    def waiting_for(self, what: str) -> Iterator[None]:
        """Remind of one thing during a block that cannot do it itself."""
        over = threading.Event()

        def remind() -> None:
            while not over.wait(0.2):
                self.remind(lambda: what)

        thread = threading.Thread(target=remind, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
