"""The hook against the local endpoint, and against moto's own Glue for the calls that moto has."""

from __future__ import annotations

import contextlib
import gzip
import json
import time
from collections.abc import Iterator

import boto3
import pytest
from botocore.stub import Stubber
from moto.server import ThreadedMotoServer

from airflow_provider_glueray.core.errors import (
    AccountNotEligible,
    CapacityExceeded,
    ConnectionConfigError,
    InvalidRequest,
    JobConflict,
    SourceFileError,
    SpecError,
    StagingError,
    StopError,
    SubmitError,
    SubmitOutcomeUnknown,
)
from airflow_provider_glueray.core.logs import LOG_SOURCES, LogCursor
from airflow_provider_glueray.core.runs import RunRef, RunState
from airflow_provider_glueray.core.spec import RayJobSpec, Workers
from airflow_provider_glueray.hooks.glue import logs as glue_logs
from airflow_provider_glueray.hooks.glue.jobs import GlueRayJobHook
from airflow_provider_glueray.packaging.s3 import S3Store
from airflow_provider_glueray.packaging.upload import stage

#: Epoch milliseconds of the first log event; CloudWatch takes nothing older than two weeks.
NOW = int(time.time() * 1000) - 120_000


def spec(name: str, **fields) -> RayJobSpec:
    """Return the spec of a job whose script nobody runs."""
    return RayJobSpec(**{"name": name, "script": "s3://glueray-local/none.py", "role": "GlueRayRole", **fields})


@pytest.fixture
def hook(clean_endpoint, monkeypatch) -> GlueRayJobHook:
    """Return a hook on the local endpoint, where runs stay STARTING until stopped."""
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(clean_endpoint.airflow_connection()))
    clean_endpoint.faults(provisioning_seconds=60)
    return GlueRayJobHook()


@pytest.fixture
def calls(clean_endpoint):
    """Return the endpoint's counter of calls."""
    return clean_endpoint.calls


