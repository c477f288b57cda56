"""The operator through Airflow's real task runner, on the local endpoint with real Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_glueray.errors import RunFailed, RunStopped, RunTimedOut, ServiceFull, SpecError, StopError
from airflow_provider_glueray.hooks.glue_jobs import GlueRayJobHook
from airflow_provider_glueray.operators.glue_jobs import GlueRayJobOperator

#: Each step has a job of its own, so that no test meets the runs of another.
GOOD = "import os\nprint('hello', os.environ['who-is'])\n"
BAD = "print('before')\nraise ValueError('the input is odd')\n"


@pytest.fixture
def make_step(dag: DAG, tmp_path: Path, fresh: Callable[[], int]) -> Callable[..., GlueRayJobOperator]:
    """Return a factory of operators that run a script given as text."""

    def make(source: str = GOOD, **kwargs: Any) -> GlueRayJobOperator:
        script = tmp_path / "step.py"
        script.write_text(source)
        defaults = {
            "task_id": f"step-{fresh()}",
            "script": str(script),
            "role": "GlueRayRole",
            "staging": "s3://glueray-local/code",
            "arguments": {"who-is": "{{ run_id }}"},
            "deferrable": False,
            "dag": dag,
        }
        return GlueRayJobOperator(**{**defaults, **kwargs})

    return make


def runs_of(step: GlueRayJobOperator) -> list[Any]:
    """Return every run of a step's job, newest first."""
    pages = GlueRayJobHook()._run_pages(f"{step.dag_id}-{step.task_id}")
    return [run for page in pages for run in page]


@pytest.mark.parametrize("deferrable", [False, True])
def test_the_same_result_in_every_mode(connected, make_step, make_task, deferrable):
    """Sync and deferred give the same XComs: the run's id, which run, what it used, the links."""
    result = make_task(make_step(deferrable=deferrable)).run_to_end()

    assert result.state == "success"
    run_id = result.xcoms["return_value"]
    assert run_id.startswith("jr_")
    assert result.xcoms["glueray_run"]["id"] == run_id
    assert result.xcoms["glueray_usage"]["workers"] == 2
    assert result.xcoms["glueray_usage"]["estimated_cost_usd"] > 0
    assert result.xcoms["_link_GlueRayRunLink"].endswith(run_id)
    assert set(result.xcoms) == {
        "return_value", "glueray_run", "glueray_usage", "_link_GlueRayRunLink", "_link_GlueRayLogsLink",
    }  # fmt: skip


def test_the_run_carries_dag_task_and_run(connected, make_step, make_task):
    """Arguments are rendered, and the DAG, the task and the run are added by themselves."""
    step = make_step(wait_for_completion=False)
    make_task(step).run()

    arguments = runs_of(step)[0]["Arguments"]
    assert arguments["--who-is"] == "scheduled__2026-11-21"
    assert arguments["--airflow_dag_id"] == "walk"
    assert arguments["--airflow_task_id"] == step.task_id
    assert arguments["--airflow_run_id"] == "scheduled__2026-11-21"


def test_local_zips_lie_beside_the_dag_too(connected, make_step, make_task, tmp_path, dag):
    """A module's archive is found next to the DAG's file, uploaded, and importable in the script."""
    dag.fileloc = str(tmp_path / "dag.py")
    with ZipFile(tmp_path / "lib.zip", "w") as archive:
        archive.writestr("lib/greeting/__init__.py", "WORDS = 'from the archive'\n")
    step = make_step("import greeting\nprint(greeting.WORDS)\n", script="step.py", py_modules="lib.zip")
    result = make_task(step).run()

    assert result.state == "success"
    (uploaded,) = runs_of(step)[0]["Arguments"]["--s3-py-modules"].split(",")
    assert uploaded.startswith("s3://glueray-local/code/lib-")


def test_folders_are_packed(connected, make_step, make_task, tmp_path, dag):
    """Modules for the driver and the workers, a working directory, and an error for two modules of one name."""
    dag.fileloc = str(tmp_path / "dag.py")
    for name, text in {
        "libs/greeting.py": "WORDS = 'good evening'",
        "tools/__init__.py": "def double(x): return 2 * x",
        "work/data.txt": "21",
        "other/tools.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    code = (
        "import greeting, ray, tools\nray.init('auto')\n"
        "answer = ray.get(ray.remote(tools.double).remote(int(open('data.txt').read())))\n"
        "assert (greeting.WORDS, answer) == ('good evening', 42), answer\n"
    )
    where = {"script": "step.py", "working_dir": "work"}
    step = make_step(code, **where, py_modules=["libs", "tools"])
    clash = make_step(code, **where, py_modules=["tools", "other"])

    assert make_task(step).run().state == "success"
    assert "both have a module 'tools'" in str(make_task(clash).run().error)


