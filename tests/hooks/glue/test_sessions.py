"""The session hook over HTTP: the local endpoint with real kernels, and botocore's Stubber for what it cannot make."""

from __future__ import annotations

import json
import time
from uuid import uuid4

import pytest
from botocore.stub import Stubber

from airflow_provider_glueray.core.errors import (
    AccountNotEligible,
    CapacityExceeded,
    InvalidRequest,
    RunFailed,
    RunTimedOut,
    SessionConflict,
    SessionEnded,
)
from airflow_provider_glueray.core.runs import RunRef, RunState
from airflow_provider_glueray.core.spec import RaySessionSpec
from airflow_provider_glueray.hooks.glue.sessions import GlueRaySessionHook
from airflow_provider_glueray.hooks.glue.statements import prepare
from airflow_provider_glueray.local import client as local_client

SPEC = RaySessionSpec(role="GlueRayRole", idle_timeout=172_800, tags={"team": "data"}, description="for the tests")
ENDLESS = "import time\nwhile True: time.sleep(0.05)"


@pytest.fixture
def hook(clean_endpoint: local_client.Endpoint, monkeypatch: pytest.MonkeyPatch) -> GlueRaySessionHook:
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(clean_endpoint.airflow_connection()))
    return GlueRaySessionHook()


@pytest.fixture
def session(live_session: RunRef) -> RunRef:
    """Return a session that is up; no test may end it."""
    return live_session


def new_id() -> str:
    return f"hook-{uuid4().hex[:8]}"


def until(look, wanted):
    for _ in range(200):
        if wanted(seen := look()):
            return seen
        time.sleep(0.1)
    raise AssertionError(seen)


def run(hook: GlueRaySessionHook, session: RunRef, code: str, client_token: str = ""):
    """Run code to its end and return its reference and output."""
    client_token = client_token or uuid4().hex
    ref = hook.run_statement(session.id, prepare(code, client_token, "a test"), client_token)
    until(lambda: hook.describe([ref])[ref], lambda seen: seen.state.is_terminal)
    return ref, hook.output(ref, client_token)


# -- sessions


def test_what_is_made(hook, session):
    """A role's name became an ARN; the settings, the tags and the mark arrived."""
    made = hook.session(session.id)

    assert made["Role"] == "arn:aws:iam::123456789012:role/GlueRayRole"
    assert (made["WorkerType"], made["NumberOfWorkers"], made["IdleTimeout"]) == ("Z.2X", 2, 100_000)
    assert made["DefaultArguments"]["--glueray_client_token"] == "m-live"
    assert session.id in [one["Id"] for one in hook.list_sessions({"team": "data"})]
    assert session.id not in [one["Id"] for one in hook.list_sessions({"team": "other"})]
    snapshot = hook.describe([session])[session]
    assert (snapshot.state, snapshot.is_over) == (RunState.SUCCEEDED, False)


def test_the_same_session_however_often_asked(hook, session, clean_endpoint):
    """By its mark; so a lost answer makes no second one."""
    assert hook.create(SPEC, session.id, "m-live") == session
    ref_id = new_id()
    clean_endpoint.faults(drop_next={"CreateSession": 1}, provisioning_seconds=3600)
    ref = hook.create(SPEC, ref_id, "m-lost")

    assert [one["Id"] for one in hook.list_sessions()].count(ref_id) == 1
    assert [found.ref for found in hook.find_runs(ref_id, "m-lost")] == [ref]
    assert hook.find_runs(ref_id, "m-other") == []
    assert hook.find_runs("no-such-session", "m-lost") == []
    hook.stop(ref)


def test_an_id_of_somebody_else(hook, session):
    with pytest.raises(SessionConflict, match="made by somebody else: for the tests"):
        hook.create(SPEC, session.id, "m-mine")


def test_refusals(hook, clean_endpoint):
    """Each in words that say what to do."""
    clean_endpoint.faults(account_closed=True)
    with pytest.raises(AccountNotEligible, match="EKS with KubeRay"):
        hook.create(SPEC, new_id(), "m")
    clean_endpoint.faults(account_closed=False, quota_mdpu=2)
    with pytest.raises(CapacityExceeded, match="M-DPU"):
        hook.create(SPEC, new_id(), "m")
    with pytest.raises(InvalidRequest, match="no IAM role 'Missing'"):
        hook.create(RaySessionSpec(role="Missing"), new_id(), "m")


def test_a_role_that_may_not_be_looked_up(hook):
    """Its ARN is made of the account's number then."""
    client = hook._client_for("iam")
    with Stubber(client) as stub:
        stub.add_client_error("get_role", "AccessDenied")
        assert hook.role_arn("Hidden") == "arn:aws:iam::123456789012:role/Hidden"
    assert hook.role_arn("arn:aws:iam::1:role/x") == "arn:aws:iam::1:role/x"