class TestDefinition:
    """Create or update, by a real difference."""

    def test_a_run_that_has_waited_executes_what_it_prepared(self, hook, clean_endpoint):
        """A task with the same job has defined it otherwise meanwhile."""
        clean_endpoint.faults(quota_mdpu=1)
        waiting = hook.prepare(spec("shared", script="s3://glueray-local/mine.py"))
        with pytest.raises(CapacityExceeded):
            waiting.start("m-waiting", {})
        hook.prepare(spec("shared", script="s3://glueray-local/theirs.py"))
        clean_endpoint.faults(quota_mdpu=50)
        ref = waiting.start("m-waiting", {})

        assert hook.get_job("shared")["Command"]["ScriptLocation"] == "s3://glueray-local/mine.py"
        hook.stop(ref)

    def test_created_then_left_alone_then_updated(self, hook, calls):
        """The second night costs one GetJob and changes nothing."""
        first = spec("define", tags={"airflow_dag_id": "d", "airflow_task_id": "t"})

        assert hook.ensure_job(first) == "created"
        before = calls()
        assert hook.ensure_job(first) == "unchanged"
        assert {name: count - before.get(name, 0) for name, count in calls().items() if count != before.get(name)} == {
            "GetJob": 1
        }
        assert hook.ensure_job(spec("define", workers=Workers(4))) == "updated"
        assert hook.get_job("define")["NumberOfWorkers"] == 4

    def test_what_others_set_stays(self, hook):
        """Foreign tags, arguments and settings survive our update."""
        hook.ensure_job(spec("shared", tags={"team": "etl"}))
        arn = f"arn:aws:glue:{hook.conn_region_name}:123456789012:job/shared"
        hook.conn.tag_resource(ResourceArn=arn, TagsToAdd={"cost": "7", "team": "theirs"})
        job = hook.get_job("shared")
        keep = ("Role", "Command", "GlueVersion", "WorkerType", "NumberOfWorkers", "ExecutionProperty")
        hook.conn.update_job(
            JobName="shared",
            JobUpdate={
                **{key: job[key] for key in keep},
                "DefaultArguments": {"--theirs": "1"},
                "NotificationProperty": {"NotifyDelayAfter": 5},
            },
        )

        assert hook.ensure_job(spec("shared", tags={"team": "etl"}, pip=["x==1"])) == "updated"
        job = hook.get_job("shared")
        assert job["DefaultArguments"] == {"--theirs": "1", "--pip-install": "x==1"}
        assert job["NotificationProperty"] == {"NotifyDelayAfter": 5}
        assert hook.conn.get_tags(ResourceArn=arn)["Tags"] == {"cost": "7", "team": "etl"}

    def test_a_changed_tag_alone_is_an_update(self, hook):
        """Tags are no part of the definition, and are compared all the same."""
        hook.ensure_job(spec("tagged", tags={"team": "a"}))

        assert hook.ensure_job(spec("tagged", tags={"team": "b"})) == "updated"

    def test_a_job_of_another_kind_is_left_alone(self, hook):
        """Overwriting somebody's Spark job is never what was meant."""
        hook.conn.create_job(Name="etl", Role="R", Command={"Name": "glueetl", "ScriptLocation": "s3://b-b/x.py"})

        with pytest.raises(JobConflict, match="glueetl"):
            hook.ensure_job(spec("etl"))

    def test_two_who_create_at_once(self, hook, monkeypatch):
        """The one who comes second looks again instead of failing."""
        other = GlueRayJobHook()
        real, looked = hook.get_job, []

        def late(name):
            looked.append(name)
            found = real(name)
            if len(looked) == 1:
                other.ensure_job(spec("race", workers=Workers(3)))
            return found

        monkeypatch.setattr(hook, "get_job", late)
        assert hook.ensure_job(spec("race")) == "updated"
        assert len(looked) == 2

    def test_deleting_twice(self, hook):
        """A job that is not there is not an error."""
        hook.ensure_job(spec("gone"))
        hook.delete_job("gone")
        hook.delete_job("gone")

        assert hook.get_job("gone") is None

    def test_what_the_service_refuses(self, hook):
        """Its own words, and no retry: the same request would be refused again."""
        with pytest.raises(InvalidRequest, match="InvalidInputException"):
            hook.ensure_job(spec("bad", overrides={"glue": {"job": {"WorkerType": "G.1X"}}}))

    def test_a_closed_account(self, hook, clean_endpoint):
        """The refusal of new customers is explained."""
        clean_endpoint.faults(account_closed=True)

        with pytest.raises(AccountNotEligible, match="2026-04-30"):
            hook.ensure_job(spec("closed"))

    def test_a_region_without_ray_is_said(self, monkeypatch, caplog):
        """Only a warning: the list of regions is AWS's to change."""
        monkeypatch.setenv("AIRFLOW_CONN_FAR", json.dumps({"conn_type": "aws", "extra": {"region_name": "eu-north-1"}}))
        far = GlueRayJobHook(aws_conn_id="far")
        said = []
        monkeypatch.setattr(far.log, "warning", lambda text, *values: said.append(text % values))
        monkeypatch.setattr(far, "get_job", lambda name: {"Command": {"Name": "glueetl"}})
        with pytest.raises(JobConflict):
            far.ensure_job(spec("x"))

        assert "eu-north-1" in said[0]


