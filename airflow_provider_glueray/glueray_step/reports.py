"""Tell Airflow what a step has written: one printed line, which every backend's log carries home."""

from __future__ import annotations

import json
from typing import Any

#: Begins the line.
LEAD = "glueray-report: "


def report(asset: str = "", rows: int | None = None, bytes: int | None = None, **extra: Any) -> None:
    """Say what was written to an asset; with no Airflow at the other end, this is a line in a log and nothing else.

    Call it in the script itself, not in a Ray task: Ray leaves lines of tasks out that are like others.

    :param asset: name or URI of one of the task's ``outlets``; may be left out where there is only one.
    :param rows: how many rows were written.
    :param bytes: how many bytes were written.
    :param extra: whatever else is worth knowing; JSON values.
    """
    given = {"asset": str(asset), "rows": rows, "bytes": bytes, **extra}
    print(LEAD + json.dumps({key: value for key, value in given.items() if value not in (None, "")}), flush=True)


def read_report(line: str) -> dict[str, Any] | None:
    """Return what a line of a log reports, or None: most lines report nothing.

    Ray may have put a name before it and a colour behind it.
    """
    _, found, text = line.partition(LEAD)
    if not found:
        return None
    try:
        found, _ = json.JSONDecoder().raw_decode(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
