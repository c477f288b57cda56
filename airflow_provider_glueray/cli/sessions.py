"""`glueray sessions`: find the Ray sessions that are left, and stop them.

Floor 3. A teardown and the idle timeout end sessions by themselves; this is for those which nobody wants to wait for.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta
from typing import Any, TextIO

from airflow_provider_glueray.cli.output import EXIT_FAILED, EXIT_OK, age, print_table
from airflow_provider_glueray.core.errors import GlueRayError
from airflow_provider_glueray.core.runs import GLUE_SESSION, RunRef

#: The states in which a session costs money.
LIVE = ("PROVISIONING", "READY", "STOPPING")


def add_sessions(groups: Any) -> None:
    """Register the group with argparse's subparsers."""
    sessions = groups.add_parser(
        "sessions",
        help="Ray sessions: list them, stop those that are left over",
        description="Ray sessions of an account and region. Spark sessions are never shown and never touched.",
    )
    commands = sessions.add_subparsers(title="commands", required=True, metavar="COMMAND")

    listing = _command(commands, "list", _list, "show the sessions that are up")
    listing.add_argument("--all", action="store_true", help="also those that are over")

    stop = _command(commands, "stop", _stop, "stop sessions, by id or by what they have in common")
    stop.add_argument("ids", nargs="*", metavar="ID", help="ids of sessions")
    stop.add_argument("--all", action="store_true", help="every Ray session that is up")
    stop.add_argument("--dry-run", action="store_true", help="only say which")


def _command(commands: Any, name: str, run: Callable[..., int], text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.add_argument("--conn-id", help="Airflow connection (boto3's own credentials and AWS_ENDPOINT_URL)")
    command.add_argument("--region", help="region (that of the connection)")
    command.add_argument("--dag", help="made by this DAG: the tag airflow_dag_id")
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
            from airflow_provider_glueray.hooks.glue.sessions import GlueRaySessionHook

            try:
                return run(arguments, GlueRaySessionHook(arguments.conn_id, region_name=arguments.region), out)
            except GlueRayError as error:
                print(f"glueray sessions: {error}", file=sys.stderr)
                return EXIT_FAILED

    return guarded


def _list(arguments: argparse.Namespace, hook: Any, out: TextIO) -> int:
    found = [_row(session) for session in _chosen(arguments, hook) if arguments.all or session["Status"] in LIVE]
    if arguments.json:
        print(json.dumps(found), file=out)
    elif not found:
        print("no Ray sessions", file=out)
    else:
        print_table(found, out)
    return EXIT_OK


def _stop(arguments: argparse.Namespace, hook: Any, out: TextIO) -> int:
    if not (arguments.ids or arguments.all or arguments.dag or arguments.tag or arguments.older_than):
        print("glueray sessions stop: say which: ids, --dag, --tag, --older-than or --all", file=sys.stderr)
        return EXIT_FAILED
    found = [session for session in _chosen(arguments, hook) if session["Status"] in LIVE]
    if arguments.ids:
        missing = set(arguments.ids) - {session["Id"] for session in found}
        found = [session for session in found if session["Id"] in arguments.ids]
        for name in sorted(missing):
            print(f"{name} is not up, or does not fit the other options", file=sys.stderr)
    failed = 0
    for session in found:
        try:
            if not arguments.dry_run:
                hook.stop(RunRef(GLUE_SESSION, session["Id"], session["Id"]))
        except GlueRayError as error:
            failed += 1
            print(f"{session['Id']}: {error}", file=sys.stderr)
            continue
        if not arguments.json:
            doing = "would stop" if arguments.dry_run else "stopping"
            print(f"{doing} {session['Id']} ({session['Status']})", file=out)
    if arguments.json:
        print(json.dumps([_row(session) for session in found]), file=out)
    elif not found:
        print("no Ray sessions to stop", file=out)
    return EXIT_FAILED if failed else EXIT_OK


def _chosen(arguments: argparse.Namespace, hook: Any) -> Iterator[dict[str, Any]]:
    """Yield the sessions that fit the options which both commands have."""
    tags = dict(pair.partition("=")[::2] for pair in arguments.tag)
    if arguments.dag:
        tags["airflow_dag_id"] = arguments.dag
    for session in hook.list_sessions(tags):
        if arguments.older_than is None or _age_of(session) > arguments.older_than:
            yield session


def _age_of(session: dict[str, Any]) -> timedelta:
    made: datetime | None = session.get("CreatedOn")
    return datetime.now(UTC) - made if made else timedelta(0)


def _row(session: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": session["Id"],
        "status": session["Status"],
        "age_minutes": round(_age_of(session).total_seconds() / 60, 1),
        "workers": session.get("NumberOfWorkers"),
        "idle_timeout": session.get("IdleTimeout"),
        "description": session.get("Description") or "",
    }
