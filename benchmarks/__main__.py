"""Run every benchmark; the whole takes about eight minutes on two cores."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from airflow_provider_glueray.local import control
from benchmarks import imports, sessions, steps, triggers


def main() -> None:
    """Measure what needs no service, then what needs the endpoint."""
    imports.main()
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="glueray-bench-") as home,
        control.start(f"bench-{os.getpid()}", port=0, home=Path(home)) as endpoint,
    ):
        steps.main(endpoint, began)
        triggers.main(endpoint)
        sessions.main(endpoint)


if __name__ == "__main__":
    main()
