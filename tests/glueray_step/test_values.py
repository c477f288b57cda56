"""Values on their way: what comes out is what went in, or it is refused by name."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_glueray.glueray_step.values import (
    KIND,
    NotSerializableError,
    decode,
    encode,
    is_reference,
    table_of,
)


class Memory:
    """A folder in memory."""

    uri = "mem://folder"

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    @contextmanager
    def write(self, name: str) -> Iterator[Any]:
        file = io.BytesIO()
        yield file
        self.files[f"{self.uri}/{name}"] = file.getvalue()


def there_and_back(value: Any) -> Any:
    folder = Memory()
    document = json.loads(json.dumps(encode(value, "argument 'x'", folder)))

    def load(reference: Any) -> Any:
        from pyarrow import BufferReader, parquet

        return table_of(reference, lambda uri: parquet.read_table(BufferReader(folder.files[uri])))

    return decode(document, load)


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.dates() | st.times()
    | st.datetimes() | st.datetimes(timezones=st.just(timezone.utc)) | st.timedeltas() | st.decimals(allow_nan=False)
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text().filter(lambda key: key != KIND), inner)
    ),
    max_leaves=10,
)


@given(VALUES)
def test_values_come_back_equal(value):
    assert there_and_back(value) == value


@pytest.mark.parametrize(
    "value", [True, 1, 1.0, (1,), {1, 2}, frozenset({1}), Path("/x"), datetime(2026, 1, 1), date(2026, 1, 1)]
)
def test_values_come_back_of_their_type(value):
    """True is not 1, a tuple no list, a datetime no date."""
    assert type(there_and_back(value)) is type(value)
    assert there_and_back(value) == value


def test_not_a_number_comes_back():
    """JSON has no form for it, and databases refuse the one that Python writes."""
    assert math.isnan(there_and_back(math.nan))
    assert "NaN" not in json.dumps(encode([math.nan, math.inf], "x", Memory()))


def test_the_form_for_an_xcom():
    """References stay small; paths and times of day are text, which is what Airflow keeps."""
    reference = {KIND: "pandas", "uri": "s3://b/k", "rows": 1}
    document = encode({"r": reference, "p": Path("/x"), "t": time(2, 30), "d": timedelta(1)}, "x", Memory())

    assert decode(document) == {"r": reference, "p": "/x", "t": "02:30:00", "d": timedelta(1)}


def test_tables_and_arrays():
    """Frames keep index and types, series their names."""
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    frame = pd.DataFrame({"n": [1, None], "s": ["a", "b"], "c": pd.Categorical(["x", "y"])}, index=[5, 6])
    pd.testing.assert_frame_equal(there_and_back(frame), frame)
    for name in ("named", None):
        series = pd.Series([1.5, 2.5], name=name)
        pd.testing.assert_series_equal(there_and_back(series), series)
    table = pa.table({"n": [1, 2], "nested": [[{"a": 1}], []]})
    assert there_and_back(table) == table
    assert there_and_back(table.to_batches()[0]) == table
    assert there_and_back(np.arange(3)).tolist() == [0, 1, 2]
    assert there_and_back([np.float32(1.5), np.int64(3), np.bool_(True)]) == [1.5, 3, True]
    assert there_and_back({"in": [frame]})["in"][0].shape == (2, 3)


def test_an_empty_frame():
    import pandas as pd

    pd.testing.assert_frame_equal(there_and_back(pd.DataFrame({"n": []})), pd.DataFrame({"n": []}))


def test_a_reference_is_small_and_says_what_it_is():
    import pandas as pd

    document = encode(pd.DataFrame({f"c{at}": range(1000) for at in range(500)}), "x", Memory())

    assert is_reference(document)
    assert (document["rows"], len(document["columns"])) == (1000, 100)
    assert len(json.dumps(document)) < 4_000


class Pair(NamedTuple):
    one: int


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (object(), "argument 'x' is a builtins.object"),
        ([1, {"a": object()}], r"argument 'x'\[1\]\['a'\] is a builtins.object"),
        (b"bytes", "is a builtins.bytes"),
        ({1: 2}, "has the key 1, a int: keys must be text"),
        ({KIND: "mine"}, "which is reserved"),
        (Pair(1), "a named tuple: pass ._asdict"),
        (len, "is a builtins.builtin_function_or_method"),
        (1j, "is a builtins.complex"),
    ],
)
def test_what_cannot_travel_is_named(value, words):
    with pytest.raises(NotSerializableError, match=words):
        encode(value, "argument 'x'", Memory())


def test_a_frame_that_is_no_table_is_named():
    import numpy as np
    import pandas as pd

    with pytest.raises(NotSerializableError, match="argument 'x', a DataFrame, does not go into Parquet"):
        encode(pd.DataFrame({"o": [object()]}), "argument 'x'", Memory())
    with pytest.raises(NotSerializableError, match="argument 'x', a ndarray"):
        encode(np.zeros((2, 2)), "argument 'x'", Memory())


def test_decimals_keep_their_places():
    assert str(there_and_back(Decimal("1.10"))) == "1.10"
