"""Floor 0 by plain calls: what a session is made with, and the request for it."""

from __future__ import annotations

import re
from datetime import timedelta

import botocore.session
import pytest
from botocore.validate import ParamValidator

from airflow_provider_glueray.core.errors import SpecError
from airflow_provider_glueray.core.spec import RaySessionSpec, Workers
from airflow_provider_glueray.hooks.glue.requests import (
    replacement_session_id,
    session_id_for,
    to_glue_session,
    to_glue_session_again,
)

ARN = "arn:aws:iam::123456789012:role/GlueRayRole"
INPUT = botocore.session.get_session().get_service_model("glue").operation_model("CreateSession").input_shape
FULL = RaySessionSpec(
    role="GlueRayRole",
    workers=Workers(5, min_workers=1, object_store_memory_head=30, object_store_memory_worker=40),
    idle_timeout=timedelta(seconds=90),
    session_timeout=7200,
    pip=["emoji==2.0"],
    py_modules=["s3://b/m.zip"],
    working_dir="s3://b/w.zip",
    arguments={"enable-glue-datacatalog": True},
    tags={"team": "data"},
    description="why",
)


def test_the_whole_request():
    """Every field has its place, and botocore accepts it."""
    request = to_glue_session(FULL, "s-1", "mark", ARN)

    assert request == {
        "Id": "s-1",
        "Role": ARN,
        "Command": {"Name": "glueray", "PythonVersion": "3.9"},
        "GlueVersion": "4.0",
        "WorkerType": "Z.2X",
        "NumberOfWorkers": 5,
        "IdleTimeout": 2,
        "Timeout": 120,
        "Description": "why",
        "Tags": {"team": "data"},
        "DefaultArguments": {
            "--auto-scaling-ray-min-workers": "1",
            "--object_store_memory_head": "30",
            "--object_store_memory_worker": "40",
            "--pip-install": "emoji==2.0",
            "--s3-py-modules": "s3://b/m.zip",
            "--working-dir": "s3://b/w.zip",
            "--enable-glue-datacatalog": "true",
            "--glueray_client_token": "mark",
        },
    }
    assert not ParamValidator().validate(request, INPUT).has_errors()


def test_the_least_request_bounds_a_forgotten_session():
    """Nobody has to think of the timeouts for them to be there."""
    request = to_glue_session(RaySessionSpec(role=ARN), "s-1", "mark", ARN)

    assert (request["IdleTimeout"], request["Timeout"], request["NumberOfWorkers"]) == (30, 2880, 2)
    assert request["DefaultArguments"] == {"--glueray_client_token": "mark"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"role": "no role!"}, "role='no role!'"),
        ({"idle_timeout": 0}, "idle_timeout=0: must be a minute or more"),
        ({"session_timeout": "soon"}, "session_timeout='soon'"),
        ({"pip": ["ray==2.9"]}, "Ray itself cannot be upgraded"),
        ({"py_modules": ["m.tar"]}, "must be a local folder, or a .zip"),
        ({"arguments": {"--pip-install": "x"}}, "use the field 'pip'"),
        ({"arguments": {"--glueray_client_token": "x"}}, "is reserved"),
        ({"tags": {"": "x"}}, "tags"),
    ],
)
def test_rules(given, words):
    with pytest.raises(SpecError, match=re.escape(words)):
        RaySessionSpec(**{"role": ARN, **given})


def test_local_files_are_replaced_by_their_uploads():
    spec = RaySessionSpec(role=ARN, py_modules=["m.zip", "s3://b/n.zip"], working_dir="w.zip")

    assert spec.local_files() == ("m.zip", "w.zip")
    sent = spec.with_uploads({"m.zip": "s3://b/m.zip", "w.zip": "s3://b/w.zip"})
    assert (sent.py_modules, sent.working_dir, sent.local_files()) == (
        ("s3://b/m.zip", "s3://b/n.zip"),
        "s3://b/w.zip",
        (),
    )


def test_ids_fit_the_service_and_tell_whose_they_are():
    session_id = session_id_for("dag.with ümlaut", "group.create", "0123456789abcdef")

    assert session_id == "dag-with-mlaut-group-create-0123456789ab"
    assert len(session_id_for("d" * 250, "t" * 250, "0123456789abcdef")) <= 255
    assert len(replacement_session_id("s" * 255)) == 255
    assert replacement_session_id("s") == "s-again"


def test_the_successor_has_the_settings_of_the_one_before():
    """From what GetSession tells, without what only it may set."""
    session = {**to_glue_session(FULL, "s-1", "mark", ARN), "Status": "TIMEOUT", "CreatedOn": 1, "Progress": 1.0}
    del session["Timeout"], session["Tags"]
    again = to_glue_session_again(session, {"team": "data"})

    assert again == {**to_glue_session(FULL, "s-1", "mark", ARN), "Id": "s-1-again", "Timeout": 2880}
