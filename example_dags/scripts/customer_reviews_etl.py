"""Clean one category of customer reviews with Ray Data, and work out which share of the votes was "helpful".

Runs as a Glue for Ray job or on any other Ray cluster, on Ray 2.4 with Python 3.9 (what Glue has) and on
today's. Glue hands job arguments over as environment variables:

input        one partition, `s3://…/product_category=<category>`
output       a directory that belongs to this job; what it holds is replaced
marketplace  the marketplace to keep (US)
max_votes    keep reviews with fewer votes than this (100)
formats      what to write, out of parquet, csv and json (parquet,csv,json)

The output has one directory for each format and `_summary.json`, which is written last: where it is, all is.
"""

from __future__ import annotations

import json
import logging
import os
import time

import pandas as pd
import pyarrow.fs
import ray
from ray.data import ActorPoolStrategy
from ray.data.context import DatasetContext

log = logging.getLogger("customer_reviews_etl")

UNUSED_COLUMNS = ["review_body", "vine", "product_parent", "verified_purchase", "review_headline"]


class InputMissing(Exception):
    """There is nothing to read."""


class BadArgument(Exception):
    """A job argument is missing or makes no sense."""


def helpful_votes_ratio(reviews: pd.DataFrame) -> pd.Series:
    """Return which part of the votes said "helpful": null, rather than 0/0, where nobody voted."""
    # "Float64", unlike "float64", tells null from not-a-number.
    total_votes = reviews["total_votes"].astype("Float64")
    return reviews["helpful_votes"] / total_votes.where(total_votes > 0)


def below_max_votes(reviews: pd.DataFrame, max_votes: int) -> pd.DataFrame:
    """Keep the reviews with fewer than `max_votes` votes."""
    return reviews[reviews["total_votes"] < max_votes]


class BelowMaxVotes:
    """The same as a class. An actor makes one and keeps it: the place for a model or a connection."""

    def __init__(self, max_votes: int):
        self.max_votes = max_votes

    def __call__(self, reviews: pd.DataFrame) -> pd.DataFrame:
        """Filter one batch."""
        return below_max_votes(reviews, self.max_votes)


def with_votes(reviews: pd.DataFrame) -> pd.DataFrame:
    """Keep the reviews anybody voted on."""
    return reviews[reviews["total_votes"] > 0]


def in_marketplace(reviews: pd.DataFrame, marketplace: str) -> pd.DataFrame:
    """Keep the reviews of one marketplace."""
    return reviews[reviews["marketplace"] == marketplace]


class Steps:
    """What each step took, since the one before it, and how many rows it left."""

    def __init__(self):
        self.started = self.last = time.monotonic()
        self.done = []

    def run(self, name, dataset):
        """Compute a data set, which Ray would otherwise put off, and keep its blocks for the next step."""
        dataset = dataset.materialize()
        self.note(name, rows=dataset.count())
        return dataset

    def note(self, name, **facts):
        """Write down that a step is done."""
        now = time.monotonic()
        self.done.append({"step": name, "seconds": round(now - self.last, 2), **facts})
        self.last = now
        # Logging goes to stderr, which Glue streams; what is printed shows up when the run is over.
        log.info(" ".join(f"{key}={value}" for key, value in self.done[-1].items()))


def main() -> None:
    """Read, clean, filter, write, and say what came of it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    source, target = argument("input").rstrip("/"), argument("output").rstrip("/")
    marketplace, max_votes = argument("marketplace", "US"), argument("max_votes", "100")
    formats = argument("formats", "parquet,csv,json").split(",")
    if not max_votes.isdigit():
        raise BadArgument(f"max_votes is {max_votes!r}; it takes a whole number such as 100")
    if not set(formats) <= {"parquet", "csv", "json"}:
        raise BadArgument(f"formats is {','.join(formats)!r}; it takes some of parquet,csv,json")
    if f"{source}/".startswith(f"{target}/"):
        raise BadArgument(f"output {target} holds input {source}, and output is replaced")
    files = parquet_files(source)

    connect()
    steps = Steps()

    # One block a file. Left to itself Ray makes more and smaller ones, each with a task of its own.
    reviews = ray.data.read_parquet(source, parallelism=len(files))
    if "product_category" not in reviews.schema().names:
        # Ray 2.4 does not count the directory it is pointed at among the partitions.
        category = source.rsplit("=", 1)[-1]
        reviews = reviews.add_column("product_category", lambda batch: category)
    reviews = steps.run("read", reviews)
    rows_in = reviews.count()
    schema = reviews.schema()
    log.info("schema: %s", {name: str(schema.types[number]) for number, name in enumerate(schema.names)})
    log.info("size: %.1f MB in memory", reviews.size_bytes() / 1e6)
    reviews.show(1)

    reviews = steps.run("add_column", reviews.add_column("helpful_votes_ratio", helpful_votes_ratio))
    reviews.show(1)
    reviews = steps.run("drop_columns", reviews.drop_columns(UNUSED_COLUMNS))
    columns = reviews.schema().names
    log.info("columns: %s", columns)
    reviews = steps.run("sort", reviews.sort("total_votes"))
    reviews.show(3)

    # A function runs as tasks, a class on a pool of actors. Both see pandas frames.
    threshold = {"max_votes": int(max_votes)}
    reviews = steps.run(
        "max_votes_tasks",
        reviews.map_batches(below_max_votes, batch_format="pandas", fn_kwargs=threshold),
    )
    reviews.show(1)
    reviews = steps.run(
        "max_votes_actors",
        reviews.map_batches(
            BelowMaxVotes,
            batch_format="pandas",
            compute=ActorPoolStrategy(min_size=2, max_size=4),
            fn_constructor_kwargs=threshold,
        ),
    )
    reviews = steps.run("with_votes", reviews.map_batches(with_votes, batch_format="pandas"))
    reviews = steps.run(
        "marketplace",
        reviews.map_batches(in_marketplace, batch_format="pandas", fn_kwargs={"marketplace": marketplace}),
    )

    rows_out = reviews.count()
    clear(target)
    # Filters leave blocks empty, and Ray 2.4 makes a file without columns of an empty block.
    reviews = reviews.repartition(min(len(files), rows_out) or 1)
    for name in formats if rows_out else []:
        getattr(reviews, f"write_{name}")(f"{target}/{name}")
        steps.note(f"write_{name}")

    summary = {
        "input": source,
        "output": target,
        "rows_in": rows_in,
        "rows_out": rows_out,
        "columns": columns,
        "steps": steps.done,
        "seconds": round(time.monotonic() - steps.started, 2),
    }
    write_json(f"{target}/_summary.json", summary)
    print(json.dumps(summary))


def connect():
    """Join the cluster and settle how Ray Data goes about its work."""
    ray.init("auto")
    # Its own progress lines are many; ours say what it comes to.
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    context = DatasetContext.get_current()
    # The files keep the order of the sort.
    context.execution_options.preserve_order = True
    # Newer releases read and shuffle with operators made for large data, which start processes of their own.
    # These two choose what Ray 2.4 does anyway; on a small machine that is four times as fast.
    context.use_datasource_v2 = False
    context.shuffle_strategy = "sort_shuffle_pull_based"


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
    files = [info.path for info in found if info.is_file and info.path.endswith(".parquet")]
    if not files:
        raise InputMissing(f"no Parquet files below {uri}: is the category spelled right, and has it been written?")
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