def test_links_are_there_while_the_run_is_running(connected, make_step, make_task):
    """The links are pushed right after the start, before anything is waited for."""
    deferred = make_task(make_step(deferrable=True)).run()

    assert deferred.state == "deferred"
    assert "_link_GlueRayRunLink" in deferred.xcoms
    assert "_link_GlueRayLogsLink" in deferred.xcoms


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_script_that_raises(connected, make_step, make_task, deferrable):
    """The traceback's tail stands in the exception, and a retry is left to the task."""
    result = make_task(make_step(BAD, deferrable=deferrable, retries=1)).run_to_end()

    assert result.state == "up_for_retry"
    assert isinstance(result.error, RunFailed)
    assert "ValueError: the input is odd" in str(result.error)
    assert "Traceback" in str(result.error)
    assert result.xcoms["glueray_usage"]["seconds"] >= 0


def test_fire_and_forget(connected, make_step, make_task):
    """Without waiting the id is returned at once, even when deferrable."""
    connected.faults(provisioning_seconds=30)
    step = make_step(wait_for_completion=False, deferrable=True)
    result = make_task(step).run()

    assert result.state == "success"
    assert runs_of(step)[0]["JobRunState"] == "STARTING"
    GlueRayJobHook().stop(GlueRayJobHook().latest_run(f"walk-{step.task_id}").ref)


class TestNeverTwoRuns:
    """Retries take the run up again; clears start anew; lost answers and dead workers start nothing twice."""

    class WorkerDied(BaseException):
        """Stands for SIGKILL: nothing after it runs."""

    def die_when_storing_the_run_id(self, message: Any) -> None:
        if type(message).__name__ == "SetTaskStateStore" and message.value["run_id"]:
            raise self.WorkerDied

    def test_a_crash_between_start_and_store(self, connected, make_step, make_task):
        """The run whose id was never stored is found by its mark."""
        step = make_step(retries=1)
        task = make_task(step)
        task.supervisor.before = self.die_when_storing_the_run_id
        assert isinstance(task.run().error, self.WorkerDied)
        task.supervisor.before = lambda message: None
        result = task.retry()

        assert result.state == "success"
        assert len(runs_of(step)) == 1

    def test_a_retry_takes_a_succeeded_run(self, connected, make_step, make_task):
        """A run that succeeded while nobody looked is not run again."""
        step = make_step(retries=1, wait_for_completion=False)
        task = make_task(step)
        first = task.run().xcoms["return_value"]
        step.wait_for_completion = True
        result = task.retry()

        assert result.xcoms["return_value"] == first
        assert len(runs_of(step)) == 1

    def test_a_retry_after_a_failed_run_starts_a_new_one(self, connected, make_step, make_task):
        """What failed is done again."""
        step = make_step(BAD, retries=1)
        task = make_task(step)
        task.run()
        task.retry()

        assert len(runs_of(step)) == 2

    def test_a_clear_starts_anew_and_stops_the_survivor(self, connected, make_step, make_task):
        """A cleared task does not return the old run's result, and the old run does not stay behind."""
        connected.faults(provisioning_seconds=60)
        step = make_step(retries=1, wait_for_completion=False, max_concurrent_runs=2)
        task = make_task(step)
        first = task.run().xcoms["return_value"]
        second = task.clear().xcoms["return_value"]

        assert first != second
        states = {run["Id"]: run["JobRunState"] for run in runs_of(step)}
        assert states[first] in ("STOPPING", "STOPPED")
        assert states[second] == "STARTING"
        GlueRayJobHook().stop(GlueRayJobHook().latest_run(f"walk-{step.task_id}").ref)

    def test_a_clear_of_a_success_runs_again(self, connected, make_step, make_task):
        """Airflow 3.3 keeps the store through a clear; the result in it is not taken for the new series."""
        step = make_step(retries=0)
        task = make_task(step)
        first = task.run().xcoms["return_value"]
        second = task.clear().xcoms["return_value"]

        assert first != second

    def test_a_lost_answer(self, connected, make_step, make_task):
        """The service did start the run but the answer never came: it is found, not started again."""
        step = make_step()
        connected.faults(drop_next={"StartJobRun": 1})
        result = make_task(step).run()

        assert result.state == "success"
        assert connected.calls()["StartJobRun"] == 1
        assert len(runs_of(step)) == 1


