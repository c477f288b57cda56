"""Render the pages behind Airflow's links: a run and its script log, or a session, as plain text.

AWS has its console for this. The pages are plain text, so that a browser never interprets a script's output.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

from airflow_provider_glueray.local.engine.state import Run, State

_NOTHING = "Nothing was logged so far.\n"
SCRIPT_LOG = "/aws-glue/ray/jobs/script-log"
#: Escape sequences for a terminal's colours.
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
#: A session's page shows at most so many characters of each statement's output.
_OUTPUT_CHARACTERS = 20_000


class Pages:
    """The pages below `/_glueray/`. `client(service, region)` returns a boto3 client of this endpoint."""

    def __init__(self, state: State, client: Callable[[str, str], Any]) -> None:
        self._state, self._client = state, client

    def page(self, path: str) -> str | None:
        """Return the page `runs/<run id>` or `sessions/<session id>`, or either with `/log`; None for other paths."""
        kind, _, rest = path.encode("latin-1", "replace").decode(errors="replace").partition("/")
        pages = {"runs": self._run_page, "sessions": self._session_page}
        if kind not in pages:
            return None
        known, only_log = pages[kind](rest, False), rest.endswith("/log")
        return known if known is not None or not only_log else pages[kind](rest.removesuffix("/log"), True)

    def _run_page(self, run_id: str, only_log: bool) -> str | None:
        with self._state.lock:
            run = self._state.runs.get(run_id)
            fields = run.to_response() if run else {}
        if run is None:
            return None
        log = "".join(f"{line}\n" for line in self._script_log(run))
        if only_log:
            return log or _NOTHING
        return f"{_table(fields)}\n{log}"

    def _session_page(self, session_id: str, only_log: bool) -> str | None:
        with self._state.lock:
            session = next((each for (_, name), each in self._state.sessions.items() if name == session_id), None)
            if session is None:
                return None
            fields, statements = session.to_response(), [statement.to_response() for statement in session.statements]
        if only_log:
            return _COLOURS.sub("", session.log.text()) or _NOTHING
        return "\n".join([_table(fields), *map(_statement, statements)])

    def _script_log(self, run: Run) -> list[str]:
        logs = self._client("logs", run.region)
        request = {"logGroupName": SCRIPT_LOG, "logStreamNames": [f"{run.job}-{run.id}"]}
        try:
            pages = logs.get_paginator("filter_log_events").paginate(**request)
            return [_COLOURS.sub("", event["message"]) for page in pages for event in page["events"]]
        except logs.exceptions.ResourceNotFoundException:
            return []


def _table(fields: Mapping[str, Any]) -> str:
    wide = max(map(len, fields))
    return "".join(f"{name:<{wide}}  {_shown(name, value)}\n" for name, value in sorted(fields.items()))


def _statement(fields: Mapping[str, Any]) -> str:
    times = [_moment(fields[name] / 1000) if fields[name] else "-" for name in ("StartedOn", "CompletedOn")]
    output = fields.get("Output", {})
    text = output.get("Data", {}).get("TextPlain", "")
    if len(text) > _OUTPUT_CHARACTERS:
        text = f"{text[:_OUTPUT_CHARACTERS]}\n({len(text) - _OUTPUT_CHARACTERS} more characters)"
    parts = [f"Statement {fields['Id']}  {fields['State']}  {' to '.join(times)}", fields["Code"], text]
    return "".join(f"{part}\n" for part in [*parts, *output.get("Traceback", [])] if part)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")


def _shown(name: str, value: Any) -> str:
    if isinstance(value, float) and name.endswith("On"):
        return _moment(value)
    return json.dumps(value) if isinstance(value, dict | list) else str(value)
