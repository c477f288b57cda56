"""How a test holds a script on this machine's Ray until it lets it go on, without a clock."""

from __future__ import annotations

from pathlib import Path


def waits_for(gate: Path) -> str:
    """Return code that waits until a file is there."""
    return f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.05)"
