"""Run the example DAGs as Airflow's scheduler runs them at night, deferred, on real Ray, and show the result.

Everything it starts it stops again. It ends with one line: `DEMO OK run=… state=… rows_in=… rows_out=… seconds=…`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from airflow_provider_glueray.local import client
from demo.airflow_home import Airflow, AirflowError
from demo.nights import Night, Nightly, Watch, short
from demo.progress import Progress

EXAMPLES = Path(__file__).parent.parent / "example_dags"
#: Of these, 60 % are in the category that two of the DAGs read: two files, for two workers.
ROWS = int(os.environ.get("GLUERAY_DEMO_ROWS", "50000"))
NIGHTLIES = (
    Nightly("customer_reviews_nightly", starts="clean", waits="clean"),
    Nightly("movie_ratings_nightly", starts="start", waits="wait"),
    Nightly("customer_reviews_session", starts="session.create", waits="session.stop"),
    Nightly("customer_reviews_notebook", starts="walk", waits="walk"),
)


def main() -> int:
    """Run the demo; return the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    progress = Progress()
    try:
        nights, state = run_demo(progress)
    except (AirflowError, client.EndpointError, subprocess.CalledProcessError) as error:
        print(f"DEMO FAILED: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("DEMO STOPPED", file=sys.stderr)
        return 130
    first = nights[0]
    print(
        f"DEMO OK run={first.run['id']} state={state} rows_in={first.report['rows_in']} "
        f"rows_out={first.report['rows_out']} seconds={progress.seconds:.0f}"
    )
    return 0


def run_demo(progress: Progress) -> tuple[list[Night], str]:
    """Start everything, run the DAGs, show what came of them, stop everything; return also the first run's state."""
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="glueray-demo-")))
        progress.say("starting Ray and the endpoint")
        with progress.waiting_for("the endpoint to answer"):
            # Its URL is all that the others need to begin; Ray comes up meanwhile.
            endpoint = client.start(f"demo-{os.getpid()}", port=0, home=home, wait=False)
        stack.callback(stop, endpoint, progress, "Ray and the endpoint")
        os.environ.update(endpoint.env())
        progress.say("starting Airflow: scheduler, triggerer, DAG processor, API server")
        airflow = Airflow(EXAMPLES, {"aws_default": endpoint.airflow_connection()})
        stack.callback(stop, airflow, progress, "Airflow")
        airflow.start()
        progress.say("laying the input into S3")
        with progress.waiting_for("the input to be laid into S3"):
            lay_input()
        with progress.waiting_for("Ray's nodes"):
            endpoint.wait_ready()
        with progress.waiting_for("Airflow to be healthy"):
            airflow.wait_until_healthy()
        progress.say("unpausing the DAGs")
        nights = Watch(airflow, NIGHTLIES, progress).run_all()
        state = show_table(nights)
        show_rows(nights[0].report["output"])
    return nights, state


def stop(what: Airflow | client.Endpoint, progress: Progress, name: str) -> None:
    """Stop one of the two, and say so."""
    progress.say(f"stopping {name}")
    with progress.waiting_for(f"{name} to stop"):
        what.stop()


def lay_input() -> None:
    """Write the reviews and the movies to where the DAGs look for them."""
    for arguments in (
        ["reviews", "s3://glueray-local/reviews/raw", "--rows", str(ROWS)],
        ["movies", "s3://glueray-local/movies/raw"],
    ):
        subprocess.run([sys.executable, str(EXAMPLES / "datasets.py"), *arguments], check=True)


def show_table(nights: list[Night]) -> str:
    """Print one line per step; return the state of the first."""
    head = ("step", "run or session", "state", "seconds", "workers", "M-DPU-hours", "rows in", "rows out")
    form = "{:<40} {:<14} {:<10} {:>7} {:>7} {:>11} {:>8} {:>8}"
    print(f"\n{len(nights)} DAGs at the same time, on {os.cpu_count()} CPUs:")
    print(form.format(*head))
    for night in nights:
        print(
            form.format(
                night.step,
                short(night.run),
                night.state(),
                f"{night.usage['seconds']:.0f}",
                night.usage["workers"],
                f"{night.usage['mdpu_hours']:.4f}",
                night.report["rows_in"],
                night.report["rows_out"],
            )
        )
    return nights[0].state()


def show_rows(output: str) -> None:
    """Print the three rows with the most votes that the first DAG has written."""
    import pyarrow.parquet as parquet
    from pyarrow import fs

    filesystem, path = fs.FileSystem.from_uri(f"{output.rstrip('/')}/parquet")
    table = parquet.read_table(path, filesystem=filesystem)
    columns = ["review_id", "product_title", "star_rating", "helpful_votes", "total_votes", "helpful_votes_ratio"]
    print(f"\nThree of {table.num_rows} rows in {output}:")
    for row in table.select(columns).sort_by([("total_votes", "descending")]).slice(0, 3).to_pylist():
        print(json.dumps(row, default=str))
    print()


if __name__ == "__main__":
    sys.exit(main())
