"""Count reviews by region and stars with Ray Core: tasks, an actor that keeps the totals, and one bad file.

It shows how to bound the files in memory, how to keep totals right when Ray runs a task twice, and how to leave out a
damaged file.

Libraries: ray, pandas and pyarrow, which Glue has. Runs on Ray 2.4 with Python 3.9 (Glue for Ray) and on today's.
Job arguments, which arrive as environment variables:

input    a directory of Parquet files, `s3://…/raw`, at any depth
output   a directory that belongs to this job; what it holds is replaced
at_once  how many files may be under way (8)

The output has `stars.parquet` and `_summary.json`, which is written last. `steps` is modules/steps.py, which the task
sends by `py_modules`.
"""

from __future__ import annotations

import logging
import time

import pandas as pd
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import ray
from ray.exceptions import RayTaskError
from steps import InputMissing, clear, connect, files_below, finish, input_and_output, whole_number

log = logging.getLogger("core_tasks_and_actors")

#: Every task needs it, so it goes to the object store once and not with each task.
REGIONS = {"US": "America", "UK": "Europe", "DE": "Europe", "FR": "Europe", "JP": "Asia"}


# S3 fails now and then, which Arrow reports as OSError, and another try may do. A damaged file stays damaged: that
# is another error, which is not tried again.
@ray.remote(max_retries=3, retry_exceptions=[OSError])
def read(uri: str) -> pa.Table:
    """Read the two columns that are needed."""
    filesystem, path = pyarrow.fs.FileSystem.from_uri(uri)
    with filesystem.open_input_file(path) as file:
        return pq.ParquetFile(file).read(["marketplace", "star_rating"])


@ray.remote
def count(reviews: pa.Table, regions: dict) -> pd.DataFrame:
    """Count the reviews of one file by region and stars."""
    frame = reviews.to_pandas()
    frame["region"] = frame["marketplace"].map(regions).fillna("elsewhere")
    return frame.groupby(["region", "star_rating"]).size().rename("reviews").reset_index()


@ray.remote
class Totals:
    """Keeps the counts of all files."""

    def __init__(self):
        self.counts = {}

    def add(self, uri: str, counts: pd.DataFrame) -> int:
        """Take in the counts of one file and return how many reviews it has."""
        # Ray repeats what was lost with a node. Kept by file, what comes twice still counts once.
        self.counts[uri] = counts
        return int(counts["reviews"].sum())

    def table(self) -> pd.DataFrame:
        """Return the counts of all files in one table."""
        counts = pd.concat(self.counts.values())
        return counts.groupby(["region", "star_rating"], as_index=False)["reviews"].sum()


class Intake:
    """Hands files to the tasks, and waits when too many are under way."""

    def __init__(self, totals, at_once):
        self.totals, self.at_once = totals, at_once
        self.regions = ray.put(REGIONS)
        self.under_way, self.most_under_way = {}, 0
        self.reviews, self.unreadable = 0, {}

    def hand_in(self, uri):
        """Start the tasks of one file. Each waits for the one before; no table comes through the driver."""
        while len(self.under_way) >= self.at_once:
            self.settle_one()
        counts = count.remote(read.remote(uri), self.regions)
        self.under_way[self.totals.add.remote(uri, counts)] = uri
        self.most_under_way = max(self.most_under_way, len(self.under_way))

    def settle_one(self):
        """Wait for whichever file is done first."""
        (done,), _ = ray.wait(list(self.under_way), num_returns=1)
        uri = self.under_way.pop(done)
        try:
            self.reviews += ray.get(done)
        except RayTaskError as error:
            # The error of a task comes out of every task that waited for its result. Its last line is the cause.
            self.unreadable[uri] = str(error).strip().splitlines()[-1]
            log.warning("left out %s: %s", uri, self.unreadable[uri])


def main() -> None:
    """Count file by file, and write a summary."""
    started = time.monotonic()
    source, target = input_and_output()
    at_once = whole_number("at_once", 8, least=1)
    files = files_below(source, ".parquet", "Parquet")

    connect()
    totals = Totals.remote()
    intake = Intake(totals, at_once)
    for uri in files:
        intake.hand_in(uri)
    while intake.under_way:
        intake.settle_one()
    if len(intake.unreadable) == len(files):
        raise InputMissing(f"not one of {len(files)} files below {source} can be read: {intake.unreadable}")

    stars = ray.get(totals.table.remote())
    clear(target)
    filesystem, path = pyarrow.fs.FileSystem.from_uri(target)
    pq.write_table(pa.Table.from_pandas(stars, preserve_index=False), f"{path}/stars.parquet", filesystem=filesystem)

    finish(
        source,
        target,
        started,
        files=len(files),
        unreadable=intake.unreadable,
        most_under_way=intake.most_under_way,
        reviews=intake.reviews,
    )


if __name__ == "__main__":
    main()
