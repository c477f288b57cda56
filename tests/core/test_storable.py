"""What crosses into Airflow can be stored there, whatever it is."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_glueray.core.runs import GLUE_JOB, MOST_REPORTED, Outcome, RunRef, RunSnapshot, RunState
from airflow_provider_glueray.core.storable import MOST_CHARACTERS, storable, storable_value
from tests.runner import must_be_storable

TEXTS = st.text(st.characters(), max_size=20)
#: Whatever Python can hold, JSON's and other.
VALUES: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | TEXTS
    | st.binary(max_size=5)
    | st.datetimes()
    | st.complex_numbers(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(TEXTS | st.integers(), inner, max_size=4)
        | st.tuples(inner, inner)
    ),
    max_leaves=20,
)


@given(VALUES)
def test_any_value(value):
    """It can be stored, as often as one likes: what has passed the gate passes it unchanged."""
    stored = storable(value)

    must_be_storable(stored)
    assert storable(stored) == stored


def is_plain(value: Any) -> bool:
    """Tell whether a value is one that Airflow can store as it is."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(key) and is_plain(each) for key, each in value.items())
    if isinstance(value, list):
        return all(map(is_plain, value))
    if isinstance(value, str):
        return "\0" not in value and not any("\ud800" <= letter <= "\udfff" for letter in value)
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return value is None or (isinstance(value, float) and math.isfinite(value))


@given(VALUES.filter(is_plain))
def test_a_plain_value_stays_what_it_is(value):
    assert storable(value) == value
    assert json.dumps(storable(value)) == json.dumps(value)


@given(VALUES)
def test_what_a_task_returns(value):
    """What Airflow serialises itself stays what it is; nothing in it is what the database refuses."""
    stored = storable_value(value)

    assert storable_value(stored) == stored
    assert type(stored) is type(value) or value is None or isinstance(value, (int, float))
    must_be_storable(json.loads(json.dumps(stored, allow_nan=False, default=repr, skipkeys=True)))


def test_times_decimals_and_tuples_stay_what_they_are():
    moment = datetime(2026, 11, 21, 2)
    value = {"a": (moment, Decimal("1.10")), "b": [{moment.date()}, timedelta(1)], "c": (math.nan, "\0")}

    assert storable_value(value) == {**value, "c": (None, "\ufffd")}


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ("a\0b", "a\ufffdb"),
        ("\ud800", "\ufffd"),
        ({"\0": math.nan, 1: math.inf}, {"\ufffd": None, "1": None}),
        (2**63, "9223372036854775808"),
        ((1, {2}), [1, [2]]),
        (b"\xff\0", "\ufffd\ufffd"),
        (datetime(2026, 1, 1), "2026-01-01 00:00:00"),
        ("x" * MOST_CHARACTERS + "end", "x" * (MOST_CHARACTERS - 3) + "end"),
    ],
)
def test_what_becomes_of_it(value, stored):
    assert storable(value) == stored


def test_what_is_too_deep_is_a_text():
    value: Any = []
    for _ in range(10_000):
        value = [value]

    must_be_storable(storable(value))


def test_too_many_reports_are_the_latest():
    """The event of a trigger is a row in a database, and all triggers wait while it is written."""
    snapshot = RunSnapshot(RunRef(GLUE_JOB, "job", "jr_1"), RunState.SUCCEEDED, "SUCCEEDED")
    reports = [{"asset": f"{number}", "text": "x" * (MOST_REPORTED // 4)} for number in range(100)]
    event = Outcome(snapshot, reports=reports).to_json()

    assert [each["asset"] for each in event["reports"]] == ["97", "98", "99"]
    assert Outcome.from_json(event).reports[0]["asset"] == "97"
