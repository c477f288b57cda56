"""What Ray's Jobs API and its log service answer, in words of our own.

It knows the manners of the two, and nothing of runs, of how requests get there, and of Airflow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import httpx

from airflow_provider_glueray.core import clock
from airflow_provider_glueray.core.errors import SubmitError
from airflow_provider_glueray.core.logs import LogCursor, LogPage
from airflow_provider_glueray.hooks.dashboard.logs import (
    END_LINES,
    LARGE,
    LogOffset,
    lines_after,
    strip_status_bytes,
    tail_digest,
)

#: Where logs are read; a name that nothing there has, and how often to ask for it.
LOGS, NO_LOG, PROBES, PROBE_SECONDS = "/api/v0/logs/file", "glueray-no-such.log", 5, 0.2
#: Answers of a gateway that got none, or none in time: what was asked for may have been done.
GATEWAY = frozenset({httpx.codes.BAD_GATEWAY, httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.GATEWAY_TIMEOUT})


class JobsApi:
    """Ask Ray about jobs. Who inherits from this says how a request gets there."""

    #: Whether this Ray puts a status byte before each chunk of a log; None before it was asked.
    _status_bytes: bool | None = None

    @property
    def _base(self) -> str:
        """Where Ray is, for messages."""
        raise NotImplementedError

    def _open(self, method: str, path: str, **kwargs: Any) -> AbstractContextManager[httpx.Response]:
        """Ask, and leave the body of the answer to be read piece by piece.

        :raises SubmitOutcomeUnknown: no answer came.
        """
        raise NotImplementedError

    def _refuse_strangers(self, answer: httpx.Response) -> None:
        """Raise for an answer that Ray has not given, or that says who may not ask."""
        raise NotImplementedError

    def _ask(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        with self._open(method, path, **kwargs) as answer:
            answer.read()
            self._refuse_strangers(answer)
            return answer

    def _job(self, submission_id: str) -> dict[str, Any] | None:
        """Return the ``JobDetails`` of a job, or None where Ray does not know it."""
        answer = self._ask("GET", f"/api/jobs/{submission_id}")
        if self._is_unknown(answer):
            return None
        return self._content(answer)  # type: ignore[no-any-return]

    def _is_unknown(self, answer: httpx.Response) -> bool:
        """Tell Ray's own "does not exist" from the page of a gateway that has lost Ray."""
        return answer.status_code == httpx.codes.NOT_FOUND and "does not exist" in answer.text

    def _content(self, answer: httpx.Response, kind: type = dict) -> Any:
        """Return what an answer holds.

        :raises SubmitError: it is none of Ray's.
        """
        if not answer.is_success:
            raise SubmitError(f"Ray at {self._base} answered {reason(answer)}", status=answer.status_code)
        try:
            content = answer.json()
        except ValueError:
            content = None
        if not isinstance(content, kind):
            raise SubmitError(f"What answers at {self._base} is not Ray: {reason(answer)}", status=answer.status_code)
        return content

    def _new_lines(self, submission_id: str, cursor: LogCursor) -> LogPage:
        """Return what is new in the log of a job's driver; an unended line is shown when the job is over.

        :param cursor: of this log alone.
        :raises SubmitError: the log could not be read.
        """
        offset, end = LogOffset.of(cursor), ""
        if not offset.node:
            offset = offset._replace(node=(self._job(submission_id) or {}).get("driver_node_id") or "")
        if not offset.node:
            return LogPage((), cursor)
        try:
            if offset.shown >= LARGE and not cursor.to_end:
                # Before the log: what is written between the two is new to the next read.
                with self._log_of(submission_id, offset.node, END_LINES) as pieces:
                    end = tail_digest(pieces)
                if end and end == offset.end:
                    return LogPage((), cursor)
            with self._log_of(submission_id, offset.node) as pieces:
                return lines_after(pieces, offset, to_end=cursor.to_end, end=end)
        except SubmitError as error:
            if _is_absent(str(error)):
                return LogPage((), cursor)
            raise

    @contextmanager
    def _log_of(self, submission_id: str, node: str, lines: int = -1) -> Iterator[Iterable[bytes]]:
        """Open the log of a job's driver, or so many of its last lines."""
        has_status_bytes = self._has_status_bytes(node)
        with self._open("GET", LOGS, params=_driver_log(submission_id, node, lines=lines)) as answer:
            if not answer.is_success or "html" in answer.headers.get("content-type", ""):
                answer.read()
                self._refuse_strangers(answer)
                raise SubmitError(f"Ray did not hand over the log of Ray job {submission_id}: {reason(answer)}")
            pieces = answer.iter_bytes()
            yield strip_status_bytes(pieces) if has_status_bytes else pieces

    def _has_status_bytes(self, node: str) -> bool:
        """Tell whether this Ray puts a status byte before each chunk of a log.

        :param node: one that lives: a dead one answers nothing.
        """
        if self._status_bytes is None:
            self._status_bytes = self._ask_for_status_bytes(node)
        return self._status_bytes

    def _ask_for_status_bytes(self, node: str) -> bool:
        """Ask for a log that is not there.

        :raises SubmitError: Ray does not answer so that one could tell.
        """
        for _ in range(PROBES):
            answer = self._ask("GET", LOGS, params=_driver_log("", node, NO_LOG))
            # Ray drops the words of an error now and then, and says nothing at all: 2.9, and a newer one that is busy.
            if answer.is_success and answer.content:
                return answer.content[:1] == b"0"
            if _is_absent(answer.text):
                return False
            clock.sleep(PROBE_SECONDS)
        raise SubmitError(f"How Ray at {self._base} hands over logs is unknown: {reason(answer)}")


def reason(answer: httpx.Response) -> str:
    """Return the status and the last words of an answer: Ray sends whole tracebacks, a gateway whole pages."""
    status = f"{answer.status_code} {answer.reason_phrase}".strip()
    if "html" in answer.headers.get("content-type", "") or answer.text.lstrip()[:1] == "<":
        return f"{status}, a page for people"
    lines = [line for line in answer.text.strip().splitlines() if line.strip()]
    return f"{answer.status_code} {lines[-1][:500]}" if lines else status


def _driver_log(submission_id: str, node: str, name: str = "", lines: int = -1) -> dict[str, Any]:
    """Return what to ask for a log; JOB_LOGS_PATH_TEMPLATE in ray/dashboard/modules/job/common.py names it."""
    return {
        "node_id": node, "filename": name or f"job-driver-{submission_id}.log", "lines": lines, "format": "text",
    }  # fmt: skip


def _is_absent(words: str) -> bool:
    return "file is not found" in words
