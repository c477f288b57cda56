"""The endpoint's APIs without a running engine and without kernels.

On a running endpoint, a short state can end before a test reads it; here every state stays.
"""

from __future__ import annotations

from typing import Any, cast

import pytest

from airflow_provider_glueray.local.api.jobs import GlueApi
from airflow_provider_glueray.local.api.sessions import SessionApi
from airflow_provider_glueray.local.client import REGION, ROLE_ARN
from airflow_provider_glueray.local.engine.errors import GlueError
from airflow_provider_glueray.local.engine.faults import Faults
from airflow_provider_glueray.local.engine.logs import PREFIX, LogWriter, RunLogs
from airflow_provider_glueray.local.engine.runs import Engine
from airflow_provider_glueray.local.engine.sessions import READY, Session
from airflow_provider_glueray.local.engine.state import SLOT_RELEASE_SECONDS, Phase, Run, State
from airflow_provider_glueray.local.runtime.cluster import Cluster, Node
from airflow_provider_glueray.local.runtime.overlay import Overlays

COMMAND = {"Name": "glueray", "Runtime": "Ray2.4", "ScriptLocation": "s3://b/x.py"}


class NoSessionThreads:
    """A session host without threads, so each session stays PROVISIONING unless a test changes it."""

    def start_session(self, session: Session) -> None:
        pass


class Apis:
    """Both APIs on one state, with an engine that never starts."""

    def __init__(self) -> None:
        self.state, self.faults = State(), Faults()
        unused = cast(Cluster, None), self.faults, cast(Any, None), cast(Overlays, None)
        jobs = GlueApi(self.state, Engine(self.state, *unused), self.faults)
        self._apis = (jobs, SessionApi(self.state, NoSessionThreads(), self.faults))

    def request(self, operation: str, region: str = REGION, **request: Any) -> Any:
        (api,) = (api for api in self._apis if api.handles(operation, request))
        return api.call(operation, request, region)

    def refused(self, operation: str, **request: Any) -> tuple[str, str]:
        with pytest.raises(GlueError) as caught:
            self.request(operation, **request)
        return caught.value.code, caught.value.message

    def make_job(self, workers: int = 2, **changes: Any) -> str:
        sizes = {"WorkerType": "Z.2X", "NumberOfWorkers": workers}
        return str(self.request("CreateJob", Name="job", Role="r", Command=COMMAND, **sizes, **changes)["Name"])

    def make_session(self, workers: int = 2) -> Session:
        self.request("CreateSession", Id="session", Role=ROLE_ARN, Command={"Name": "glueray"}, NumberOfWorkers=workers)
        return self.state.sessions[REGION, "session"]


@pytest.fixture
def apis() -> Apis:
    return Apis()


def test_sessions_and_runs_share_the_quota(apis: Apis) -> None:
    """Sessions count against runs and runs against sessions; ended ones do not count."""
    apis.faults.put({"quota_mdpu": 10})
    session = apis.make_session(3)
    full = "ResourceNumberLimitExceededException"
    another = {"Id": "another", "Role": ROLE_ARN, "Command": {"Name": "glueray"}, "NumberOfWorkers": 3}
    code, message = apis.refused("CreateSession", **another)
    assert (code, message.endswith("6 in use, 6 requested, quota 10")) == (full, True)
    job = apis.make_job(3)
    assert apis.refused("StartJobRun", JobName=job)[0] == full
    session.close("STOPPED", None)
    run = apis.request("StartJobRun", JobName=job)["JobRunId"]
    assert apis.refused("CreateSession", **another)[0] == full
    apis.state.runs[run].phase = Phase.DONE
    apis.request("CreateSession", **another)


def test_a_finished_run_still_counts_for_a_moment(apis: Apis) -> None:
    """An immediate second StartJobRun is refused, as by the service."""
    run = apis.state.runs[apis.request("StartJobRun", JobName=apis.make_job())["JobRunId"]]
    assert run.holds_slot(now=0)
    run.phase, run.completed = Phase.DONE, 100.0
    moments = (100.0, 100.0 + SLOT_RELEASE_SECONDS / 2, 100.0 + 2 * SLOT_RELEASE_SECONDS)
    assert [run.holds_slot(now) for now in moments] == [True, True, False]


def test_a_stop_is_shown_at_once_and_can_be_requested_twice(apis: Apis) -> None:
    """The run is STOPPING until Ray has stopped it."""
    job = apis.make_job()
    run = apis.request("StartJobRun", JobName=job)["JobRunId"]
    apis.state.runs[run].phase = Phase.SUBMITTED
    for _ in range(2):
        response = apis.request("BatchStopJobRun", JobName=job, JobRunIds=[run])
        assert response == {"SuccessfulSubmissions": [{"JobName": job, "JobRunId": run}], "Errors": []}
        assert apis.request("GetJobRun", JobName=job, RunId=run)["JobRun"]["JobRunState"] == "STOPPING"


def test_a_cancel_is_shown_at_once(apis: Apis) -> None:
    """The statement is CANCELLING until the code has ended; the session is busy until then."""
    apis.make_session().state = READY
    statement = apis.request("RunStatement", SessionId="session", Code="1")["Id"]
    apis.request("CancelStatement", SessionId="session", Id=statement)
    assert apis.request("GetStatement", SessionId="session", Id=statement)["Statement"]["State"] == "CANCELLING"
    assert apis.refused("RunStatement", SessionId="session", Code="2")[0] == "SessionBusyException"


class RecordingLogWriter(LogWriter):
    """A log writer that stores the lines in memory."""

    def __init__(self) -> None:
        self.lines: dict[str, list[str]] = {}

    def write(self, group: str, stream: str, lines: Any) -> None:
        for line in lines:
            self.lines.setdefault(f"{group} {stream}", []).append(line)


def test_the_files_of_a_node_go_to_their_groups(apis: Apis, tmp_path: Any) -> None:
    """A system file gives the lines since the run's launch; worker files give the lines of the run's Ray job."""
    run: Run = apis.state.runs[apis.request("StartJobRun", JobName=apis.make_job())["JobRunId"]]
    run.ray_job = "0a000000"
    node = Node("127.0.0.2", tmp_path, cast(Any, None))
    node.logs.mkdir(parents=True)
    system = {
        "monitor.out": "ray-monitor-log",
        "gcs_server.err": "ray-gcs-logs",
        "raylet.out": "ray-raylet-logs",
        "dashboard_agent.log": "ray-process-logs",
        "runtime_env_agent.out": "ray-runtime-env-log",
    }
    for name in system:
        (node.logs / name).write_text("before\n")
    written = RecordingLogWriter()
    logs = RunLogs(run, lambda: [node], tmp_path, written)
    for name in system:
        with (node.logs / name).open("a") as file:
            file.write("during\n")
    workers = {
        "0a000000-11.out": "mine\n",
        "0b000000-12.out": "theirs\n",
        "ffffffff-13.err": ":job_id:0a000000\nbound\n",
    }
    for name, text in workers.items():
        (node.logs / f"worker-ab12-{name}").write_text(text)
    logs.ship(last=True)

    stream = f"job-{run.id}-127_0_0_2-"
    assert written.lines == {
        **{f"{PREFIX}{group} {stream}{name}": ["during"] for name, group in system.items()},
        f"{PREFIX}ray-worker-out-logs {stream}11": ["mine"],
        f"{PREFIX}ray-worker-err-logs {stream}13": ["bound"],
    }
