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

The output has the directories `films` and `decades`, and `_summary.json`, which is written last: where it is, all is.
"""

from __future__ import annotations

import json
import logging
import os
import time

import modin.config
import modin.pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.fs
import ray
from modin.config import Engine, NPartitions
from ray.data.context import DatasetContext

log = logging.getLogger("modin_report")

COLUMNS = {"title": pa.string(), "year": pa.int64(), "rating": pa.float64(), "votes": pa.int64()}


class BadArgument(Exception):
    """A job argument is missing or makes no sense."""


def compare(films: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the films with how far they are above their decade's mean, and the decades. Plain pandas does it too."""
    films["decade"] = films["year"] // 10 * 10
    decades = films.groupby("decade").agg({"title": "count", "rating": "mean", "votes": "sum"}).reset_index()
    decades = decades.rename(columns={"title": "films", "rating": "mean_rating", "votes": "all_votes"})
    films = films.merge(decades[["decade", "mean_rating"]], on="decade")
    films["above_decade"] = films["rating"] - films["mean_rating"]
    return films, decades


def main() -> None:
    """Read, compare, write, and say what came of it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    started = time.monotonic()
    source, target = argument("input").rstrip("/"), argument("output").rstrip("/")
    partitions = argument("partitions", "8")
    if not partitions.isdigit() or partitions == "0":
        raise BadArgument(f"partitions is {partitions!r}; it takes a whole number such as 8")
    if f"{source}/".startswith(f"{target}/"):
        raise BadArgument(f"output {target} holds input {source}, and output is replaced")

    connect(int(partitions))
    convert = pyarrow.csv.ConvertOptions(include_columns=list(COLUMNS), column_types=COLUMNS)
    raw = ray.data.read_csv(source, parallelism=int(partitions), convert_options=convert)
    films = raw.to_modin()
    rows_in = len(films)
    films, decades = compare(films)

    clear(target)
    ray.data.from_modin(films).write_parquet(f"{target}/films")
    ray.data.from_modin(decades).write_parquet(f"{target}/decades")

    summary = {
        "input": source,
        "output": target,
        "modin": modin.__version__,
        "engine": Engine.get(),
        "partitions": NPartitions.get(),
        "rows_in": rows_in,
        "rows_out": len(films),
        "decades": len(decades),
        "nodes": sum(node["Alive"] for node in ray.nodes()),
        "seconds": round(time.monotonic() - started, 2),
    }
    write_json(f"{target}/_summary.json", summary)
    print(json.dumps(summary))


def connect(partitions):
    """Join the cluster and settle how Modin goes about its work."""
    # Modin takes the Ray it finds in the process. Without one it starts its own, on this node only.
    ray.init("auto")
    # Ray Data's own progress lines are many; ours say what it comes to.
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    # Newer releases read with operators made for large data, which start processes of their own. This chooses what
    # Ray 2.4 does anyway; on a small machine that is several times as fast.
    DatasetContext.get_current().use_datasource_v2 = False
    Engine.put("ray")
    # Left to itself Modin makes as many pieces as there are CPUs now: few before a cluster has grown, and more
    # than are good for small tables once it has.
    NPartitions.put(partitions)


def argument(name, default=None):
    """Return a job argument."""
    value = os.environ.get(name) or default
    if not value:
        raise BadArgument(f"the job argument --{name} is missing")
    return value


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
