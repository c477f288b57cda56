"""Times as the API and container logs write them."""

from __future__ import annotations

from datetime import datetime, timezone


def to_second() -> str:
    """Return the time as objects of the API have it."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def to_nanosecond() -> str:
    """Return the time as lines of container logs have it."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"


def to_microsecond() -> str:
    """Return the time as leases have it."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
