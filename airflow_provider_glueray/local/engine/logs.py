"""Ship Ray's log files to the eight CloudWatch log groups of a Ray job, under the service's stream names.

`script-log` has one stream `<job>-<run id>`; every other group has `<job>-<run id>-<node address>-<writer>`, with
underscores for the dots and colons of the address [guide; ray-project/deltacat]. This module reads files in pieces, so
memory use stays constant; a log line that cannot be delivered is lost and never fails a run.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from airflow_provider_glueray.local.engine.job_inputs import PIP_LOG, STDOUT
from airflow_provider_glueray.local.engine.state import Run
from airflow_provider_glueray.local.runtime.cluster import Node

PREFIX = "/aws-glue/ray/jobs/"
RETENTION_DAYS = 14
#: CloudWatch counts 26 bytes per event in addition to the text; these are the classic limits of PutLogEvents.
_EVENT_OVERHEAD = 26
_EVENT_BYTES = 256 * 1024 - _EVENT_OVERHEAD
_BATCH_BYTES = 1024 * 1024
_BATCH_EVENTS = 10_000
_CHUNK_BYTES = 1024 * 1024
_WORKER_FILE = re.compile(r"worker-(?P<id>[0-9a-f]+)-(?P<job>[0-9a-f]{8})-(?P<pid>\d+)\.(?P<kind>out|err)")
#: Workers that Ray starts ahead of any job have this id in their file's name; they write `:job_id:` when Ray binds them
#: to a job.
_NO_JOB = "ffffffff"
_MAGIC = (":job_id:", ":task_name:", ":actor_name:")
_SYSTEM_FILES = (
    (re.compile(r"monitor\.(log|out|err)"), "ray-monitor-log"),
    (re.compile(r"gcs_server\.(out|err)"), "ray-gcs-logs"),
    (re.compile(r"raylet\.(out|err)"), "ray-raylet-logs"),
    (re.compile(r"(dashboard|log_monitor|ray_client_server).*\.(log|out|err)"), "ray-process-logs"),
    (re.compile(r"runtime_env_(agent|setup-[0-9a-f]+)\.(log|out|err)"), "ray-runtime-env-log"),
)

_logger = logging.getLogger(__name__)


class Tail:
    """Read a growing file in pieces and yield whole lines."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self._path, self._offset, self._rest = path, offset, b""

    def lines(self, *, last: bool = False) -> Iterator[str]:
        """Yield the lines of one piece; with `last`, of everything, the unfinished line included."""
        while piece := self._piece():
            *whole, self._rest = (self._rest + piece).split(b"\n")
            *full, self._rest = _events(self._rest)
            for part in [*(event for line in whole for event in _events(line.rstrip(b"\r"))), *full]:
                yield part.decode(errors="replace")
            if not last:
                return
        if last and self._rest:
            rest, self._rest = self._rest, b""
            yield from (part.decode(errors="replace") for part in _events(rest.rstrip(b"\r")))

    def _piece(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                piece = file.read(_CHUNK_BYTES)
        except OSError:
            return b""
        self._offset += len(piece)
        return piece


def _events(line: bytes) -> Iterator[bytes]:
    """Yield a line in parts that fit into an event each."""
    while len(line) > _EVENT_BYTES:
        cut = _cut(line)
        yield line[:cut]
        line = line[cut:]
    yield line


def _cut(line: bytes) -> int:
    cut = _EVENT_BYTES
    while cut > _EVENT_BYTES - 4 and line[cut] & 0xC0 == 0x80:  # never inside a UTF-8 character
        cut -= 1
    return cut


class LogWriter:
    """Put lines into the log streams of one Region; the first write creates group and stream."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._streams: set[tuple[str, str]] = set()

    def write(self, group: str, stream: str, lines: Iterator[str]) -> None:
        """Put all lines, in batches that CloudWatch accepts, with the time of reading as timestamp."""
        batch: list[dict[str, Any]] = []
        size = 0
        for line in lines:
            cost = len(line.encode()) + _EVENT_OVERHEAD
            if batch and (size + cost > _BATCH_BYTES or len(batch) == _BATCH_EVENTS):
                self._put(group, stream, batch)
                batch, size = [], 0
            # An event must not be empty [botocore], and a traceback needs its blank lines.
            batch.append({"timestamp": int(time.time() * 1000), "message": line or " "})
            size += cost
        if batch:
            self._put(group, stream, batch)

    def _put(self, group: str, stream: str, batch: list[dict[str, Any]]) -> None:
        try:
            if (group, stream) not in self._streams:
                self._create(group, stream)
                self._streams.add((group, stream))
            self._client.put_log_events(logGroupName=group, logStreamName=stream, logEvents=batch)
        except (ClientError, BotoCoreError):
            _logger.exception("lost %d lines for %s %s", len(batch), group, stream)

    def _create(self, group: str, stream: str) -> None:
        exists = self._client.exceptions.ResourceAlreadyExistsException
        with contextlib.suppress(exists):
            self._client.create_log_group(logGroupName=group)
            self._client.put_retention_policy(logGroupName=group, retentionInDays=RETENTION_DAYS)
        with contextlib.suppress(exists):
            self._client.create_log_stream(logGroupName=group, logStreamName=stream)


class RunLogs:
    """The log files of one run, from its launch."""

    def __init__(self, run: Run, nodes: Callable[[], list[Node]], directory: Path, writer: LogWriter) -> None:
        self._run, self._nodes, self._directory, self._writer = run, nodes, directory, writer
        self._stream = re.sub(r"[:*]", "_", run.job) + f"-{run.id}"
        self._lock = threading.Lock()
        self._head = nodes()[0]
        self._driver = Tail(self._head.logs / f"job-driver-{run.id}.log")
        self._pip = Tail(directory / PIP_LOG)
        self._tails: dict[Path, Tail] = {}
        self._bound: dict[Path, str] = {}
        for node in nodes():  # system files outlive runs: this run gets the lines that follow
            for path in _files(node):
                if _system_group(path.name):
                    self._tails[path] = Tail(path, path.stat().st_size)

    def ship(self, *, last: bool = False) -> None:
        """Ship the new lines; with `last`, all remaining lines and then the script's stdout."""
        with self._lock:
            self._writer.write(f"{PREFIX}script-log", self._stream, self._driver_lines(last=last))
            self._writer.write(
                f"{PREFIX}ray-runtime-env-log",
                self._node_stream(self._head) + PIP_LOG,
                self._pip.lines(last=last),
            )
            for node in self._nodes():
                for path in _files(node):
                    self._ship_file(node, path, last=last)
            if last:
                printed = Tail(self._directory / STDOUT).lines(last=True)
                self._writer.write(f"{PREFIX}script-log", self._stream, printed)

    def _driver_lines(self, *, last: bool) -> Iterator[str]:
        lines = self._driver.lines(last=last)
        return (line for line in lines if not line.startswith("Running entrypoint for job "))

    def _node_stream(self, node: Node) -> str:
        return f"{self._stream}-{re.sub('[.:]', '_', node.address)}-"

    def _ship_file(self, node: Node, path: Path, *, last: bool) -> None:
        stream = self._node_stream(node)
        worker = _WORKER_FILE.fullmatch(path.name)
        if worker and self._run.ray_job and worker["job"] in {_NO_JOB, self._run.ray_job}:
            tail = self._tails.setdefault(path, Tail(path))
            lines = self._worker_lines(path, worker["job"], tail.lines(last=last))
            self._writer.write(f"{PREFIX}ray-worker-{worker['kind']}-logs", stream + worker["pid"], lines)
        elif group := _system_group(path.name):
            tail = self._tails.setdefault(path, Tail(path))
            self._writer.write(PREFIX + group, stream + path.name, tail.lines(last=last))

    def _worker_lines(self, path: Path, job: str, lines: Iterator[str]) -> Iterator[str]:
        for line in lines:
            if line.startswith(":job_id:"):
                self._bound[path] = line.removeprefix(":job_id:").strip()
            elif not line.startswith(_MAGIC) and self._bound.get(path, job) == self._run.ray_job:
                yield line


def _files(node: Node) -> list[Path]:
    try:
        return sorted(path for path in node.logs.iterdir() if path.suffix in {".log", ".out", ".err"})
    except OSError:
        return []


def _system_group(name: str) -> str | None:
    return next((group for pattern, group in _SYSTEM_FILES if pattern.fullmatch(name)), None)


class Shipper(threading.Thread):
    """The thread that ships the logs of all attached runs."""

    def __init__(self, interval_seconds: float = 0.4) -> None:
        super().__init__(name="log-shipper", daemon=True)
        self._interval_seconds = interval_seconds
        self._lock = threading.Lock()
        self._attached: dict[str, RunLogs] = {}

    def attach(self, run_id: str, logs: RunLogs) -> None:
        """Ship the logs of one more run from now on."""
        with self._lock:
            self._attached[run_id] = logs

    def finish(self, run_id: str) -> None:
        """Ship the remaining lines of a run and detach it; does nothing for a run that was never attached."""
        with self._lock:
            logs = self._attached.pop(run_id, None)
        if logs is not None:
            logs.ship(last=True)

    def run(self) -> None:
        """Ship until the process ends."""
        while True:
            time.sleep(self._interval_seconds)
            with self._lock:
                attached = list(self._attached.values())
            for logs in attached:
                try:
                    logs.ship()
                except Exception:
                    _logger.exception("unexpected error in log shipping")
