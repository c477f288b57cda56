"""Runs a command beside a Kubernetes of its own: ``python -m tests.kubernetes [--release 1.5.1] COMMAND…``.

The cluster is in new namespaces of network, mounts and processes, and so is the command. When the command ends, or this
process does, however it ends, nothing of them is left but the logs of the cluster's parts, whose folder is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.kubernetes import build
from tests.kubernetes.cluster import Cluster, log_tails
from tests.kubernetes.connection import AWS_CONN, CONN, aws_connection, connection, make_namespace
from tests.kubernetes.layout import HOME

_NAMESPACES = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
_KEEP_LOGS = 9
#: Where the connection leads that a command finds in its environment.
NAMESPACE = "glueray"
#: Said to ourselves: we are inside.
_INSIDE = "--inside"


def main(argv: Sequence[str]) -> int:
    """Run a command beside a cluster; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.kubernetes", description=__doc__)
    parser.add_argument("--release", choices=build.RELEASES, default=build.NEWEST, help="of the KubeRay operator")
    parser.add_argument(_INSIDE, type=Path, metavar="LOGS", help=argparse.SUPPRESS)
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")
    given = parser.parse_args(argv)
    if not given.command:
        parser.error("say which command to run")
    if given.inside:
        return _as_first_process(lambda: _run_inside(given.release, given.inside, given.command))
    if CONN in os.environ:
        print(f"{CONN} names a cluster: nothing is built or started", file=sys.stderr)
        return subprocess.run(given.command, check=False).returncode
    try:
        build.build([given.release])
    except build.GoMissing as error:
        print(error, file=sys.stderr)
        return 1
    _remove_old_logs()
    logs = build.BUILT / "logs" / time.strftime(f"%m%d-%H%M%S-{given.release}-{os.getpid()}")
    again = [sys.executable, "-m", "tests.kubernetes", "--release", given.release, _INSIDE, str(logs)]
    with subprocess.Popen([*_NAMESPACES, *again, *given.command]) as outer:
        # An interrupt reaches all of them. unshare waits for its child before it heeds any other signal.
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: outer.kill())
        return outer.wait()


def _remove_old_logs() -> None:
    """Keep the logs of the last clusters; what a name begins with is when it was started."""
    for folder in sorted((build.BUILT / "logs").glob("*"))[:-_KEEP_LOGS]:
        shutil.rmtree(folder, ignore_errors=True)


def _as_first_process(work: Callable[[], int]) -> int:
    """Do something in a child and fetch the ends of all whose parents have gone: nobody else does it here."""
    child = os.fork()
    if not child:
        os._exit(work())
    signal.signal(signal.SIGINT, lambda *_: None)
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.waitstatus_to_exitcode(status)


def _run_inside(release: str, logs: Path, command: Sequence[str]) -> int:
    began = time.monotonic()
    try:
        cluster = Cluster.start(release, logs)
    except Exception:
        print(*log_tails(logs), sep="\n", file=sys.stderr)
        raise
    print(f"Kubernetes with KubeRay {release} in {time.monotonic() - began:.0f} s; logs: {logs}", file=sys.stderr)
    environment = {**os.environ, HOME: str(cluster.layout.home)}
    os.environ[HOME] = environment[HOME]
    conn = connection(cluster, NAMESPACE, make_namespace(cluster, NAMESPACE))
    environment |= {CONN: json.dumps(conn), AWS_CONN: json.dumps(aws_connection())}
    return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
