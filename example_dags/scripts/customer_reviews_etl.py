"""Clean one category of customer reviews with Ray Data, and work out which share of the votes was "helpful".

Runs as a Glue for Ray job or on any other Ray cluster, on Ray 2.4 with Python 3.9 (what Glue has) and on today's. Job
arguments, which arrive as environment variables:

input        one partition, `s3://…/product_category=<category>`
output       a directory that belongs to this job; what it holds is replaced
marketplace  the marketplace to keep (US)
max_votes    keep reviews with fewer votes than this (100)
formats      what to write, out of parquet, csv and json (parquet,csv,json)

The output has one directory for each format and `_summary.json`, which is written last. `steps` is modules/steps.py,
which the task sends by `py_modules`.
"""

from __future__ import annotations

import logging

import pandas as pd
import ray
from ray.data import ActorPoolStrategy
from steps import BadArgument, Steps, argument, clear, connect, files_below, finish, input_and_output, whole_number

log = logging.getLogger("customer_reviews_etl")

UNUSED_COLUMNS = ["review_body", "vine", "product_parent", "verified_purchase", "review_headline"]


def helpful_votes_ratio(reviews: pd.DataFrame) -> pd.Series:
    """Return the share of the votes that are "helpful": null, rather than 0/0, where there are no votes."""
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
    """Keep the reviews that have votes."""
    return reviews[reviews["total_votes"] > 0]


def in_marketplace(reviews: pd.DataFrame, marketplace: str) -> pd.DataFrame:
    """Keep the reviews of one marketplace."""
    return reviews[reviews["marketplace"] == marketplace]


def main() -> None:
    """Read, clean, filter, write, and write a summary."""
    source, target = input_and_output()
    marketplace, max_votes = argument("marketplace", "US"), whole_number("max_votes", 100)
    formats = argument("formats", "parquet,csv,json").split(",")
    if not set(formats) <= {"parquet", "csv", "json"}:
        raise BadArgument(f"formats is {','.join(formats)!r}; it takes some of parquet,csv,json")
    files = files_below(source, ".parquet", "Parquet")

    connect(preserve_order=True)
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
    threshold = {"max_votes": max_votes}
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

    finish(source, target, steps.started, rows_in=rows_in, rows_out=rows_out, columns=columns, steps=steps.done)


if __name__ == "__main__":
    main()
