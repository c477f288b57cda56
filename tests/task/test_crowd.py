"""Many deferred runs in one event loop: what it costs is counted on the scripted backend, over minutes of its clock."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from airflow_provider_glueray.core.follow import FollowPolicy
from airflow_provider_glueray.core.logs import LogCursor
from airflow_provider_glueray.core.runs import Outcome, RunState
from airflow_provider_glueray.core.spec import RayJobSpec
from airflow_provider_glueray.triggers.runs import GlueRayRunTrigger
from tests.contract.scripted import Service
from tests.contract.scripts import Script
from tests.runner import fire, run_on

LASTS = Script(states=[(0, "RUNNING"), (900, "SUCCEEDED")], lines=[(at, f"line {at}") for at in range(0, 900, 60)])


@pytest.fixture
def follow_all(life_of, connect):
    """Return what follows runs of some jobs in one loop, each from another moment on, and gives the calls it took."""

    def follow_all(jobs: int, each: int) -> Counter[str]:
        clock = life_of("script").clock
        service = Service(clock, LASTS, room=1000)
        connect("scripted", service)
        specs = [RayJobSpec(name=f"job{at}", script="s3://scripted/none.py") for at in range(jobs)]
        refs = [service.start(spec, str(number), {}) for number in range(each) for spec in specs]

        async def begin(number: int) -> Outcome:
            await asyncio.sleep(number * 7.3 % 10)
            trigger = GlueRayRunTrigger(
                run=refs[number].to_json(), hook={"conn_id": "scripted"}, policy=FollowPolicy().to_json(),
                cursor=LogCursor().to_json(),
            )  # fmt: skip
            return Outcome.from_json(await fire(trigger))

        async def wait() -> list[Outcome]:
            return await asyncio.gather(*map(begin, range(len(refs))))

        outcomes = run_on(clock, wait())
        assert {outcome.snapshot.state for outcome in outcomes} == {RunState.SUCCEEDED}
        assert [outcome.snapshot.ref for outcome in outcomes] == refs
        return service.calls

    return follow_all


def test_two_hundred_runs_of_a_job_cost_the_calls_of_one(follow_all):
    """Polls and reads of the log: those who began at different moments fall into step."""
    alone, many = follow_all(1, 1), follow_all(1, 200)

    assert alone["describe"] > 80
    # Not twice as many calls for two hundred times as many runs: at first there is always a young one among them,
    # and the young are polled more often.
    for verb in ("describe", "read_logs"):
        assert many[verb] < 2 * alone[verb], (verb, alone, many)


def test_jobs_are_polled_apart(follow_all):
    """One call describes the runs of one job."""
    one, ten = follow_all(1, 5), follow_all(10, 5)

    assert 9 * one["describe"] < ten["describe"] < 11 * one["describe"], (one, ten)
