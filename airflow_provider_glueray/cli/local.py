"""`glueray local`: start, show and stop a Glue endpoint on this machine."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from airflow_provider_glueray.cli.output import EXIT_FAILED, EXIT_NOT_RUNNING, EXIT_OK


def add_local(groups: Any) -> None:
    """Add the group to argparse's subparsers."""
    local = groups.add_parser(
        "local",
        help="Glue for Ray on this machine",
        description="A Glue endpoint on loopback that runs every job on a real Ray cluster.",
    )
    commands = local.add_subparsers(title="commands", required=True, metavar="COMMAND")

    start = _local_command(commands, "start", _local_start, "start an endpoint and wait until Ray is up")
    start.add_argument("--port", type=int, default=4577, help="port of the URL, 0 for any free one (%(default)s)")
    start.add_argument("--nodes", type=int, default=2, help="Ray nodes, the head included (%(default)s)")
    start.add_argument(
        "--object-store-mb", type=int, default=300, help="object store of each node in MiB (%(default)s)"
    )
    start.add_argument(
        "--provisioning-seconds", type=float, default=0.0, help="seconds for which a run stays STARTING (%(default)s)"
    )
    start.add_argument(
        "--quota-mdpu",
        type=int,
        default=50,
        help="M-DPUs the account may use at once, 2 per worker (%(default)s)",
    )
    start.add_argument(
        "--runtime",
        choices=("newest", "Ray2.4"),
        default="newest",
        help="runtime of scripts: the Python and Ray of this installation, or, built once from a Python 3.9 on this "
        "machine, the packages of AWS's runtime (%(default)s)",
    )
    start.add_argument("--no-wait", action="store_true", help="return when the URL responds, before Ray is up")

    _local_command(
        commands, "stop", _local_stop, "stop an endpoint, or remove the processes and files of one that crashed"
    )

    status = _local_command(commands, "status", _local_status, "show an endpoint; exit code 3 when it does not run")
    status.add_argument("--json", action="store_true", help="print JSON")

    env = _local_command(commands, "env", _local_env, "print shell exports that point AWS clients at an endpoint")
    env.add_argument(
        "--airflow", action="store_true", help="print Airflow connections: aws_default, and ray_default to its cluster"
    )
    env.add_argument("--json", action="store_true", help="print JSON")
    env.add_argument("--region", default="us-east-1", help="default region of the clients (%(default)s)")


_Command = Callable[[argparse.Namespace, Any], int]


def _local_command(commands: Any, name: str, run: _Command, text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.add_argument("--name", default="default", help="name of the endpoint (%(default)s)")
    command.set_defaults(run=partial(_run, run))
    return command


def _run(command: _Command, arguments: argparse.Namespace) -> int:
    try:
        from airflow_provider_glueray.local import client
    except ModuleNotFoundError as error:
        print(f"{error}. Install airflow-provider-glueray[local] first.", file=sys.stderr)
        return EXIT_FAILED
    try:
        return command(arguments, client)
    except client.EndpointError as error:
        print(f"glueray local: {error}", file=sys.stderr)
        return EXIT_FAILED


def _local_start(arguments: argparse.Namespace, client: Any) -> int:
    running = client.find(arguments.name)
    if running is not None and running.runtime == arguments.runtime:
        print(f"{arguments.name} is already running at {running.url}")
        return EXIT_OK
    started = time.monotonic()
    endpoint = client.start(
        arguments.name,
        port=arguments.port,
        nodes=arguments.nodes,
        quiet=False,
        provisioning_seconds=arguments.provisioning_seconds,
        quota_mdpu=arguments.quota_mdpu,
        object_store_mb=arguments.object_store_mb,
        runtime=arguments.runtime,
        wait=not arguments.no_wait,
    )
    name_option = "" if arguments.name == "default" else f" --name {arguments.name}"
    print(f"{'started' if arguments.no_wait else 'ready'} in {time.monotonic() - started:.1f} s: {endpoint.url}")
    print(f'  AWS clients:  eval "$(glueray local env{name_option})"')
    print(f'  Airflow:      eval "$(glueray local env --airflow{name_option})"')
    print(f"  bucket s3://{client.BUCKET}, role {client.ROLE_ARN}")
    print(f"  stop it with: glueray local stop{name_option}")
    return EXIT_OK


def _local_stop(arguments: argparse.Namespace, client: Any) -> int:
    stopped = client.remove(arguments.name)
    print(f"{arguments.name} stopped" if stopped else f"{arguments.name} is not running")
    return EXIT_OK


def _local_status(arguments: argparse.Namespace, client: Any) -> int:
    endpoint = client.find(arguments.name)
    if endpoint is None:
        print(json.dumps({"running": False}) if arguments.json else f"{arguments.name} is not running")
        return EXIT_NOT_RUNNING
    status = {
        "running": True,
        "name": endpoint.name,
        "runtime": endpoint.runtime,
        "url": endpoint.url,
        "pid": endpoint.pid,
        "dashboard": endpoint.ray()["dashboard"],
        "log": str(endpoint.log_path),
        **endpoint.status(),
    }
    if arguments.json:
        print(json.dumps(status))
        return EXIT_OK
    runs, sessions = (
        ", ".join(f"{count} {state}" for state, count in sorted(status[kind].items())) or "none"
        for kind in ("runs", "sessions")
    )
    rows = {
        "name": status["name"],
        "runtime": status["runtime"],
        "url": status["url"],
        "pid": f"{status['pid']} ({status['rss_mib']} MiB)",
        "ray nodes": f"{status['nodes_alive']}/{status['nodes']}",
        "dashboard": status["dashboard"],
        "runs": runs,
        "sessions": sessions,
        "log": status["log"],
    }
    if status["problem"]:
        rows["problem"] = status["problem"]
    for title, value in rows.items():
        print(f"{title:<10} {value}")
    return EXIT_OK


def _local_env(arguments: argparse.Namespace, client: Any) -> int:
    endpoint = client.find(arguments.name)
    if endpoint is None:
        print(f"{arguments.name} is not running; start it with: glueray local start", file=sys.stderr)
        return EXIT_NOT_RUNNING
    connections = {"AIRFLOW_CONN_AWS_DEFAULT": endpoint.airflow_connection(arguments.region)}
    if endpoint.runtime == "newest":  # a connection of type ray does not support Ray 2.4
        connections["AIRFLOW_CONN_RAY_DEFAULT"] = endpoint.ray_connection()
    variables = endpoint.env(arguments.region)
    if arguments.airflow:
        variables = {name: json.dumps(connection) for name, connection in connections.items()}
    if arguments.json:
        print(json.dumps(connections if arguments.airflow else variables))
    else:
        for key, value in variables.items():
            print(f"export {key}={shlex.quote(value)}")
    return EXIT_OK
