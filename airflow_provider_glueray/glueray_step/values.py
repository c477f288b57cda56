"""Serialise values for a cluster and back: small values as JSON, tables as Parquet. Never pickle.

Both sides use it, so it runs on Python 3.9 with the standard library; pandas, pyarrow, Ray and Modin are imported only
when a value of theirs is met. A document is JSON. A value that JSON cannot express is written as an object
``{"__glueray__": kind, …}``; for a table, this object has the URI of its Parquet file and is called a reference.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path, PurePath
from typing import Any, BinaryIO, Protocol

#: The key that tells such an object from a mapping of the user's.
KIND = "__glueray__"
#: Values that are kept as Parquet, by the package and the class they come from.
TABLES = {
    ("pandas", "DataFrame"): "pandas",
    ("pandas", "Series"): "series",
    ("pyarrow", "Table"): "arrow",
    ("pyarrow", "RecordBatch"): "arrow",
    ("numpy", "ndarray"): "array",
    ("modin", "DataFrame"): "modin",
    ("ray", "Dataset"): "dataset",
}
#: The kind of reference for JSON that is too large for an XCom.
DOCUMENT = "document"
#: The most characters that a value may have as JSON in an XCom, which is kept in Airflow's database.
MOST_CHARACTERS = 1_000_000
#: Columns that are named in a reference.
MOST_COLUMNS = 100


class Folder(Protocol):
    """A place for the files of one call."""

    uri: str

    def write(self, name: str) -> AbstractContextManager[BinaryIO]:
        """Open a new file."""

    def filesystem(self) -> Any:
        """Return a ``pyarrow.fs.FileSystem`` and the folder's path in it, where whole datasets are written."""


class NotSerializableError(TypeError):
    """A value cannot be serialised; the text names it and its type."""


