"""Take a Ray Dataset to pandas, Modin and Arrow and back, and check that nothing changed on the way.

pandas and `iter_batches` bring rows into the driver's memory: for results. Modin and references leave them on the
nodes where they are: for work that goes on, since any Ray task takes a reference as an argument.

Libraries: ray, pandas and pyarrow, which Glue has, and Modin, which it has not: `pip=["modin==0.22.3"]`, the last for
the pandas 1.5.3 of Ray2.4. The list and the pin are from documentation and package metadata; they work on the local
endpoint's Ray2.4 and are unverified on AWS. Job arguments, which arrive as environment variables:

input   a directory of Parquet files with reviews, `s3://…/product_category=<category>`
output  a directory that belongs to this job; what it holds is replaced

The output has a directory for each way there and back, and `_summary.json`, which is written last. `steps` is
modules/steps.py, which the task sends by `py_modules`.
"""

from __future__ import annotations

import logging
import time

import pandas as pd
import ray
from modin.config import Engine, NPartitions
from steps import clear, connect, finish, input_and_output

log = logging.getLogger("conversions")

#: Text with gaps, text without, whole numbers, dates.
COLUMNS = ["review_id", "review_headline", "star_rating", "total_votes", "review_date"]
#: How many blocks the data set has, and hence how many partitions Modin makes of it.
BLOCKS = 2


class Changed(Exception):
    """A conversion did not give back what went in."""


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
    """Read, go each way, compare, write, and write a summary."""
    started = time.monotonic()
    source, target = input_and_output()

    # Modin takes the Ray it finds in the process. Without one it starts its own, on this node only.
    connect()
    Engine.put("ray")
    NPartitions.put(BLOCKS)
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

    finish(source, target, started, rows=len(wanted), ways=ways)


if __name__ == "__main__":
    main()
