"""Count reviews by region and stars with Ray Core: tasks, an actor that keeps the totals, and one bad file.

Three things each Ray Core script needs sooner or later are here: no more files in memory than there is room for,
totals that stay right when Ray does a task twice, and a damaged file that costs its own rows only.

Libraries: ray, pandas and pyarrow, which Glue has. Runs on Ray 2.4 with Python 3.9 (Glue for Ray) and on today's.
Job arguments, which arrive as environment variables:

input    a directory of Parquet files, `s3://…/raw`, at any depth
output   a directory that belongs to this job; what it holds is replaced
at_once  how many files may be under way (8)

The output has `stars.parquet` and `_summary.json`, which is written last: where it is, all is.
"""

from __future__ import annotations

import json
import logging
import os
import time

import pandas as pd
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import ray
from ray.exceptions import RayTaskError

log = logging.getLogger("core_tasks_and_actors")

#: Every task needs it, so it goes to the object store once and not with each task.
REGIONS = {"US": "America", "UK": "Europe", "DE": "Europe", "FR": "Europe", "JP": "Asia"}


class InputMissing(Exception):
    """There is nothing to read."""


class BadArgument(Exception):
    """A job argument is missing or makes no sense."""


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
    """Count file by file, and say what came of it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    started = time.monotonic()
    source, target = argument("input").rstrip("/"), argument("output").rstrip("/")
    at_once = argument("at_once", "8")
    if not at_once.isdigit() or at_once == "0":
        raise BadArgument(f"at_once is {at_once!r}; it takes a whole number such as 8")
    if f"{source}/".startswith(f"{target}/"):
        raise BadArgument(f"output {target} holds input {source}, and output is replaced")
    files = parquet_files(source)

    ray.init("auto")
    totals = Totals.remote()
    intake = Intake(totals, int(at_once))
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

    summary = {
        "input": source,
        "output": target,
        "files": len(files),
        "unreadable": intake.unreadable,
        "most_under_way": intake.most_under_way,
        "reviews": intake.reviews,
        "seconds": round(time.monotonic() - started, 2),
    }
    write_json(f"{target}/_summary.json", summary)
    print(json.dumps(summary))


def argument(name, default=None):
    """Return a job argument."""
    value = os.environ.get(name) or default
    if not value:
        raise BadArgument(f"the job argument --{name} is missing")
    return value


def parquet_files(uri):
    """Return the Parquet files below a directory."""
    filesystem, path = pyarrow.fs.FileSystem.from_uri(uri)
    found = filesystem.get_file_info(pyarrow.fs.FileSelector(path, recursive=True, allow_not_found=True))
    files = [f"s3://{info.path}" for info in found if info.is_file and info.path.endswith(".parquet")]
    if not files:
        raise InputMissing(f"no Parquet files below {uri}: has anything been written there?")
    return files


def clear(uri):
    """Empty a directory, so that a second run leaves nothing of the first."""
    filesystem, path = pyarrow.fs.FileSystem.from_uri(uri)
    filesystem.create_dir(path, recursive=True)
    filesystem.delete_dir_contents(path)


def write_json(uri, value):
    """Write one JSON file."""
    filesystem, path = pyarrow.fs.FileSystem.from_uri(uri)
    with filesystem.open_output_stream(path) as stream:
        stream.write(json.dumps(value, indent=2).encode())


if __name__ == "__main__":
    main()
