"""The Ray hook over HTTP on real clusters: Ray 2.9, and the newest, which is that of the local endpoint."""

from __future__ import annotations

import json
import time

import pytest

from airflow_provider_glueray.core.errors import JobConflict, RunLost, SpecError, failure_of
from airflow_provider_glueray.core.logs import LogCursor
from airflow_provider_glueray.core.runs import Outcome, RunRef, RunState
from airflow_provider_glueray.core.spec import Workers

SHOWS = """
import json, os, sys
import ray

ray.init()

@ray.remote
def in_task():
    import helpers
    return [os.environ["day"], helpers.WORDS]

print(json.dumps({"argv": sys.argv[1:], "env": os.environ["day"], "odd": os.environ["with-hyphen"],
                  "price": os.environ["price"], "task": ray.get(in_task.remote()),
                  "data": open("data/table.txt").read()}))
"""


def test_everything_of_the_spec_arrives(hook, make_spec, tmp_path, start, follow_to_end):
    """Arguments in the environment, of workers too, and in argv; modules and files from the cluster's own store."""
    (tmp_path / "helpers.py").write_text("WORDS = 'from a module'\n")
    (tmp_path / "work" / "data").mkdir(parents=True)
    (tmp_path / "work" / "data" / "table.txt").write_text("of the working dir")
    spec = make_spec(
        SHOWS,
        arguments={"day": "it's; 1e-5", "with-hyphen": "yes", "price": "$HOME ${HOME}"},
        py_modules=[str(tmp_path / "helpers.py")],
        working_dir=str(tmp_path / "work"),
    )
    outcome, lines = follow_to_end(hook, start(hook, spec))

    assert outcome.snapshot.state is RunState.SUCCEEDED, lines
    said = json.loads(next(line for line in lines if line.startswith("{")))
    assert said == {
        "argv": ["--day", "it's; 1e-5", "--with-hyphen", "yes", "--price", "$HOME ${HOME}"],
        "env": "it's; 1e-5",
        "price": "$HOME ${HOME}",
        "odd": "yes",
        "task": ["it's; 1e-5", "from a module"],
        "data": "of the working dir",
    }
    assert outcome.snapshot.usage is not None
    assert outcome.snapshot.usage.seconds > 0


def test_a_script_in_s3(new_hook, endpoint, make_spec, monkeypatch, start, follow_to_end, tmp_path):
    """The cluster fetches it by itself; it is the main program, and finds the modules of the working directory."""
    from airflow_provider_glueray.hooks.glue.jobs import GlueRayJobHook

    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(endpoint.airflow_connection()))
    GlueRayJobHook().storage.write_text(
        "s3://glueray-local/ray/main.py", "import sys\nimport beside\nprint(__name__, sys.argv[1:], beside)\n"
    )
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "beside.py").touch()
    spec = make_spec(script="s3://glueray-local/ray/main.py", working_dir=str(tmp_path / "work"), arguments={"c": "$d"})
    outcome, lines = follow_to_end(new_hook, start(new_hook, spec, a="b"))

    assert outcome.snapshot.state is RunState.SUCCEEDED, lines
    (line,) = (line for line in lines if line.startswith("__main__ "))
    assert line.startswith("__main__ ['--c', '$d', '--a', 'b'] <module 'beside' from ")
    assert not any("import base64" in line for line in lines)  # Ray writes the entrypoint to the log


def test_a_failure_has_the_end_of_its_log(hook, make_spec, start, follow_to_end, told):
    """Exit 7: the state, Ray's words, and what was printed, in order and without a gap."""
    source = (
        "import sys\nfor n in range(200):\n    print('line', n, flush=True)\nsys.stdout.write('no end')\nsys.exit(7)\n"
    )
    outcome, lines = follow_to_end(hook, start(hook, make_spec(source)))

    assert outcome.snapshot.state is RunState.FAILED
    assert "exit code 7" in outcome.snapshot.message
    assert any(line.startswith("Ray job is FAILED: ") for line in told)
    shown = [line for line in lines if line.startswith("line") or line == "no end"]
    assert shown == [f"line {number}" for number in range(200)] + ["no end"]
    assert "exit code 7" in str(failure_of(outcome, hook.url(outcome.snapshot.ref)))


