"""What every backend promises of a run, by one suite: the hook, driven by `follow`, wherever the connection leads."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from airflow_provider_glueray.core import clock
from airflow_provider_glueray.core.drivers import run_sync
from airflow_provider_glueray.core.errors import (
    CapacityExceeded,
    RunFailed,
    RunLost,
    RunStopped,
    RunTimedOut,
    failure_of,
)
from airflow_provider_glueray.core.follow import FollowPolicy, Waits, follow
from airflow_provider_glueray.core.logs import LogCursor
from airflow_provider_glueray.core.runs import Outcome, RunRef, RunState, Usage
from airflow_provider_glueray.core.spec import RayJobSpec, RaySessionSpec
from airflow_provider_glueray.hooks.glue.statements import prepare
from airflow_provider_glueray.hooks.registry import hook_kwargs, make_hook
from airflow_provider_glueray.task.sessions import output_of
from tests.contract import scripted
from tests.contract.scripts import script_of

pytestmark = pytest.mark.only("glue", "ray", "kuberay", "session", "scripted")
SLEEP = "import time\nprint('begun', flush=True)\ntime.sleep(120)\n"


class Pages:
    """A log that remembers what was written to it."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, level: int, msg: str, /, *args: Any) -> None:
        self.lines.append(msg % args)

    def info(self, msg: str, /, *args: Any) -> None:
        self.lines.append(msg % args)

    def printed(self) -> list[str]:
        """Return the lines of the script."""
        return [line.removeprefix("[script] ") for line in self.lines if line.startswith("[script] ")]


class Bench:
    """One place with its hook: what a scene needs of it, in the same words for every backend."""

    def __init__(self, place: Any, folder: Path) -> None:
        self.place, self._folder = place, folder
        self.hook = make_hook(place.backend, hook_kwargs(self._door, "where", None, None, None))
        self.name = place.session or f"contract-{uuid4().hex[:8]}"
        self._marks: dict[RunRef, str] = {}

    @property
    def _door(self) -> str:
        return self.place.backend

    def start(self, source: str, client_token: str | None = None, **fields: Any) -> RunRef:
        """Start a run of a script given as text."""
        client_token = client_token or uuid4().hex
        if self.place.session:
            ref: RunRef = self.hook.run_statement(self.name, prepare(source, client_token, "the code"), client_token)
        else:
            script = self._folder / "step.py"
            script.write_text(source)
            if self.place.backend == scripted.BACKEND:
                scripted.SERVICES["where"].script = script_of(source)
            given = {"name": self.name, "script": str(script), "role": self.place.role, **fields}
            ref = self.hook.prepare(RayJobSpec(**given), self.place.staging_uri).start(client_token, {})
        self._marks[ref] = client_token
        return ref

    def wait(self, ref: RunRef, **policy: Any) -> tuple[Outcome, list[str]]:
        """Follow a run to its end; return how it ended, and what it has printed."""
        pages = Pages()
        sources = () if self.place.session else ("script",)
        given = {"poll_interval": 1.0, "min_poll_interval": 0.3, "sources": sources, **policy}
        outcome = run_sync(follow(ref, FollowPolicy(**given)), self.hook, ref, pages)
        if self.place.session:
            output = output_of(outcome, self.hook, self._marks[ref])
            return outcome, output.printed.splitlines() if output else []
        return outcome, pages.printed()

    def until(self, ref: RunRef, *states: RunState) -> None:
        """Wait until a run is in one of the states."""
        end = time.monotonic() + 120
        while (seen := self.hook.describe([ref])[ref]).state not in states:
            assert time.monotonic() < end, seen
            clock.sleep(0.2)

    def forget(self, ref: RunRef) -> None:
        """Let the service forget a run, as somebody who deletes things would."""
        if self.place.backend == "glue-job":
            self.hook.delete_job(ref.name)
        elif self.place.backend == scripted.BACKEND:
            del scripted.SERVICES["where"].runs[ref]
        elif self.place.backend == "ray-job":
            answer = self.hook._ask("DELETE", f"/api/jobs/{ref.id}")
            assert answer.is_success or self.hook._is_unknown(answer)
        elif self.place.backend == "kuberay-job":
            namespace, name = ref.id.split("/")
            group = ("ray.io", "v1", namespace, "rayjobs", name)
            self.hook.custom_object_client.delete_namespaced_custom_object(*group)
        else:
            self.hook.delete(ref.name)


@pytest.fixture
def bench(place, tmp_path: Path) -> Bench:
    return Bench(place, tmp_path)