class TestFull:
    """Full is not failed."""

    def test_it_waits_for_room(self, connected, make_step, make_task, monkeypatch):
        """A concurrency limit means waiting in the worker, then running."""
        monkeypatch.setattr("airflow_provider_glueray.operators.submission.QUEUE_FIRST", 1.0)
        connected.faults(error_next={"StartJobRun": ["ConcurrentRunsExceededException", 2]})
        result = make_task(make_step()).run()

        assert result.state == "success"
        assert connected.calls()["StartJobRun"] == 3

    def test_it_waits_deferred(self, connected, make_step, make_task, monkeypatch):
        """Deferrable, the wait costs no worker."""
        monkeypatch.setattr("airflow_provider_glueray.operators.submission.QUEUE_FIRST", 1.0)
        connected.faults(error_next={"StartJobRun": ["ResourceNumberLimitExceededException", 1]})
        task = make_task(make_step(deferrable=True))
        first = task.run()
        assert "DateTimeTrigger" in first.message.classpath
        second = task.resume(first)

        assert "GlueRayRunTrigger" in second.message.classpath
        assert task.resume(second).state == "success"

    def test_it_gives_up_with_the_numbers(self, connected, make_step, make_task):
        """After the queue timeout the error says how long it waited and what the run needs."""
        connected.faults(quota_mdpu=2)
        result = make_task(make_step(queue_timeout=0)).run()

        assert isinstance(result.error, ServiceFull)
        assert "needs 4 M-DPU" in str(result.error)

    def test_a_kill_while_waiting_for_room_starts_nothing(self, connected, make_step, make_task, monkeypatch):
        """Between the kill and the death of the process there is time enough to start a run; it is not used."""
        monkeypatch.setattr("airflow_provider_glueray.operators.submission.QUEUE_FIRST", 1.0)
        connected.faults(error_next={"StartJobRun": ["ConcurrentRunsExceededException", 1]})
        step = make_step()
        task = make_task(step)
        monkeypatch.setattr(
            "airflow_provider_glueray.operators.runs.time.sleep", lambda seconds: task.running.on_kill()
        )
        result = task.run()

        assert isinstance(result.error, StopError)
        assert runs_of(step) == []


class TestKillAndDeadline:
    """Nothing keeps running that nobody waits for."""

    @pytest.mark.parametrize("deferrable", [False, True])
    def test_the_deadline_stops_the_run(self, connected, make_step, make_task, deferrable):
        """The timeout is absolute, and the run is stopped at the service."""
        connected.faults(provisioning_seconds=60)
        step = make_step(timeout=timedelta(seconds=2), deferrable=deferrable)
        result = make_task(step).run_to_end()

        assert isinstance(result.error, RunTimedOut)
        assert runs_of(step)[0]["JobRunState"] == "STOPPED"

    def test_on_kill_stops_the_run(self, connected, make_step, make_task):
        """Killed in the worker: the run is stopped and the task fails."""
        connected.faults(provisioning_seconds=60)
        step = make_step()
        task = make_task(step)
        task.kill_when(lambda: GlueRayJobHook().get_job(f"walk-{step.task_id}") and runs_of(step))
        result = task.run()

        assert isinstance(result.error, RunStopped)
        assert runs_of(step)[0]["JobRunState"] == "STOPPED"

    def test_on_kill_while_the_answer_is_missing(self, connected, make_step, make_task):
        """A kill before the id is known finds the run by its mark."""
        connected.faults(provisioning_seconds=60)
        step = make_step(wait_for_completion=False)
        task = make_task(step)
        task.run()
        task.running._submission._record.run_id = None
        task.running.on_kill()

        assert runs_of(step)[0]["JobRunState"] in ("STOPPING", "STOPPED")

    def test_the_trigger_stops_the_run_on_kill(self, connected, make_step, make_task):
        """A deferred task that a user kills leaves no run behind; a restarted triggerer stops nothing."""
        connected.faults(provisioning_seconds=60)
        step = make_step(deferrable=True)
        task = make_task(step)
        trigger = task.trigger_of(task.run())
        asyncio.run(trigger.cleanup())
        assert runs_of(step)[0]["JobRunState"] == "STARTING"
        asyncio.run(trigger.on_kill())

        assert runs_of(step)[0]["JobRunState"] in ("STOPPING", "STOPPED")

    def test_a_deferral_timeout_stops_the_run(self, connected, make_step, make_task):
        """Airflow never calls execute_complete then, but it does resume the task."""
        connected.faults(provisioning_seconds=60)
        step = make_step(deferrable=True)
        task = make_task(step)
        task.run()
        result = task.run("__fail__", {"error": "Trigger timeout"})

        assert isinstance(result.error, RunTimedOut)
        assert runs_of(step)[0]["JobRunState"] in ("STOPPING", "STOPPED")

    def test_a_broken_trigger_is_waited_for_in_the_worker(self, connected, make_step, make_task):
        """A triggerer that fails does not fail the run."""
        step = make_step(deferrable=True)
        task = make_task(step)
        first = task.run()
        result = task.run("__fail__", {"error": "Trigger failure", "traceback": ["oh"]})

        assert result.state == "success"
        assert result.xcoms["return_value"] == first.xcoms["glueray_run"]["id"]