def test_one_mark_is_one_run(hook, make_spec):
    """The request sent again finds its own run; somebody else's id is not taken over."""
    spec = make_spec()
    prepared = hook.prepare(spec)
    first = prepared.start("same", {})
    assert prepared.start("same", {}) == first
    assert [snapshot.ref for snapshot in hook.find_runs("tried", "same")] == [first]
    assert hook.find_runs("tried", "never") == []

    body = {"entrypoint": "true", "submission_id": "glueray-theirs", "metadata": {"glueray_client_token": "another"}}
    hook._ask("POST", "/api/jobs/", json=body)
    with pytest.raises(JobConflict, match="is taken by a job that is not of this task"):
        prepared.start("theirs", {})


def test_the_deadline_stops_it(hook, make_spec, start, follow_to_end):
    """What has been stopped, and what is not there, is not stopped again."""
    ref = start(hook, make_spec("import time\ntime.sleep(120)\n"))
    outcome, _ = follow_to_end(hook, ref, deadline=time.time() + 1)

    assert outcome.deadline_passed
    assert outcome.snapshot.state is RunState.STOPPED
    hook.stop(ref)
    hook.stop(RunRef("ray-job", "tried", "glueray-nobody"))


def test_many_are_described_by_one_call(hook, make_spec, monkeypatch, start):
    refs = [start(hook, make_spec(name=f"n{number}")) for number in range(3)]
    asked = []
    ask = hook._ask
    monkeypatch.setattr(hook, "_ask", lambda *args, **kwargs: asked.append(args) or ask(*args, **kwargs))

    assert set(hook.describe(refs)) == set(refs)
    assert asked == [("GET", "/api/jobs/")]
    assert hook.latest_run("n2").ref == refs[2]
    assert hook.latest_run("nobody") is None


def test_a_cluster_that_does_not_know_it_has_lost_it(hook):
    ref = RunRef("ray-job", "tried", "glueray-gone")
    snapshot = hook.describe([ref])[ref]

    assert snapshot.state is RunState.LOST
    assert isinstance(failure_of(Outcome(snapshot)), RunLost)
    assert hook.read_logs({ref: LogCursor()}, ["script"])[ref].lines == ()


def test_nothing_is_uploaded_twice(hook, make_spec, monkeypatch):
    spec = make_spec()
    hook.prepare(spec)
    asked = []
    ask = hook._ask
    monkeypatch.setattr(hook, "_ask", lambda *args, **kwargs: asked.append(args[0]) or ask(*args, **kwargs))
    hook.prepare(spec)

    assert "PUT" not in asked


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"object_spilling_config": {"type": "filesystem"}}, "object_spilling_config: it is set when a Ray"),
        ({"workers": Workers(object_store_memory_head=30)}, "object_store_memory_head: it is set when"),
        ({"cluster": "ns/shared"}, "cluster='ns/shared': the connection is the cluster"),
        ({"overrides": {"ray": {"entrypoint_num_cpu": 1}}}, r"overrides\['ray'\] has 'entrypoint_num_cpu'"),
    ],
)
def test_what_a_running_cluster_cannot_give_is_refused(hook, make_spec, fields, words):
    with pytest.raises(SpecError, match=words):
        hook.prepare(make_spec(**fields))


def test_overrides_reach_the_request(hook, make_spec, start):
    """Such as the room that the driver itself takes."""
    ref = start(hook, make_spec(overrides={"ray": {"entrypoint_num_cpus": 1, "metadata": {"team": "etl"}}, "glue": {}}))

    assert hook._job(ref.id)["metadata"]["team"] == "etl"
