"""Compare each film with its decade in Modin: pandas code, spread over the Ray cluster that is already there.

Modin's own `read_csv("s3://…")` and `to_parquet("s3://…")` need s3fs, whose aiobotocore asks for another botocore than
the one Glue has. Ray Data reads and writes S3 with what is there, and hands its blocks to Modin without copying them
through the driver. AWS SDK for pandas is the other way without s3fs: see wrangler_prices.py.

Libraries: ray, pandas and pyarrow, which Glue has, and Modin, which it has not: `pip=["modin==0.22.3"]`. That is the
last Modin for the pandas 1.5.3 of Ray2.4; 0.23, which AWS SDK for pandas 3.4.2 names, brings pandas 2.0. The list and
the pin are from documentation and package metadata; they work on the local endpoint's Ray2.4 and are unverified on
AWS. Job arguments, which arrive as environment variables:

input       a directory of CSV files of films, `s3://…/raw`
output      a directory that belongs to this job; what it holds is replaced
partitions  in how many pieces Modin works on a table (8)

The output has the directories `films` and `decades`, and `_summary.json`, which is written last. `steps` is
modules/steps.py, which the task sends by `py_modules`.
"""

from __future__ import annotations

import time

import modin.config
import modin.pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.fs
import ray
from modin.config import Engine, NPartitions
from steps import clear, connect, finish, input_and_output, whole_number

COLUMNS = {"title": pa.string(), "year": pa.int64(), "rating": pa.float64(), "votes": pa.int64()}


def compare(films: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the films with how far they are above their decade's mean, and the decades. Plain pandas does it too."""
    films["decade"] = films["year"] // 10 * 10
    decades = films.groupby("decade").agg({"title": "count", "rating": "mean", "votes": "sum"}).reset_index()
    decades = decades.rename(columns={"title": "films", "rating": "mean_rating", "votes": "all_votes"})
    films = films.merge(decades[["decade", "mean_rating"]], on="decade")
    films["above_decade"] = films["rating"] - films["mean_rating"]
    return films, decades


def main() -> None:
    """Read, compare, write, and write a summary."""
    started = time.monotonic()
    source, target = input_and_output()
    partitions = whole_number("partitions", 8, least=1)

    # Modin takes the Ray it finds in the process. Without one it starts its own, on this node only.
    connect()
    Engine.put("ray")
    # Left to itself Modin makes as many pieces as there are CPUs now: few before a cluster has grown, and more than are
    # good for small tables once it has.
    NPartitions.put(partitions)
    convert = pyarrow.csv.ConvertOptions(include_columns=list(COLUMNS), column_types=COLUMNS)
    raw = ray.data.read_csv(source, parallelism=partitions, convert_options=convert)
    films = raw.to_modin()
    rows_in = len(films)
    films, decades = compare(films)

    clear(target)
    ray.data.from_modin(films).write_parquet(f"{target}/films")
    ray.data.from_modin(decades).write_parquet(f"{target}/decades")

    finish(
        source,
        target,
        started,
        modin=modin.__version__,
        engine=Engine.get(),
        partitions=NPartitions.get(),
        rows_in=rows_in,
        rows_out=len(films),
        decades=len(decades),
        nodes=sum(node["Alive"] for node in ray.nodes()),
    )


if __name__ == "__main__":
    main()
