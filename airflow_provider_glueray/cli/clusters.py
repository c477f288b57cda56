"""`glueray clusters`: find the Ray clusters on KubeRay that are left, and delete them.

Floor 3. A teardown deletes a cluster, and its lifetime ends its pods by itself; this is for those which nobody wants to
wait for, and for what the latter leaves.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from typing import Any, TextIO

from airflow_provider_glueray.cli.output import EXIT_FAILED, EXIT_OK, age, print_table
from airflow_provider_glueray.core.errors import GlueRayError
from airflow_provider_glueray.core.runs import RunSnapshot
from airflow_provider_glueray.hooks.kuberay.manifests.pods import DAG
from airflow_provider_glueray.hooks.kuberay.status import cluster_snapshot


def add_clusters(groups: Any) -> None:
    """Register the group with argparse's subparsers."""
    clusters = groups.add_parser(
        "clusters",
        help="Ray clusters on KubeRay: list them, delete those that are left over",
        description="RayClusters that tasks have made in the connection's namespace. Those of others, and those which "
        "RayJobs make for themselves, are never shown and never touched.",
    )
    commands = clusters.add_subparsers(title="commands", required=True, metavar="COMMAND")

    _command(commands, "list", _list, "show the clusters that are there")

    delete = _command(commands, "delete", _delete, "delete clusters, by id or by what they have in common")
    delete.add_argument("ids", nargs="*", metavar="ID", help="ids of clusters: namespace/name")
    delete.add_argument("--all", action="store_true", help="every cluster that tasks have made")
    delete.add_argument("--dry-run", action="store_true", help="only say which")


def _command(commands: Any, name: str, run: Callable[..., int], text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.add_argument("--conn-id", default="kubernetes_default", help="Airflow connection (%(default)s)")
    command.add_argument("--dag", help="made by this DAG")
    command.add_argument("--tag", action="append", default=[], metavar="KEY=VALUE", help="with this tag (repeatable)")
    command.add_argument("--older-than", type=age, metavar="AGE", help="made longer ago than this: 90m, 2h, 1d")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_plainly(run))
    return command


def _plainly(run: Callable[[argparse.Namespace, Any, TextIO], int]) -> Callable[[argparse.Namespace], int]:
    def guarded(arguments: argparse.Namespace) -> int:
        out = sys.stdout
        # Airflow logs to stdout, which here belongs to the answer.
        with redirect_stdout(sys.stderr):
            try:
                from airflow_provider_glueray.hooks.kuberay.clusters import KubeRayClusterHook
            except ModuleNotFoundError as error:
                print(f"{error}. Install airflow-provider-glueray[kuberay] first.", file=sys.stderr)
                return EXIT_FAILED
            try:
                return run(arguments, KubeRayClusterHook(arguments.conn_id), out)
            except GlueRayError as error:
                print(f"glueray clusters: {error}", file=sys.stderr)
                return EXIT_FAILED

    return guarded


def _list(arguments: argparse.Namespace, hook: Any, out: TextIO) -> int:
    found = [_row(raycluster, snapshot) for raycluster, snapshot in _chosen(arguments, hook)]
    if arguments.json:
        print(json.dumps(found), file=out)
    elif not found:
        print("no clusters", file=out)
    else:
        print_table(found, out)
    return EXIT_OK


def _delete(arguments: argparse.Namespace, hook: Any, out: TextIO) -> int:
    if not (arguments.ids or arguments.all or arguments.dag or arguments.tag or arguments.older_than):
        print("glueray clusters delete: say which: ids, --dag, --tag, --older-than or --all", file=sys.stderr)
        return EXIT_FAILED
    found = {snapshot.ref.id: (raycluster, snapshot) for raycluster, snapshot in _chosen(arguments, hook)}
    if arguments.ids:
        for name in sorted(set(arguments.ids) - set(found)):
            print(f"{name} is not there, or does not fit the other options", file=sys.stderr)
        found = {name: each for name, each in found.items() if name in arguments.ids}
    failed = 0
    for name, (_, snapshot) in found.items():
        try:
            if not arguments.dry_run:
                hook.stop(snapshot.ref)
        except GlueRayError as error:
            failed += 1
            print(f"{name}: {error}", file=sys.stderr)
            continue
        if not arguments.json:
            doing = "would delete" if arguments.dry_run else "deleting"
            print(f"{doing} {name} ({snapshot.raw_state})", file=out)
    if arguments.json:
        print(json.dumps([_row(*each) for each in found.values()]), file=out)
    elif not found:
        print("no clusters to delete", file=out)
    return EXIT_FAILED if failed else EXIT_OK


def _chosen(arguments: argparse.Namespace, hook: Any) -> Iterator[tuple[Mapping[str, Any], RunSnapshot]]:
    """Yield the clusters that fit the options which both commands have."""
    now, tags = time.time(), dict(pair.partition("=")[::2] for pair in arguments.tag)
    for raycluster in hook.list_clusters({DAG: arguments.dag} if arguments.dag else {}):
        snapshot = cluster_snapshot(raycluster, now)
        has = json.loads(raycluster["metadata"]["annotations"].get("glueray/tags", "{}"))
        is_old = arguments.older_than is None or now - (snapshot.started or now) > arguments.older_than.total_seconds()
        if is_old and tags.items() <= has.items():
            yield raycluster, snapshot


def _row(raycluster: Mapping[str, Any], snapshot: RunSnapshot) -> dict[str, Any]:
    usage = snapshot.usage
    return {
        "id": snapshot.ref.id,
        "status": snapshot.raw_state,
        "age_minutes": round((time.time() - (snapshot.started or 0.0)) / 60, 1),
        "pods": usage.workers if usage else None,
        "description": raycluster["metadata"]["annotations"].get("glueray/description", ""),
    }
