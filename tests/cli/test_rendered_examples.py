"""What `glueray render` prints for every example on three backends, word for word.

`pytest tests/cli/test_rendered_examples.py --snapshot-update` writes it anew; the difference is for whoever reviews.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from airflow_provider_glueray.cli.main import main

EXAMPLES = Path(__file__).parents[2] / "example_dags"
FILES = [*sorted(EXAMPLES.glob("*.py")), Path(__file__).with_name("dags") / "everything.py"]


@pytest.fixture(scope="module")
def tasks() -> list[tuple[Path, str, str]]:
    """Return file, DAG and task of everything in the examples that can be rendered."""
    from airflow_provider_glueray.airflow_compat import DagBag
    from airflow_provider_glueray.operators.glue_jobs import GlueRayJobOperator
    from airflow_provider_glueray.operators.notebooks import GlueRayNotebookOperator

    found = []
    for file in FILES:
        bag = DagBag(str(file))
        assert not bag.import_errors
        for dag_id, dag in sorted(bag.dags.items()):
            for task in dag.tasks:
                kind = task.operator_class if task.is_mapped else type(task)
                if issubclass(kind, (GlueRayJobOperator, GlueRayNotebookOperator)):
                    found.append((file, dag_id, task.task_id))
    return found


def settled(text: str) -> str:
    """Return a text without what differs from checkout to checkout, and with one byte of a script."""
    text = re.sub(r"-[0-9a-f]{16}(?=\.(py|zip))", "-DIGEST", text)
    text = re.sub(r"_ray_pkg_[0-9a-f]{32}", "_ray_pkg_DIGEST", text)
    text = re.sub(r"(python -m glueray_\w+?_)[0-9a-f]{8}\b", r"\1DIGEST", text)
    return text.replace(str(EXAMPLES.parent), "CHECKOUT")


@pytest.mark.parametrize("backend", ["glue", "ray", "kuberay"])
def test_what_is_rendered_stays(tasks, backend, capsys, snapshot):
    """Requests, manifests, commands, and what is refused."""
    assert len(tasks) == 10
    printed = {}
    for file, dag_id, task_id in tasks:
        code = main(["render", str(file), task_id, "--dag-id", dag_id, "--to", backend])
        out, err = capsys.readouterr()
        printed[f"{dag_id}.{task_id}"] = settled(out if code == 0 else err.splitlines()[-1]).splitlines()

    assert json.dumps(printed, indent=1, ensure_ascii=False) == snapshot
