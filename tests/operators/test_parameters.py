"""Rules that hold for the parameters of every operator and sensor."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import airflow_provider_glueray
from airflow_provider_glueray import (
    GlueRayCreateClusterOperator,
    GlueRayCreateSessionOperator,
    GlueRayDeleteClusterOperator,
    GlueRayJobOperator,
    GlueRayJobSensor,
    GlueRayNotebookOperator,
    GlueRaySessionSensor,
    GlueRayStatementOperator,
    GlueRayStopSessionOperator,
)
from airflow_provider_glueray.core.errors import SpecError
from airflow_provider_glueray.core.spec import RaySessionSpec
from airflow_provider_glueray.core.validation import seconds_of
from airflow_provider_glueray.hooks.glue.requests import to_glue_session

OPERATORS: dict[type, dict[str, Any]] = {
    GlueRayJobOperator: {"script": "s3://bucket/step.py"},
    GlueRayNotebookOperator: {"notebook": "a.ipynb", "output_notebook": "b.ipynb"},
    GlueRayCreateSessionOperator: {"role": "R"},
    GlueRayStatementOperator: {"session_id": "s", "code": "1"},
    GlueRayStopSessionOperator: {"session_id": "s"},
    GlueRayCreateClusterOperator: {},
    GlueRayDeleteClusterOperator: {"cluster": "a/b"},
}
SENSORS: dict[type, dict[str, Any]] = {GlueRayJobSensor: {"job_name": "j"}, GlueRaySessionSensor: {"session_id": "s"}}
#: Parameters that are durations, by those operators that have them.
DURATIONS = {
    **{name: tuple(OPERATORS) for name in ("run_timeout", "queue_timeout", "poll_interval")},
    "idle_timeout": (GlueRayCreateSessionOperator, GlueRayNotebookOperator),
    "session_timeout": (GlueRayCreateSessionOperator, GlueRayNotebookOperator),
    "max_lifetime": (GlueRayCreateClusterOperator,),
}


def make(kind: type, **kwargs: Any) -> Any:
    return kind(task_id="step", **{**(OPERATORS | SENSORS)[kind], **kwargs})


def test_every_public_operator_is_here():
    public = {getattr(airflow_provider_glueray, name) for name in airflow_provider_glueray.__all__}
    kinds = {each for each in public if inspect.isclass(each) and each.__name__.endswith(("Operator", "Sensor"))}
    assert kinds == {*OPERATORS, *SENSORS}


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kinds in DURATIONS.items() for kind in kinds])
def test_a_bare_number_is_seconds(name, kind):
    """And a timedelta means the same, wherever there is a duration."""
    given_seconds, given_delta = (make(kind, **{name: value}) for value in (7200, timedelta(hours=2)))

    assert seconds_of(getattr(given_seconds, name)) == seconds_of(getattr(given_delta, name)) == 7200


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kinds in DURATIONS.items() for kind in kinds])
@pytest.mark.parametrize("value", [-1, float("nan"), "soon", True, timedelta(seconds=-5)])
def test_what_is_no_duration_is_refused(name, kind, value):
    """While the DAG is parsed, in words that name the unit."""
    with pytest.raises(SpecError, match=f"{name}=.*a timedelta or a number of seconds"):
        make(kind, **{name: value})


@pytest.mark.parametrize("name", ["idle_timeout", "session_timeout"])
def test_a_number_that_was_meant_as_minutes(name):
    """Is below the service's least, and refused instead of cut to a minute."""
    with pytest.raises(SpecError, match=f"{name}=30: must be a minute or more"):
        make(GlueRayCreateSessionOperator, **{name: 30})


@given(st.integers(min_value=60, max_value=10**7))
def test_the_service_counts_whole_minutes(seconds):
    """A part of one counts as one."""
    spec = RaySessionSpec(role="R", idle_timeout=seconds, session_timeout=timedelta(seconds=seconds))
    request = to_glue_session(spec, "s", "token", "arn:aws:iam::123456789012:role/R")

    assert request["IdleTimeout"] == request["Timeout"] == -(-seconds // 60)


@pytest.mark.parametrize("mode", ["poke", "reschedule"])
@pytest.mark.parametrize("interval", [120, timedelta(minutes=2)])
@pytest.mark.parametrize("kind", SENSORS)
def test_a_sensor_has_one_interval(kind, interval, mode):
    """That of Airflow, in every mode; and ten seconds unless it says otherwise."""
    sensor = make(kind, poke_interval=interval, mode=mode)

    assert sensor.poke_interval == 120
    assert "poll_interval" not in {
        name for base in kind.__mro__ for name in inspect.signature(base.__init__).parameters
    }
    assert make(kind).poke_interval == 10


def test_a_deployment_has_one_default_connection():
    """`[glueray] conn_id` is that of every operator and sensor."""
    code = (
        "import json, airflow_provider_glueray as p\n"
        "from tests.operators.test_parameters import OPERATORS, SENSORS, make\n"
        "print('FOUND ' + json.dumps({k.__name__: make(k).conn_id for k in (*OPERATORS, *SENSORS)}))"
    )
    environment = {**os.environ, "AIRFLOW__GLUERAY__CONN_ID": "ours"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("FOUND "))

    assert set(json.loads(line.removeprefix("FOUND ")).values()) == {"ours"}
