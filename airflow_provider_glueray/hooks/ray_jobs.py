"""Jobs on any running Ray cluster, over its Jobs HTTP API: no ``ray`` package here.

Floor 2. Ray takes a submission id once, and ours is made of the run's mark, so a request that is sent twice starts one
run. What is local is put into the cluster's own package store, under the hash of its content.
"""

from __future__ import annotations

import hashlib
import io
import re
import time
import zipfile
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import httpx
from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from airflow_provider_glueray import packaging
from airflow_provider_glueray.errors import (
    ConnectionMissing,
    JobConflict,
    RequestRefused,
    SpecError,
    StopError,
    SubmitError,
    SubmitUnknown,
)
from airflow_provider_glueray.parcels import Parcel
from airflow_provider_glueray.ray_submission import MARK, NAME, Places, submission_id_of, to_ray_submission
from airflow_provider_glueray.runs import (
    RAY_JOB,
    RAY_JOB_STATE,
    SCRIPT,
    LogCursor,
    LogLine,
    LogPage,
    Prepared,
    RunRef,
    RunSnapshot,
    RunState,
    Usage,
    read_state,
)
from airflow_provider_glueray.spec import RayJobSpec

#: The oldest Ray whose Jobs API this was tried with; see docs/unproven.md.
OLDEST = (2, 9)
#: Seconds for a request, and to connect.
TIMEOUT = httpx.Timeout(30.0, connect=10.0)
#: Requests to start one run, and seconds between them.
ATTEMPTS, AGAIN_SECONDS = 3, 2.0


