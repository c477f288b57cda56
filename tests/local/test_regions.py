"""Faults without a Region hold in all; in memory, since an endpoint that tests share would feel them everywhere."""

from __future__ import annotations

import json
from typing import Any

import pytest
from werkzeug.test import Client

from airflow_provider_glueray.local.api.server import Application
from airflow_provider_glueray.local.api.web_pages import Pages
from airflow_provider_glueray.local.engine.faults import Faults
from airflow_provider_glueray.local.engine.state import Ledger


def errors(faults: Faults, *regions: str) -> list[str | None]:
    verdicts = [faults.judge("ListJobs", region) for region in regions]
    return [verdict.error and verdict.error.code for verdict in verdicts]


def test_who_knows_nothing_of_regions_gets_what_was_asked_for() -> None:
    """Faults hold wherever a client is, counted ones as often as told in all, and the counts are sums."""
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


def test_a_put_for_all_takes_the_place_of_those_for_one() -> None:
    """Key by key; and so does a reset."""
    faults = Faults(quota_mdpu=20)
    faults.put({"quota_mdpu": 2, "throttle_rate": 1.0}, "eu-west-1")
    assert errors(faults, "eu-west-1", "us-east-1") == ["ThrottlingException", None]
    faults.put({"throttle_rate": 0.0})
    assert errors(faults, "eu-west-1") == [None]
    assert faults.values("eu-west-1")["quota_mdpu"] == 2
    faults.reset()
    assert faults.values("eu-west-1") == faults.values()
    assert faults.values()["quota_mdpu"] == 20


def test_a_region_that_is_reset_behaves_although_the_others_do_not() -> None:
    """Until the next fault for all."""
    faults = Faults()
    faults.put({"error_next": {"ListJobs": ["InternalServiceException", 5]}, "account_closed": True})
    faults.reset("eu-west-1")
    assert errors(faults, "eu-west-1", "us-east-1") == [None, "InternalServiceException"]
    assert [faults.values(region)["account_closed"] for region in ("eu-west-1", "us-east-1")] == [False, True]
    faults.put({"account_closed": True})
    assert faults.values("eu-west-1")["account_closed"] is True


@pytest.mark.parametrize("region", [None, "eu-west-1"])
def test_there_is_one_cluster(region: str | None) -> None:
    """A node fails for all, and once, whoever asks for it."""
    faults = Faults()
    faults.reset("eu-west-1")
    faults.put({"fail_node": True}, region)
    assert faults.values("us-east-1")["fail_node"] is True
    assert faults.values("eu-west-1")["fail_node"] is True
    assert [faults.take_fail_node() for _ in range(2)] == [True, False]
    assert faults.values("eu-west-1")["fail_node"] is False


def test_over_the_wire() -> None:
    """The control path takes a Region; a reset without one is for all."""
    faults = Faults()
    client = Client(Application((), faults, Pages(Ledger(), lambda *_: None), dict))

    def ask(method: str, path: str, body: Any = None) -> Any:
        answer = client.open(f"/_glueray/{path}", method=method, data=None if body is None else json.dumps(body))
        return answer.status_code, json.loads(answer.text)

    faults.judge("ListJobs", "eu-west-1")
    status, values = ask("PUT", "faults?region=eu-west-1", {"quota_mdpu": 2})
    assert (status, values["quota_mdpu"]) == (200, 2)
    assert [ask("GET", each)[1]["quota_mdpu"] for each in ("faults", "faults?region=eu-west-1")] == [50, 2]
    status, refusal = ask("PUT", "faults?region=eu-west-1", {"quota": 2})
    assert (status, "unknown fault 'quota'" in refusal["message"]) == (400, True)
    assert ask("DELETE", "faults")[1]["quota_mdpu"] == 50
    assert ask("GET", "faults?region=eu-west-1")[1]["quota_mdpu"] == 50

    assert [ask("GET", each)[1] for each in ("calls", "calls?region=us-east-1")] == [{"ListJobs": 1}, {}]
    ask("DELETE", "calls?region=us-east-1")
    assert ask("GET", "calls")[1] == {"ListJobs": 1}
    ask("DELETE", "calls")
    assert ask("GET", "calls?region=eu-west-1")[1] == {}
