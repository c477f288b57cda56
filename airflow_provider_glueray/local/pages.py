"""What a person sees behind a run's link in Airflow: the run and its script log, as plain text.

AWS has its console for this. Plain text on purpose: nothing that a script wrote is ever interpreted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from .ledger import Ledger, Run

SCRIPT_LOG = "/aws-glue/ray/jobs/script-log"
#: What a terminal would take for colours.
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Pages:
    """The pages below `/_glueray/runs/`. `client(service, region)` returns a boto3 client of this endpoint."""

    def __init__(self, ledger: Ledger, client: Callable[[str, str], Any]) -> None:
        self._ledger, self._client = ledger, client

    def page(self, path: str) -> str | None:
        """Return the text for `<run id>` or `<run id>/log`; None when there is no such run or page."""
        run_id, _, rest = path.partition("/")
        with self._ledger.lock:
            run = self._ledger.runs.get(run_id)
            fields = run.wire() if run else {}
        if run is None or rest not in ("", "log"):
            return None
        log = "".join(f"{line}\n" for line in self._script_log(run))
        if rest == "log":
            return log or "Nothing was logged so far.\n"
        wide = max(map(len, fields))
        rows = (f"{name:<{wide}}  {_shown(name, value)}\n" for name, value in sorted(fields.items()))
        return "".join(rows) + f"\n{log}"

    def _script_log(self, run: Run) -> list[str]:
        logs = self._client("logs", run.region)
        request = {"logGroupName": SCRIPT_LOG, "logStreamNames": [f"{run.job}-{run.id}"]}
        try:
            pages = logs.get_paginator("filter_log_events").paginate(**request)
            return [_COLOURS.sub("", event["message"]) for page in pages for event in page["events"]]
        except logs.exceptions.ResourceNotFoundException:
            return []


def _shown(name: str, value: Any) -> str:
    if isinstance(value, float) and name.endswith("On"):
        return datetime.fromtimestamp(value, UTC).isoformat(timespec="seconds")
    return json.dumps(value) if isinstance(value, dict | list) else str(value)
