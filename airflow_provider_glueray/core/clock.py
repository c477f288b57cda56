"""The clock by which the life of a run is reckoned.

The life of a run is timed and waits here, so that a test can replace the clock.
"""

from __future__ import annotations

import time


def now() -> float:
    """Return epoch seconds."""
    return time.time()


def sleep(seconds: float) -> None:
    """Hold this thread up."""
    time.sleep(seconds)
