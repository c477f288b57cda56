"""What a script reports of its outputs arrives in asset events and in OpenLineage, on real Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, Asset, AssetAlias
from airflow.utils.state import TaskInstanceState

from airflow_provider_glueray.glueray_step.reports import read_report, report
from airflow_provider_glueray.operators.glue_jobs import GlueRayJobOperator
from airflow_provider_glueray.task.assets import by_outlet

CLEAN = Asset("clean", uri="s3://my-bucket/clean/")
REJECTED = Asset("s3://my-bucket/rejected")
TELLS = """
import ray
from glueray_step import report

for part in (1, 2):
    report("s3://my-bucket/clean", rows=10 * part, bytes=100, part=part)
report("clean", note="by its name")
report(asset="s3://my-bucket/elsewhere", rows=1)
"""


@pytest.fixture
def make_step(dag: DAG, tmp_path: Path, fresh: Callable[[], int]) -> Callable[..., GlueRayJobOperator]:
    """Return a factory of operators that run a script given as text."""

    def make(source: str, **kwargs: Any) -> GlueRayJobOperator:
        (tmp_path / "step.py").write_text(source)
        settings = {"role": "GlueRayRole", "staging_uri": "s3://glueray-local/code", "deferrable": False, "dag": dag}
        return GlueRayJobOperator(task_id=f"told-{fresh()}", script=str(tmp_path / "step.py"), **{**settings, **kwargs})

    return make


def events_of(result: Any) -> dict[str, Any]:
    """Return the extra of each asset event, by the asset's name."""
    return {event["dest_asset_key"]["name"]: event["extra"] for event in result.message.outlet_events}


def test_reports_become_extra_of_asset_events(connected, make_step, make_task):
    """Rows and bytes of one asset add up; what is no outlet is left out."""
    result = make_task(make_step(TELLS, outlets=[CLEAN, REJECTED])).run()

    assert result.state == "success", result.error
    events = events_of(result)
    run_id = result.xcoms["return_value"]
    assert events["clean"] == {"rows": 30, "bytes": 200, "part": 2, "note": "by its name", "glueray_run": run_id}
    assert "s3://my-bucket/elsewhere" not in events


def test_an_alias_stands_for_what_is_reported(connected, make_step, make_task):
    """Which assets a run wrote may be known only to the run."""
    result = make_task(make_step(TELLS, outlets=[CLEAN, AssetAlias("any")])).run()

    (event,) = [event for event in result.message.outlet_events if "source_alias_name" in event]
    assert (event["source_alias_name"], event["dest_asset_key"]["uri"]) == ("any", "s3://my-bucket/elsewhere")
    assert event["extra"]["rows"] == 1


def test_without_outlets_nothing_is_sent_along(connected, make_step, make_task):
    """The helper is there for those who have outlets; a script that can do without it runs everywhere."""
    source = (
        "try:\n    from glueray_step import report\nexcept ImportError:\n    def report(*args, **kwargs):\n"
        "        print('absent')\nreport('x', rows=1)\n"
    )
    step = make_step(source)
    result = make_task(step).run()

    assert result.state == "success", result.error
    assert "--s3-py-modules" not in step.hook.get_job(f"{step.dag_id}-{step.task_id}")["DefaultArguments"]


def test_openlineage_hears_of_it(connected, make_step, make_task):
    """Through the provider's own extractor: the run at the service, rows and bytes of what was written."""
    from airflow.providers.openlineage.extractors.manager import ExtractorManager

    one = make_task(make_step(TELLS, outlets=[CLEAN], inlets=[Asset("s3://my-bucket/raw")]))
    result = one.run()
    assert result.state == "success", result.error

    found = ExtractorManager().extract_metadata(
        dagrun=one.context["dag_run"],
        task=one.running,
        task_instance_state=TaskInstanceState.SUCCESS,
        task_instance=one.context["ti"],
    )

    (output,), (read,) = found.outputs, found.inputs
    assert (output.namespace, output.name) == ("s3://my-bucket", "clean")
    assert (output.outputFacets["outputStatistics"].rowCount, output.outputFacets["outputStatistics"].size) == (30, 200)
    assert (read.namespace, read.name) == ("s3://my-bucket", "raw")
    assert found.run_facets["externalQuery"].externalQueryId == result.xcoms["return_value"]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('glueray-report: {"rows": 1}', {"rows": 1}),
        ('\x1b[36m(f pid=7)\x1b[0m glueray-report: {"rows": 1}\x1b[0m', {"rows": 1}),
        ("glueray-report: nonsense", None),
        ("glueray-report: [1]", None),
        ("rows: 1", None),
    ],
)
def test_lines_of_a_log(line, found):
    assert read_report(line) == found


def test_a_report_is_one_line(capsys):
    report("s3://b/a", rows=0, bytes=None, day="2026-11-21")

    (line,) = capsys.readouterr().out.splitlines()
    assert read_report(line) == {"asset": "s3://b/a", "rows": 0, "day": "2026-11-21"}


def test_a_report_without_a_name_belongs_to_the_only_outlet():
    assert by_outlet([{"rows": 1}, {"rows": 2}], [CLEAN]) == ({0: {"rows": 3}}, [])
    assert by_outlet([{"rows": 1}], [CLEAN, REJECTED]) == ({}, [{"rows": 1}])