def encode(value: Any, where: str, folder: Folder) -> Any:
    """Return a document for a value; tables in it are written to the folder.

    :param where: names the value in errors, such as ``argument 'rows'``.
    :raises NotSerializableError: names the part that cannot be serialised, and its type.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {KIND: "float", "value": str(value)}
    if isinstance(value, (datetime, date, time)):
        of: type = next(each for each in (datetime, date, time) if isinstance(value, each))
        return {KIND: of.__name__, "value": value.isoformat()}
    if isinstance(value, timedelta):
        return {KIND: "timedelta", "value": [value.days, value.seconds, value.microseconds]}
    if isinstance(value, Decimal):
        return {KIND: "decimal", "value": str(value)}
    if isinstance(value, PurePath):
        return {KIND: "path", "value": str(value)}
    if isinstance(value, Mapping):
        return _encode_mapping(value, where, folder)
    if isinstance(value, (list, tuple, set, frozenset)):
        if hasattr(value, "_fields"):
            raise NotSerializableError(f"{where} is a {type(value).__name__}, a named tuple: pass ._asdict()")
        parts = sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value
        found = [encode(part, f"{where}[{at}]", folder) for at, part in enumerate(parts)]
        return found if isinstance(value, list) else {KIND: type(value).__name__, "value": found}
    kind = _table_kind(value)
    if kind:
        return _encode_table(value, kind, where, folder)
    if type(value).__module__ == "numpy" and hasattr(value, "item"):
        return encode(value.item(), where, folder)
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray, memoryview)):
        # Such as Airflow's view of what mapped tasks have returned, which fetches each as it is asked for.
        return encode(list(value), where, folder)
    raise NotSerializableError(
        f"{where} is a {type(value).__module__}.{type(value).__qualname__}, which cannot be serialised: pass JSON "
        "values, dates, paths, or a table (pandas, pyarrow, Modin, Ray Dataset)"
    )


def _encode_mapping(value: Mapping[Any, Any], where: str, folder: Folder) -> Any:
    odd = [key for key in value if not isinstance(key, str)]
    if odd:
        raise NotSerializableError(f"{where} has the key {odd[0]!r}, a {type(odd[0]).__name__}: keys must be text")
    if KIND in value:
        if is_reference(value):
            return dict(value)
        raise NotSerializableError(f"{where} has the key {KIND!r}, which is reserved")
    return {key: encode(part, f"{where}[{key!r}]", folder) for key, part in value.items()}


def decode(document: Any, load: Any = None) -> Any:
    """Return the value of a document.

    :param load: returns the value of a reference. Without it the value is one for an XCom: references stay the small
        mappings that they are, and paths and times of day, which Airflow does not keep, are text.
    """
    if isinstance(document, list):
        return [decode(part, load) for part in document]
    if not isinstance(document, dict):
        return document
    if KIND not in document:
        return {key: decode(part, load) for key, part in document.items()}
    if is_reference(document):
        return load(document) if load else document
    kind, value = document[KIND], document["value"]
    if kind in ("tuple", "set", "frozenset"):
        return {"tuple": tuple, "set": set, "frozenset": frozenset}[kind](decode(value, load))
    if kind == "timedelta":
        return timedelta(*value)
    makers: dict[str, Any] = {"datetime": datetime.fromisoformat, "date": date.fromisoformat, "float": float}
    makers |= {"decimal": Decimal, "time": time.fromisoformat if load else str, "path": Path if load else str}
    return makers[kind](value)


def is_reference(value: Any) -> bool:
    """Tell whether a value stands for a table, or for a large document, that is kept in a file."""
    if not isinstance(value, Mapping) or not isinstance(value.get(KIND), str):
        return False
    return value[KIND] in {*TABLES.values(), DOCUMENT} and isinstance(value.get("uri"), str)


def _table_kind(value: Any) -> str:
    for kind in type(value).__mro__:
        found = TABLES.get((kind.__module__.partition(".")[0], kind.__name__))
        if found:
            return found
    return ""


def _encode_table(value: Any, kind: str, where: str, folder: Folder) -> dict[str, Any]:
    name = f"table-{os.urandom(6).hex()}"
    more: dict[str, Any] = {}
    if kind in ("dataset", "modin"):
        return _encode_dataset(value, kind, name, folder)
    import pyarrow
    from pyarrow import parquet

    try:
        if kind == "pandas":
            table = pyarrow.Table.from_pandas(value)
        elif kind == "series":
            more["name"] = value.name if value.name is None or isinstance(value.name, str) else str(value.name)
            table = pyarrow.Table.from_pandas(value.to_frame("value"))
        elif kind == "array":
            table = pyarrow.table({"value": value})
        else:
            table = pyarrow.table(value) if isinstance(value, pyarrow.Table) else pyarrow.Table.from_batches([value])
        with folder.write(f"{name}.parquet") as file:
            # What newer versions of Arrow write anyway; before, nanoseconds were cut to microseconds.
            parquet.write_table(table, file, version="2.6")
            size = file.tell()
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, pyarrow.ArrowNotImplementedError) as error:
        raise NotSerializableError(f"{where}, a {type(value).__name__}, does not go into Parquet: {error}") from error
    return _reference(kind, f"{folder.uri}/{name}.parquet", table.num_rows, size, table.schema, more)


def _encode_dataset(value: Any, kind: str, name: str, folder: Folder) -> dict[str, Any]:
    """Write what lies on many nodes from these nodes, and ask the files how much it was."""
    import ray
    from pyarrow import dataset

    filesystem, path = folder.filesystem()
    rows = ray.data.from_modin(value) if kind == "modin" else value
    rows.write_parquet(f"{path}/{name}", filesystem=filesystem)
    written = dataset.dataset(f"{path}/{name}", filesystem=filesystem, format="parquet")
    size = sum(each.size for each in filesystem.get_file_info(written.files))
    return _reference(kind, f"{folder.uri}/{name}", written.count_rows(), size, written.schema, {})


def _reference(kind: str, uri: str, rows: int, size: int, schema: Any, more: dict[str, Any]) -> dict[str, Any]:
    columns = {field.name: str(field.type) for field in list(schema)[:MOST_COLUMNS]}
    return {KIND: kind, "uri": uri, "rows": rows, "bytes": size, "columns": columns, **more}


def table_of(reference: Mapping[str, Any], read: Any) -> Any:
    """Return the value of a reference to a table, of the kind it had: a frame for a frame.

    :param read: returns the ``pyarrow.Table`` at a URI.
    """
    kind = reference[KIND]
    if kind == "dataset":
        import ray

        return ray.data.read_parquet(reference["uri"])
    table = read(reference["uri"])
    if kind == "modin":
        import modin.pandas

        return modin.pandas.DataFrame(table.to_pandas())
    if kind == "pandas":
        return table.to_pandas()
    if kind == "series":
        return table.to_pandas()["value"].rename(reference["name"])
    return table["value"].to_numpy() if kind == "array" else table
