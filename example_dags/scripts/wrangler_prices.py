"""Compare prices of personal computers with AWS SDK for pandas, which works on Ray and in Modin when both are there.

On import awswrangler looks for ray and modin. With both, its readers and writers of S3 run as Ray tasks and return
Modin tables; with one of them missing, the same calls run in this process alone. The script checks which of the two it
is, and fails rather than be slow.

Libraries: ray, pandas, pyarrow and boto3, which Glue has, and two which it has not:
`pip=["awswrangler==3.4.2", "modin==0.22.3"]`. Later awswranglers want a later Ray (aws/aws-sdk-pandas#2604), and an
extra such as `awswrangler[ray]` would fetch gpustat, which has to be compiled. Modin 0.22.3 is the last for pandas
1.5.3; 0.23, which 3.4.2 asks for with its extra, brings pandas 2.0. The list and the pins are from documentation,
issues and package metadata; they work on the local endpoint's Ray2.4 and are unverified on AWS. Job arguments, which
arrive as environment variables:

input   a CSV file, `s3://…/Ecdat-Computers.csv`, as `datasets.py tables` writes it
output  a directory that belongs to this job; what it holds is replaced
blocks  in how many pieces tables are read (4)

The output has `computers` with a directory for each size of memory, `prices.parquet`, and `_summary.json`, which is
written last. `steps` is modules/steps.py, which the task sends by `py_modules`.
"""

from __future__ import annotations

import logging
import time

import awswrangler as wr
import modin.pandas as pd
from modin.config import NPartitions
from steps import connect, finish, input_and_output, whole_number

COLUMNS = ["price", "speed", "hd", "ram", "screen", "cd", "multi", "premium", "trend"]
#: Megabytes of memory from which on a computer of the nineties is a big one.
BIG = 8


class NotDistributed(Exception):
    """AWS SDK for pandas would do everything in this process."""


def prices_of(computers: pd.DataFrame) -> pd.DataFrame:
    """Return how many computers of each size of memory and screen there are, and what they cost."""
    groups = computers.groupby(["ram", "screen"])["price"].agg(["count", "mean", "min", "max"]).reset_index()
    return groups.rename(columns={"count": "computers", "mean": "mean_price", "min": "lowest", "max": "highest"})


def main() -> None:
    """Read, write by memory, read the big ones again, write their prices, and write a summary."""
    started = time.monotonic()
    source, target = input_and_output()
    blocks = whole_number("blocks", 4, least=1)

    # Both libraries take the Ray they find in the process.
    connect()
    # It logs a line for each time it looks for credentials.
    logging.getLogger("botocore").setLevel(logging.WARNING)
    # Else as many pieces as there are CPUs at this moment.
    NPartitions.put(blocks)
    engine, memory_format = wr.engine.get().value, wr.memory_format.get().value
    if (engine, memory_format) != ("ray", "modin"):
        raise NotDistributed(f"awswrangler would run on {engine} with {memory_format}: is modin in the job's pip?")

    # Not `usecols`: with it awswrangler 3.4.2 reads by pandas instead of Arrow, and logs that it is slower.
    # Both old and new awswranglers know this name, which newer ones would rather call override_num_blocks.
    in_blocks = {"parallelism": blocks}
    computers = wr.s3.read_csv(source, ray_args=in_blocks)[COLUMNS]

    wr.s3.delete_objects(f"{target}/")
    written = wr.s3.to_parquet(
        computers, path=f"{target}/computers/", dataset=True, partition_cols=["ram"], mode="overwrite", index=False
    )
    files = wr.s3.list_objects(f"{target}/computers/", suffix=".parquet")
    if sorted(files) != sorted(written["paths"]):
        raise RuntimeError(f"{target}/computers: wrote {sorted(written['paths'])}, found {sorted(files)}")

    # The filter sees the names of directories, so what it refuses is never read.
    big = wr.s3.read_parquet(
        f"{target}/computers/",
        dataset=True,
        columns=["price", "screen", "ram"],
        partition_filter=lambda partition: int(partition["ram"]) >= BIG,
        ray_args=in_blocks,
    )
    # What comes out of the name of a directory is text.
    big["ram"] = big["ram"].astype("int64")
    prices = prices_of(big)
    wr.s3.to_parquet(prices, path=f"{target}/prices.parquet", index=False)

    finish(
        source,
        target,
        started,
        awswrangler=wr.__version__,
        engine=engine,
        memory_format=memory_format,
        table=f"{type(computers).__module__}.{type(computers).__name__}",
        files=len(files),
        rows_in=len(computers),
        big=len(big),
        groups=len(prices),
    )


if __name__ == "__main__":
    main()