def test_it_runs_and_prints_in_order(bench):
    """Without a gap or a repetition, also what was printed last and has no end of line; with what it used."""
    source = "import sys\nfor n in range(300):\n    print('line', n)\nsys.stdout.write('no end')\nsys.stdout.flush()\n"
    outcome, printed = bench.wait(bench.start(source))

    assert outcome.snapshot.state is RunState.SUCCEEDED
    assert failure_of(outcome) is None
    shown = [line for line in printed if line.startswith("line ") or line == "no end"]
    assert shown == [*(f"line {n}" for n in range(300)), "no end"]
    check_usage(bench, outcome.snapshot.usage)
    # What has ended is not stopped.
    bench.hook.stop(outcome.snapshot.ref)
    assert bench.hook.describe([outcome.snapshot.ref])[outcome.snapshot.ref].state is RunState.SUCCEEDED


def check_usage(bench: Bench, usage: Usage | None) -> None:
    """Expect seconds of every job, and workers and what they cost where they belong to the run."""
    if bench.place.session:
        return
    assert usage is not None
    assert usage.seconds > 0
    if bench.place.backend == "ray-job":  # the cluster is there for everybody
        assert (usage.workers, usage.mdpu_hours) == (0, 0.0)
    elif bench.place.backend == "kuberay-job":
        assert (usage.workers >= 1, usage.mdpu_hours) == (True, 0.0)  # workers come when there is work for them
        assert min(usage.vcpu_hours, usage.gib_hours) > 0
    else:
        assert usage.workers >= 2
        assert usage.mdpu_hours == pytest.approx(usage.seconds * usage.workers * 2 / 3600)


def test_it_fails_with_7(bench):
    """The state, the code and the end of the log."""
    outcome, printed = bench.wait(bench.start("import sys\nprint('so far', flush=True)\nsys.exit(7)\n"))
    failure = failure_of(outcome, bench.hook.url(outcome.snapshot.ref))

    assert outcome.snapshot.state is RunState.FAILED
    assert type(failure) is RunFailed
    assert "so far" in printed
    if bench.place.session:
        assert bench.hook.output(outcome.snapshot.ref).error[:2] == ("SystemExit", "7")
    else:
        assert "7" in outcome.snapshot.message
        assert "so far" in str(failure)


def test_it_is_stopped_and_stopped_again(bench):
    ref = bench.start(SLEEP)
    bench.until(ref, RunState.RUNNING)
    bench.hook.stop(ref)
    bench.hook.stop(ref)
    outcome, _ = bench.wait(ref)
    bench.hook.stop(ref)

    assert outcome.snapshot.state is RunState.STOPPED
    assert type(failure_of(outcome)) is RunStopped


def test_it_times_out(bench):
    """The deadline is ours: the run is stopped, and the verdict is that it took too long."""
    ref = bench.start(SLEEP)
    bench.until(ref, RunState.RUNNING)
    outcome, _ = bench.wait(ref, deadline=clock.now() + 1)

    assert outcome.deadline_passed
    assert outcome.snapshot.state is RunState.STOPPED
    assert type(failure_of(outcome)) is RunTimedOut


def test_it_vanishes(bench):
    """Deleted by somebody: a failure in words, after some patience, because a list may lag behind a start."""
    if bench.place.session:
        bench.name = f"contract-{uuid4().hex[:8]}"
        own = bench.hook.create(RaySessionSpec(role="GlueRayRole"), bench.name, uuid4().hex)
        bench.hook.wait_ready(own)
        ref = bench.start("1")
        bench.wait(ref)
        bench.hook.stop(own)
        bench.until(own, RunState.STOPPED)
    else:
        ref = bench.start("print('quick')\n")
        bench.wait(ref)
    bench.forget(ref)
    # Who sees a RayJob go knows how it had ended; this is about somebody who comes when it is gone.
    end = time.monotonic() + 120
    while True:
        while (late := make_again(bench)).describe([ref])[ref].state is not RunState.LOST:
            assert time.monotonic() < end
            time.sleep(0.2)
            if bench.place.backend == "ray-job":
                bench.forget(ref)  # for the reason below
        seconds = itertools.count(0.0, Waits().lost / 2)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(clock, "now", seconds.__next__)
            patch.setattr(clock, "sleep", lambda _: None)
            told = Pages()
            outcome = run_sync(follow(ref, FollowPolicy(sources=())), late, ref, told)
        if outcome.snapshot.state is RunState.LOST:
            break
        # When Ray hears only now that the run's supervisor has ended, it writes down a run that it had deleted.
        assert time.monotonic() < end
        bench.forget(ref)

    assert type(failure_of(outcome)) is RunLost
    assert any("the service does not know it" in line for line in told.lines)


