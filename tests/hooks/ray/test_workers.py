"""What `Workers` means on a Ray cluster that runs: a place in the queue, and a floor where an autoscaler hears it."""

from __future__ import annotations

import json
import time
from dataclasses import fields

import pytest

from airflow_provider_glueray.cli.main import main
from airflow_provider_glueray.core.errors import SubmitError, SubmitOutcomeUnknown
from airflow_provider_glueray.core.runs import RunState
from airflow_provider_glueray.core.spec import RayJobSpec, Workers
from airflow_provider_glueray.hooks.ray.requests import PackageUris, sizing_message, to_ray_submission
from airflow_provider_glueray.hooks.ray.responses import ClusterSize, cluster_size
from tests.documents import documented_fields
from tests.gates import waits_for

DAG = """
from airflow.sdk import DAG
from airflow_provider_glueray.operators.glue_jobs import GlueRayJobOperator

with DAG("rendered", schedule=None):
    GlueRayJobOperator(task_id="step", script="step.py", role=None, number_of_workers=4, min_workers=2)
"""
#: A cluster that an autoscaler makes of processes on this machine. ``ray.cluster_utils.AutoscalingCluster`` has the
#: same, but stops every Ray there is before it starts.
FAKE = {
    "cluster_name": "fake", "max_workers": 4, "upscaling_speed": 1.0, "idle_timeout_minutes": 10,
    "provider": {"type": "fake_multinode", "disable_node_updaters": True, "disable_launch_config_check": True},
    "auth": {}, "docker": {}, "file_mounts": {}, "file_mounts_sync_continuously": False, "cluster_synced_files": [],
    "rsync_exclude": [], "rsync_filter": [], "initialization_commands": [], "setup_commands": [],
    "head_setup_commands": [], "worker_setup_commands": [], "head_start_ray_commands": [],
    "worker_start_ray_commands": [], "head_node_type": "ray.head.default",
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 0},
        "z2x": {"resources": {"CPU": 8}, "node_config": {}, "min_workers": 0, "max_workers": 4},
    },
}  # fmt: skip


def body(workers=None, scales=False, **fields):
    spec = RayJobSpec(name="tried", script="s.py", workers=workers or Workers(4, 2), **fields)
    return to_ray_submission(spec, "m", PackageUris("main"), {"day": "1"}, scales=scales)


def wait_for(what, seconds=120.0):
    """Ask until something is there."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = what()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"nothing after {seconds} seconds")


def groups(hook):
    """Return the states of all placement groups there were."""
    answer = hook._content(hook._ask("GET", "/api/v0/placement_groups"))
    return [group["state"] for group in answer["data"]["result"]["result"]]


def cpus(hook):
    return hook._size().cpus


def demands(hook):
    """Return what the autoscaler has heard of and is not there."""
    report = hook._content(hook._ask("GET", "/api/cluster_status"))["data"]["clusterStatus"]["loadMetricsReport"]
    return [*report["pgDemand"], *report["requestDemand"], *report["resourceDemand"]]


class TestRequest:
    """What is asked for."""

    def test_the_documentation_has_every_field(self):
        """So that none is dropped without a word."""
        given = {each.name for kind in (RayJobSpec, Workers) for each in fields(kind)} - {"workers"}

        assert documented_fields("ray.md", "on a Ray cluster") == given

    def test_a_floor_is_a_place_in_the_queue(self):
        assert body()["entrypoint_num_cpus"] == 1
        assert body()["entrypoint"] == "python -m main --day 1"

    @pytest.mark.parametrize(
        "given",
        [
            {"workers": Workers(4)},
            {"workers": Workers(4, 0)},
            {"overrides": {"ray": {"entrypoint_resources": {"big": 1}}}},
            {"overrides": {"ray": {"entrypoint_num_gpus": 1}}},
        ],
    )
    def test_none_is_none(self, given):
        """Nor is it asked for beside what somebody asks for in Ray's own words."""
        assert "entrypoint_num_cpus" not in body(**given)

    def test_ones_own_words_count(self):
        assert body(overrides={"ray": {"entrypoint_num_cpus": 3}})["entrypoint_num_cpus"] == 3

    def test_a_cluster_that_scales_is_asked(self):
        asking = body(scales=True)

        assert asking["entrypoint"].endswith(" 16 python -m main --day 1")
        assert "placement_group" in asking["runtime_env"]["env_vars"]["GLUERAY_REQUEST_MIN_WORKERS"]
        assert body(Workers(4), scales=True) == body(Workers(4))

    def test_what_is_rendered_is_for_a_cluster_that_does_not_scale(self, tmp_path, capsys):
        (tmp_path / "step.py").write_text("print('hello')\n")
        (tmp_path / "rendered.py").write_text(DAG)
        assert main(["render", str(tmp_path / "rendered.py"), "step", "--to", "ray"]) == 0
        said = capsys.readouterr().out

        assert "# where the cluster does not scale; one that does is asked for min_workers too" in said
        assert "--entrypoint-num-cpus 1 -- python -m " in said

    @pytest.mark.parametrize(
        ("workers", "size", "words"),
        [
            (Workers(4), ClusterSize(), "The cluster has its own size; number_of_workers=4 is not kept"),
            (
                Workers(4, 2),
                ClusterSize(16),
                "has 16 CPUs and does not scale; min_workers=2 is a floor of 16, of which the run",
            ),
            (
                Workers(4, 2),
                ClusterSize(2, True),
                "has 2 CPUs and scales; min_workers=2 is a floor of 16, which is asked for.",
            ),
            (
                Workers(4, 2),
                ClusterSize(),
                "How large the cluster is cannot be seen; min_workers=2 is a floor of 16, of which",
            ),
        ],
    )
    def test_it_is_said(self, workers, size, words):
        assert words in sizing_message(workers, size)

    def test_the_second_autoscaler(self):
        """It leaves no report, but another answer is made of what it says (read in Ray's sources, not tried)."""
        status = {"data": {"autoscalingStatus": None, "clusterStatus": None}}
        nodes = {
            "data": {"result": {"result": [{"state": "ALIVE", "resources_total": {"CPU": 8.0}}, {"state": "DEAD"}]}}
        }
        nodes["data"]["result"]["result"][1]["resources_total"] = {"CPU": 8.0}

        assert cluster_size(status, nodes, {"data": {"nodeLogicalResources": {"n": "0/8 CPU"}}}) == ClusterSize(8, True)
        assert cluster_size(status, nodes, {"data": {"nodeLogicalResources": {}}}) == ClusterSize(8, False)


