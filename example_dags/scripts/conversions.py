"""Take a Ray Dataset to pandas, Modin and Arrow and back, and check that nothing changed on the way.

pandas and `iter_batches` bring rows into the driver's memory: for results. Modin and references leave them on the
nodes where they are: for work that goes on, since any Ray task takes a reference as an argument.

Libraries: ray, pandas and pyarrow, which Glue has, and Modin, which it has not: `pip=["modin==0.22.3"]`, the last for
the pandas 1.5.3 of Ray2.4. The list and the pin are from documentation and package metadata; they work on the local
endpoint's Ray2.4 and are unverified on AWS. Job arguments, which arrive as environment variables:

input   a directory of Parquet files with reviews, `s3://…/product_category=<category>`
output  a directory that belongs to this job; what it holds is replaced

The output has a directory for each way there and back, and `_summary.json`, which is written last: where it is, all is.
"""

from __future__ import annotations

import json
import logging
import os
import time

import pandas as pd
import pyarrow.fs
import ray
from modin.config import Engine, NPartitions
from ray.data.context import DatasetContext

log = logging.getLogger("conversions")

#: Text with gaps, text without, whole numbers, dates.
COLUMNS = ["review_id", "review_headline", "star_rating", "total_votes", "review_date"]
#: How many blocks the data set has, and hence how many partitions Modin makes of it.
BLOCKS = 2


class Changed(Exception):
    """A conversion did not give back what went in."""


class BadArgument(Exception):
    """A job argument is missing or makes no sense."""


def by_pandas(reviews):
    """Go by a pandas frame in the driver's memory."""
    frame = reviews.to_pandas()
    return ray.data.from_pandas(frame), type(frame)


def by_modin(reviews):
    """Go by a Modin frame, whose partitions are the blocks of the data set."""
    frame = reviews.to_modin()
    return ray.data.from_modin(frame), type(frame)


def by_arrow_references(reviews):
    """Go by references to Arrow tables in the object store."""
    references = reviews.to_arrow_refs()
    return ray.data.from_arrow_refs(references), type(ray.get(references[0]))


def by_batches(reviews):
    """Go by the driver too, a batch at a time: what a loop needs in memory is one of them."""
    batches = list(reviews.iter_batches(batch_size=500, batch_format="pyarrow"))
    return ray.data.from_arrow(batches), type(batches[0])


WAYS = {"pandas": by_pandas, "modin": by_modin, "arrow_references": by_arrow_references, "batches": by_batches}


def plain(reviews) -> pd.DataFrame:
    """Return a data set as a frame that can be compared: Arrow's types, pandas' and NumPy's are the same to it."""
    frame = reviews.to_pandas().astype(object).sort_values("review_id", ignore_index=True)
    return frame.where(frame.notna(), None)


def main() -> None:
    """Read, go each way, compare, write, and say what came of it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    started = time.monotonic()
    source, target = argument("input").rstrip("/"), argument("output").rstrip("/")
    if f"{source}/".startswith(f"{target}/"):
        raise BadArgument(f"output {target} holds input {source}, and output is replaced")

    connect()
    reviews = ray.data.read_parquet(source, columns=COLUMNS).repartition(BLOCKS).materialize()
    wanted = plain(reviews)
    ways = {}
    clear(target)
    for name, there_and_back in WAYS.items():
        back, kind = there_and_back(reviews)
        found = plain(back)
        if not found.equals(wanted):
            raise Changed(f"{name}: {len(wanted)} reviews went in, and what came back is different: {found.head()}")
        back.write_parquet(f"{target}/{name}")
        ways[name] = {"type": f"{kind.__module__}.{kind.__name__}", "rows": len(found)}
        log.info("%s: %s", name, ways[name])

    summary = {
        "input": source,
        "output": target,
        "rows": len(wanted),
        "ways": ways,
        "seconds": round(time.monotonic() - started, 2),
    }
    write_json(f"{target}/_summary.json", summary)
    print(json.dumps(summary))


def connect():
    """Join the cluster and settle how Modin and Ray Data go about their work."""
    # Modin takes the Ray it finds in the process. Without one it starts its own, on this node only.
    ray.init("auto")
    # Ray Data's own progress lines are many; ours say what it comes to.
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    context = DatasetContext.get_current()
    # Newer releases read and shuffle with operators made for large data, which start processes of their own.
    # These two choose what Ray 2.4 does anyway; on a small machine that is four times as fast.
    context.use_datasource_v2 = False
    context.shuffle_strategy = "sort_shuffle_pull_based"
    Engine.put("ray")
    NPartitions.put(BLOCKS)


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