class RayJobsHook(BaseHook):
    """Talk to a Ray cluster about jobs.

    :param ray_conn_id: a connection of type ``ray``: host (a name or a whole URL), port (8265), schema (http or
        https), password (the cluster's token); in the extra ``headers`` (a mapping), ``verify`` (False, or the path of
        a CA), and ``aws_conn_id`` (whose S3 a function's arguments pass through).
    """

    conn_name_attr = "ray_conn_id"
    default_conn_name = "ray_default"
    conn_type = "ray"
    hook_name = "Ray cluster"

    def __init__(self, ray_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.ray_conn_id = ray_conn_id

    def prepare(self, spec: RayJobSpec, staging: str | None = None, timeout: float | None = None) -> Prepared:
        """Put what is local into the cluster's package store.

        :param staging, timeout: not needed here.
        :raises ScriptError: a file is missing, unreadable or of the wrong kind.
        :raises SubmitError: the cluster cannot be reached, refuses the token, or is too old.
        """
        self._check_version()
        places, packages = packed(spec)
        for package in packages:
            self._store(package)
        # Refused now, not when the run is started: nothing is wrong with the cluster.
        to_ray_submission(spec, "", places, {})
        idle = [name for name in ("role", "logging") if getattr(spec, name)]
        if idle:
            self.log.info("No effect on a Ray cluster: %s", ", ".join(idle))
        self.log.info("The cluster has its own size; number_of_workers=%s is not asked of it",
                      spec.workers.number_of_workers)  # fmt: skip
        return Prepared(lambda mark, arguments: self._start(spec, mark, places, arguments), is_new=False)

    def _start(self, spec: RayJobSpec, mark: str, places: Places, arguments: Mapping[str, str]) -> RunRef:
        body = to_ray_submission(spec, mark, places, arguments)
        ref = RunRef(RAY_JOB, spec.name, body["submission_id"])
        for attempt in range(1, ATTEMPTS + 1):
            try:
                answer = self._ask("POST", "/api/jobs/", json=body)
            except SubmitUnknown as error:
                self.log.warning("No answer to the start of %s (%s); asking again", ref.title, error)
                if attempt == ATTEMPTS:
                    raise
                time.sleep(AGAIN_SECONDS)
                continue
            if answer.is_success:
                return ref
            if "already exists" in answer.text:
                return self._ours(ref, mark)
            raise RequestRefused(f"Ray refused {ref.title}: {_reason(answer)}")
        raise AssertionError("the loop returns or raises")

    def _ours(self, ref: RunRef, mark: str) -> RunRef:
        """Tell a repeated request from an id that somebody else has taken."""
        details = self._job(ref.id)
        if details is not None and (details.get("metadata") or {}).get(MARK) == mark:
            return ref
        raise JobConflict(f"The submission id {ref.id!r} is taken by a job that is not of this task")

    def find_runs(self, name: str, mark: str) -> list[RunSnapshot]:
        """Return the run that carries ``mark``, if there is one: its id is made of the mark."""
        details = self._job(submission_id_of(mark))
        return [_snapshot(details)] if details is not None else []

    def latest_run(self, name: str) -> RunSnapshot | None:
        """Return the newest run of a job, or None if it never ran on this cluster."""
        mine = [each for each in self._list() if (each.get("metadata") or {}).get(NAME) == name]
        return _snapshot(max(mine, key=lambda each: each.get("start_time") or 0)) if mine else None

    def describe(self, refs: Collection[RunRef]) -> dict[RunRef, RunSnapshot]:
        """Describe runs: one call for many. See ``RunBackend``."""
        known: dict[str, Mapping[str, Any]] = {}
        if len(refs) > 1:
            known = {str(each.get("submission_id")): each for each in self._list()}
        found = {}
        for ref in refs:
            details = known.get(ref.id) or self._job(ref.id)
            found[ref] = (
                _snapshot(details)._replace(ref=ref)
                if details is not None
                else RunSnapshot(ref, RunState.LOST, "LOST", "The cluster does not know it; was it started anew?")
            )
        return found

    def read_logs(self, cursors: Mapping[RunRef, LogCursor], sources: Sequence[str]) -> dict[RunRef, LogPage]:
        """Read what is new in the drivers' logs. See ``RunBackend``.

        Ray hands over a log as a whole and without times, so the cursor counts its characters; a line that has not
        ended is shown when nothing has been added to it since the last time.
        """
        return {ref: self._new_lines(ref, cursor) if SCRIPT in sources else LogPage((), cursor)
                for ref, cursor in cursors.items()}  # fmt: skip

    def _new_lines(self, ref: RunRef, cursor: LogCursor) -> LogPage:
        answer = self._ask("GET", f"/api/jobs/{ref.id}/logs")
        text = answer.json().get("logs") or "" if answer.is_success else ""
        shown, seen = (int(part) for part in (max(cursor.seen, default="") or "0/0").split("/"))
        end = len(text) if len(text) == seen else text.rfind("\n") + 1
        lines = [LogLine(SCRIPT, line) for line in text[shown:end].splitlines()]
        return LogPage(lines, LogCursor(cursor.since_ms, frozenset({f"{max(end, shown)}/{len(text)}"})))

    def stop(self, *refs: RunRef) -> None:
        """Ask Ray to stop runs. A run that has ended, or is not there, is no error.

        :raises StopError: Ray refused to stop a run that is still active.
        """
        for ref in refs:
            answer = self._ask("POST", f"/api/jobs/{ref.id}/stop")
            if answer.is_success or answer.status_code == httpx.codes.NOT_FOUND:
                continue
            if not self.describe([ref])[ref].is_over:
                raise StopError(f"Ray did not stop {ref.title}: {_reason(answer)}")

    def url(self, ref: RunRef) -> str:
        """Return the job's page in Ray's dashboard."""
        return f"{self._base}/#/jobs/{ref.id}"

    def logs_url(self, ref: RunRef) -> str:
        """Return the same page: it shows the log."""
        return self.url(ref)

    def test_connection(self) -> tuple[bool, str]:
        """Ask the cluster for its version; the button in Airflow's form for connections."""
        try:
            return True, f"Ray {self._check_version()}"
        except (SubmitError, ConnectionMissing) as error:
            return False, str(error)

    # -- requests -------------------------------------------------------------------------------------------

    def _check_version(self) -> str:
        answer = self._ask("GET", "/api/version")
        version = str(answer.json().get("ray_version", "")) if answer.is_success else ""
        numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
        if not numbers:
            raise RequestRefused(f"{self._base} is no Ray Jobs API: {_reason(answer)}")
        if numbers < OLDEST:
            raise RequestRefused(f"The cluster at {self._base} has Ray {version}; 2.9 is the oldest that will do")
        return version

    def _job(self, submission_id: str) -> Mapping[str, Any] | None:
        answer = self._ask("GET", f"/api/jobs/{submission_id}")
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        return self._content(answer)  # type: ignore[no-any-return]

    def _list(self) -> list[Mapping[str, Any]]:
        return self._content(self._ask("GET", "/api/jobs/"))  # type: ignore[no-any-return]

    def _content(self, answer: httpx.Response) -> Any:
        if not answer.is_success:
            raise SubmitError(f"Ray at {self._base} answered {_reason(answer)}")
        return answer.json()

    def _store(self, package: Package) -> None:
        """Put a package into the store unless it is there."""
        place = f"/api/packages/{package.uri.replace('://', '/')}"
        if self._ask("GET", place).status_code != httpx.codes.NOT_FOUND:
            return
        answer = self._ask("PUT", place, content=package.content())
        if not answer.is_success:
            raise SubmitError(f"Ray did not take {package.parcel.name} into its package store: {_reason(answer)}")
        self.log.info("Uploaded %s as %s", package.parcel.name, package.uri)

    def _ask(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        try:
            answer = self._client.request(method, path, **kwargs)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            if "CERTIFICATE" in str(error).upper():
                raise SubmitError(
                    f"The certificate of {self._base} is not trusted ({error}); name its CA as 'verify' in the extra "
                    f"of the connection {self.ray_conn_id!r}"
                ) from error
            raise SubmitError(f"There is no way to Ray at {self._base}: {error}") from error
        except httpx.TransportError as error:
            raise SubmitUnknown(f"Ray at {self._base}: {type(error).__name__} {error}") from error
        if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise RequestRefused(
                f"Ray at {self._base} refuses the token ({answer.status_code}); it is the password of the connection "
                f"{self.ray_conn_id!r}"
            )
        return answer

    @cached_property
    def _connection(self) -> Any:
        try:
            return self.get_connection(self.ray_conn_id)
        except AirflowNotFoundException as error:
            raise ConnectionMissing(f"There is no connection {self.ray_conn_id!r}; make one of type 'ray'") from error

    @cached_property
    def _base(self) -> str:
        host, port = self._connection.host or "", self._connection.port
        if not host:
            raise ConnectionMissing(f"The connection {self.ray_conn_id!r} has no host")
        if "://" in host:
            return str(host).rstrip("/")
        return f"{self._connection.schema or 'http'}://{host}:{port or 8265}"

    @cached_property
    def _client(self) -> httpx.Client:
        extra = self._connection.extra_dejson
        headers = dict(extra.get("headers") or {})
        if self._connection.password:
            headers["Authorization"] = f"Bearer {self._connection.password}"
        verify: Any = extra.get("verify", True)
        if isinstance(verify, str):
            import ssl

            try:
                verify = ssl.create_default_context(cafile=verify)
            except OSError as error:
                raise SpecError(
                    [f"verify={extra['verify']!r}: it is not the path of a CA's certificate ({error})"]
                ) from error
        return httpx.Client(base_url=self._base, headers=headers, timeout=TIMEOUT, verify=verify)

    @cached_property
    def storage(self) -> Any:
        """The way to S3, by the connection ``aws_conn_id`` of the extra."""
        from airflow_provider_glueray.hooks.glue_connection import GlueConnectionHook

        return GlueConnectionHook(self._connection.extra_dejson.get("aws_conn_id", "aws_default"))


class Package(NamedTuple):
    """A local file on its way into the package store.

    :param main: the module that a script becomes; None for an archive.
    """

    parcel: Parcel
    main: str | None

    @property
    def uri(self) -> str:
        """Where it will be. Two scripts of one content may have two names, and so become two modules."""
        return f"gcs://_ray_pkg_{hashlib.sha256(f'{self.main} {self.parcel.digest}'.encode()).hexdigest()[:32]}.zip"

    def content(self) -> bytes:
        """Return it as Ray wants it."""
        return _zipped(f"{self.main}.py", self.parcel.content) if self.main else _without_root(self.parcel.content)


def packed(spec: RayJobSpec) -> tuple[Places, list[Package]]:
    """Pack what is local; return where the cluster will find everything, and what has to be put there before.

    :raises ScriptError: a file is missing, unreadable or of the wrong kind.
    """
    parcels = {
        path: packaging.read_local(path, spec.python_version, module=path in spec.py_modules)
        for path in spec.local_files()
    }
    packaging.refuse_clashes(parcels, spec.py_modules)
    main, modules = spec.script, list(spec.py_modules)
    if spec.script in parcels:
        main = _module_of(parcels[spec.script])
        modules.append(spec.script)
    packages = {path: Package(parcel, main if path == spec.script else None) for path, parcel in parcels.items()}

    def uri_of(path: str) -> str:
        return packages[path].uri if path in packages else path

    working_dir = uri_of(spec.working_dir) if spec.working_dir else None
    return Places(main, tuple(map(uri_of, modules)), working_dir), list(packages.values())


def _snapshot(details: Mapping[str, Any]) -> RunSnapshot:
    """Read a ``JobDetails`` (ray/dashboard/modules/job/pydantic_models.py); its times are milliseconds."""
    raw = str(details["status"])
    started, ended = (details[key] / 1000 if details.get(key) else None for key in ("start_time", "end_time"))
    state = read_state(RAY_JOB_STATE, raw, completed=ended is not None)
    name = str((details.get("metadata") or {}).get(NAME, ""))
    return RunSnapshot(
        ref=RunRef(RAY_JOB, name, str(details["submission_id"])),
        state=state,
        raw_state=raw,
        # What it says of runs that are well is the state in other words.
        message=(details.get("message") or "")[:2000] if state is RunState.FAILED else "",
        started=started,
        completed=ended,
        # Whose workers it ran on is not told: the cluster is there for everybody.
        usage=Usage(ended - started, 0, 0.0) if started and ended else None,
        recognised=raw in RAY_JOB_STATE,
    )


def _module_of(script: Parcel) -> str:
    """Return a name for a script as a module that no other one has."""
    stem = re.sub(r"\W", "_", Path(script.name).stem)
    return f"glueray_{stem}_{script.digest[:8]}"


def _zipped(name: str, content: bytes) -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return body.getvalue()


def _without_root(content: bytes) -> bytes:
    """Take the folder at the root away: Ray does so for archives in S3, but not for those in its own store."""
    body = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(body, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            below = PurePosixPath(entry.filename).parts[1:]
            if below and not entry.is_dir():
                moved = zipfile.ZipInfo(str(PurePosixPath(*below)), entry.date_time)
                moved.external_attr, moved.compress_type = entry.external_attr, zipfile.ZIP_DEFLATED
                new.writestr(moved, old.read(entry))
    return body.getvalue()


def _reason(answer: httpx.Response) -> str:
    """Return the last words of an answer: Ray sends whole tracebacks."""
    lines = [line for line in answer.text.strip().splitlines() if line.strip()]
    return f"{answer.status_code} {lines[-1][:500] if lines else ''}".strip()
