"""Run a function of a DAG on the cluster: fetch its arguments, call it, put its value or its exception in place."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Collection, Mapping
from typing import Any

from .values import DOCUMENT, KIND, MOST_CHARACTERS, decode, encode, table_of

#: Name of the environment variable with the URI of the call's folder, and of the files in it.
CALL, ARGUMENTS, RESULT, VALUE = "glueray_call", "call.json", "result.json", "value.json"
#: The most characters of a traceback that are sent home.
MOST_TRACEBACK = 20_000


class ClusterFolder:
    """A folder as the cluster reaches it: through pyarrow, with the credentials of the run's role."""

    def __init__(self, uri: str) -> None:
        from pyarrow.fs import FileSystem

        self.uri = uri.rstrip("/")
        self._filesystem, self._path = FileSystem.from_uri(self.uri)

    def write(self, name: str) -> Any:
        """Open a new file; a file system that has folders gets this one first."""
        if not self.uri.startswith("s3://"):
            self._filesystem.create_dir(self._path)
        return self._filesystem.open_output_stream(f"{self._path}/{name}")

    def read(self, name: str) -> bytes:
        """Return a file."""
        with self._filesystem.open_input_stream(f"{self._path}/{name}") as file:
            content: bytes = file.read()
        return content

    def filesystem(self) -> Any:
        """Return the file system, and the folder's path in it."""
        return self._filesystem, self._path


def run(function: Callable[..., Any]) -> None:
    """Call a function with the arguments that lie in this run's folder, and leave there what it returns or raises."""
    folder = ClusterFolder(os.environ[CALL])
    call = json.loads(folder.read(ARGUMENTS))
    # Ray finds its cluster by itself when the function first asks for something, on every backend.
    os.environ.setdefault("RAY_ADDRESS", "auto")
    try:
        value = function(*decode(call["args"], load), **decode(call["kwargs"], load))
        result = _small({"value": encode(value, "the value that was returned", folder)}, folder)
    except (Exception, SystemExit) as error:
        write_json(folder, RESULT, {"error": describe_exception(error)})
        raise
    write_json(folder, RESULT, result)


def load(reference: Mapping[str, Any]) -> Any:
    """Return the value of a reference."""
    if reference[KIND] == DOCUMENT:
        place, _, name = reference["uri"].rpartition("/")
        return decode(json.loads(ClusterFolder(place).read(name))["value"], load)
    from pyarrow import parquet

    return table_of(reference, parquet.read_table)


def describe_exception(error: BaseException, own: Collection[str] = (__file__,)) -> dict[str, Any]:
    """Describe an exception, without the first frames that are of our own files."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename in own:
        trace = trace.tb_next
    lines = "".join(traceback.format_exception(type(error), error, trace))
    return {"name": type(error).__name__, "value": str(error)[:2000], "traceback": lines[-MOST_TRACEBACK:]}


def _small(result: dict[str, Any], folder: ClusterFolder) -> dict[str, Any]:
    """Return a result that Airflow can keep: of a large one a reference, which is all that leaves the store."""
    size = len(json.dumps(result))
    if size <= MOST_CHARACTERS:
        return result
    write_json(folder, VALUE, result)
    return {"value": {KIND: DOCUMENT, "uri": f"{folder.uri}/{VALUE}", "bytes": size}}


def write_json(folder: ClusterFolder, name: str, result: dict[str, Any]) -> None:
    """Put a file of JSON into the folder of a run."""
    with folder.write(name) as file:
        file.write(json.dumps(result).encode())