class TestStaging:
    """Local files reach S3 under the hash of what they hold."""

    def test_uploaded_once(self, hook, tmp_path):
        """Same content, same key, one upload; a change gets a key of its own."""
        script = tmp_path / "main.py"
        script.write_text("print(1)\n")
        local = spec("stage", script=str(script))
        first = stage(local, "s3://glueray-local/code-once/", hook.storage, hook.log)
        again = stage(local, "s3://glueray-local/code-once/", hook.storage, hook.log)
        script.write_text("print(2)\n")
        changed = stage(local, "s3://glueray-local/code-once/", hook.storage, hook.log)

        assert first.script == again.script != changed.script
        s3 = hook._client_for("s3")
        keys = [
            item["Key"] for item in s3.list_objects_v2(Bucket="glueray-local", Prefix="code-once/main-")["Contents"]
        ]
        assert sorted(f"s3://glueray-local/{key}" for key in keys) == sorted({first.script, changed.script})

    def test_skipped_when_there(self, hook, calls):
        """The second upload of the same bytes does not send them."""
        store = hook.storage

        assert store.upload(b"x", "s3://glueray-local/twice.py") is True
        assert store.upload(b"x", "s3://glueray-local/twice.py") is False

    @pytest.mark.parametrize(
        ("make", "words"),
        [
            (lambda path: None, "No such file"),
            (lambda path: path.mkdir(), "Is a directory"),
            (lambda path: path.write_text(""), "is empty"),
            (lambda path: path.write_text("def f(:"), "is not Python 3.9"),
            (lambda path: path.write_text("match x:\n  case 1: pass"), "is not Python 3.9"),
            (lambda path: path.write_bytes(gzip.compress(b"x")), "is not Python 3.9"),
        ],
    )
    def test_scripts_that_cannot_run(self, hook, tmp_path, make, words):
        """Found out before anything is uploaded, let alone started."""
        path = tmp_path / "etl.py"
        make(path)
        with pytest.raises(SourceFileError, match=words):
            stage(spec("x", script=str(path)), "s3://glueray-local/code", hook.storage, hook.log)

    def test_buckets_that_cannot_be_used(self, hook, tmp_path):
        """Missing, or not given."""
        script = tmp_path / "etl.py"
        script.write_text("1\n")
        with pytest.raises(StagingError, match="does not exist"):
            stage(spec("x", script=str(script)), "s3://nobody-has-this/code", hook.storage, hook.log)
        with pytest.raises(SpecError, match="staging_uri"):
            stage(spec("x", script=str(script)), None, hook.storage, hook.log)

    def test_a_denied_bucket(self):
        """S3 answers 403 to a look at a missing key and to the write; only the write decides."""
        s3 = boto3.client("s3", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
        with Stubber(s3) as stub:
            stub.add_client_error("head_object", "403", http_status_code=403)
            stub.add_client_error("put_object", "AccessDenied", http_status_code=403)
            with pytest.raises(StagingError, match="s3:PutObject"):
                S3Store(lambda: s3).upload(b"x", "s3://bucket/key.py")


class TestStart:
    """Never two runs."""

    def test_a_run_carries_its_mark(self, hook):
        """And is found by it."""
        hook.ensure_job(spec("marked", max_concurrent_runs=5))
        first = hook.submit(spec("marked"), "mark-1")
        second = hook.submit(spec("marked"), "mark-2")

        assert [seen.ref for seen in hook.find_runs("marked", "mark-1")] == [first]
        assert hook.latest_run("marked").ref == second
        hook.stop(first, second)

    def test_full(self, hook, clean_endpoint):
        """A limit is its own kind of error, whichever limit it is."""
        hook.ensure_job(spec("full"))
        ref = hook.submit(spec("full"), "a")
        with pytest.raises(CapacityExceeded, match="ConcurrentRunsExceeded"):
            hook.submit(spec("full"), "b")
        clean_endpoint.faults(throttle_next={"StartJobRun": 1})
        with pytest.raises(CapacityExceeded, match="Throttling"):
            hook.submit(spec("full"), "c")
        clean_endpoint.faults(throttle_next={}, quota_mdpu=2)
        hook.ensure_job(spec("roomless"))
        with pytest.raises(CapacityExceeded, match="ResourceNumberLimitExceeded"):
            hook.submit(spec("roomless"), "d")
        hook.stop(ref)

    def test_a_lost_answer_is_looked_for(self, hook, clean_endpoint, calls):
        """boto3 would have sent it again."""
        hook.ensure_job(spec("lost", max_concurrent_runs=5))
        clean_endpoint.faults(drop_next={"StartJobRun": 1})
        ref = hook.submit(spec("lost"), "m")

        assert calls()["StartJobRun"] == 1
        assert len(hook.find_runs("lost", "m")) == 1
        hook.stop(ref)

    def test_a_refused_connection_was_never_sent(self, monkeypatch):
        """Nothing is listening, so nothing was started and nothing is looked for."""
        nowhere = {"conn_type": "aws", "login": "x", "password": "x"}
        nowhere["extra"] = {"region_name": "us-east-1", "endpoint_url": "http://127.0.0.1:9"}
        monkeypatch.setenv("AIRFLOW_CONN_NOWHERE", json.dumps(nowhere))
        with pytest.raises(SubmitError, match=r"127\.0\.0\.1:9") as raised:
            GlueRayJobHook(aws_conn_id="nowhere").submit(spec("x"), "m")

        assert not isinstance(raised.value, SubmitOutcomeUnknown)

    def test_no_trace_of_a_run(self, hook, clean_endpoint, calls, monkeypatch):
        """An error after which nothing is found is tried again, a bounded number of times."""
        hook.ensure_job(spec("silent"))
        clean_endpoint.faults(error_next={"StartJobRun": ["InternalServiceException", 99]})
        with pytest.raises(SubmitOutcomeUnknown):
            hook.submit(spec("silent"), "m")

        assert calls()["StartJobRun"] == 3

    def test_an_error_and_then_success(self, hook, clean_endpoint, monkeypatch):
        """One internal error does not fail the step."""
        hook.ensure_job(spec("moody"))
        clean_endpoint.faults(error_next={"StartJobRun": ["OperationTimeoutException", 1]})
        ref = hook.submit(spec("moody"), "m")

        assert hook.describe([ref])[ref].state is RunState.STARTING
        hook.stop(ref)

    def test_a_missing_connection(self):
        """Said, not papered over with the machine's own credentials."""
        with pytest.raises(ConnectionConfigError, match="AIRFLOW_CONN_NOT_THERE"):
            GlueRayJobHook(aws_conn_id="not_there").ensure_job(spec("x"))

    def test_a_connection_to_something_else(self, monkeypatch):
        """Sessions go nowhere else, and functions need S3 wherever they run."""
        monkeypatch.setenv("AIRFLOW_CONN_RAY_EKS", '{"conn_type": "ray", "host": "ray-head"}')
        with pytest.raises(ConnectionConfigError, match="is of type 'ray'; sessions and statements run on AWS"):
            GlueRayJobHook(aws_conn_id="ray_eks").storage.read_text("s3://b/k")


class TestManyRuns:
    """One call for many."""

    def test_two_hundred_runs_cost_one_call(self, hook, clean_endpoint, calls):
        """GetJobRuns lists up to 200, newest first."""
        clean_endpoint.faults(quota_mdpu=10_000)
        many = spec("many", max_concurrent_runs=300)
        hook.ensure_job(many)
        refs = [hook.submit(many, f"m{i}") for i in range(205)]
        clean_endpoint.reset_calls()
        seen = hook.describe(refs[5:])

        assert calls() == {"GetJobRuns": 1}
        assert {snapshot.state for snapshot in seen.values()} == {RunState.STARTING}
        clean_endpoint.reset_calls()
        assert set(hook.describe(refs)) == set(refs)
        assert calls() == {"GetJobRuns": 2}

        clean_endpoint.reset_calls()
        hook.stop(*refs)
        assert calls() == {"BatchStopJobRun": 9}
        assert {each.state for each in hook.describe(refs).values()} <= {RunState.STOPPING, RunState.STOPPED}

    def test_one_run_is_asked_for_by_its_id(self, hook, calls, clean_endpoint):
        """A page of 200 would be waste."""
        hook.ensure_job(spec("one"))
        ref = hook.submit(spec("one"), "m")
        clean_endpoint.reset_calls()
        hook.describe([ref])

        assert calls() == {"GetJobRun": 1}
        hook.stop(ref)

    def test_a_run_that_is_not_there_is_lost(self, hook):
        """A confirmed absence is a state, not an error."""
        hook.ensure_job(spec("empty"))
        ref, other = (RunRef("glue-job", "empty", "jr_" + digit * 64) for digit in "ab")

        assert hook.describe([ref])[ref].state is RunState.LOST
        assert {each.state for each in hook.describe([ref, other]).values()} == {RunState.LOST}

    def test_no_run_yet(self, hook):
        """A job that never ran has no latest run; a job that is not there is an error."""
        hook.ensure_job(spec("fresh"))

        assert hook.latest_run("fresh") is None
        with pytest.raises(SubmitError, match="EntityNotFound"):
            hook.latest_run("nobody")


class TestStop:
    """Both lists of the answer are read."""

    def test_twice(self, hook):
        """Stopping what is stopping, or has stopped, is no error."""
        hook.ensure_job(spec("stop"))
        ref = hook.submit(spec("stop"), "m")
        hook.stop(ref)
        hook.stop(ref)
        while not hook.describe([ref])[ref].state.is_terminal:
            pass
        hook.stop(ref)

        assert hook.describe([ref])[ref].state is RunState.STOPPED

    def test_a_refusal_is_not_silent(self, hook):
        """An entry in Errors for a run that is still active is an error, with the service's reason."""
        ref = RunRef("glue-job", "j", "jr_" + "a" * 64)
        detail = {"ErrorCode": "InternalServiceException", "ErrorMessage": "not now"}
        glue = hook._client_for("glue")
        with Stubber(glue) as stub:
            stub.add_response(
                "batch_stop_job_run", {"Errors": [{"JobName": "j", "JobRunId": ref.id, "ErrorDetail": detail}]}
            )
            stub.add_response("get_job_run", {"JobRun": {"Id": ref.id, "JobRunState": "RUNNING"}})
            with pytest.raises(StopError, match="not now"):
                hook.stop(ref)

    def test_in_neither_list(self, hook):
        """An answer that forgets a run is not taken for success."""
        ref = RunRef("glue-job", "j", "jr_" + "a" * 64)
        with Stubber(hook._client_for("glue")) as stub:
            stub.add_response("batch_stop_job_run", {})
            stub.add_response("get_job_run", {"JobRun": {"Id": ref.id, "JobRunState": "RUNNING"}})
            with pytest.raises(StopError, match="no reason given"):
                hook.stop(ref)


class TestLogs:
    """Eight groups, many runs, a cursor. Written here with plain boto3, as the service would."""

    RUNS = [RunRef("glue-job", "logs", "jr_" + digit * 64) for digit in "ab"]  # noqa: RUF012

    @pytest.fixture
    def write(self, hook):
        """Return a function that writes events as Glue does."""
        logs = hook._client_for("logs")

        def write(source: str, stream: str, *events: tuple[int, str]) -> None:
            group = glue_logs.GROUPS[source]
            names = {"logGroupName": group, "logStreamName": stream}
            with contextlib.suppress(logs.exceptions.ResourceAlreadyExistsException):
                logs.create_log_group(logGroupName=group)
            with contextlib.suppress(logs.exceptions.ResourceAlreadyExistsException):
                logs.create_log_stream(**names)
            events_sent = [{"timestamp": NOW + at, "message": text} for at, text in events]
            logs.put_log_events(**names, logEvents=events_sent)

        return write

    def test_two_runs_one_call(self, hook, write, calls, clean_endpoint):
        """Each gets its own lines, and those of a third run go to nobody."""
        first, second = self.RUNS
        third = "jr_" + "c" * 64
        for number, run in enumerate((first.id, second.id, third)):
            write("script", f"logs-{run}", (number, f"of {number}"))
        pages = hook.read_logs(dict.fromkeys(self.RUNS, LogCursor()), ("script",))

        assert [line.text for line in pages[first].lines] == ["of 0"]
        assert [line.text for line in pages[second].lines] == ["of 1"]

    def test_the_cursor_shows_each_line_once(self, hook, write):
        """Also lines of the same millisecond, and those that come late and out of order."""
        ref = RunRef("glue-job", "cursor", "jr_" + "d" * 64)
        stream = f"cursor-{ref.id}"
        shown, cursor = [], LogCursor()
        for batch in (
            [(1, "a"), (1, "b")],
            [(1, "c")],
            [(5000, "e")],
            [(4000, "d late")],
            [(60_000, "f")],
            [(60_000, "g")],
        ):
            write("script", stream, *batch)
            page = hook.read_logs({ref: LogCursor.from_json(json.loads(json.dumps(cursor.to_json())))}, ("script",))[
                ref
            ]
            shown += [line.text for line in page.lines]
            cursor = page.cursor

        assert shown == ["a", "b", "c", "e", "d late", "f", "g"]
        assert len(cursor.seen) < 7

    def test_the_node_is_told(self, hook, write):
        """Worker logs say which machine they are from."""
        ref = RunRef("glue-job", "nodes", "jr_" + "e" * 64)
        write("worker-err", f"nodes-{ref.id}-10_0_0_7", (1, "oops\nagain"))
        page = hook.read_logs({ref: LogCursor()}, ("worker-err",))[ref]

        assert [str(line) for line in page.lines] == ["[worker-err 10_0_0_7] oops", "[worker-err 10_0_0_7] again"]

    def test_no_group_yet(self, hook):
        """Groups appear with their first record."""
        page = hook.read_logs({self.RUNS[0]: LogCursor()}, ("gcs",))[self.RUNS[0]]

        assert not page.lines

    def test_all_eight_groups_are_known(self):
        """As the troubleshooting page lists them."""
        assert len(set(glue_logs.GROUPS.values())) == 8
        assert tuple(glue_logs.GROUPS) == LOG_SOURCES


def test_links_of_the_console(monkeypatch):
    """Run and log pages of the right region and partition, without a call."""
    for region, domain in (("eu-west-1", "aws.amazon.com"), ("cn-north-1", "amazonaws.cn")):
        connection = {"conn_type": "aws", "login": "x", "password": "x", "extra": {"region_name": region}}
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(connection))
        hook, ref = GlueRayJobHook(), RunRef("glue-job", "my job", "jr_1")

        assert (
            hook.url(ref) == f"https://{region}.console.{domain}/gluestudio/home?region={region}#/job/my%20job/run/jr_1"
        )
        assert hook.logs_url(ref).startswith(
            f"https://{region}.console.{domain}/cloudwatch/home?region={region}#logsV2"
        )
        assert "$252Faws-glue$252Fray$252Fjobs$252Fscript-log" in hook.logs_url(ref)