class TestFixedCluster:
    """Where nothing scales."""

    def test_it_is_seen(self, hook, make_spec, capfd):
        expected = {"2.9": 8, "newest": 16}["2.9" if "2.9" in hook.test_connection()[1] else "newest"]

        assert hook._size() == ClusterSize(expected, False)
        hook.prepare(make_spec(workers=Workers(4, 2)))
        assert f"The cluster has {expected} CPUs and does not scale; min_workers=2 is a floor of" in "".join(
            capfd.readouterr()
        )

    def test_what_cannot_be_seen_fails_nothing(self, answering, forward, reply, new_cluster, at, make_spec, start):
        def closed(handler):
            answer = forward(handler)
            hidden = "cluster_status" in handler.path
            reply(handler, *((200, b'{"data": null}') if hidden else (answer.status_code, answer.content)))

        hook = at(host=answering(closed), password=new_cluster["password"])
        assert hook._size() == ClusterSize()
        assert hook.stop(start(hook, make_spec(workers=Workers(4, 2)))) is None

    def test_no_monitor_is_no_autoscaler(self, make_head, at):
        """KubeRay starts a head so if nothing is to scale: there is no report at all."""
        head = make_head(cpus=3)
        head.start("--no-monitor")
        hook = at(**head.connection())

        assert wait_for(lambda: hook._size().cpus == 3 and hook._size()) == ClusterSize(3, False)
        assert hook._content(hook._ask("GET", "/api/cluster_status"))["data"]["clusterStatus"] is None

    def test_a_full_cluster_is_waited_for(self, make_head, at, make_spec, start, tmp_path):
        """One run with a floor takes the only CPU; the next waits, and one without a floor does not."""
        head = make_head(cpus=1)
        head.start()
        hook, gate = at(**head.connection()), tmp_path / "gate"
        waits = f"import os, time\nwhile not os.path.exists({str(gate)!r}):\n    time.sleep(0.1)\n"
        first = wait_for(lambda: started(start, hook, make_spec(waits, workers=Workers(2, 1))))
        wait_for(lambda: hook.describe([first])[first].state is RunState.RUNNING)
        second = start(hook, make_spec(workers=Workers(2, 1)))
        third = start(hook, make_spec(workers=Workers(2)))

        wait_for(lambda: hook.describe([third])[third].state is RunState.SUCCEEDED)
        assert hook.describe([second])[second].raw_state == "PENDING"
        gate.touch()
        wait_for(lambda: hook.describe([second])[second].state is RunState.SUCCEEDED)

    def test_the_script_is_still_the_script(self, hook, make_spec, start, follow_to_end, monkeypatch, tmp_path):
        """Beside what asks: its exit code, its arguments; what was asked for is gone with it, though it never came."""
        monkeypatch.setattr(type(hook), "_size", lambda self: ClusterSize(8, True))
        before = len(groups(hook))
        source = f"import sys\n{waits_for(tmp_path / 'gate')}\nprint(sys.argv[1:], __name__)\nsys.exit(7)\n"
        ref = start(hook, make_spec(source, workers=Workers(9, 9)), day="1")
        wait_for(lambda: len(groups(hook)) == before + 1)
        (tmp_path / "gate").touch()
        outcome, lines = follow_to_end(hook, ref)

        assert "exit code 7" in outcome.snapshot.message
        assert "['--day', '1'] __main__" in lines
        assert wait_for(lambda: set(groups(hook)) == {"REMOVED"})

    @pytest.mark.parametrize("ends", ["stopped", "killed"])
    def test_nothing_stays_of_a_run_that_is_ended(
        self, ends, hook, make_spec, start, follow_to_end, monkeypatch, tmp_path
    ):
        """A script that says good-bye when it is stopped; or one that dies without a word."""
        monkeypatch.setattr(type(hook), "_size", lambda self: ClusterSize(8, True))
        before = len(groups(hook))
        source = (
            "import os, signal, sys, time\n"
            "signal.signal(signal.SIGTERM, lambda *_: (print('good-bye', flush=True), sys.exit(0)))\n"
            f"{waits_for(tmp_path / 'gate')}\n"
            f"{'os.kill(os.getpid(), signal.SIGKILL)' if ends == 'killed' else 'time.sleep(100)'}\n"
        )
        ref = start(hook, make_spec(source, workers=Workers(9, 9)))
        wait_for(lambda: len(groups(hook)) == before + 1)
        assert "PENDING" in groups(hook)
        if ends == "stopped":
            wait_for(lambda: stopped(hook, ref))
        else:
            (tmp_path / "gate").touch()
        outcome, lines = follow_to_end(hook, ref)

        assert outcome.snapshot.state is (RunState.STOPPED if ends == "stopped" else RunState.FAILED)
        assert ("good-bye" in lines) == (ends == "stopped")
        assert wait_for(lambda: set(groups(hook)) == {"REMOVED"})


