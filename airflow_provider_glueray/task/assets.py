"""What a run has reported of its outputs: into Airflow's asset events, and into OpenLineage where that is installed.

The reports are lines of the run's log (``glueray_step/reports.py``), so they arrive in the same way from every
backend; a report that is lost with a log costs numbers, never a task.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, AssetAlias

from airflow_provider_glueray.core.runs import Outcome

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_glueray.core.drivers import TaskLog


def by_outlet(
    reports: Sequence[Mapping[str, Any]], outlets: Sequence[Any]
) -> tuple[dict[int, dict[str, Any]], list[Any]]:
    """Sort reports by the outlet that they name, by its position; return also those that name none.

    Several reports of one outlet become one: rows and bytes add up, of the rest the last word counts. A report that
    names nothing belongs to the only outlet.
    """
    found: dict[int, dict[str, Any]] = {}
    strays = []
    for report in reports:
        name = str(report.get("asset", "")).rstrip("/")
        at = [at for at, each in enumerate(outlets) if (name in _names(each) if name else len(outlets) == 1)]
        if not at or isinstance(outlets[at[0]], AssetAlias):
            strays.append(report)
            continue
        figures = found.setdefault(at[0], {})
        for key, value in report.items():
            before = figures.get(key, 0)
            is_sum = key in ("rows", "bytes") and _is_number(value) and _is_number(before)
            figures[key] = before + value if is_sum else value
    return found, strays


def note_reports(outcome: Outcome, outlets: Sequence[Any], context: Context, log: TaskLog) -> None:
    """Put what a run has reported into the events of the task's outlets; what Airflow refuses costs a line."""
    try:
        _note_reports(outcome, outlets, context, log)
    except Exception as error:  # the run has succeeded, and so has its task
        log.log(logging.WARNING, "What the run has reported could not be noted: %s", error)


def _note_reports(outcome: Outcome, outlets: Sequence[Any], context: Context, log: TaskLog) -> None:
    from airflow_provider_glueray.core.storable import storable  # of no use where a DAG is parsed

    found, strays = by_outlet(outcome.reports, outlets)
    events = context["outlet_events"]
    run = {"glueray_run": outcome.snapshot.ref.id}
    for at, figures in found.items():
        figures = {key: value for key, value in figures.items() if key != "asset"}
        events[outlets[at]].extra.update(storable({**figures, **run}))
    aliases = [each for each in outlets if isinstance(each, AssetAlias)]
    for report in strays:
        name = str(report.get("asset", ""))
        if len(aliases) == 1 and name:
            extra = {key: value for key, value in report.items() if key != "asset"}
            try:
                asset = Asset(name)
            except ValueError as error:
                log.log(logging.WARNING, "The run reports of %r, which Airflow refuses as an asset: %s", name, error)
                continue
            events[aliases[0]].add(asset, extra=storable({**extra, **run}))
        elif outlets:
            log.info("The run reports of %r, which is none of the task's outlets", name)


def lineage_of(outcome: Outcome, inlets: Sequence[Any], outlets: Sequence[Any]) -> Any:
    """Return OpenLineage's ``OperatorLineage``: the run at the service, and rows and bytes of the outlets.

    None where apache-airflow-providers-openlineage is not installed.
    """
    try:
        from airflow.providers.openlineage.extractors.base import OperatorLineage
        from airflow.providers.openlineage.extractors.manager import ExtractorManager
        from openlineage.client.event_v2 import InputDataset, OutputDataset
        from openlineage.client.facet_v2 import (
            OutputDatasetFacet,
            external_query_run,
            output_statistics_output_dataset,
        )
    except ImportError:
        return None
    found, _ = by_outlet(outcome.reports, outlets)
    convert = ExtractorManager.convert_to_ol_dataset
    outputs = []
    for at, dataset in ((at, convert(outlet)) for at, outlet in enumerate(outlets)):
        if dataset is not None:
            figures = found.get(at, {})
            statistics: OutputDatasetFacet = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
                rowCount=figures.get("rows"), size=figures.get("bytes")
            )
            facets = {"outputStatistics": statistics} if figures else {}
            outputs.append(OutputDataset(dataset.namespace, dataset.name, outputFacets=facets))
    read = (convert(inlet) for inlet in inlets)
    ref = outcome.snapshot.ref
    return OperatorLineage(
        inputs=[InputDataset(each.namespace, each.name) for each in read if each is not None],
        outputs=outputs,
        run_facets={"externalQuery": external_query_run.ExternalQueryRunFacet(ref.id, ref.backend)},
    )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _names(outlet: Any) -> set[str]:
    """Return the ways to name an outlet; of an alias there is none, it stands for what is reported."""
    if isinstance(outlet, AssetAlias):
        return set()
    return {str(getattr(outlet, part)).rstrip("/") for part in ("name", "uri") if getattr(outlet, part, None)}
