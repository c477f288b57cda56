"""Faults without a Region hold in all Regions; tested in memory, since they would disturb a shared endpoint."""

from __future__ import annotations

import json
from typing import Any

import pytest
from werkzeug.test import Client

from airflow_provider_glueray.local.api.server import Application
from airflow_provider_glueray.local.api.web_pages import Pages
from airflow_provider_glueray.local.engine.faults import Faults
from airflow_provider_glueray.local.engine.state import State


def errors(faults: Faults, *regions: str) -> list[str | None]:
    found = [faults.check("ListJobs", region) for region in regions]
    return [fault.error and fault.error.code for fault in found]


def test_faults_without_a_region_hold_in_all_regions() -> None:
    """All Regions use up a counted fault together, and counts are sums."""
    faults = Faults()
    faults.put({"throttle_next": {"ListJobs": 2}, "quota_mdpu": 8})
    assert errors(faults, "eu-west-1", "us-east-1", "us-east-1") == ["ThrottlingException", "ThrottlingException", None]
    assert [faults.values(region)["quota_mdpu"] for region in (None, "eu-west-1", "us-west-2")] == [8, 8, 8]
    assert faults.values()["throttle_next"] == {"ListJobs": 0}
    assert (faults.calls(), faults.calls("us-east-1"), faults.calls("us-west-2")) == (
        {"ListJobs": 3},
        {"ListJobs": 2},
        {},
    )
    faults.reset_calls()
    assert faults.calls("us-east-1") == {}


def test_a_fault_for_all_regions_replaces_that_of_one() -> None:
    """It replaces only the same fault; a reset for all Regions replaces every fault."""
    faults = Faults(quota_mdpu=20)
    faults.put({"quota_mdpu": 2, "throttle_rate": 1.0}, "eu-west-1")
    assert errors(faults, "eu-west-1", "us-east-1") == ["ThrottlingException", None]
    faults.put({"throttle_rate": 0.0})
    assert errors(faults, "eu-west-1") == [None]
    assert faults.values("eu-west-1")["quota_mdpu"] == 2
    faults.reset()
    assert faults.values("eu-west-1") == faults.values()
    assert faults.values()["quota_mdpu"] == 20


def test_a_reset_of_one_region_leaves_the_others() -> None:
    """The reset Region has no faults until the next fault for all Regions."""
    faults = Faults()
    faults.put({"error_next": {"ListJobs": ["InternalServiceException", 5]}, "account_closed": True})
    faults.reset("eu-west-1")
    assert errors(faults, "eu-west-1", "us-east-1") == [None, "InternalServiceException"]
    assert [faults.values(region)["account_closed"] for region in ("eu-west-1", "us-east-1")] == [False, True]
    faults.put({"account_closed": True})
    assert faults.values("eu-west-1")["account_closed"] is True


@pytest.mark.parametrize("region", [None, "eu-west-1"])
def test_there_is_one_cluster(region: str | None) -> None:
    """All Regions share `fail_node`, and one node fails once."""
    faults = Faults()
    faults.reset("eu-west-1")
    faults.put({"fail_node": True}, region)
    assert faults.values("us-east-1")["fail_node"] is True
    assert faults.values("eu-west-1")["fail_node"] is True
    assert [faults.take_fail_node() for _ in range(2)] == [True, False]
    assert faults.values("eu-west-1")["fail_node"] is False


def test_the_control_paths_take_a_region() -> None:
    """A control path takes a Region; a reset without a Region resets all."""
    faults = Faults()
    client = Client(Application((), faults, Pages(State(), lambda *_: None), dict))

    def request(method: str, path: str, body: Any = None) -> Any:
        response = client.open(f"/_glueray/{path}", method=method, data=None if body is None else json.dumps(body))
        return response.status_code, json.loads(response.text)

    faults.check("ListJobs", "eu-west-1")
    status, values = request("PUT", "faults?region=eu-west-1", {"quota_mdpu": 2})
    assert (status, values["quota_mdpu"]) == (200, 2)
    assert [request("GET", each)[1]["quota_mdpu"] for each in ("faults", "faults?region=eu-west-1")] == [50, 2]
    status, refusal = request("PUT", "faults?region=eu-west-1", {"quota": 2})
    assert (status, "unknown fault 'quota'" in refusal["message"]) == (400, True)
    assert request("DELETE", "faults")[1]["quota_mdpu"] == 50
    assert request("GET", "faults?region=eu-west-1")[1]["quota_mdpu"] == 50

    assert [request("GET", each)[1] for each in ("calls", "calls?region=us-east-1")] == [{"ListJobs": 1}, {}]
    request("DELETE", "calls?region=us-east-1")
    assert request("GET", "calls")[1] == {"ListJobs": 1}
    request("DELETE", "calls")
    assert request("GET", "calls?region=eu-west-1")[1] == {}