def stopped(hook, ref):
    """Stop a run; False when the answer takes too long, after which whoever owns a run asks again."""
    try:
        hook.stop(ref)
    except SubmitOutcomeUnknown:
        return False
    return True


def started(start, hook, spec):
    """Start a run; None while the head has no agent yet."""
    try:
        return start(hook, spec)
    except SubmitError as error:
        if "No available agent" not in str(error):
            raise
        return None


def test_an_autoscaler_brings_the_floor(make_head, at, make_spec, start, follow_to_end, tmp_path, capfd):
    """Two workers appear though the script asks Ray for nothing; nothing is held then, and nothing is left after."""
    head = make_head(cpus=2)
    config = tmp_path / "autoscaler.json"
    config.write_text(json.dumps({**FAKE, "provider": {**FAKE["provider"], "gcs_address": f"127.0.0.2:{head.gcs}"}}))
    head.start(f"--autoscaling-config={config}", RAY_FAKE_CLUSTER="1", AUTOSCALER_UPDATE_INTERVAL_S="1")
    hook, gate = at(**head.connection()), tmp_path / "gate"
    wait_for(lambda: hook._size() == ClusterSize(2, True))
    waits = f"import os, time\nwhile not os.path.exists({str(gate)!r}):\n    time.sleep(0.1)\n"
    ref = wait_for(lambda: started(start, hook, make_spec(waits, workers=Workers(4, 2))))

    assert "has 2 CPUs and scales; min_workers=2 is a floor of 16, which is asked for" in "".join(capfd.readouterr())
    wait_for(lambda: cpus(hook) == 18, 120)
    wait_for(lambda: groups(hook) == ["REMOVED"])
    assert hook.describe([ref])[ref].state is RunState.RUNNING
    gate.touch()
    assert follow_to_end(hook, ref)[0].snapshot.state is RunState.SUCCEEDED
    assert groups(hook) == ["REMOVED"]

    # One that is stopped before its floor has come leaves nothing that would go on growing the cluster.
    larger = start(hook, make_spec("import time\ntime.sleep(600)\n", workers=Workers(9, 9)))
    wait_for(lambda: "PENDING" in groups(hook) and demands(hook))
    wait_for(lambda: stopped(hook, larger))
    assert follow_to_end(hook, larger)[0].snapshot.state is RunState.STOPPED
    wait_for(lambda: groups(hook) == ["REMOVED", "REMOVED"], 20)
    wait_for(lambda: not demands(hook))
