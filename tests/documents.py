"""The pages of the documentation, as tests read them."""

from __future__ import annotations

import re
from pathlib import Path


def documented_fields(page: str, title: str) -> set[str]:
    """Return the fields of a spec in the table of a page that says what becomes of them; ``title`` is its column."""
    text = (Path(__file__).parents[1] / "docs" / page).read_text(encoding="utf-8")
    table = text.partition(f"| field | {title} |\n")[2].partition("\n\n")[0]
    return set(re.findall(r"^\| `(\w+)` \| .+ \|$", table, re.MULTILINE))