class TestBadInput:
    """Each: a clear typed error, nothing started."""

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            ({"worker_type": "G.1X"}, "Z.2X"),
            ({"number_of_workers": 0}, "1 or more"),
            ({"number_of_workers": 2, "min_workers": 3}, "must not exceed number_of_workers=2"),
            ({"script": "step.sh"}, "must end in .py"),
            ({"log_sources": ["driver"]}, "unknown source 'driver'"),
            ({"overrides": {"glue": {"run": {"Timeout": 5}}}}, "Timeout"),
            ({"role": "arn:aws:iam::1:user/x"}, "role"),
        ],
    )
    def test_while_the_dag_is_parsed(self, make_step, wrong, words):
        """A literal value that breaks a rule never reaches a worker."""
        with pytest.raises(SpecError, match=words):
            make_step(**wrong)

    def test_a_template_is_checked_when_it_is_rendered(self, connected, make_step, make_task):
        """A template passes the parse; what it renders to is checked before any call, and not retried."""
        step = make_step(number_of_workers="{{ 0 }}", retries=3)
        result = make_task(step).run()

        assert isinstance(result.error, AirflowFailException)
        assert "number_of_workers" in str(result.error)
        assert connected.calls() == {}

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            ({"script": "/nowhere/step.py"}, "Cannot read"),
            ({"staging": "s3://no-such-bucket/x"}, "does not exist"),
            ({"staging": None}, "staging"),
            ({"conn_id": "missing"}, "no connection 'missing'"),
        ],
    )
    def test_before_anything_is_started(self, connected, make_step, make_task, wrong, words):
        """Missing script, bucket, staging or connection: failed for good, and no run."""
        result = make_task(make_step(**wrong, retries=3)).run()

        assert isinstance(result.error, AirflowFailException)
        assert words in str(result.error)
        assert "StartJobRun" not in connected.calls()

    def test_a_syntax_error(self, connected, make_step, make_task):
        """A script that is not Python is found out before a cluster is paid for."""
        result = make_task(make_step("def broken(:\n")).run()

        assert "is not Python 3.9" in str(result.error)

    def test_a_closed_account(self, connected, make_step, make_task):
        """What "Post Deprecation" means, and what to do instead."""
        connected.faults(account_closed=True)
        result = make_task(make_step(retries=3)).run()

        assert isinstance(result.error, AirflowFailException)
        assert "2026-04-30" in str(result.error)
        assert "KubeRay" in str(result.error)

    def test_the_name_of_a_job_that_is_not_ours(self, connected, make_step, make_task):
        """A Spark job of the same name is left alone."""
        glue = GlueRayJobHook().conn
        glue.create_job(
            Name="spark", Role="GlueRayRole", Command={"Name": "glueetl", "ScriptLocation": "s3://a-b/c.py"}
        )
        result = make_task(make_step(job_name="spark")).run()

        assert isinstance(result.error, AirflowFailException)
        assert "not a Ray job" in str(result.error)
        assert glue.get_job(JobName="spark")["Job"]["Command"]["Name"] == "glueetl"
