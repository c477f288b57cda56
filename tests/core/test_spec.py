"""Floor 0 by plain calls: rules, translators, and the job's diff."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path

import botocore.session
import pytest
from botocore.validate import ParamValidator
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_glueray.core.errors import SpecError
from airflow_provider_glueray.core.spec import RayJobSpec, Workers
from airflow_provider_glueray.core.validation import CLIENT_TOKEN_ARGUMENT, check_fields, is_template
from airflow_provider_glueray.hooks.glue.requests import service_arguments, to_glue_job, to_glue_job_update, to_glue_run

ROLE = "arn:aws:iam::123456789012:role/service/GlueRayRole"


def spec(**fields):
    """Return a spec with the given fields and plain others."""
    return RayJobSpec(**{"name": "nightly", "script": "s3://bucket/etl.py", "role": "GlueRayRole", **fields})


def stored(of: RayJobSpec, **changes):
    """Return a job as GetJob would: what we sent, with what the server adds and normalises."""
    sent = to_glue_job(of)
    sent.pop("Tags", None)
    return {
        **sent,
        "Role": f"arn:aws:iam::123456789012:role/{sent['Role']}",
        "Timeout": 2880,
        "MaxRetries": 0,
        "AllocatedCapacity": 4,
        "MaxCapacity": 4.0,
        "CreatedOn": "then",
        "LastModifiedOn": "now",
        "ExecutionClass": "STANDARD",
        **changes,
    }


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": ""}, "1 to 255"),
        ({"name": "n" * 256}, "1 to 255"),
        ({"script": "etl.sh"}, "must end in .py"),
        ({"script": "https://x/etl.py"}, "s3://bucket/key.py"),
        ({"script": "s3://Bad_Bucket/etl.py"}, "s3://bucket/key.py"),
        ({"role": ""}, "name or the ARN"),
        ({"role": "arn:aws:iam::12:role/x"}, "name or the ARN"),
        ({"arguments": {"a b": 1}}, "not a usable name"),
        ({"arguments": {"min-workers": 1}}, "use the field 'min_workers'"),
        ({"arguments": {"--pip-install": "x"}}, "use the field 'pip'"),
        ({"arguments": {CLIENT_TOKEN_ARGUMENT: "x"}}, "reserved"),
        ({"arguments": {"x": object()}}, "no text form"),
        ({"arguments": {"x": None}}, "no text form"),
        ({"arguments": {"x": {"y": object()}}}, "no text form"),
        ({"pip": ["pandas>=1,<2"]}, "splits the list at commas"),
        ({"pip": "ray==2.9"}, "cannot be upgraded"),
        ({"pip": ["Ray[data]"]}, "cannot be upgraded"),
        ({"pip": [""]}, "not a requirement"),
        ({"pip": ["s3fs", "./lib.whl"]}, "'./lib.whl' is not a requirement such as"),
        ({"pip": "https://host/lib.whl"}, "name @ https://host/name.whl (PEP 508)"),
        ({"pip": "lib @ s3://bucket/lib.whl"}, "fetches https:// only"),
        ({"pip": "lib[a,b]"}, "commas, also between extras"),
        ({"pip": ["--index-url=elsewhere"]}, "--index-url is an option of pip"),
        ({"py_modules": ["lib.whl"]}, ".zip"),
        ({"py_modules": ["s3://bucket/lib.py"]}, ".zip"),
        ({"working_dir": "s3://bucket/folder"}, ".zip"),
        ({"object_spilling_config": "{not json"}, "not JSON"),
        ({"object_spilling_config": "[]"}, "JSON object"),
        ({"object_spilling_config": {"a": {"directory_path": "/x"}, "b": {"uri": "s3://b"}}}, "at once"),
        ({"logging_configuration": {"CLOUDWATCH": False}}, "unknown switch 'CLOUDWATCH'"),
        ({"logging_configuration": {"S3": "False"}}, "True or False"),
        ({"tags": {"k" * 129: "v"}}, "too long"),
        ({"tags": {str(i): "v" for i in range(51)}}, "51 tags"),
        ({"max_concurrent_runs": 0}, "1 or more"),
        ({"overrides": {"glue": {"jobs": {}}}}, "must be"),
        *(
            ({"overrides": {"glue": {"job": {member: 1}}}}, member)
            for member in (
                "Timeout",
                "MaxCapacity",
                "AllocatedCapacity",
                "Connections",
                "ExecutionClass",
                "MaxRetries",
                "Name",
            )
        ),
        *(({"overrides": {"glue": {"run": {member: "x"}}}}, member) for member in ("JobName", "JobRunId")),
    ],
)
def test_each_rule_says_what_is_wrong(fields, words):
    """The message names the field, the rule and its source."""
    with pytest.raises(SpecError, match=re.escape(words)) as raised:
        spec(**fields)

    (problem,) = raised.value.problems
    assert problem.startswith(next(iter(fields)))
    assert problem.endswith("]")


@pytest.mark.parametrize(
    "item", ["ray-haystack", "s3fs[boto3]~=2023.4", "lib @ https://host/lib.whl", "git @ git+https://host/x"]
)
def test_what_pip_may_name(item):
    """One extra, one bound, an address with a name; a name that only begins like Ray's."""
    assert spec(pip=item).pip == (item,)


