"""The generated reviews are the same every time, and the films are the real ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tests.examples.conftest import EXAMPLES


def test_same_arguments_give_the_same_reviews(datasets: ModuleType) -> None:
    first, again = (datasets.make_reviews("Wireless", 2_000, seed=7) for _ in range(2))
    assert first.equals(again)


def test_seed_and_category_change_the_reviews(datasets: ModuleType) -> None:
    one = datasets.make_reviews("Wireless", 500, seed=1)
    assert not one.equals(datasets.make_reviews("Wireless", 500, seed=2))
    assert not one.equals(datasets.make_reviews("Books", 500, seed=1))


def test_values_are_pinned(datasets: ModuleType) -> None:
    """Other numbers than these would make the documentation wrong."""
    reviews = datasets.make_reviews("Wireless", 60_000, seed=1).to_pandas()
    kept = reviews[(reviews["total_votes"] < 100) & (reviews["total_votes"] > 0) & (reviews["marketplace"] == "US")]
    assert len(kept) == 26_985
    assert int(reviews["total_votes"].sum()) == 3_143_749


def test_reviews_look_like_reviews(datasets: ModuleType) -> None:
    table = datasets.make_reviews("Wireless", 5_000, seed=3)
    assert table.schema.names == [
        "marketplace", "customer_id", "review_id", "product_id", "product_parent", "product_title", "star_rating",
        "helpful_votes", "total_votes", "vine", "verified_purchase", "review_headline", "review_body", "review_date",
        "year",
    ]  # fmt: skip
    reviews = table.to_pandas()
    assert reviews["review_id"].is_unique
    assert (reviews["helpful_votes"] <= reviews["total_votes"]).all()
    assert 0 < (reviews["total_votes"] == 0).mean() < 0.5
    assert 0 < (reviews["total_votes"] >= 100).mean() < 0.2
    assert 0.5 < (reviews["marketplace"] == "US").mean() < 0.9
    assert reviews["marketplace"].nunique() == 5
    assert set(reviews["star_rating"]) == {1, 2, 3, 4, 5}
    assert [name for name, count in reviews.isna().sum().items() if count] == ["review_headline"]
    assert (pd.to_datetime(reviews["review_date"]).dt.year == reviews["year"]).all()


def test_no_rows_is_a_table_too(datasets: ModuleType) -> None:
    assert datasets.make_reviews("Toys", 0).schema == datasets.REVIEW_SCHEMA


def test_partitions_and_file_sizes(datasets: ModuleType, tmp_path: Path) -> None:
    assert datasets.write_reviews(tmp_path.as_uri(), rows=60_000, seed=1) == {
        "Wireless": 36_000,
        "Books": 18_000,
        "Toys": 6_000,
    }
    files = sorted(tmp_path.rglob("*.parquet"))
    assert len([file for file in files if file.parent.name == "product_category=Wireless"]) == 3
    assert max(file.stat().st_size for file in files) < 8 << 20
    assert sum(pq.read_metadata(file).num_rows for file in files) == 60_000
    # Fewer rows next time: nothing of the first may be left.
    datasets.write_reviews(tmp_path.as_uri(), rows=1_000, seed=1)
    assert sum(pq.read_metadata(file).num_rows for file in tmp_path.rglob("*.parquet")) == 1_000
    stored = pq.read_table(tmp_path / "product_category=Toys" / "part-00000.parquet", partitioning=None)
    assert stored.equals(datasets.make_reviews("Toys", 100, seed=1))


def test_films_are_all_there(datasets: ModuleType, tmp_path: Path) -> None:
    assert datasets.write_movies(tmp_path.as_uri()) == 58_788
    films = pd.concat(pd.read_csv(file) for file in sorted(tmp_path.glob("movies-*.csv")))
    assert list(films["id"]) == list(range(1, 58_789))
    assert films["title"].iloc[0] == "$"
    assert int(films["votes"].sum()) == 37_161_681
    assert films["year"].agg(["min", "max"]).tolist() == [1893, 2005]


def test_command_line(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "datasets.py")]
    done = subprocess.run(
        [*command, "reviews", tmp_path.as_uri(), "--rows", "100", "--seed", "2"],
        capture_output=True,
        text=True,
        check=True,
        timeout=250,
    )
    assert done.stdout.startswith(f"wrote 100 reviews (Wireless 60, Books 30, Toys 10) to {tmp_path.as_uri()} in ")
    assert done.stdout.count("\n") == 1
    assert pa.parquet.read_metadata(tmp_path / "product_category=Toys" / "part-00000.parquet").num_rows == 10
    helped = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True, timeout=250).stdout
    assert "reviews" in helped
    assert "movies" in helped
