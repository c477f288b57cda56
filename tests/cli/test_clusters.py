"""`glueray clusters` against the stand-in for Kubernetes: what is left over is found and deleted, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from airflow_provider_glueray.cli.main import main
from airflow_provider_glueray.core.spec import RayClusterSpec
from airflow_provider_glueray.hooks.kuberay.clusters import KubeRayClusterHook
from tests.hooks.kuberay import kubernetes_api


@pytest.fixture
def cluster(monkeypatch) -> Iterator[Any]:
    """Return a Kubernetes cluster with KubeRay in it, and `[glueray] conn_id` leads there."""
    with kubernetes_api.serving() as running:
        monkeypatch.setenv("AIRFLOW__GLUERAY__CONN_ID", "kubernetes_default")
        monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps(running.config(kuberay={"image": "i"})))
        yield running


@pytest.fixture
def left_over(cluster) -> list[str]:
    """Return the ids of two clusters of one DAG, the second old, and of one of another; a stranger's is there too."""
    hook, ids = KubeRayClusterHook(), []
    for client_token, dag, team in (("m1", "night", "a"), ("m2", "night", "b"), ("m3", "other", "a")):
        spec = RayClusterSpec(name="n", tags={"airflow_dag_id": dag, "team": team}, description=f"Airflow: {dag}.step")
        ids.append(hook.prepare(spec, None)(client_token).id)
    cluster.age(ids[1], 3 * 3600)
    stranger = json.loads(json.dumps(cluster.rayclusters[tuple(ids[0].split("/"))]))
    stranger["metadata"] |= {"name": "stranger", "labels": {}}
    cluster.rayclusters["etl", "stranger"] = stranger
    return ids


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(["clusters", *arguments])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def deleted(cluster: Any) -> set[str]:
    going = {key for key, each in cluster.rayclusters.items() if "deletionTimestamp" in each["metadata"]}
    return {"/".join(key) for key in going}


def test_list(left_over, capsys):
    """By DAG or by tag or by age; as a table and as JSON."""
    one, two, other = left_over
    code, table, _ = run(capsys, "list", "--dag", "night")
    assert code == 0
    assert {line.split()[0] for line in table.splitlines()[1:]} == {one, two}
    assert "Airflow: night.step" in table

    for arguments, ids in (
        ([], {one, two, other}),
        (["--tag", "team=a"], {one, other}),
        (["--older-than", "2h"], {two}),
        (["--dag", "nobody"], set()),
    ):
        found = json.loads(run(capsys, "list", "--json", *arguments)[1])
        assert {row["id"] for row in found} == ids
    assert run(capsys, "list", "--dag", "nobody")[1] == "no clusters\n"


def test_delete(cluster, left_over, capsys):
    """The clusters that are named, and none without an option that chooses."""
    one, two, other = left_over
    assert run(capsys, "delete")[0] == 1
    assert "would delete" in run(capsys, "delete", "--all", "--dry-run")[1]
    assert deleted(cluster) == set()

    code, out, err = run(capsys, "delete", two, "etl/unknown")
    assert (code, f"deleting {two} (" in out) == (0, True)
    assert "etl/unknown is not there" in err
    assert deleted(cluster) == {two}

    assert run(capsys, "delete", "--all")[0] == 0
    assert deleted(cluster) == {one, other}
    assert ("etl", "stranger") in cluster.rayclusters


def test_what_goes_wrong(cluster, left_over, capsys):
    cluster.denied.add(("delete", "rayclusters"))
    code, _, err = run(capsys, "delete", "--all")
    assert code == 1
    assert 'cannot delete resource "rayclusters"' in err

    cluster.has_kuberay = False
    code, _, err = run(capsys, "list")
    assert code == 1
    assert "is the KubeRay operator installed" in err


class TestTheConnection:
    """`--conn-id`, and without it `[glueray] conn_id`."""

    def test_that_of_the_configuration(self, cluster, left_over, capsys, monkeypatch):
        monkeypatch.setenv("AIRFLOW__GLUERAY__CONN_ID", "ours")
        monkeypatch.setenv("AIRFLOW_CONN_OURS", json.dumps(cluster.config(kuberay={"image": "i"})))
        monkeypatch.delenv("AIRFLOW_CONN_KUBERNETES_DEFAULT")
        code, listed, _ = run(capsys, "list", "--json")

        assert (code, {row["id"] for row in json.loads(listed)}) == (0, set(left_over))

    def test_another(self, left_over, capsys, monkeypatch):
        monkeypatch.setenv("AIRFLOW__GLUERAY__CONN_ID", "nowhere")
        code, listed, _ = run(capsys, "list", "--json", "--conn-id", "kubernetes_default")

        assert (code, {row["id"] for row in json.loads(listed)}) == (0, set(left_over))

    @pytest.mark.parametrize(
        ("name", "connection", "words"),
        [
            ("ours", None, "There is no connection 'ours'"),
            ("aws_default", None, "There is no connection 'aws_default'"),
            ("ours", {"conn_type": "aws"}, "The connection 'ours' is of type 'aws'"),
        ],
    )
    def test_one_that_will_not_do(self, capsys, monkeypatch, name, connection, words):
        """The error names the connection and the option that names another."""
        monkeypatch.delenv("AIRFLOW_CONN_AWS_DEFAULT", raising=False)
        monkeypatch.setenv("AIRFLOW__GLUERAY__CONN_ID", name)
        if connection:
            monkeypatch.setenv("AIRFLOW_CONN_OURS", json.dumps(connection))
        code, listed, complaint = run(capsys, "list")

        assert (code, listed) == (1, "")
        assert f"glueray clusters: {words}" in complaint
        assert "--conn-id" in complaint