def test_it_is_taken_up_again(bench):
    """By its mark, and by starting it again: there is one run, whose log goes on where somebody has stopped reading."""
    client_token = uuid4().hex
    source = "import time\nfor n in range(4):\n    print('line', n, flush=True)\n    time.sleep(0.2)\n"
    ref = bench.start(source, client_token)
    assert [snapshot.ref for snapshot in bench.hook.find_runs(ref.name, client_token)] == [ref]
    assert bench.hook.find_runs(ref.name, uuid4().hex) == []
    if bench.place.backend in ("ray-job", "kuberay-job"):  # whose ids are ours to choose
        assert bench.start(source, client_token) == ref
    if bench.place.session:
        assert bench.wait(ref)[0].snapshot.state is RunState.SUCCEEDED
        return
    bench.until(ref, RunState.RUNNING)
    seen: list[str] = []
    cursor = LogCursor()
    end = time.monotonic() + 60
    while not seen and time.monotonic() < end:
        page = bench.hook.read_logs({ref: cursor}, ["script"])[ref]
        seen, cursor = [line.text for line in page.lines], page.cursor
        clock.sleep(0.2)
    pages = Pages()
    cursor = LogCursor.from_json(cursor.to_json())
    outcome = run_sync(follow(ref, FollowPolicy(poll_interval=1.0), cursor), make_again(bench), ref, pages)

    assert outcome.snapshot.state is RunState.SUCCEEDED
    assert [line for line in seen + pages.printed() if line.startswith("line")] == [f"line {n}" for n in range(4)]


def cpus_of_nodes(hook: Any) -> list[int]:
    """Return how many CPUs each node of a Ray cluster has."""
    found = hook._content(hook._ask("GET", "/nodes?view=summary"))["data"]["summary"]
    return [int(node["raylet"]["resourcesTotal"]["CPU"]) for node in found]


def make_again(bench: Bench) -> Any:
    """Return the hook as another process would have it."""
    return Bench(bench.place, bench._folder).hook


def test_it_is_queued(bench):
    """Where there is no room, nothing is lost and nothing fails: it is refused as full, or waits at the service."""
    if bench.place.backend == scripted.BACKEND:
        scripted.SERVICES["where"].room = 1
    if bench.place.backend in ("glue-job", "glue-statement", scripted.BACKEND):
        ref = bench.start(SLEEP)
        with pytest.raises(CapacityExceeded):
            bench.start(SLEEP)
        bench.hook.stop(ref)
        bench.wait(ref)
    elif bench.place.backend == "ray-job":
        nodes = cpus_of_nodes(bench.hook)
        whole = {"overrides": {"ray": {"entrypoint_num_cpus": max(nodes)}}}
        fillers = [bench.start(SLEEP, **whole) for _ in nodes]
        for each in fillers:
            bench.until(each, RunState.RUNNING)
        ref = bench.start("print('now')\n", **whole)
        for _ in range(5):
            clock.sleep(0.2)
            assert bench.hook.describe([ref])[ref].state is RunState.STARTING
        bench.hook.stop(*fillers)
        assert bench.wait(ref)[0].snapshot.state is RunState.SUCCEEDED
        return
    elif bench.place.player is not None:
        bench.place.kubernetes.quota = "etl, requested: count/rayjobs.ray.io=1, used: 5, limited: 5"
        with pytest.raises(CapacityExceeded, match="exceeded quota"):
            bench.start(SLEEP)
        bench.place.kubernetes.quota = None
        bench.place.player.paused.set()
        ref = bench.start("print('now')\n")
        bench.until(ref, RunState.QUEUED)
        bench.place.player.paused.clear()
        assert bench.wait(ref)[0].snapshot.state is RunState.SUCCEEDED
        return
    assert bench.wait(bench.start("print('now')\n"))[0].snapshot.state is RunState.SUCCEEDED


@pytest.mark.parametrize("name", ["GLUERAY_TEST_AWS", "GLUERAY_TEST_RAY", "GLUERAY_TEST_KUBERAY"])
def test_a_real_place(name):
    """This suite is played there as well, where the variable holds an Airflow connection as JSON."""
    if name not in os.environ:
        pytest.skip(f"{name} names no real place: an Airflow connection as JSON, with `staging_uri` in its extra")