def test_the_script_is_no_module():
    """One file cannot be uploaded as it is and as an archive."""
    with pytest.raises(SpecError, match=r"etl\.py' is the script"):
        spec(script="etl.py", py_modules=["helpers.py", "etl.py"])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"worker_type": "G.1X"}, "Z.2X"),
        ({"number_of_workers": 0}, "1 or more"),
        ({"number_of_workers": True}, "whole number"),
        ({"number_of_workers": "two"}, "whole number"),
        ({"min_workers": 3}, "must not exceed number_of_workers=2"),
        ({"min_workers": -1}, "0 or more"),
        ({"object_store_memory_head": 0}, "1 to 100"),
        ({"object_store_memory_worker": 101}, "1 to 100"),
    ],
)
def test_each_rule_of_workers(fields, words):
    """The shape of the cluster is checked on its own."""
    with pytest.raises(SpecError, match=words):
        Workers(**fields)


def test_all_problems_at_once():
    """A DAG author learns of every mistake in one go."""
    with pytest.raises(SpecError) as raised:
        spec(name="", script="x", role="")

    assert len(raised.value.problems) == 3


def test_values_of_arguments_stay_out_of_messages():
    """Arguments may hold what should not be logged."""
    with pytest.raises(SpecError) as raised:
        spec(arguments={"a": "s3cret", "b": object()})

    assert "s3cret" not in str(raised.value)


def test_one_worker_warns():
    """The general minimum of 2 is unverified for Ray: allowed, with a word."""
    with pytest.warns(UserWarning, match="unverified"):
        Workers(number_of_workers=1)


def test_a_rule_waits_for_its_fields():
    """At parse, a rule whose other field is a template is left for later."""
    check_fields({"min_workers": 9})
    with pytest.raises(SpecError):
        check_fields({"min_workers": 9, "number_of_workers": 2})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("{{ ds }}", True),
        ("{% if x %}", True),
        ({"a": ["{{ x }}"]}, True),
        ({"{{ k }}": 1}, True),
        ("{x}", False),
        (1, False),
    ],
)
def test_templates_are_recognised(value, expected):
    """Jinja text anywhere inside makes a value unrendered."""
    assert is_template(value) is expected


def test_arguments_become_text():
    """Strings stay, booleans are lower case, dates ISO, containers JSON; names get their dashes once."""
    arguments = spec(
        arguments={"a": "x y", "--b": True, "c": 1.5, "d": date(2026, 11, 22), "e": [1, {"k": None}], "f": Path("/p")}
    ).arguments

    assert arguments == {
        "--a": "x y", "--b": "true", "--c": "1.5", "--d": "2026-11-22", "--e": '[1, {"k": null}]', "--f": "/p",
    }  # fmt: skip


@given(
    st.dictionaries(st.from_regex(r"[a-z][a-z0-9_.]{0,9}", fullmatch=True), st.text() | st.integers() | st.booleans())
)
def test_any_argument_reaches_the_request_as_text(arguments):
    """Whatever is accepted is a map from text to text, as the service wants it."""
    request = to_glue_run(spec(arguments=arguments), "mark")

    assert {key: request["Arguments"][f"--{key}"] for key in arguments} == {
        key: value if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
        for key, value in arguments.items()
    }
    assert all(isinstance(text, str) for text in request["Arguments"].values())


def test_overrides_of_a_run_take_nothing_away():
    """What a run is found by, and what the task gives it, stay; what they add is there."""
    over = {"Arguments": {"--more": "1", "--glueray_client_token": "x"}, "NumberOfWorkers": 9}
    request = to_glue_run(spec(arguments={"day": "1"}, overrides={"glue": {"run": over}}), "m")

    assert request["Arguments"] == {"--day": "1", "--more": "1", "--glueray_client_token": "m"}
    assert request["NumberOfWorkers"] == 9


