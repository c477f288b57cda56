"""The operator through Airflow's real task runner, on the local endpoint with real Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from airflow.sdk import DAG

from airflow_provider_glueray.airflow_compat import AirflowFailException
from airflow_provider_glueray.core.errors import CapacityExceeded, SpecError
from airflow_provider_glueray.hooks.glue.jobs import GlueRayJobHook
from airflow_provider_glueray.operators.glue_jobs import GlueRayJobOperator

#: Each step has a job of its own, so that no test meets the runs of another.
GOOD = "import os\nprint('hello', os.environ['who-is'])\n"


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
            "staging_uri": "s3://glueray-local/code",
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


def test_the_run_carries_dag_task_and_run(connected, make_step, make_task):
    """Arguments are rendered, and the DAG, the task and the run are added by themselves."""
    step = make_step(wait_for_completion=False)
    one = make_task(step)
    one.run()

    arguments = runs_of(step)[0]["Arguments"]
    assert arguments["--who-is"] == one.run_id
    assert arguments["--airflow_dag_id"] == "walk"
    assert arguments["--airflow_task_id"] == step.task_id
    assert arguments["--airflow_run_id"] == one.run_id


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


class TestNeverTwoRuns:
    """What the service answers, or does not; the rest is in ``tests/task/test_life.py``."""

    def test_how_the_service_is_asked_is_no_other_connection(self, connected, make_step, make_task):
        """A retry takes its run up though the settings of the client do not survive JSON, or have changed."""
        config = {"proxies_config": {"proxy_client_cert": ("cert.pem", "key.pem")}}
        step = make_step(retries=1, botocore_config=config)
        one = make_task(step)
        one.supervisor.die_at("_link_GlueRayRunLink")
        one.run()
        begun = one.supervisor.store["glueray_run"]["run_id"]
        one.supervisor.revive()
        step.verify = False
        result = one.retry()

        assert result.state == "success", result.error
        assert result.xcoms["return_value"] == begun
        assert len(runs_of(step)) == 1

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
        connected.faults(error_next={"StartJobRun": ["ConcurrentRunsExceededException", 2]})
        result = make_task(make_step()).run()

        assert result.state == "success"
        assert connected.calls()["StartJobRun"] == 3

    def test_it_gives_up_with_the_numbers(self, connected, make_step, make_task):
        """After the queue timeout the error says how long it waited and what the run needs."""
        connected.faults(quota_mdpu=2)
        result = make_task(make_step(queue_timeout=0)).run()

        assert isinstance(result.error, CapacityExceeded)
        assert "needs 4 M-DPU" in str(result.error)


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
        """A template passes the parse; what it renders to is checked before anything is made, and not retried."""
        step = make_step(number_of_workers="{{ 0 }}", retries=3)
        result = make_task(step).run()

        assert isinstance(result.error, AirflowFailException)
        assert "number_of_workers" in str(result.error)
        # Whether there is a run already is asked first: it would not be started from these parameters.
        assert connected.calls() == {"GetJobRuns": 1}

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            ({"script": "/nowhere/step.py"}, "Cannot read"),
            ({"staging_uri": "s3://no-such-bucket/x"}, "does not exist"),
            ({"staging_uri": None}, "staging_uri"),
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


class TestMappedTasks:
    """A job's definition is that of all its runs: tasks that share one would execute each other's script."""

    SCRIPTS = ("s3://bucket/orders.py", "s3://bucket/customers.py", "s3://bucket/prices.py")

    def names(self, dag: DAG, expand: Callable[[Any], Any], each: list[dict[str, Any]], **kwargs: Any) -> list[str]:
        """Return the names of the jobs of mapped tasks."""
        given = {"task_id": "load", "role": "R", "dag": dag, **kwargs}
        mapped = expand(GlueRayJobOperator.partial(**{"script": self.SCRIPTS[0], **given}))
        return [mapped.unmap(one)._job_name() for one in each]

    def over_scripts(self, dag: DAG, **kwargs: Any) -> list[str]:
        each = [{"script": script} for script in self.SCRIPTS]
        given = {"task_id": "load", "role": "R", "dag": dag, **kwargs}
        mapped = GlueRayJobOperator.partial(**given).expand(script=list(self.SCRIPTS))
        return [mapped.unmap(one)._job_name() for one in each]

    def test_over_their_scripts(self, dag):
        """Each script has its job, today's the same as tomorrow's."""
        names = self.over_scripts(dag)

        assert len(set(names)) == 3
        assert all(name.startswith("walk-load-") and len(name) == len("walk-load-") + 8 for name in names)
        assert names == self.over_scripts(DAG("walk", schedule=None, start_date=dag.start_date))

    @pytest.mark.parametrize("field", ["arguments", "number_of_workers"])
    def test_over_what_is_a_runs_own(self, dag, field):
        each = [{field: value} for value in ([{"n": "1"}, {"n": "2"}] if field == "arguments" else [2, 3])]
        names = self.names(dag, lambda task: task.expand(**{field: [one[field] for one in each]}), each)

        assert set(names) == {"walk-load"}

    def test_over_several_at_once(self, dag):
        each = [{"role": "A", "arguments": {"n": "1"}}, {"role": "B", "arguments": {"n": "1"}}]
        given = {"task_id": "load", "script": self.SCRIPTS[0], "dag": dag}
        mapped = GlueRayJobOperator.partial(**given).expand_kwargs(each)

        assert len({mapped.unmap(one)._job_name() for one in each}) == 2

    def test_one_name_for_several_scripts(self, dag):
        """It is refused, unless it may be another one for each."""
        with pytest.raises(SpecError, match=r"mapped over script.*leave job_name out, or map it as well"):
            self.over_scripts(dag, job_name="mine")
        several = DAG("several", schedule=None, start_date=dag.start_date)
        assert len(self.over_scripts(several, job_name="mine-{{ ti.map_index }}")) == 3