@pytest.fixture(scope="module")
def moto_hook() -> Iterator[GlueRayJobHook]:
    """Return a hook on moto's own Glue: a second opinion, made by others."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    extra = {"region_name": "us-east-1", "endpoint_url": f"http://{host}:{port}"}
    with pytest.MonkeyPatch.context() as patch:
        connection = {"conn_type": "aws", "login": "x", "password": "x", "extra": extra}
        patch.setenv("AIRFLOW_CONN_MOTO", json.dumps(connection))
        yield GlueRayJobHook(aws_conn_id="moto")
    server.stop()


def test_against_motos_own_glue(moto_hook):
    """Create, find unchanged, start, find by mark, describe, latest, delete: the calls that moto has."""
    job = spec("second", workers=Workers(3), tags={"team": "etl"})

    assert moto_hook.ensure_job(job) == "created"
    assert moto_hook.get_job("second")["Command"]["Runtime"] == "Ray2.4"
    ref = moto_hook.submit(job, "mark")
    assert [seen.ref for seen in moto_hook.find_runs("second", "mark")] == [ref]
    assert moto_hook.describe([ref])[ref].state is RunState.SUCCEEDED
    assert moto_hook.latest_run("second").ref == ref
    moto_hook.delete_job("second")
    assert moto_hook.get_job("second") is None
