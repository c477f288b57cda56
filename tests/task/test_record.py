"""How a run is found by whoever knows its task."""

from __future__ import annotations

from itertools import islice
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_glueray.task.record import client_tokens

WORDS = st.text(max_size=4)
TASKS = st.tuples(WORDS, WORDS, WORDS, st.integers(-1, 3), WORDS, st.integers(1, 3))


def tokens_of(dag_id, run_id, task_id, map_index, key, try_number, *, max_tries=0, retries=0, most=3):
    ti = SimpleNamespace(
        dag_id=dag_id,
        run_id=run_id,
        task_id=task_id,
        map_index=map_index,
        max_tries=max_tries,
        task=SimpleNamespace(retries=retries),
    )
    return list(islice(client_tokens({"ti": ti}, key, try_number), most))


@given(TASKS, st.integers(0, 9), st.integers(0, 9))
def test_they_are_computed_from_the_task_and_its_try(task, max_tries, retries):
    """Not from what may change between two tries."""
    assert tokens_of(*task) == tokens_of(*task, max_tries=max_tries, retries=retries)
    assert len(set(tokens_of(*task))) == 3


@given(TASKS, TASKS)
def test_no_two_tasks_share_one(one, other):
    """Wherever a word of the task ends and the next one begins."""
    assert set(tokens_of(*one)).isdisjoint(tokens_of(*other)) == (one != other)


def test_nor_do_two_deployments(monkeypatch):
    """Which are told apart by their name, or by the address of their API server."""
    task = ("dag", "run", "task", -1, "key", 1)
    found = [tokens_of(*task)]
    for name in ("AIRFLOW__API__BASE_URL", "AIRFLOW__GLUERAY__DEPLOYMENT"):
        monkeypatch.setenv(name, "https://production.invalid")
        found.append(tokens_of(*task))
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://another.invalid")

    assert found[0] != found[1]
    assert found[2] == tokens_of(*task)
