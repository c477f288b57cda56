"""Misbehave on demand, and count what was asked: the two things a reliability test needs from a service.

Each Region has faults and counters of its own, as it has jobs and a quota of its own. Who names no Region means all
of them, also those that nobody has used so far. Faults apply to the Glue and CloudWatch Logs operations of clients,
never to S3, IAM or STS, nor to this endpoint's own log shipping. Unknown keys are refused, so that a misspelt fault
cannot make a test pass.
"""

from __future__ import annotations

import random
import threading
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_glueray.local.engine.errors import GlueError
from airflow_provider_glueray.local.engine.rules import QUOTA_MDPU


@dataclass(frozen=True)
class Verdict:
    """What to do with one request: answer `error` instead of working, or work and `drop` the connection."""

    error: GlueError | None = None
    drop: bool = False


#: There is one Ray cluster, whatever the Region.
_OF_THE_CLUSTER = frozenset({"fail_node"})


class Faults:
    """The faults in force and the calls seen, safe to use from every request thread.

    A Region has the faults that hold for all, except those that were put for it alone. What is counted down for all
    is counted once, not once in each Region.
    """

    def __init__(self, provisioning_seconds: float = 0.0, quota_mdpu: int = QUOTA_MDPU) -> None:
        self._lock = threading.Lock()
        self._calls: defaultdict[str, Counter[str]] = defaultdict(Counter)
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
        self._everywhere = dict(self._defaults)
        self._own: defaultdict[str, dict[str, Any]] = defaultdict(dict)

    def calls(self, region: str | None = None) -> dict[str, int]:
        """Return how often each operation was asked for since the last reset, faults included."""
        with self._lock:
            counts = self._calls.values() if region is None else [self._calls.get(region, Counter())]
            return dict(sum(counts, Counter()))

    def reset_calls(self, region: str | None = None) -> None:
        """Forget all counts."""
        with self._lock:
            if region is None:
                self._calls.clear()
            else:
                self._calls.pop(region, None)

    def values(self, region: str | None = None) -> dict[str, Any]:
        """Return the faults in force, without a Region those that hold for all; counted ones show what is left."""
        with self._lock:
            values = self._everywhere if region is None else {**self._everywhere, **self._own.get(region, {})}
            return {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}

    def put(self, changes: Mapping[str, Any], region: str | None = None) -> None:
        """Change the given faults, leave the others; ValueError names an unknown or malformed one."""
        for key, value in changes.items():
            if key not in self._defaults:
                raise ValueError(f"unknown fault '{key}'; known are {', '.join(self._defaults)}")
            if not _well_formed(key, value):
                raise ValueError(f"fault '{key}' cannot be {value!r}")
        with self._lock:
            for key, value in changes.items():
                if region is not None and key not in _OF_THE_CLUSTER:
                    self._own[region][key] = value
                    continue
                self._everywhere[key] = value
                for own in self._own.values():
                    own.pop(key, None)

    def reset(self, region: str | None = None) -> None:
        """Behave again, with the provisioning delay and quota the endpoint was started with."""
        with self._lock:
            if region is None:
                self._everywhere = dict(self._defaults)
                self._own.clear()
            else:
                self._own[region] = {k: v for k, v in self._defaults.items() if k not in _OF_THE_CLUSTER}

    def take_fail_node(self) -> bool:
        """Tell once whether a node shall fail."""
        with self._lock:
            wanted = bool(self._everywhere["fail_node"])
            self._everywhere["fail_node"] = False
        return wanted

    def judge(self, operation: str, region: str) -> Verdict:
        """Count one request and say what shall become of it."""
        with self._lock:
            self._calls[region][operation] += 1
            if self._take("throttle_next", operation, region) or random.random() < self._rate(region):
                return Verdict(GlueError("ThrottlingException", "Rate exceeded"))
            if self._take("refuse_next", operation, region):
                return Verdict(GlueError("AccessDeniedException", f"Not authorized to perform: glue:{operation}"))
            errors = self._holding("error_next", region)
            code, left = errors["error_next"].get(operation, ("", 0))
            if left > 0:
                errors["error_next"] = {**errors["error_next"], operation: [code, left - 1]}
                return Verdict(GlueError(code, f"{code} made by glueray local", 500 if "Internal" in code else 400))
            return Verdict(drop=self._take("drop_next", operation, region))

    def _holding(self, fault: str, region: str) -> dict[str, Any]:
        """Return the values that decide on a fault in a Region: its own, or those for all."""
        own = self._own.get(region, {})
        return own if fault in own else self._everywhere

    def _rate(self, region: str) -> float:
        return float(self._holding("throttle_rate", region)["throttle_rate"])

    def _take(self, fault: str, operation: str, region: str) -> bool:
        values = self._holding(fault, region)
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
