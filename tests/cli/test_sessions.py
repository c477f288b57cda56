"""`glueray sessions` against the local endpoint: what is left over is found and stopped, and nothing else."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest

from airflow_provider_glueray.cli.main import main
from airflow_provider_glueray.core.spec import RaySessionSpec
from airflow_provider_glueray.hooks.glue.sessions import GlueRaySessionHook


@pytest.fixture
def left_over(clean_endpoint, monkeypatch):
    """Return the ids of two sessions of one DAG, and of one of another; none of them gets ready."""
    for name, value in clean_endpoint.env().items():
        monkeypatch.setenv(name, value)
    clean_endpoint.faults(provisioning_seconds=3600)
    hook = GlueRaySessionHook(None)
    dags = [f"dag-{uuid4().hex[:8]}"] * 2 + ["other"]
    refs = []
    for dag in dags:
        spec = RaySessionSpec(
            role="GlueRayRole", tags={"airflow_dag_id": dag}, description=f"Airflow: {dag}.step, night"
        )
        refs.append(hook.create(spec, f"cli-{uuid4().hex[:8]}", "m"))
    yield dags[0], [ref.id for ref in refs]
    hook.stop(*refs)
    clean_endpoint.reset_faults()


def said(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(["sessions", *arguments])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_list(left_over, capsys):
    """By DAG or by tag or by age; as a table and as JSON."""
    dag, (one, two, other) = left_over
    code, table, _ = said(capsys, "list", "--dag", dag)
    assert code == 0
    assert [line.split()[:2] for line in table.splitlines()][1:] == [[two, "PROVISIONING"], [one, "PROVISIONING"]]
    assert f"Airflow: {dag}.step, night" in table

    found = json.loads(said(capsys, "list", "--json")[1])
    assert {one, two, other} <= {row["id"] for row in found}
    assert {row["workers"] for row in found if row["id"] == one} == {2}
    assert said(capsys, "list", "--tag", f"airflow_dag_id={dag}", "--older-than", "1h")[1] == "no Ray sessions\n"


def test_stop(left_over, capsys, clean_endpoint):
    """Those that are named, and only those; what would be stopped can be seen before."""
    dag, (one, two, other) = left_over
    code, shown, _ = said(capsys, "stop", "--dag", dag, "--dry-run")
    assert (code, shown.count("would stop")) == (0, 2)
    assert len(json.loads(said(capsys, "list", "--dag", dag, "--json")[1])) == 2

    code, shown, complaint = said(capsys, "stop", one, "no-such-session")
    assert (code, shown) == (0, f"stopping {one} (PROVISIONING)\n")
    assert "no-such-session is not up" in complaint
    code, shown, _ = said(capsys, "stop", "--dag", dag)
    assert (code, f"stopping {two} (PROVISIONING)" in shown, other in shown) == (0, True, False)
    assert json.loads(said(capsys, "list", "--tag", "airflow_dag_id=other", "--json")[1])


def test_stop_wants_to_know_which(left_over, capsys):
    """Everything is stopped only if that is said."""
    code, _, complaint = said(capsys, "stop")

    assert code == 1
    assert "--all" in complaint


def test_what_goes_wrong_is_told(capsys, monkeypatch):
    """A connection that is missing, an age that is none."""
    code, _, complaint = said(capsys, "list", "--conn-id", "missing")
    assert code == 1
    assert "There is no connection 'missing'" in complaint
    with pytest.raises(SystemExit):
        main(["sessions", "list", "--older-than", "soon"])
    assert "'soon' is no age" in capsys.readouterr().err
