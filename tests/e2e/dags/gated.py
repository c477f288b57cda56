"""A Ray script that ends when its gate in S3 opens: how a test keeps a run alive, and ends it, without a clock."""

from __future__ import annotations

import logging
import os
import sys
import time

import boto3
import ray

#: For a script that nobody ends: tests open the gate or stop the run, however long the machine takes to get there.
GIVE_UP_SECONDS = 1800

logging.basicConfig(level=logging.INFO, format="%(message)s")
arguments = dict(os.environ)
gate = f"gates/{arguments['airflow_dag_id']}/{arguments['airflow_run_id']}"
s3 = boto3.client("s3")


def is_open() -> bool:
    return bool(s3.list_objects_v2(Bucket="glueray-local", Prefix=gate).get("KeyCount"))


logging.info("e2e: waiting at the gate")
end = time.monotonic() + GIVE_UP_SECONDS
while not is_open():
    if time.monotonic() > end:
        sys.exit(f"{gate} did not open")
    time.sleep(0.1)

if "use_ray" in arguments:

    @ray.remote
    def square(number: int) -> int:
        return number * number

    ray.init()
    print("e2e: the squares are", ray.get([square.remote(number) for number in range(4)]))  # noqa: T201
