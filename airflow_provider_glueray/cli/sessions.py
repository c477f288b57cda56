"""`glueray sessions`: list the Ray sessions that are left over, and stop them.

A teardown and the idle timeout end sessions without it; this is for those that cost money in the meantime.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from airflow_provider_glueray.cli.leftovers import Leftovers, Resource
from airflow_provider_glueray.core.extras import AWS
from airflow_provider_glueray.core.runs import GLUE_SESSION, RunRef

#: The states in which a session costs money.
LIVE = ("PROVISIONING", "READY", "STOPPING")


class Sessions(Leftovers):
    """Ray sessions of AWS Glue."""

    group, noun, live = "sessions", "Ray sessions", "up"
    end, ending = "stop", "stopping"
    needs = AWS
    help = "Ray sessions: list them, stop those that are left over"
    description = "Ray sessions of an account and region. Spark sessions are never shown and never touched."
    ids_help, all_help = "ids of sessions", "every Ray session that is up"
    list_all_help = "also those that are over"
    conn_id_help = 'Airflow connection ([glueray] conn_id); "" for boto3\'s own credentials and AWS_ENDPOINT_URL'

    def add_options(self, command: argparse.ArgumentParser) -> None:
        """Add the region."""
        command.add_argument("--region", help="region (that of the connection)")

    def connect(self, arguments: argparse.Namespace) -> Any:
        """Return a hook by the connection, or by boto3's own credentials."""
        from airflow_provider_glueray.hooks.glue.sessions import GlueRaySessionHook

        conn_id = _default_conn_id() if arguments.conn_id is None else arguments.conn_id
        return GlueRaySessionHook(conn_id or None, region_name=arguments.region)

    def find(self, hook: Any, dag: str | None, tags: Mapping[str, str]) -> Iterator[Resource]:
        """Yield sessions, also those that have ended."""
        for session in hook.list_sessions({**tags, **({"airflow_dag_id": dag} if dag else {})}):
            created: datetime | None = session.get("CreatedOn")
            columns = {
                "workers": session.get("NumberOfWorkers"),
                "idle_timeout": session.get("IdleTimeout"),
                "description": session.get("Description") or "",
            }
            yield Resource(
                RunRef(GLUE_SESSION, session["Id"], session["Id"]),
                session["Status"],
                datetime.now(timezone.utc) - created if created else timedelta(0),
                columns,
                is_live=session["Status"] in LIVE,
            )


def _default_conn_id() -> str:
    """Return the connection of the configuration; nothing where it is left at its default and does not exist."""
    from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook

    from airflow_provider_glueray.airflow_compat import AirflowNotFoundException
    from airflow_provider_glueray.hooks.settings import default_conn_id

    conn_id = default_conn_id()
    if conn_id == AwsBaseHook.default_conn_name:
        try:
            AwsBaseHook.get_connection(conn_id)
        except AirflowNotFoundException:
            print(
                f"glueray sessions: no connection {conn_id!r} in the environment or a secrets backend; "
                "using the credentials of boto3",
                file=sys.stderr,
            )
            return ""
    return conn_id
