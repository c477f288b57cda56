"""Rank products by their stars with Ray Data: columns, filters, groups with several totals, a sort, two formats.

A review that many readers voted on counts for more, so a product's stars are weighted by votes:

    sum(stars * (votes + 1)) / sum(votes + 1)

Cleaning with tasks and actors is in customer_reviews_etl.py, groups that run your own function in
movie_ratings_etl.py. This one shows the rest: reading some columns of a whole tree of files, batches as Arrow
tables, and the aggregations that Ray Data has.

Libraries: ray and pyarrow, which Glue has. Runs on Ray 2.4 with Python 3.9 (Glue for Ray) and on today's. Job
arguments, which arrive as environment variables:

input        a directory with a directory for each category, `s3://…/raw`
output       a directory that belongs to this job; what it holds is replaced
min_reviews  leave out products with fewer verified reviews than this (10)

The output has the directories `parquet` and `csv`, and `_summary.json`, which is written last. `steps` is
modules/steps.py, which the task sends by `py_modules`.
"""

from __future__ import annotations

import logging
import time

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
import ray
from ray.data.aggregate import Count, Max, Mean, Sum
from steps import clear, connect, files_below, finish, input_and_output, whole_number

log = logging.getLogger("data_pipeline")

#: The category is not in the files but in their path, and Ray 2.4 cannot read only the others.
COLUMNS = ["product_category", "product_title", "star_rating", "total_votes", "verified_purchase"]


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
    """Read, filter, group, rate, sort, write, and write a summary."""
    started = time.monotonic()
    source, target = input_and_output()
    min_reviews = whole_number("min_reviews", 10)
    files = files_below(source, ".parquet", "Parquet")

    connect(preserve_order=True)
    # Of a Parquet file only the columns that are asked for leave S3.
    reviews = ray.data.read_parquet(source, columns=COLUMNS, parallelism=len(files))
    # Ray computes nothing before rows are read, so these two run as one task a block.
    weighed = reviews.map_batches(verified, batch_format="pyarrow").map_batches(weigh, batch_format="pyarrow")
    weighed = weighed.materialize()
    totals = weighed.groupby("product").aggregate(
        Count(), Sum("weight"), Sum("weighted"), Mean("star_rating"), Max("total_votes")
    )
    # A row at a time is slow for reviews and good enough for products.
    ranked = (
        totals.filter(lambda product: product["count()"] >= min_reviews)
        .map_batches(rate, batch_format="pyarrow")
        .sort("weighted_stars", descending=True)
        .materialize()
    )
    products = ranked.count()
    log.info("%d products with %d verified reviews or more", products, min_reviews)

    clear(target)
    # Sorted blocks may be empty, and Ray 2.4 makes a file without columns of an empty block.
    ranked = ranked.repartition(1)
    if products:
        ranked.write_parquet(f"{target}/parquet")
        ranked.write_csv(f"{target}/csv")

    finish(
        source,
        target,
        started,
        files=len(files),
        verified_reviews=weighed.count(),
        products=products,
        best=[dict(product) for product in ranked.take(3)],
    )


if __name__ == "__main__":
    main()
