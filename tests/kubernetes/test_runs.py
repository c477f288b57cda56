"""The project's own runs, where it matters that the cluster is a real one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from airflow_provider_glueray.core.runs import RunState
from airflow_provider_glueray.core.spec import Workers
from tests.contract.test_runs import Bench

pytestmark = [pytest.mark.kubernetes, pytest.mark.timeout(900)]


@pytest.mark.full
@pytest.mark.alone
def test_the_default_fits_the_node_of_the_guide(make_bench: Callable[..., Bench]) -> None:
    """Head and worker are each a Z.2X, and an r7g.2xlarge has room for one beside what Ray and KubeRay add."""
    bench = make_bench(resources={})
    outcome, printed = bench.wait(bench.start("print('hello')\n", workers=Workers(2, min_workers=1)))

    assert outcome.snapshot.state is RunState.SUCCEEDED
    assert "hello" in printed
