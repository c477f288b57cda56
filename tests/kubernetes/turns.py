"""Who uses a cluster with others, and who alone: a test that takes a part of it away disturbs all others."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator

from tests.kubernetes.layout import Layout


@contextlib.contextmanager
def turn(layout: Layout, *, alone: bool = False) -> Iterator[None]:
    """Wait until the cluster may be used, with others or alone."""
    with (layout.home / "door.lock").open("w") as door, (layout.home / "room.lock").open("w") as room:
        # Who waits to be alone holds the door shut, so that no others come in meanwhile.
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        yield