def test_a_session_that_does_not_become_ready(hook, clean_endpoint):
    """It is stopped when its time is over, and when it fails the reason is told."""
    clean_endpoint.faults(provisioning_seconds=3600)
    late = hook.create(SPEC, new_id(), "m")
    with pytest.raises(RunTimedOut, match=f"Session {late.id} took too long"):
        hook.wait_ready(late, timeout=1)
    assert hook.session(late.id)["Status"] == "STOPPED"

    clean_endpoint.faults(provisioning_seconds=0)
    broken = hook.create(RaySessionSpec(role="GlueRayRole", py_modules=["s3://glueray-local/no.zip"]), new_id(), "m")
    with pytest.raises(RunFailed, match=r"(?s)last state FAILED.*no\.zip"):
        hook.wait_ready(broken)


def test_stop_and_delete_are_harmless_twice(hook, clean_endpoint):
    clean_endpoint.faults(provisioning_seconds=3600)
    ref = hook.create(SPEC, new_id(), "m")
    for _ in range(2):
        hook.stop(ref)
    until(lambda: hook.describe([ref])[ref], lambda seen: seen.is_over)
    for _ in range(2):
        hook.delete(ref.id)

    assert hook.session(ref.id) is None
    assert hook.describe([ref])[ref].state is RunState.LOST
    hook.stop(ref)


def test_the_successor_of_a_session(hook, clean_endpoint):
    """Same settings, same tags, one only."""
    clean_endpoint.faults(provisioning_seconds=3600)
    old = hook.create(SPEC, new_id(), "m-old")
    hook.stop(old)
    until(lambda: hook.describe([old])[old], lambda seen: seen.is_over)
    new = hook.recreate(old.id)

    assert new.id == f"{old.id}-again"
    assert hook.recreate(old.id) == new
    before, after = hook.session(old.id), hook.session(new.id)
    kept = ("Role", "NumberOfWorkers", "WorkerType", "GlueVersion", "IdleTimeout", "DefaultArguments", "Description")
    assert {name: before[name] for name in kept} == {name: after[name] for name in kept}
    assert new.id in [one["Id"] for one in hook.list_sessions({"team": "data"})]
    hook.stop(new)
    with pytest.raises(SessionEnded, match="no session 'gone'"):
        hook.recreate("gone")


def test_sessions_of_spark_are_not_ours(hook):
    """An account has both; ours are those with the Ray command, over all pages."""
    client = hook._client_for("glue")
    pages = [
        {"Sessions": [{"Id": "a", "Command": {"Name": "glueetl"}}, {"Id": "b", "Command": {"Name": "glueray"}}],
         "NextToken": "t"},
        {"Sessions": [{"Id": "c", "Command": {"Name": "glueray"}}, {"Id": "d"}]},
    ]  # fmt: skip
    with Stubber(client) as stub:
        stub.add_response("list_sessions", pages[0], {"MaxResults": 100})
        stub.add_response("list_sessions", pages[1], {"MaxResults": 100, "NextToken": "t"})
        assert [one["Id"] for one in hook.list_sessions()] == ["b", "c"]


# -- statements


def test_a_statement(hook, session):
    """On the cluster, with what it printed and its value."""
    code = "import ray\nray.init('auto', ignore_reinit_error=True)\nprint('hello')\nlen(ray.nodes())"
    ref, output = run(hook, session, code, "m-one")

    assert hook.describe([ref])[ref].state is RunState.SUCCEEDED
    assert "hello" in output.printed
    assert output.value == 2
    assert output.completed >= output.started > 1.7e9
    assert [found.ref for found in hook.find_runs(session.id, "m-one")] == [ref]
    assert hook.succeeded(session.id)[ref.id]["Code"].startswith("import ray")


def test_an_exception(hook, session):
    """AVAILABLE, and no success all the same; the traceback has the author's lines."""
    ref, output = run(hook, session, "def f():\n    raise ValueError('odd')\n\nf()")

    snapshot = hook.describe([ref])[ref]
    assert (snapshot.raw_state, snapshot.state) == ("AVAILABLE", RunState.FAILED)
    assert snapshot.message == "ValueError: odd"
    assert (output.error.name, output.error.value) == ("ValueError", "odd")
    assert any("raise ValueError('odd')" in line for line in output.error.traceback)
    assert ref.id not in hook.succeeded(session.id)


def test_a_lost_answer_runs_nothing_twice(hook, session, clean_endpoint):
    """RunStatement has no token, so it is sent once and its statement is looked for."""
    before = len(hook.statements(session.id))
    clean_endpoint.faults(drop_next={"RunStatement": 1})
    _, output = run(hook, session, "print('once')\n1")

    assert output.value == 1
    assert len(hook.statements(session.id)) == before + 1


