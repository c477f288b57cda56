"""Inject faults on demand and count requests, for reliability tests.

Each Region has its own faults and counters, as it has its own jobs and quota. A call without a Region applies to all
Regions, also to those that no client has used so far. Faults apply to the Glue and CloudWatch Logs operations of
clients, never to S3, IAM or STS, nor to this endpoint's own log shipping. `put` refuses unknown keys, so that a
misspelt fault cannot make a test pass.
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
class Fault:
    """The effect on one request: respond with `error` instead of working, or work and `drop` the connection."""

    error: GlueError | None = None
    drop: bool = False


#: All Regions share one Ray cluster.
_CLUSTER_FAULTS = frozenset({"fail_node"})


class Faults:
    """The active faults and the request counts, safe for use from every request thread.

    A Region has the faults of all Regions, except those that were set for it alone. A fault for the next requests of
    all Regions is used up by all of them together, not by each Region once.
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
        self._for_all_regions = dict(self._defaults)
        self._for_region: defaultdict[str, dict[str, Any]] = defaultdict(dict)

    def calls(self, region: str | None = None) -> dict[str, int]:
        """Return the number of requests per operation since the last reset, those that met a fault included."""
        with self._lock:
            counts = self._calls.values() if region is None else [self._calls.get(region, Counter())]
            return dict(sum(counts, Counter()))

    def reset_calls(self, region: str | None = None) -> None:
        """Reset all counts to 0."""
        with self._lock:
            if region is None:
                self._calls.clear()
            else:
                self._calls.pop(region, None)

    def values(self, region: str | None = None) -> dict[str, Any]:
        """Return the active faults, without a Region those of all; a counted fault shows its remaining number."""
        with self._lock:
            values = (
                self._for_all_regions
                if region is None
                else {**self._for_all_regions, **self._for_region.get(region, {})}
            )
            return {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}

    def put(self, changes: Mapping[str, Any], region: str | None = None) -> None:
        """Set the given faults and keep the others; raises ValueError for an unknown or malformed one."""
        for key, value in changes.items():
            if key not in self._defaults:
                raise ValueError(f"unknown fault '{key}'; known are {', '.join(self._defaults)}")
            if not _well_formed(key, value):
                raise ValueError(f"fault '{key}' cannot be {value!r}")
        with self._lock:
            for key, value in changes.items():
                if region is not None and key not in _CLUSTER_FAULTS:
                    self._for_region[region][key] = value
                    continue
                self._for_all_regions[key] = value
                for own in self._for_region.values():
                    own.pop(key, None)

    def reset(self, region: str | None = None) -> None:
        """Remove all faults; the provisioning delay and the quota return to the endpoint's start options."""
        with self._lock:
            if region is None:
                self._for_all_regions = dict(self._defaults)
                self._for_region.clear()
            else:
                self._for_region[region] = {k: v for k, v in self._defaults.items() if k not in _CLUSTER_FAULTS}

    def take_fail_node(self) -> bool:
        """Return whether a node shall fail, and clear that fault."""
        with self._lock:
            wanted = bool(self._for_all_regions["fail_node"])
            self._for_all_regions["fail_node"] = False
        return wanted

    def check(self, operation: str, region: str) -> Fault:
        """Count one request and return the fault that applies to it."""
        with self._lock:
            self._calls[region][operation] += 1
            rate = self._effective("throttle_rate", region)["throttle_rate"]
            if self._consume("throttle_next", operation, region) or random.random() < rate:
                return Fault(GlueError("ThrottlingException", "Rate exceeded"))
            if self._consume("refuse_next", operation, region):
                return Fault(GlueError("AccessDeniedException", f"Not authorized to perform: glue:{operation}"))
            errors = self._effective("error_next", region)
            code, left = errors["error_next"].get(operation, ("", 0))
            if left > 0:
                errors["error_next"] = {**errors["error_next"], operation: [code, left - 1]}
                return Fault(GlueError(code, f"{code} made by glueray local", 500 if "Internal" in code else 400))
            return Fault(drop=self._consume("drop_next", operation, region))

    def _effective(self, fault: str, region: str) -> dict[str, Any]:
        """Return the values that decide about a fault in a Region: the Region's own, or those of all Regions."""
        own = self._for_region.get(region, {})
        return own if fault in own else self._for_all_regions

    def _consume(self, fault: str, operation: str, region: str) -> bool:
        values = self._effective(fault, region)
        left = values[fault].get(operation, 0)
        if left > 0:
            values[fault] = {**values[fault], operation: left - 1}
        return bool(left > 0)


def _well_formed(key: str, value: Any) -> bool:
    if key in {"account_closed", "fail_node"}:
        return isinstance(value, bool)
    if key == "quota_mdpu":
        return _is_count(value)
    if key in {"provisioning_seconds", "minute_seconds", "throttle_rate"}:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and 0 <= value <= (1 if key == "throttle_rate" else float("inf"))
    if not isinstance(value, dict):
        return False
    if key == "error_next":
        return all(
            isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) and _is_count(pair[1])
            for pair in value.values()
        )
    if key == "force_state":
        return all(state is None or isinstance(state, str) for state in value.values())
    return all(_is_count(times) for times in value.values())


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
