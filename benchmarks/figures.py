"""Figures of several runs, shown as minimum, median and maximum."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def spread(values: Sequence[float], unit: str, digits: int = 3) -> str:
    """Return ``min / median / max`` of the values."""
    three = (min(values), statistics.median(values), max(values))
    return " / ".join(f"{value:.{digits}f}" for value in three) + f" {unit}"


def row(name: str, *cells: str) -> None:
    """Print one line of a table."""
    print(f"  {name:<52}" + "".join(f"{cell:<32}" for cell in cells), flush=True)


def title(text: str) -> None:
    """Print what the next table is about."""
    print(f"\n{text}", flush=True)
