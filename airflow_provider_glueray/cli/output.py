"""What the groups of commands have in common: exit codes, ages, tables."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TextIO

#: What scripts may rely on: all well; it failed or an extra is missing; the endpoint does not run.
EXIT_OK, EXIT_FAILED, EXIT_NOT_RUNNING = 0, 1, 3
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def age(text: str) -> timedelta:
    """Read ``90m``, ``2h`` or ``1d``."""
    found = re.fullmatch(r"(\d+)([mhd])", text.strip())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no age; write 90m, 2h or 1d")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def print_table(rows: Sequence[dict[str, Any]], out: TextIO) -> None:
    """Print rows under the names of their members."""
    table = [[name.upper() for name in rows[0]], *([str(value) for value in row.values()] for row in rows)]
    wide = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    for line in table:
        print("  ".join(text.ljust(width) for text, width in zip(line, wide, strict=True)).rstrip(), file=out)
