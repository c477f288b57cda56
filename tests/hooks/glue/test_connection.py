"""What is missing of a connection is said in whole sentences, by the name that the user knows."""

from __future__ import annotations

import json

import pytest

from airflow_provider_glueray.core.errors import ConnectionConfigError
from airflow_provider_glueray.hooks.glue.jobs import GlueRayJobHook


@pytest.mark.parametrize(
    ("conn_id", "title"),
    [(None, "boto3's own credentials"), ("", "boto3's own credentials"), ("mine", "connection 'mine'")],
)
def test_a_region_that_is_missing_is_asked_for(monkeypatch, tmp_path, conn_id, title):
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AIRFLOW_CONN_MINE", json.dumps({"conn_type": "aws", "login": "a", "password": "b"}))
    with pytest.raises(ConnectionConfigError) as caught:
        GlueRayJobHook(conn_id).latest_run("step")
    words = str(caught.value)

    assert words.startswith(f"{title}: You must specify a region. Add it to the Airflow connection")
    assert "None" not in words
    assert ".." not in words