def test_busy_and_cancelled(hook, session, clean_endpoint):
    """One statement at a time; a cancelled one leaves the session usable. Two are described with one call."""
    done, _ = run(hook, session, "1")
    ref = hook.run_statement(session.id, prepare(ENDLESS, "m-endless", "a test"), "m-endless")
    with pytest.raises(CapacityExceeded, match="SessionBusy"):
        hook.run_statement(session.id, prepare("1", "m-2", "a test"), "m-2")
    clean_endpoint.reset_calls()
    seen = hook.describe([ref, done])
    assert (seen[ref].state.is_terminal, seen[done].state) == (False, RunState.SUCCEEDED)
    assert clean_endpoint.calls() == {"ListStatements": 1, "GetSession": 1}
    for _ in range(2):
        hook.stop(ref)
    until(lambda: hook.describe([ref])[ref], lambda seen: seen.state is RunState.STOPPED)

    assert run(hook, session, "2")[1].value == 2
    hook.stop(ref)


def test_statements_that_are_not_there(hook, session):
    lost = RunRef("glue-statement", session.id, "9999")
    nowhere = RunRef("glue-statement", "no-such-session", "0")

    assert {snapshot.state for snapshot in hook.describe([lost, nowhere]).values()} == {RunState.LOST}
    with pytest.raises(SessionEnded, match="no session 'no-such-session'"):
        hook.run_statement("no-such-session", "1", "m")


def test_a_session_that_is_ready_a_moment_later(hook, session):
    """It refuses for its state, and has another one when it is asked for it: there is room the next time."""
    with Stubber(hook._client_for("glue", once=True)) as stub:
        stub.add_client_error("run_statement", "IllegalSessionStateException", "is in PROVISIONING status")
        with pytest.raises(CapacityExceeded, match="still PROVISIONING"):
            hook.run_statement(session.id, prepare("1", "m-later", "a test"), "m-later")


def test_a_session_that_ends_under_its_statements(hook, clean_endpoint):
    """Who waits is told at once; who comes later too; what has run is still told."""
    clean_endpoint.faults(provisioning_seconds=3600)
    ref = hook.create(RaySessionSpec(role="GlueRayRole", idle_timeout=60), new_id(), "m")
    with pytest.raises(CapacityExceeded, match="still PROVISIONING"):
        hook.run_statement(ref.id, prepare("1", "m-1", "a test"), "m-1")
    clean_endpoint.faults(provisioning_seconds=0)
    hook.wait_ready(ref)
    done, _ = run(hook, ref, "40 + 2", "m-done")
    clean_endpoint.faults(minute_seconds=0.1)
    until(lambda: hook.session(ref.id)["Status"], lambda status: status == "TIMEOUT")

    with pytest.raises(SessionEnded, match=r"(?s)it is TIMEOUT.*idle_timeout of 1 minutes.*recreate"):
        hook.run_statement(ref.id, prepare("1", "m-2", "a test"), "m-2")
    assert hook.output(done, "m-done").value == 42
    seen = hook.describe([done, RunRef("glue-statement", ref.id, "77")])
    assert seen[done].state is RunState.SUCCEEDED
    (late,) = [snapshot for key, snapshot in seen.items() if key != done]
    assert late.state is RunState.TIMED_OUT
    assert late.message.startswith("Its session ended: ")


def test_a_crash_of_the_session(hook, clean_endpoint):
    """The statement that crashed it has failed, and says why."""
    ref = hook.create(SPEC, new_id(), "m")
    hook.wait_ready(ref)
    crash, _ = run(hook, ref, "import os\nos._exit(3)")

    assert hook.describe([crash])[crash].state is RunState.FAILED
    with pytest.raises(SessionEnded, match="it is FAILED"):
        hook.run_statement(ref.id, prepare("1", "m-2", "a test"), "m-2")


# -- places to look


def test_where_to_look(hook, session, monkeypatch):
    """At the endpoint, and at AWS's console where the connection names none."""
    statement = RunRef("glue-statement", session.id, "0")
    assert hook.url(session) == hook.url(statement) == f"{hook._endpoint('glue')}/_glueray/sessions/{session.id}"
    assert hook.logs_url(statement).endswith(f"/_glueray/sessions/{session.id}/log")

    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", '{"conn_type": "aws", "extra": {"region_name": "eu-west-1"}}')
    far = GlueRaySessionHook()
    assert far.url(session).startswith("https://eu-west-1.console.aws.amazon.com/gluestudio/home?region=eu-west-1#/")
    assert "%25" not in far.logs_url(session)
    assert "aws-glue$252Fray$252Fsessions" in far.logs_url(session)
