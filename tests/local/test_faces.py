"""What the endpoint answers at once, before anything moves: its API with no engine that runs and no kernel.

What an endpoint shows in passing can be over before a test asks for it; here it stays.
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
from airflow_provider_glueray.local.engine.state import SLOT_RELEASE_SECONDS, Ledger, Phase, Run
from airflow_provider_glueray.local.runtime.cluster import Cluster, Node
from airflow_provider_glueray.local.runtime.overlay import Overlays

COMMAND = {"Name": "glueray", "Runtime": "Ray2.4", "ScriptLocation": "s3://b/x.py"}


class Unopened:
    """Opens no session, so each stays PROVISIONING unless a test moves it."""

    def open(self, session: Session) -> None:
        pass


class Faces:
    """Both parts of the API on one ledger, with an engine that was never started."""

    def __init__(self) -> None:
        self.ledger, self.faults = Ledger(), Faults()
        nothing = cast(Cluster, None), self.faults, cast(Any, None), cast(Overlays, None)
        jobs = GlueApi(self.ledger, Engine(self.ledger, *nothing), self.faults)
        self._parts = (jobs, SessionApi(self.ledger, Unopened(), self.faults))

    def ask(self, operation: str, region: str = REGION, **request: Any) -> Any:
        (part,) = (part for part in self._parts if part.handles(operation, request))
        return part.call(operation, request, region)

    def refused(self, operation: str, **request: Any) -> tuple[str, str]:
        with pytest.raises(GlueError) as caught:
            self.ask(operation, **request)
        return caught.value.code, caught.value.message

    def make_job(self, workers: int = 2, **changes: Any) -> str:
        sizes = {"WorkerType": "Z.2X", "NumberOfWorkers": workers}
        return str(self.ask("CreateJob", Name="job", Role="r", Command=COMMAND, **sizes, **changes)["Name"])

    def make_session(self, workers: int = 2) -> Session:
        self.ask("CreateSession", Id="session", Role=ROLE_ARN, Command={"Name": "glueray"}, NumberOfWorkers=workers)
        return self.ledger.sessions[REGION, "session"]


@pytest.fixture
def faces() -> Faces:
    return Faces()


def test_sessions_and_runs_share_the_quota(faces: Faces) -> None:
    """In both directions; what has ended does not count."""
    faces.faults.put({"quota_mdpu": 10})
    session = faces.make_session(3)
    full = "ResourceNumberLimitExceededException"
    another = {"Id": "another", "Role": ROLE_ARN, "Command": {"Name": "glueray"}, "NumberOfWorkers": 3}
    code, message = faces.refused("CreateSession", **another)
    assert (code, message.endswith("6 in use, 6 requested, quota 10")) == (full, True)
    job = faces.make_job(3)
    assert faces.refused("StartJobRun", JobName=job)[0] == full
    session.close("STOPPED", None)
    run = faces.ask("StartJobRun", JobName=job)["JobRunId"]
    assert faces.refused("CreateSession", **another)[0] == full
    faces.ledger.runs[run].phase = Phase.DONE
    faces.ask("CreateSession", **another)


def test_a_run_holds_its_place_a_little_longer_than_it_lasts(faces: Faces) -> None:
    """So that whoever starts another one at once is told that the place is taken, as by the service."""
    run = faces.ledger.runs[faces.ask("StartJobRun", JobName=faces.make_job())["JobRunId"]]
    assert run.holds_slot(now=0)
    run.phase, run.completed = Phase.DONE, 100.0
    moments = (100.0, 100.0 + SLOT_RELEASE_SECONDS / 2, 100.0 + 2 * SLOT_RELEASE_SECONDS)
    assert [run.holds_slot(now) for now in moments] == [True, True, False]


def test_a_stop_is_shown_at_once_and_may_be_asked_for_twice(faces: Faces) -> None:
    """STOPPING, until Ray has stopped it."""
    job = faces.make_job()
    run = faces.ask("StartJobRun", JobName=job)["JobRunId"]
    faces.ledger.runs[run].phase = Phase.SUBMITTED
    for _ in range(2):
        answer = faces.ask("BatchStopJobRun", JobName=job, JobRunIds=[run])
        assert answer == {"SuccessfulSubmissions": [{"JobName": job, "JobRunId": run}], "Errors": []}
        assert faces.ask("GetJobRun", JobName=job, RunId=run)["JobRun"]["JobRunState"] == "STOPPING"


def test_a_cancel_is_shown_at_once(faces: Faces) -> None:
    """CANCELLING, until the code has ended; meanwhile the session is busy."""
    faces.make_session().state = READY
    statement = faces.ask("RunStatement", SessionId="session", Code="1")["Id"]
    faces.ask("CancelStatement", SessionId="session", Id=statement)
    assert faces.ask("GetStatement", SessionId="session", Id=statement)["Statement"]["State"] == "CANCELLING"
    assert faces.refused("RunStatement", SessionId="session", Code="2")[0] == "SessionBusyException"


class Written(LogWriter):
    """Keeps what it was given."""

    def __init__(self) -> None:
        self.lines: dict[str, list[str]] = {}

    def write(self, group: str, stream: str, lines: Any) -> None:
        for line in lines:
            self.lines.setdefault(f"{group} {stream}", []).append(line)


def test_the_files_of_a_node_go_to_their_groups(faces: Faces, tmp_path: Any) -> None:
    """Of a file that outlives runs, what was appended since the run began; of workers, those of its Ray job."""
    run: Run = faces.ledger.runs[faces.ask("StartJobRun", JobName=faces.make_job())["JobRunId"]]
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
    written = Written()
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
