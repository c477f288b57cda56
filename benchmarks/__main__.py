"""Run every benchmark; most of the time, on two cores, goes to the 300 runs of the last one."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from airflow_provider_glueray.local import client
from benchmarks import imports, sessions, sources, steps, triggers


def main() -> None:
    """Measure what needs no service, then what needs the endpoint."""
    imports.main()
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="glueray-bench-") as home,
        client.start(f"bench-{os.getpid()}", port=0, home=Path(home)) as endpoint,
    ):
        steps.main(endpoint, began)
        triggers.main(endpoint)
        sessions.main(endpoint)
        sources.main(endpoint)


if __name__ == "__main__":
    main()
