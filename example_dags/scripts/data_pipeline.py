"""Rank products by their stars with Ray Data: columns, filters, groups with several totals, a sort, two formats.

A voted-on review says more than one nobody cared about, so a product's stars are weighted by votes:

    sum(stars * (votes + 1)) / sum(votes + 1)

Cleaning with tasks and actors is in customer_reviews_etl.py, groups that run your own function in
movie_ratings_etl.py. This one shows the rest: reading some columns of a whole tree of files, batches as Arrow
tables, and the aggregations that Ray Data brings along.

Libraries: ray and pyarrow, which Glue has. Runs on Ray 2.4 with Python 3.9 (Glue for Ray) and on today's. Job
arguments, which arrive as environment variables:

input        a directory with a directory for each category, `s3://…/raw`
output       a directory that belongs to this job; what it holds is replaced
min_reviews  leave out products with fewer verified reviews than this (10)

The output has the directories `parquet` and `csv`, and `_summary.json`, which is written last: where it is, all is.
"""

from __future__ import annotations

import json
import logging
import os
import time

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
import ray
from ray.data.aggregate import Count, Max, Mean, Sum
from ray.data.context import DatasetContext

log = logging.getLogger("data_pipeline")

#: The category is not in the files but in their path, and Ray 2.4 cannot read only the others.
COLUMNS = ["product_category", "product_title", "star_rating", "total_votes", "verified_purchase"]


class InputMissing(Exception):
    """There is nothing to read."""


class BadArgument(Exception):
    """A job argument is missing or makes no sense."""


def verified(reviews: pa.Table) -> pa.Table:
    """Keep the reviews of people who bought the product."""
    return reviews.filter(pc.equal(reviews["verified_purchase"], "Y"))


def weigh(reviews: pa.Table) -> pa.Table:
    """Add what a review weighs, its stars times that, and which product it is about."""
    weight = pc.add(pc.cast(reviews["total_votes"], pa.int64()), 1)
    # A title may be in two categories, and Ray 2.4 groups by one column only.
    category = pc.cast(reviews["product_category"], pa.string())
    columns = {
        "product": pc.binary_join_element_wise(category, pc.cast(reviews["product_title"], pa.string()), "/"),
        "star_rating": reviews["star_rating"],
        "total_votes": reviews["total_votes"],
        "weight": weight,
        "weighted": pc.multiply(pc.cast(reviews["star_rating"], pa.int64()), weight),
    }
    return pa.table(columns)


def rate(products: pa.Table) -> pa.Table:
    """Turn the totals of products into their stars, under names that a table of results can have."""
    stars = pc.divide(pc.cast(products["sum(weighted)"], pa.float64()), products["sum(weight)"])
    columns = {
        "product": products["product"],
        "reviews": products["count()"],
        "mean_stars": products["mean(star_rating)"],
        "most_votes": products["max(total_votes)"],
        "weighted_stars": stars,
    }
    return pa.table(columns)


def main() -> None:
    """Read, filter, group, rate, sort, write, and say what came of it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    started = time.monotonic()
    source, target = argument("input").rstrip("/"), argument("output").rstrip("/")
    min_reviews = argument("min_reviews", "10")
    if not min_reviews.isdigit():
        raise BadArgument(f"min_reviews is {min_reviews!r}; it takes a whole number such as 10")
    if f"{source}/".startswith(f"{target}/"):
        raise BadArgument(f"output {target} holds input {source}, and output is replaced")
    files = parquet_files(source)

    connect()
    # Of a Parquet file only the columns that are asked for leave S3.
    reviews = ray.data.read_parquet(source, columns=COLUMNS, parallelism=len(files))
    # Nothing is computed before somebody asks for rows, so these two run as one task a block.
    weighed = reviews.map_batches(verified, batch_format="pyarrow").map_batches(weigh, batch_format="pyarrow")
    weighed = weighed.materialize()
    totals = weighed.groupby("product").aggregate(
        Count(), Sum("weight"), Sum("weighted"), Mean("star_rating"), Max("total_votes")
    )
    # A row at a time is slow for reviews and good enough for products.
    ranked = (
        totals.filter(lambda product: product["count()"] >= int(min_reviews))
        .map_batches(rate, batch_format="pyarrow")
        .sort("weighted_stars", descending=True)
        .materialize()
    )
    products = ranked.count()
    log.info("%d products with %s verified reviews or more", products, min_reviews)

    clear(target)
    # Sorted blocks may be empty, and Ray 2.4 makes a file without columns of an empty block.
    ranked = ranked.repartition(1)
    if products:
        ranked.write_parquet(f"{target}/parquet")
        ranked.write_csv(f"{target}/csv")

    summary = {
        "input": source,
        "output": target,
        "files": len(files),
        "verified_reviews": weighed.count(),
        "products": products,
        "best": [dict(product) for product in ranked.take(3)],
        "seconds": round(time.monotonic() - started, 2),
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
