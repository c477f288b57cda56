"""The clock by which the life of a run is reckoned.

Floor 1. All of the package asks and waits here, so that a test can put a clock of its own in its place.
"""

from __future__ import annotations

import time


def now() -> float:
    """Return epoch seconds."""
    return time.time()


def sleep(seconds: float) -> None:
    """Hold this thread up."""
    time.sleep(seconds)
