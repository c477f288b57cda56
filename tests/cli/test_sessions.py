"""`glueray sessions` against the local endpoint: what is left over is found and stopped, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from uuid import uuid4

import pytest

from airflow_provider_glueray.cli.main import main
from airflow_provider_glueray.core.spec import RaySessionSpec
from airflow_provider_glueray.hooks.glue.sessions import GlueRaySessionHook

#: No process listens on this port.
NOWHERE = "http://127.0.0.1:9"


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


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(["sessions", *arguments])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_list(left_over, capsys):
    """By DAG or by tag or by age; as a table and as JSON."""
    dag, (one, two, other) = left_over
    code, table, _ = run(capsys, "list", "--dag", dag)
    assert code == 0
    assert [line.split()[:2] for line in table.splitlines()][1:] == [[two, "PROVISIONING"], [one, "PROVISIONING"]]
    assert f"Airflow: {dag}.step, night" in table

    found = json.loads(run(capsys, "list", "--json")[1])
    assert {one, two, other} <= {row["id"] for row in found}
    assert {row["workers"] for row in found if row["id"] == one} == {2}
    assert run(capsys, "list", "--tag", f"airflow_dag_id={dag}", "--older-than", "1h")[1] == "no Ray sessions\n"


def test_stop(left_over, capsys, clean_endpoint):
    """Those that are named, and only those; what would be stopped can be seen before."""
    dag, (one, two, other) = left_over
    code, shown, _ = run(capsys, "stop", "--dag", dag, "--dry-run")
    assert (code, shown.count("would stop")) == (0, 2)
    assert len(json.loads(run(capsys, "list", "--dag", dag, "--json")[1])) == 2

    code, shown, complaint = run(capsys, "stop", one, "no-such-session")
    assert (code, shown) == (0, f"stopping {one} (PROVISIONING)\n")
    assert "no-such-session is not up" in complaint
    code, shown, _ = run(capsys, "stop", "--dag", dag)
    assert (code, f"stopping {two} (PROVISIONING)" in shown, other in shown) == (0, True, False)
    assert json.loads(run(capsys, "list", "--tag", "airflow_dag_id=other", "--json")[1])


def test_stop_needs_a_choice(left_over, capsys):
    """All sessions are stopped only with `--all`."""
    code, _, complaint = run(capsys, "stop")

    assert code == 1
    assert "--all" in complaint


def test_what_goes_wrong(capsys, monkeypatch):
    """A connection that is missing, an age that is none."""
    code, _, complaint = run(capsys, "list", "--conn-id", "missing")
    assert code == 1
    assert "There is no connection 'missing'" in complaint
    with pytest.raises(SystemExit):
        main(["sessions", "list", "--older-than", "soon"])
    assert "'soon' is no age" in capsys.readouterr().err


class TestTheConnection:
    """`--conn-id`, without it `[glueray] conn_id`, and boto3's own credentials where nobody has set up either."""

    def test_that_of_the_configuration(self, left_over, capsys, clean_endpoint, monkeypatch):
        """A connection of type aws; the environment leads nowhere."""
        monkeypatch.setenv("AIRFLOW__GLUERAY__CONN_ID", "ours")
        monkeypatch.setenv("AIRFLOW_CONN_OURS", json.dumps(clean_endpoint.airflow_connection()))
        monkeypatch.setenv("AWS_ENDPOINT_URL", NOWHERE)
        dag, ids = left_over
        code, listed, complaint = run(capsys, "list", "--dag", dag, "--json")

        assert (code, {row["id"] for row in json.loads(listed)}) == (0, set(ids[:2]))
        assert "credentials of boto3" not in complaint

    def test_the_default_where_there_is_one(self, left_over, capsys, clean_endpoint, monkeypatch):
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(clean_endpoint.airflow_connection()))
        monkeypatch.setenv("AWS_ENDPOINT_URL", NOWHERE)
        code, listed, complaint = run(capsys, "list", "--json")

        assert (code, {row["id"] for row in json.loads(listed)} >= set(left_over[1])) == (0, True)
        assert "credentials of boto3" not in complaint

    def test_no_connection_at_all(self, left_over, capsys, monkeypatch):
        """A line on stderr says whose credentials are used; the answer on stdout is that of any other connection."""
        monkeypatch.delenv("AIRFLOW_CONN_AWS_DEFAULT", raising=False)
        code, listed, complaint = run(capsys, "list", "--json")

        assert (code, {row["id"] for row in json.loads(listed)} >= set(left_over[1])) == (0, True)
        assert "no connection 'aws_default' in the environment" in complaint
        assert "using the credentials of boto3" in complaint

    def test_none(self, left_over, capsys, monkeypatch):
        """An empty `--conn-id` asks for boto3's own credentials, whatever connections there are."""
        connection = {"conn_type": "aws", "extra": {"endpoint_url": NOWHERE}}
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(connection))
        code, listed, complaint = run(capsys, "list", "--conn-id", "", "--json")

        assert (code, {row["id"] for row in json.loads(listed)} >= set(left_over[1])) == (0, True)
        assert "credentials of boto3" not in complaint

    @pytest.mark.parametrize(
        ("connection", "words"),
        [(None, "There is no connection 'ours'"), ({"conn_type": "kubernetes"}, "is of type 'kubernetes'")],
    )
    def test_a_configured_one_that_will_not_do(self, capsys, monkeypatch, connection, words):
        """It is no reason to use other credentials."""
        monkeypatch.setenv("AIRFLOW__GLUERAY__CONN_ID", "ours")
        if connection:
            monkeypatch.setenv("AIRFLOW_CONN_OURS", json.dumps(connection))
        code, listed, complaint = run(capsys, "list")

        assert (code, listed) == (1, "")
        assert f"glueray sessions: {words if connection is None else 'The connection'}" in complaint
        assert words in complaint


def test_help_does_not_import_airflow():
    """Nor the clients of any service: it answers at once."""
    code = (
        "import sys\nfrom airflow_provider_glueray.cli.main import main\ntry:\n    main(sys.argv[1:])\n"
        "except SystemExit:\n    pass\n"
        "print([name for name in ('airflow', 'boto3', 'kubernetes', 'ray') if name in sys.modules])"
    )
    for arguments in (["--help"], ["sessions", "stop", "--help"], ["clusters", "delete", "--help"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]"