FULL = {
    "workers": Workers("5", "1", object_store_memory_head=30, object_store_memory_worker="40"),
    "pip": ["pandas==1.5.3", "s3fs~=2023.4"],
    "py_modules": "s3://bucket/lib.zip",
    "working_dir": "s3://bucket/work.zip",
    "object_spilling_config": {"type": "smart_open", "params": {"uri": "s3://bucket/spill"}},
    "logging_configuration": {"CLOUDWATCH_METRICS": False},
    "tags": {"team": "etl"},
    "description": "The nightly step.",
    "overrides": {"glue": {"job": {"SecurityConfiguration": "secure"}, "run": {"JobRunQueuingEnabled": True}}},
}


def test_service_arguments_have_their_mixed_spelling():
    """Hyphens in the first four, underscores in the last four; JSON where JSON is meant."""
    arguments = service_arguments(spec(**FULL), "--min-workers")

    assert arguments == {
        "--min-workers": "1",
        "--pip-install": "pandas==1.5.3,s3fs~=2023.4",
        "--s3-py-modules": "s3://bucket/lib.zip",
        "--working-dir": "s3://bucket/work.zip",
        "--object_spilling_config": json.dumps(FULL["object_spilling_config"], sort_keys=True),
        "--object_store_memory_head": "30",
        "--object_store_memory_worker": "40",
        "--logging_configuration": '{"CLOUDWATCH_METRICS": {"IS_ENABLED": "False"}}',
    }


@pytest.mark.parametrize(
    ("operation", "request_of"),
    [("CreateJob", to_glue_job), ("StartJobRun", lambda of: to_glue_run(of, "m")), ("UpdateJob", None)],
)
def test_requests_fit_the_model(operation, request_of):
    """Every request is one that botocore's own model accepts, without the members Ray refuses."""
    full = spec(**FULL)
    request = request_of(full) if request_of else to_glue_job_update(full, stored(spec()))
    model = botocore.session.get_session().get_service_model("glue")
    shape = model.operation_model(operation).input_shape

    assert ParamValidator().validate(request, shape).generate_report() == ""
    assert set(request) <= set(shape.members)
    assert not {"Timeout", "MaxCapacity", "AllocatedCapacity"} & set(request.get("JobUpdate", request))


def test_what_the_server_adds_is_no_difference():
    """Timeout, capacities, dates, a role's ARN and foreign arguments do not rewrite the job every night."""
    of = spec(**FULL)
    current = stored(of)
    current["DefaultArguments"] = {**current["DefaultArguments"], "--enable-metrics": "true"}
    current["Command"] = {**current["Command"], "Extra": "normalised"}

    assert to_glue_job_update(of, current) is None
    assert to_glue_job_update(spec(role=ROLE), stored(spec(role=ROLE), Role=ROLE)) is None


@pytest.mark.parametrize(
    "change",
    [
        {"script": "s3://bucket/new.py"},
        {"workers": Workers(3)},
        {"pip": ["x==1"]},
        {"role": "Other"},
        {"glue_version": "5.0"},
        {"max_concurrent_runs": 2},
        {"description": "new"},
    ],
)
def test_a_real_difference_is_updated(change):
    """What the DAG changes is sent, and read-only members are not sent back."""
    update = to_glue_job_update(spec(**change), stored(spec()))

    assert update is not None
    assert not {"Timeout", "MaxCapacity", "AllocatedCapacity", "Name", "CreatedOn"} & set(update["JobUpdate"])


def test_an_update_keeps_what_others_set_and_drops_what_we_took_back():
    """UpdateJob replaces everything, so foreign settings travel along; our own removed argument goes."""
    current = stored(spec(pip=["x==1"]), NotificationProperty={"NotifyDelayAfter": 5})
    current["DefaultArguments"]["--theirs"] = "1"
    update = to_glue_job_update(spec(), current)

    assert update is not None
    assert update["JobUpdate"]["NotificationProperty"] == {"NotifyDelayAfter": 5}
    assert update["JobUpdate"]["DefaultArguments"] == {"--theirs": "1"}


def test_local_files_are_found_and_replaced():
    """Only local paths are uploaded; a spec with URIs stays as it is."""
    of = spec(script="etl.py", py_modules=["lib.zip", "s3://b-b/x.zip"], working_dir="work.zip")

    assert of.local_files() == ("etl.py", "lib.zip", "work.zip")
    moved = of.with_uploads({name: f"s3://bucket/{name}" for name in of.local_files()})
    assert moved.local_files() == ()
    assert moved.py_modules == ("s3://bucket/lib.zip", "s3://b-b/x.zip")
