"""The gate to Airflow's database and API: whatever crosses it can be stored there.

PostgreSQL's JSONB takes no NUL and no half of a surrogate pair, JSON no number that is not finite, and what a
triggerer and a task tell Airflow no integer of more than 64 bits (msgpack). One such value in the event of a trigger
takes the whole triggerer down, again after each restart.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

#: The most characters of one text, and the deepest nesting; a text keeps its end, which has the reason of a failure.
MOST_CHARACTERS, MOST_DEPTH = 1_000_000, 64
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def storable(value: Any, depth: int = MOST_DEPTH) -> Any:
    """Return a value as JSON that Airflow can store; one that is such JSON already is returned equal.

    What no text can hold becomes U+FFFD, a number that is not finite None, a large integer a text, and so does what
    JSON has no form for.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return _plain(value)
    if depth and isinstance(value, Mapping):
        return {_plain(str(key)): storable(each, depth - 1) for key, each in value.items()}
    if depth and isinstance(value, (list, tuple, set, frozenset)):
        return [storable(each, depth - 1) for each in value]
    return _plain(_text_of(value))


def storable_value(value: Any, depth: int = MOST_DEPTH) -> Any:
    """Return what a task returns, which Airflow itself serialises: times, decimals and tuples stay what they are."""
    if type(value) in (int, float, str):
        return _plain(value, most=None)
    if depth and type(value) is dict:
        return {storable_value(key, 0): storable_value(each, depth - 1) for key, each in value.items()}
    if depth and type(value) in (list, tuple, set, frozenset):
        return type(value)(storable_value(each, depth - 1) for each in value)
    return value


def _plain(value: Any, most: int | None = MOST_CHARACTERS) -> Any:
    """Return a text, a number, a truth value or None as JSON can hold it."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return _UNSTORABLE.sub("\ufffd", str(value) if most is None else str(value)[-most:])


def _text_of(value: Any) -> str:
    """Return a text for what has no form in JSON; what is too deep may be too deep for this as well."""
    try:
        return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    except (RecursionError, ValueError):  # or an integer within it has too many digits (sys.set_int_max_str_digits)
        return f"<{type(value).__name__}>"
