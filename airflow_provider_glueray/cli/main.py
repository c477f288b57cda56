"""The `glueray` command line: each group of commands registers itself and imports what it needs when it runs.

Nothing but argparse and the standard library is imported at module level: `glueray --help` must not wait for Ray.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from airflow_provider_glueray import __version__
from airflow_provider_glueray.cli.clusters import Clusters
from airflow_provider_glueray.cli.local import add_local
from airflow_provider_glueray.cli.output import EXIT_FAILED
from airflow_provider_glueray.cli.render import add_render
from airflow_provider_glueray.cli.sessions import Sessions
from airflow_provider_glueray.core.errors import GlueRayError

#: Add a group of commands here: a function that takes argparse's subparsers and registers one parser.
_GROUPS: tuple[Callable[[Any], None], ...] = (add_local, Sessions().add_to, Clusters().add_to, add_render)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = argparse.ArgumentParser(prog="glueray", description="Distributed Python ETL as Ray steps in Airflow.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    groups = parser.add_subparsers(title="groups", required=True, metavar="GROUP", dest="group")
    for add_group in _GROUPS:
        add_group(groups)
    arguments = parser.parse_args(argv)
    try:
        code: int = arguments.run(arguments)
    except GlueRayError as error:
        print(f"glueray {arguments.group}: {error}", file=sys.stderr)
        return EXIT_FAILED
    return code


if __name__ == "__main__":
    sys.exit(main())
