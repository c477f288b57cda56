"""Clusters that steps share, through Airflow's real task runner; the API of Kubernetes is a stand-in."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest
from airflow.sdk import DAG, task

from airflow_provider_glueray.airflow_compat import AirflowFailException
from airflow_provider_glueray.cli.main import main
from airflow_provider_glueray.core.errors import (
    CapacityExceeded,
    RunFailed,
    RunStopped,
    RunTimedOut,
    SpecError,
    StopError,
)
from airflow_provider_glueray.hooks.kuberay.manifests.rayjob import job_id_of
from airflow_provider_glueray.operators.cluster_group import glue_ray_cluster
from airflow_provider_glueray.operators.glue_jobs import GlueRayJobOperator
from airflow_provider_glueray.operators.ray_clusters import GlueRayCreateClusterOperator, GlueRayDeleteClusterOperator
from tests.contract import kuberay_player
from tests.hooks.kuberay import kubernetes_api
from tests.runner import capture_logs, stored_id

MODES = pytest.mark.parametrize("deferrable", [False, True])


def running(seconds: float = 20, **status: str) -> dict[str, Any]:
    """Return the status of a RayJob that began so long ago: the longer ago, the longer late lines are waited for."""
    began = datetime.now(timezone.utc) - timedelta(seconds=seconds)
    begun = {"startTime": began.strftime("%Y-%m-%dT%H:%M:%SZ")}
    return {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING", **begun, **status}


def done() -> dict[str, Any]:
    """Return the status of a RayJob that has just succeeded, after 20 seconds."""
    end = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return running(jobDeploymentStatus="Complete", jobStatus="SUCCEEDED", endTime=end)


SETTINGS = {"image": "ours/ray:2.60.0", "ray_version": "2.60.0"}


@pytest.fixture
def cluster(connected, monkeypatch) -> Iterator[Any]:
    """Return a Kubernetes cluster with KubeRay in it, where the connection `where` leads."""
    with kubernetes_api.serving() as running:
        monkeypatch.setenv("AIRFLOW_CONN_WHERE", json.dumps(running.config(kuberay=SETTINGS)))
        yield running


@pytest.fixture
def make(dag: DAG, fresh: Callable[[], int]) -> Callable[..., Any]:
    """Return a factory of operators with an id of their own."""

    def make(operator: type, **kwargs: Any) -> Any:
        given = {"task_id": f"task-{fresh()}", "dag": dag, "deferrable": False, "conn_id": "where"}
        return operator(**{**given, "poll_interval": 0.2, **kwargs})

    return make


def place(result: Any) -> tuple[str, str]:
    """Return the namespace and the name of the cluster that a task has returned."""
    namespace, name = result.xcoms["return_value"].split("/")
    return namespace, name


def said(logs: list[Any]) -> str:
    """Return what a task has written to its log."""
    return "\n".join(str(each["event"]) % tuple(each.get("positional_args", ())) for each in logs)


def later(ready: Callable[[], Any], then: Callable[[], None]) -> None:
    """Do something as soon as it can be done; returns at once."""

    def go() -> None:
        while not ready():
            time.sleep(0.05)
        then()

    threading.Thread(target=go, daemon=True).start()


class TestCreate:
    @MODES
    def test_it_is_made_and_deleted(self, cluster, make, make_task, deferrable):
        """Its id is the result; it says whose it is; the deletion waits until all is gone, and reports what it used."""
        create = make(GlueRayCreateClusterOperator, number_of_workers=5, min_workers=1, deferrable=deferrable)
        result = make_task(create).run_to_end()

        assert result.state == "success", result.error
        raycluster = cluster.rayclusters[place(result)]
        [workers] = raycluster["spec"]["workerGroupSpecs"]
        assert (workers["minReplicas"], workers["maxReplicas"]) == (1, 5)
        # 48 hours: for a teardown that never comes.
        assert workers["template"]["spec"]["activeDeadlineSeconds"] == 172_800
        labels = raycluster["metadata"]["labels"]
        assert (labels["glueray/dag"], labels["glueray/task"]) == ("walk", create.task_id)
        assert result.xcoms["_link_GlueRayRunLink"].endswith("/rayclusters/" + place(result)[1])
        assert result.xcoms["glueray_run"]["backend"] == "kuberay-cluster"

        cluster.age(result.xcoms["return_value"], 1800)
        cluster.run_pod(result.xcoms["return_value"], "ray-head")
        delete = make(GlueRayDeleteClusterOperator, cluster=result.xcoms["return_value"], deferrable=deferrable)
        ended = make_task(delete).run_to_end()

        assert ended.state == "success", ended.error
        assert (cluster.rayclusters, cluster.pods) == ({}, {})
        assert ended.xcoms["glueray_usage"]["workers"] == 6
        assert 1800 <= ended.xcoms["glueray_usage"]["seconds"] < 1900
        assert "mdpu_hours" not in ended.xcoms["glueray_usage"]
        # Six pods of 7 vCPU and 56 GiB, and the autoscaler.
        assert 21.2 < ended.xcoms["glueray_usage"]["vcpu_hours"] < 22.5
        assert 168.2 < ended.xcoms["glueray_usage"]["gib_hours"] < 178

    def test_a_retry_takes_it_up_and_a_clear_does_not(self, cluster, make, make_task):
        """One cluster per series, and the old one is deleted."""
        one = make_task(make(GlueRayCreateClusterOperator, retries=1))

        def die(message: Any) -> None:
            if stored_id(message):
                raise KeyboardInterrupt

        one.supervisor.before = die
        one.run()
        one.supervisor.before = lambda message: None
        first = one.retry()
        assert list(cluster.rayclusters) == [place(first)]
        assert cluster.calls["create rayclusters"] == 1

        second = one.clear()
        assert place(second) != place(first)
        assert [key for key, each in cluster.rayclusters.items() if "deletionTimestamp" not in each["metadata"]] == [
            place(second)
        ]

    def test_a_retry_after_its_end_makes_another(self, cluster, make, make_task):
        """Its pods have lived as long as they may, and there will be no new head."""
        one = make_task(make(GlueRayCreateClusterOperator, retries=1))
        first = one.run()
        head = {"type": "HeadPodReady", "status": "False", "reason": "HeadPodNotFound"}
        cluster.rayclusters[place(first)]["status"]["conditions"].append(head)
        second = one.retry()

        assert place(second) != place(first)
        delete = make(GlueRayDeleteClusterOperator, cluster=first.xcoms["return_value"])
        assert make_task(delete).run().state == "success"
        assert list(cluster.rayclusters) == [place(second)]

    def test_the_answer_is_lost(self, cluster, make, make_task, monkeypatch):
        cluster.lost_answers = 1
        result = make_task(make(GlueRayCreateClusterOperator)).run()

        assert list(cluster.rayclusters) == [place(result)]
        assert cluster.calls["create rayclusters"] == 2

    def test_no_orphan(self, cluster, make, make_task):
        """Killed in the worker or in the triggerer, too slow, or another failure on the last try: it is deleted."""
        cluster.cluster_statuses = ({"observedGeneration": 1},)
        killed = make_task(make(GlueRayCreateClusterOperator))
        killed.kill_when(lambda: "glueray_run" in killed.supervisor.xcoms)
        assert isinstance(killed.run().error, RunStopped)

        deferred = make_task(make(GlueRayCreateClusterOperator, deferrable=True))
        asyncio.run(deferred.trigger_of(deferred.run()).on_kill())

        late = make_task(make(GlueRayCreateClusterOperator, run_timeout=1))
        assert isinstance(late.run().error, RunTimedOut)

        def fail(message: Any) -> None:
            if type(message).__name__ == "SetXCom" and message.key == "_link_GlueRayRunLink":
                raise RuntimeError("no XCom today")

        cluster.cluster_statuses = kubernetes_api.COMES_UP
        broken = make_task(make(GlueRayCreateClusterOperator))
        broken.supervisor.before = fail
        assert broken.run().state == "failed"

        assert cluster.calls["create rayclusters"] == 4
        assert all("deletionTimestamp" in each["metadata"] for each in cluster.rayclusters.values())

    @MODES
    def test_no_node_has_room(self, cluster, make, make_task, set_waits, deferrable):
        """At its deadline it is deleted, and the error says what it has waited for."""
        set_waits(pending_reason=0)
        cluster.cluster_statuses = ({"observedGeneration": 1},)
        text = "0/3 nodes are available: 3 Insufficient memory."
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": text}

        def schedule() -> None:
            cluster.run_pod("/".join(next(iter(cluster.rayclusters))), "ray-head", "Pending", conditions=[condition])

        later(lambda: cluster.rayclusters, schedule)
        result = make_task(make(GlueRayCreateClusterOperator, run_timeout=3, deferrable=deferrable)).run_to_end()

        assert isinstance(result.error, RunTimedOut)
        assert text in str(result.error)
        assert all("deletionTimestamp" in each["metadata"] for each in cluster.rayclusters.values())

    @pytest.mark.parametrize(
        ("statuses", "event"),
        [
            (
                [{"name": "ray-head", "state": {"waiting": {"reason": "InvalidImageName", "message": "no such name"}}}],
                {},
            ),
            ([], {"reason": "InvalidRayClusterSpec", "message": "headGroupSpec should have at least one container"}),
        ],
    )
    def test_what_no_waiting_mends(self, cluster, make, make_task, set_waits, statuses, event):
        """It fails at once, says why, and nothing of it stays."""
        set_waits(pending_reason=0)
        cluster.cluster_statuses = ()

        def go_wrong() -> None:
            namespace, name = next(iter(cluster.rayclusters))
            if statuses:
                cluster.run_pod(f"{namespace}/{name}", "ray-head", "Pending", containerStatuses=statuses)
            else:
                cluster.events.append({"type": "Warning", **event, "involvedObject": {"name": name}})

        later(lambda: cluster.rayclusters, go_wrong)
        result = make_task(make(GlueRayCreateClusterOperator)).run()

        assert type(result.error) is RunFailed
        assert (event.get("message") or "no such name") in str(result.error)
        assert all("deletionTimestamp" in each["metadata"] for each in cluster.rayclusters.values())

    def test_it_is_refused(self, cluster, make, make_task):
        """In words, before anything is made; what a retry cannot help is not tried again."""
        cluster.quota = "etl, requested: count/rayclusters.ray.io=1, used: 1, limited: 1"
        full = make_task(make(GlueRayCreateClusterOperator, queue_timeout=0)).run()
        assert isinstance(full.error, CapacityExceeded)
        assert "a head and 2 workers" in str(full.error)
        cluster.quota = None
        cluster.denied.add(("create", "rayclusters"))
        denied = make_task(make(GlueRayCreateClusterOperator, retries=1)).run()
        assert isinstance(denied.error, AirflowFailException)
        assert 'cannot create resource "rayclusters"' in str(denied.error)
        assert "rayclusters.ray.io" in str(denied.error)
        cluster.denied.clear()
        cluster.has_kuberay = False
        missing = make_task(make(GlueRayCreateClusterOperator, retries=1)).run()
        assert "is the KubeRay operator installed" in str(missing.error)

    def test_a_namespace_that_is_not_there(self, cluster, make, make_task):
        cluster.namespaces.clear()
        result = make_task(make(GlueRayCreateClusterOperator, retries=1)).run()

        assert 'namespaces "etl" not found' in str(result.error)

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            ({"number_of_workers": 0}, "number_of_workers=0"),
            ({"worker_type": "G.1X"}, "worker_type='G.1X'"),
            ({"overrides": {"kube": {}}}, "overrides"),
        ],
    )
    def test_while_the_dag_is_parsed(self, make, wrong, words):
        with pytest.raises(SpecError, match=words):
            make(GlueRayCreateClusterOperator, **wrong)


class TestDelete:
    def test_gone_already_or_never_made(self, cluster, make, make_task):
        for known in ("etl/never-made", "", None):
            result = make_task(make(GlueRayDeleteClusterOperator, cluster=known)).run()
            assert result.state == "success", result.error
        assert cluster.calls["delete rayclusters"] == 0

    def test_without_the_right(self, cluster, make, make_task):
        made = make_task(make(GlueRayCreateClusterOperator)).run()
        cluster.denied.add(("delete", "rayclusters"))
        result = make_task(make(GlueRayDeleteClusterOperator, cluster=made.xcoms["return_value"])).run()

        assert isinstance(result.error, StopError)
        assert 'cannot delete resource "rayclusters"' in str(result.error)

    def test_one_that_will_not_go(self, cluster, make, make_task, monkeypatch, set_waits):
        """It is waited for as long as was said; a retry asks again."""
        set_waits(stop_grace=1)
        monkeypatch.setattr(cluster, "_go_away", lambda store, place: None)
        made = make_task(make(GlueRayCreateClusterOperator)).run()
        result = make_task(make(GlueRayDeleteClusterOperator, cluster=made.xcoms["return_value"], run_timeout=1)).run()

        assert "was to be deleted and is still there" in str(result.error)


class TestElsewhere:
    """The same DAG where the connection leads to AWS Glue or to a Ray cluster."""

    @pytest.mark.parametrize(
        ("conn", "why"),
        [
            ({"conn_type": "aws", "extra": {"region_name": "us-east-1"}}, "each run has a cluster of its own"),
            ({"conn_type": "ray", "host": "nowhere"}, "the cluster is there already"),
        ],
    )
    def test_nothing_is_made(self, make, make_task, monkeypatch, conn, why):
        monkeypatch.setenv("AIRFLOW_CONN_WHERE", json.dumps(conn))
        task = make_task(make(GlueRayCreateClusterOperator))
        with capture_logs() as logs:
            result = task.run()
        task.running.on_kill()

        assert (result.state, result.xcoms["return_value"]) == ("success", "")
        assert why in said(logs)
        assert make_task(make(GlueRayDeleteClusterOperator, cluster="")).run().state == "success"

    def test_a_connection_that_runs_nothing(self, make, make_task, monkeypatch):
        monkeypatch.setenv("AIRFLOW_CONN_WHERE", json.dumps({"conn_type": "http"}))
        result = make_task(make(GlueRayCreateClusterOperator, retries=1)).run()

        assert isinstance(result.error, AirflowFailException)
        assert "runs no Ray jobs" in str(result.error)

    def test_a_cluster_on_glue_is_refused(self, connected, make, make_task, tmp_path):
        """Not dropped without a word."""
        (tmp_path / "s.py").write_text("print(1)\n")
        given = {"role": "GlueRayRole", "staging_uri": "s3://glueray-local/x", "conn_id": "aws_default"}
        step = make(GlueRayJobOperator, script=str(tmp_path / "s.py"), cluster="etl/shared", **given)
        result = make_task(step).run()

        assert isinstance(result.error, AirflowFailException)
        assert "cluster='etl/shared': on AWS Glue each run has a cluster of its own" in str(result.error)


class TestRuns:
    """Runs in a cluster that is shared."""

    @pytest.fixture
    def shared(self, cluster, make, make_task) -> str:
        """Return the id of a cluster that is up."""
        return make_task(make(GlueRayCreateClusterOperator)).run().xcoms["return_value"]

    @pytest.fixture
    def make_step(self, make, tmp_path) -> Callable[..., GlueRayJobOperator]:
        def make_step(**kwargs: Any) -> GlueRayJobOperator:
            (tmp_path / "step.py").write_text("print('never run')\n")
            given = {"staging_uri": "s3://glueray-local/kuberay", "script": str(tmp_path / "step.py")}
            return make(GlueRayJobOperator, **{**given, **kwargs})

        return make_step

    def play(self, cluster: Any, *statuses: dict[str, Any]) -> None:
        later(lambda: cluster.rayjobs, lambda: cluster.play("/".join(next(iter(cluster.rayjobs))), *statuses))

    @MODES
    def test_it_runs(self, cluster, make_step, make_task, shared, deferrable):
        """In that cluster, with no cluster of its own; the cluster's price is not the run's."""
        self.play(cluster, running(), done())
        step = make_step(cluster=shared, deferrable=deferrable, arguments={"day": "{{ ds }}"})
        result = make_task(step).run_to_end()

        assert result.state == "success", result.error
        [rayjob] = cluster.rayjobs.values()
        assert rayjob["spec"]["clusterSelector"] == {"ray.io/cluster": shared.split("/")[1]}
        assert "rayClusterSpec" not in rayjob["spec"]
        assert json.loads(rayjob["spec"]["runtimeEnvYAML"])["env_vars"]["day"] == "2026-11-21"
        assert result.xcoms["glueray_usage"] == {
            **result.xcoms["glueray_usage"], "seconds": 20, "workers": 0, "estimated_cost_usd": 0,
        }  # fmt: skip
        assert len(cluster.rayclusters) == 1

    def test_a_kill_deletes_it_and_says_stopped(self, cluster, make_step, make_task, shared):
        """A RayJob in a shared cluster cannot be suspended; KubeRay stops the Ray job of one that is deleted."""
        self.play(cluster, *[running()] * 3)
        one = make_task(make_step(cluster=shared))
        one.kill_when(lambda: any((each.get("status") or {}) for each in cluster.rayjobs.values()))
        result = one.run()

        assert isinstance(result.error, RunStopped)
        assert cluster.rayjobs == {}
        assert len(cluster.stopped) == 1

    @MODES
    def test_a_deadline_deletes_it(self, cluster, make_step, make_task, shared, deferrable):
        self.play(cluster, running())
        result = make_task(make_step(cluster=shared, run_timeout=3, deferrable=deferrable)).run_to_end()

        assert isinstance(result.error, RunTimedOut)
        assert cluster.rayjobs == {}
        assert len(cluster.stopped) == 1
        assert len(cluster.rayclusters) == 1

    @MODES
    def test_the_cluster_is_deleted_under_it(self, cluster, make_step, make_task, shared, deferrable):
        """KubeRay would wait for it until the deadline."""
        self.play(cluster, running())
        later(
            lambda: any((each.get("status") or {}).get("jobStatus") for each in cluster.rayjobs.values()),
            cluster.rayclusters.clear,
        )
        result = make_task(make_step(cluster=shared, deferrable=deferrable)).run_to_end()

        assert type(result.error) is RunFailed
        assert f"the cluster {shared} is not there" in str(result.error)
        assert not any("deletionTimestamp" not in each["metadata"] for each in cluster.rayjobs.values())

    @pytest.mark.parametrize("end", ["gone", "deleting", "headless"])
    def test_the_cluster_is_over_before_it(self, cluster, make_step, make_task, shared, end):
        """No retry of this task can help, and nothing is started."""
        raycluster = cluster.rayclusters[tuple(shared.split("/"))]
        if end == "gone":
            cluster.rayclusters.clear()
        elif end == "deleting":
            raycluster["metadata"]["deletionTimestamp"] = "2026-03-01T02:00:00Z"
            cluster._go_away = lambda store, place: None
        else:
            head = {"type": "HeadPodReady", "status": "False", "reason": "HeadPodNotFound"}
            raycluster["status"]["conditions"].append(head)
        result = make_task(make_step(cluster=shared, retries=1)).run()

        assert isinstance(result.error, AirflowFailException)
        assert "ClusterEnded" in str(result.error)
        assert "Clear the task that makes it" in str(result.error)
        assert cluster.rayjobs == {}

    def test_what_is_the_clusters(self, cluster, make_step, make_task, shared):
        """Is refused or told."""
        refused = make_task(
            make_step(cluster=shared, object_store_memory_head=20, object_spilling_config={"type": "x"})
        ).run()
        assert "object_store_memory_head: it is set when a cluster is made" in str(refused.error)
        assert "object_spilling_config: it is set when a cluster is made" in str(refused.error)

        self.play(cluster, done())
        over = {"kuberay": {"image": "theirs"}}
        with capture_logs() as logs:
            result = make_task(make_step(cluster=shared, number_of_workers=7, overrides=over)).run()
        assert result.state == "success", result.error
        assert f"number_of_workers=7 is for a cluster of the run's own; {shared} has 2" in said(logs)
        assert f"image='theirs' is for a cluster of the run's own; {shared} has" in said(logs)

    def test_a_function(self, cluster, dag, make_task, shared):
        """`@task.glue_ray(cluster=…)`: its call reaches a run in that cluster."""

        def add(one, other):
            return one + other

        def work() -> None:
            place = next(iter(cluster.rayjobs))
            env = json.loads(cluster.rayjobs[place]["spec"]["runtimeEnvYAML"])["env_vars"]
            folder = step.hook.storage.folder(env["glueray_call"])
            call = json.loads(folder.read("call.json"))
            with folder.write("result.json") as file:
                file.write(json.dumps({"value": sum(call["args"])}).encode())
            cluster.play("/".join(place), done())

        given = {"staging_uri": "s3://glueray-local/kuberay", "dag": dag, "deferrable": False, "conn_id": "where"}
        step = task.glue_ray(cluster=shared, **given)(add)(1, 2).operator
        later(lambda: cluster.rayjobs, work)
        result = make_task(step).run()

        assert result.state == "success", result.error
        assert result.xcoms["return_value"] == 3
        [rayjob] = cluster.rayjobs.values()
        assert rayjob["spec"]["clusterSelector"] == {"ray.io/cluster": shared.split("/")[1]}


#: Says where it ran as what, and what a worker of the cluster sees.
ECHO = """
import json, os, sys
import ray
ray.init("auto")
names = ("day", "nasty", "plain")
there = ray.get(ray.remote(lambda: {name: os.environ.get(name) for name in names}).remote())
print("ECHO", json.dumps({"driver": {name: os.environ[name] for name in names}, "worker": there, "argv": sys.argv[1:]}))
"""
ENDLESS = "import time\nprint('BEGUN', flush=True)\nwhile True: time.sleep(0.1)\n"


@pytest.mark.full
class TestOnRay:
    """The same RayJobs, taken at their word: their entrypoint and environment really run on a Ray cluster."""

    @pytest.fixture
    def shared(self, connected, cluster, make, make_task) -> Iterator[str]:
        """Return the id of a cluster in which things run."""
        ray = connected.ray()
        playing = kuberay_player.KubeRayPlayer(cluster, ray["dashboard"], ray["token"])
        with playing.playing():
            yield make_task(make(GlueRayCreateClusterOperator)).run().xcoms["return_value"]
        assert playing.problems == []

    def step(self, make: Any, tmp_path: Path, source: str, shared: str, **kwargs: Any) -> GlueRayJobOperator:
        (tmp_path / "a step.py").write_text(source)
        given = {"staging_uri": "s3://glueray-local/kuberay", "cluster": shared}
        return make(GlueRayJobOperator, script=str(tmp_path / "a step.py"), **given, **kwargs)

    def test_arguments(self, shared, make, make_task, tmp_path):
        """The script has them all; workers have those that nothing on the way would change."""
        given = {"day": "{{ ds }}", "nasty": 'it\'s $HOME; `id` "1e-5" é', "plain": "a \"b\" 'c' \\ 1e-5 é"}
        with capture_logs() as logs:
            result = make_task(self.step(make, tmp_path, ECHO, shared, arguments=given)).run()

        assert result.state == "success", result.error
        [line] = [each for each in said(logs).splitlines() if "ECHO" in each]
        seen = json.loads(line.partition("ECHO ")[2])
        assert seen["driver"] == {**given, "day": "2026-11-21"}
        assert seen["worker"] == {**given, "day": "2026-11-21", "nasty": None}
        assert seen["argv"][-6:] == ["--day", "2026-11-21", "--nasty", given["nasty"], "--plain", given["plain"]]

    def test_it_raises(self, shared, make, make_task, tmp_path):
        result = make_task(self.step(make, tmp_path, "raise ValueError('odd')\n", shared)).run()

        assert type(result.error) is RunFailed
        assert "ValueError: odd" in str(result.error)

    def test_a_kill(self, connected, shared, cluster, make, make_task, tmp_path):
        """The Ray job is stopped, and the cluster stays."""
        ray = connected.ray()
        one = make_task(self.step(make, tmp_path, ENDLESS, shared))

        def ask(of: str = "") -> str:
            job_id = job_id_of(one.supervisor.store["glueray_run"]["client_token"])
            url = f"{ray['dashboard']}/api/jobs/{job_id}{of}"
            return httpx.get(url, headers={"Authorization": f"Bearer {ray['token']}"}).text

        one.kill_when(lambda: cluster.rayjobs and "BEGUN" in ask("/logs"))
        result = one.run()

        assert isinstance(result.error, RunStopped)
        assert (cluster.rayjobs, len(cluster.rayclusters)) == ({}, 1)
        assert json.loads(ask())["status"] == "STOPPED"


class TestGroup:
    def test_the_tasks_of_a_group(self, dag):
        """A setup and a teardown around what is between; what all have in common is said once."""
        with dag, glue_ray_cluster(
            "c", number_of_workers=5, staging_uri="s3://b-b/x", conn_id="where", deferrable=True, poll_interval=3
        ) as cluster:  # fmt: skip

            @task.glue_ray(cluster=cluster.id, staging_uri="s3://b-b/x", conn_id="where")
            def count():
                return 1

            load = cluster.script("load", "s3://b-b/load.py")
            report = cluster.notebook("report", "s3://b-b/r.ipynb", output_notebook="s3://b-b/out.ipynb")
            load >> [count(), report]

        assert cluster.create.is_setup
        assert cluster.delete.is_teardown
        assert load.upstream_task_ids == {"c.create"}
        assert dag.get_task("c.count").upstream_task_ids == {"c.create", "c.load"}
        assert cluster.delete.upstream_task_ids == {"c.create", "c.count", "c.report"}
        for each in (cluster.create, cluster.delete, load, report):
            assert (each.conn_id, each.deferrable, each.poll_interval) == ("where", True, 3)
        assert (load.staging_uri, load.number_of_workers) == ("s3://b-b/x", 5)
        assert load.cluster.operator is cluster.create

    @pytest.mark.parametrize("to", ["kuberay", "glue", "ray"])
    def test_a_step_can_be_rendered(self, tmp_path, capsys, to):
        """For where there will be a cluster, and for where there will be none."""
        (tmp_path / "load.py").write_text("print(1)\n")
        (tmp_path / "night.py").write_text(
            "from datetime import datetime\nfrom airflow.sdk import DAG\n"
            "from airflow_provider_glueray.operators.cluster_group import glue_ray_cluster\n"
            "with DAG('night', schedule=None, start_date=datetime(2026, 1, 1)):\n"
            "    with glue_ray_cluster(role='R', staging_uri='s3://b-b/x') as cluster:\n"
            "        cluster.script('load', 'load.py')\n"
        )

        assert main(["render", str(tmp_path / "night.py"), "cluster.load", "--to", to, "--json"]) == 0
        requests = json.loads(capsys.readouterr().out)
        if to == "kuberay":
            assert requests["RayJob"]["spec"]["clusterSelector"] == {"ray.io/cluster": "the-cluster"}
