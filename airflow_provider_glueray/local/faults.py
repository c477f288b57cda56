"""Misbehave on demand, and count what was asked: the two things a reliability test needs from a service.

Faults apply to the Glue and CloudWatch Logs operations of clients, never to S3, IAM or STS, nor to this
endpoint's own log shipping. Unknown keys are refused, so that a misspelt fault cannot make a test pass.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .rules import QUOTA_MDPU
from .shapes import GlueError


@dataclass(frozen=True)
class Verdict:
    """What to do with one request: answer `error` instead of working, or work and `drop` the connection."""

    error: GlueError | None = None
    drop: bool = False


class Faults:
    """The faults in force and the calls seen, safe to use from every request thread."""

    def __init__(self, provisioning_seconds: float = 0.0, quota_mdpu: int = QUOTA_MDPU) -> None:
        self._lock = threading.Lock()
        self._calls: Counter[str] = Counter()
        self._defaults: dict[str, Any] = {
            "provisioning_seconds": provisioning_seconds,
            "quota_mdpu": quota_mdpu,
            "minute_seconds": 60.0,
            "throttle_rate": 0.0,
            "throttle_next": {},
            "drop_next": {},
            "refuse_next": {},
            "error_next": {},
            "account_closed": False,
            "fail_node": False,
            "force_state": {},
        }
        self._values = dict(self._defaults)

    def calls(self) -> dict[str, int]:
        """Return how often each operation was asked for since the last reset, faults included."""
        with self._lock:
            return dict(self._calls)

    def reset_calls(self) -> None:
        """Forget all counts."""
        with self._lock:
            self._calls.clear()

    def values(self) -> dict[str, Any]:
        """Return the faults in force; counted ones show what is left."""
        with self._lock:
            return {key: dict(value) if isinstance(value, dict) else value for key, value in self._values.items()}

    def put(self, changes: Mapping[str, Any]) -> None:
        """Change the given faults, leave the others; ValueError names an unknown or malformed one."""
        for key, value in changes.items():
            if key not in self._defaults:
                raise ValueError(f"unknown fault '{key}'; known are {', '.join(self._defaults)}")
            if not _well_formed(key, value):
                raise ValueError(f"fault '{key}' cannot be {value!r}")
        with self._lock:
            self._values.update(changes)

    def reset(self) -> None:
        """Behave again, with the provisioning delay and quota the endpoint was started with."""
        with self._lock:
            self._values = dict(self._defaults)

    def take_fail_node(self) -> bool:
        """Tell once whether a node shall fail."""
        with self._lock:
            wanted = bool(self._values["fail_node"])
            self._values["fail_node"] = False
        return wanted

    def judge(self, operation: str) -> Verdict:
        """Count one request and say what shall become of it."""
        with self._lock:
            self._calls[operation] += 1
            values = self._values
            if _take(values, "throttle_next", operation) or random.random() < values["throttle_rate"]:
                return Verdict(GlueError("ThrottlingException", "Rate exceeded"))
            if _take(values, "refuse_next", operation):
                return Verdict(GlueError("AccessDeniedException", f"Not authorized to perform: glue:{operation}"))
            code, left = values["error_next"].get(operation, ("", 0))
            if left > 0:
                values["error_next"] = {**values["error_next"], operation: [code, left - 1]}
                return Verdict(GlueError(code, f"{code} made by glueray local", 500 if "Internal" in code else 400))
            return Verdict(drop=_take(values, "drop_next", operation))


def _take(values: dict[str, Any], fault: str, operation: str) -> bool:
    left = values[fault].get(operation, 0)
    if left > 0:
        values[fault] = {**values[fault], operation: left - 1}
    return bool(left > 0)


def _well_formed(key: str, value: Any) -> bool:
    if key in {"account_closed", "fail_node"}:
        return isinstance(value, bool)
    if key == "quota_mdpu":
        return _count(value)
    if key in {"provisioning_seconds", "minute_seconds", "throttle_rate"}:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and 0 <= value <= (1 if key == "throttle_rate" else float("inf"))
    if not isinstance(value, dict):
        return False
    if key == "error_next":
        return all(
            isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) and _count(pair[1])
            for pair in value.values()
        )
    if key == "force_state":
        return all(state is None or isinstance(state, str) for state in value.values())
    return all(_count(times) for times in value.values())


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
