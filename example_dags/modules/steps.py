"""What the example scripts share: arguments, files in S3, the connection to the cluster, the summary.

A script imports it as `steps`. A task sends it with `py_modules=["modules/steps.py"]`, the path from the file of the
DAG; a job without this provider needs it as a zip archive, `steps/steps.py`, in `--s3-py-modules` (AWS Glue) or in the
runtime environment's `py_modules` (Ray). Glue passes the arguments of a job as environment variables, so a shell on a
node of a Ray cluster runs a script with `input=s3://… output=s3://… PYTHONPATH=modules python scripts/….py`.

Needs ray and pyarrow. Runs on Ray 2.4 with Python 3.9 (Glue for Ray) and on today's.
"""
# ruff: noqa: TID253

from __future__ import annotations

import json
import logging
import os
import time

import pyarrow.fs
import ray
from ray.data.context import DatasetContext

log = logging.getLogger("steps")


class InputMissing(Exception):
    """There is nothing to read."""


class BadArgument(Exception):
    """A job argument is missing or makes no sense."""


def argument(name, default=None):
    """Return a job argument."""
    value = os.environ.get(name) or default
    if not value:
        raise BadArgument(f"the job argument --{name} is missing")
    return value


def whole_number(name, default, least=0):
    """Return a job argument that is a whole number."""
    value = argument(name, str(default))
    if not value.isdigit() or int(value) < least:
        raise BadArgument(f"{name} is {value!r}; it takes a whole number such as {default}, at least {least}")
    return int(value)


def input_and_output():
    """Return the URIs of the arguments `input` and `output`; a script replaces what the output holds."""
    source, target = argument("input").rstrip("/"), argument("output").rstrip("/")
    if f"{source}/".startswith(f"{target}/"):
        raise BadArgument(f"output {target} holds input {source}, and output is replaced")
    return source, target


def connect(preserve_order=False):
    """Join the cluster, log to stderr, and set up Ray Data.

    With `preserve_order`, files keep the order of a sort.
    """
    # Glue streams stderr; what is printed shows up when the run is over.
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    ray.init("auto")
    # Ray Data logs a line for each operator and each progress bar.
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    context = DatasetContext.get_current()
    context.execution_options.preserve_order = preserve_order
    # Newer releases read and shuffle with operators made for large data, which start processes of their own.
    # These two choose what Ray 2.4 does anyway; on a small machine that is four times as fast.
    context.use_datasource_v2 = False
    context.shuffle_strategy = "sort_shuffle_pull_based"


def files_below(uri, suffix, kind):
    """Return the URIs of the files below a directory, at any depth, with a suffix such as `.csv`."""
    filesystem, path = pyarrow.fs.FileSystem.from_uri(uri)
    found = filesystem.get_file_info(pyarrow.fs.FileSelector(path, recursive=True, allow_not_found=True))
    scheme = uri.partition("://")[0]
    files = [f"{scheme}://{info.path}" for info in found if info.is_file and info.path.endswith(suffix)]
    if not files:
        raise InputMissing(f"no {kind} files below {uri}: is the path spelled right, and have they been written?")
    return files


def clear(uri):
    """Empty a directory, so that a second run leaves nothing of the first."""
    filesystem, path = pyarrow.fs.FileSystem.from_uri(uri)
    filesystem.create_dir(path, recursive=True)
    filesystem.delete_dir_contents(path)


def finish(source, target, started, **results):
    """Write `_summary.json`, the last file of a run, and print it; `started` is of `time.monotonic()`."""
    seconds = round(time.monotonic() - started, 2)
    summary = {"input": source, "output": target, **results, "seconds": seconds}
    filesystem, path = pyarrow.fs.FileSystem.from_uri(f"{target}/_summary.json")
    with filesystem.open_output_stream(path) as stream:
        stream.write(json.dumps(summary, indent=2).encode())
    print(json.dumps(summary))


class Steps:
    """How long each step took, since the one before it, and how many rows it left."""

    def __init__(self):
        self.started = self.last = time.monotonic()
        self.done = []

    def run(self, name, dataset):
        """Compute a data set, which Ray would otherwise put off, and keep its blocks for the next step."""
        dataset = dataset.materialize()
        self.note(name, rows=dataset.count())
        return dataset

    def note(self, name, **facts):
        """Record that a step is done."""
        now = time.monotonic()
        self.done.append({"step": name, "seconds": round(now - self.last, 2), **facts})
        self.last = now
        log.info(" ".join(f"{key}={value}" for key, value in self.done[-1].items()))
