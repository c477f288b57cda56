"""`glueray render`: what a task would send to a backend, without sending anything.

The requests are those that the hooks send, made by the same translators; of connections nothing is known here.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_provider_glueray.cli.output import EXIT_OK
from airflow_provider_glueray.core.errors import GlueRayError
from airflow_provider_glueray.core.runs import GLUE_STATEMENT, KUBERAY_JOB, RAY_JOB
from airflow_provider_glueray.core.spec import RayJobSpec
from airflow_provider_glueray.hooks.glue.requests import to_glue_job, to_glue_run
from airflow_provider_glueray.hooks.glue.statements import prepare

if TYPE_CHECKING:
    from airflow_provider_glueray.notebooks.executed import NotebookPlan

#: Name, command and body of each request.
_Requests = Iterator[tuple[str, str, Any]]
#: Stands for what only a run has.
CLIENT_TOKEN = "0" * 32
#: The moment that templates are rendered for.
MOMENT = datetime(2026, 1, 1, tzinfo=timezone.utc)
#: Stand for what another task will have made.
STAND_INS = {"cluster": "default/the-cluster", "session_id": "THE-SESSION"}


def add_render(groups: Any) -> None:
    """Register the command with argparse's subparsers."""
    render = groups.add_parser(
        "render",
        help="print what a task would send to a backend",
        description="Print the requests or the manifest of a task, and the commands that do the same. Nothing is sent, "
        "uploaded or looked up: templates are rendered for 2026-01-01 and the defaults of the DAG's params.",
    )
    render.add_argument("dag_file", help="the file of the DAG")
    render.add_argument("task_id", help="a task of GlueRayJobOperator, GlueRayNotebookOperator or @task.glue_ray")
    render.add_argument("--dag-id", help="which DAG, when the file has several with such a task")
    render.add_argument("--to", choices=sorted(_BACKENDS), default="glue", help="the backend (%(default)s)")
    render.add_argument("--json", action="store_true", help="print the requests alone, as JSON")
    render.set_defaults(run=_render)


def _render(arguments: argparse.Namespace) -> int:
    # Airflow logs to stdout, where nothing but the answer belongs.
    out = sys.stdout
    with redirect_stdout(sys.stderr):
        operator = _operator(arguments.dag_file, arguments.task_id, arguments.dag_id)
        context = _render_templates(operator)
        if arguments.to != "kuberay" and getattr(operator, "cluster", None) == STAND_INS["cluster"]:
            operator.cluster = ""  # what is to make it makes none there
        requests = list(_requests(operator, context, arguments.to))
    if arguments.json:
        print(json.dumps({name: body for name, _, body in requests if body is not None}, indent=2), file=out)
        return EXIT_OK
    for name, command, body in requests:
        print(f"# {name}", file=out)
        if body is not None:
            print(json.dumps(body, indent=2), file=out)
        print(f"\n{command}\n", file=out)
    return EXIT_OK


# -- the task -------------------------------------------------------------------------------------------------


def _operator(file: str, task_id: str, dag_id: str | None) -> Any:
    """Return the operator of a task in a file.

    :raises GlueRayError: the file is not there or does not parse, or there is no such task, or it is of another kind
        or mapped.
    """
    if not Path(file).exists():
        raise GlueRayError(f"there is no file {file}")
    from airflow_provider_glueray.airflow_compat import DagBag
    from airflow_provider_glueray.operators.glue_jobs import GlueRayJobOperator
    from airflow_provider_glueray.operators.notebooks import GlueRayNotebookOperator

    bag = DagBag(str(Path(file).absolute()))
    if bag.import_errors:
        raise GlueRayError(next(iter(bag.import_errors.values())).strip())
    dags = [dag for name, dag in sorted(bag.dags.items()) if dag_id in (None, name) and dag.has_task(task_id)]
    if len(dags) != 1:
        named = ", ".join(dag.dag_id for dag in dags)
        raise GlueRayError(
            f"several DAGs of {file} have a task {task_id!r}: {named}; name one with --dag-id"
            if dags
            else f"no DAG of {file} has a task {task_id!r}; there are "
            + (", ".join(f"{dag.dag_id}: {' '.join(dag.task_ids)}" for dag in bag.dags.values()) or "no DAGs")
        )
    operator: Any = dags[0].get_task(task_id)
    if operator.is_mapped and issubclass(operator.operator_class, GlueRayJobOperator):
        mapped = operator.op_kwargs_expand_input.value if hasattr(operator, "op_kwargs_expand_input") else {}
        # The job is the same for all of them: what differs are the arguments of a function.
        operator = operator.unmap({"op_kwargs": dict.fromkeys(mapped)}) if mapped else operator
    if not isinstance(operator, (GlueRayJobOperator, GlueRayNotebookOperator)):
        kind = "a mapped task" if operator.is_mapped else f"a {type(operator).__name__}"
        raise GlueRayError(
            f"{task_id} is {kind}; only GlueRayJobOperator, GlueRayNotebookOperator and @task.glue_ray can be rendered"
        )
    return operator


def _render_templates(operator: Any) -> Any:
    """Render the operator's templates as far as that can be done without a run; return the context."""
    from airflow.sdk import XComArg

    run = SimpleNamespace(
        run_id="manual__2026-01-01", logical_date=MOMENT, run_after=MOMENT, data_interval_start=MOMENT,
        data_interval_end=MOMENT, conf={},
    )  # fmt: skip
    ti = SimpleNamespace(dag_id=operator.dag_id, task_id=operator.task_id, run_id=run.run_id, try_number=1)
    context: dict[str, Any] = {
        "ti": ti, "task_instance": ti, "dag": operator.dag, "task": operator, "dag_run": run, "run_id": run.run_id,
        "params": operator.dag.params.dump() | operator.params.dump(), "ds": "2026-01-01", "ts": MOMENT.isoformat(),
        "ds_nodash": "20260101", "logical_date": MOMENT, "data_interval_start": MOMENT, "data_interval_end": MOMENT,
    }  # fmt: skip
    environment = operator.get_template_env()
    for name in operator.template_fields:
        if name in ("op_args", "op_kwargs"):
            continue
        if name in STAND_INS and isinstance(getattr(operator, name), XComArg):
            setattr(operator, name, STAND_INS[name])
            continue
        try:
            setattr(operator, name, operator.render_template(getattr(operator, name), context, environment))
        except Exception as error:  # what a template may raise, only its author knows
            raise GlueRayError(
                f"{name}={getattr(operator, name)!r} cannot be rendered without a run: {error}"
            ) from error
    return context


def _requests(operator: Any, context: Any, to: str) -> _Requests:
    """Yield name, command and body of each request, in their order."""
    from airflow_provider_glueray.operators.notebooks import GlueRayNotebookOperator

    if not isinstance(operator, GlueRayNotebookOperator):
        arguments = operator._call_arguments(CLIENT_TOKEN)
        yield from _BACKENDS[to](_Task(operator._spec(context), operator.staging_uri, operator.run_timeout, arguments))
        return
    if operator.notebook.startswith("s3://"):
        raise GlueRayError(f"{operator.notebook} is in S3, where nothing is looked up from here")
    path = Path(operator._relative_to_dag(operator.notebook))
    if not path.is_file():
        raise GlueRayError(f"there is no notebook {path}")
    operator.backend = _NOTEBOOK_BACKENDS[to]  # the connection is not asked
    plan = operator._plan(operator._parse(path.read_text(encoding="utf-8"), lambda path, text: None))
    if to == "glue":
        yield from _to_session(plan, context["ti"])
        return
    from airflow_provider_glueray.notebooks.as_job import call_arguments, cells_of, job_spec

    spec, arguments = job_spec(plan, context["ti"]), call_arguments(plan, CLIENT_TOKEN)
    where = f"{next(iter(arguments.values()))}/cells.json"
    yield "cells.json", _command("aws", "s3", "cp", "cells.json", where), cells_of(plan.notebook)
    yield from _BACKENDS[to](_Task(spec, operator.staging_uri, operator.run_timeout, arguments))


# -- the backends ---------------------------------------------------------------------------------------------


class _Task(NamedTuple):
    """What is known of a task without its connection.

    :param arguments: those that a run adds to the spec's.
    """

    spec: RayJobSpec
    staging_uri: str | None
    run_timeout: float | None
    arguments: Mapping[str, str]


def _to_session(plan: NotebookPlan, ti: Any) -> _Requests:
    """Yield a notebook on AWS Glue: its own session, unless it is given one, and a statement for each cell."""
    from airflow_provider_glueray.hooks.glue.requests import session_id_for, to_glue_session
    from airflow_provider_glueray.notebooks.in_session import notebook_session_spec

    session_id = plan.session_id or session_id_for(ti.dag_id, ti.task_id, CLIENT_TOKEN)
    if not plan.session_id:
        spec = notebook_session_spec(plan, ti)
        role = spec.role if spec.role.startswith("arn:") else f"arn:aws:iam::ACCOUNT:role/{spec.role}"
        body = to_glue_session(spec, session_id, CLIENT_TOKEN, role)
        yield "CreateSession", _command("aws", "glue", "create-session", "--cli-input-json", json.dumps(body)), body
    for cell in plan.notebook.cells:
        if cell.code:
            request = {"SessionId": session_id, "Code": prepare(cell.code, CLIENT_TOKEN, plan.notebook.where(cell))}
            command = _command("aws", "glue", "run-statement", "--cli-input-json", json.dumps(request))
            yield f"RunStatement of cell {cell.number}", command, request


def _to_glue(task: _Task) -> _Requests:
    staged = yield from _staged(task)
    started = replace(staged, arguments={**staged.arguments, **task.arguments})
    job, run = to_glue_job(staged), to_glue_run(started, CLIENT_TOKEN)
    yield "CreateJob", _command("aws", "glue", "create-job", "--cli-input-json", json.dumps(job)), job
    yield "StartJobRun", _command("aws", "glue", "start-job-run", "--cli-input-json", json.dumps(run)), run


def _to_ray(task: _Task) -> _Requests:
    from airflow_provider_glueray.hooks.ray.packages import packed
    from airflow_provider_glueray.hooks.ray.requests import to_ray_submission

    uris, packages = packed(task.spec)
    body = to_ray_submission(task.spec, CLIENT_TOKEN, uris, task.arguments)
    for package in packages:
        path = f'"$RAY_ADDRESS"/api/packages/{package.uri.replace("://", "/")}'
        yield f"{package.archive.name}, packed by the operator", f"curl -X PUT --data-binary @package.zip {path}", None
    words = ["ray", "job", "submit", "--submission-id", body["submission_id"]]
    words += ["--runtime-env-json", json.dumps(body["runtime_env"]), "--metadata-json", json.dumps(body["metadata"])]
    for name in ("entrypoint_num_cpus", "entrypoint_num_gpus", "entrypoint_memory"):
        words += [f"--{name.replace('_', '-')}", str(body[name])] if name in body else []
    if "entrypoint_resources" in body:
        words += ["--entrypoint-resources", json.dumps(body["entrypoint_resources"])]
    note = "# where the cluster does not scale; one that does is asked for min_workers too\n"
    where = note if task.spec.workers.min_workers else ""
    yield "POST /api/jobs/", f"{where}{_command(*words)} -- {body['entrypoint']}", body


def _to_kuberay(task: _Task) -> _Requests:
    from airflow_provider_glueray.hooks.kuberay.manifests.rayjob import to_rayjob
    from airflow_provider_glueray.hooks.kuberay.settings import RayJobSettings

    # The image may stand in the connection, which is not asked here.
    given = {"image": "IMAGE-OF-THE-CONNECTION", **task.spec.overrides.get("kuberay", {})}
    settings = RayJobSettings.of(given, namespace="default")
    staged = yield from _staged(task)
    seconds = math.ceil(task.run_timeout) if task.run_timeout else None
    rayjob = to_rayjob(staged, CLIENT_TOKEN, arguments=task.arguments, settings=settings, deadline_seconds=seconds)
    yield "RayJob", "kubectl apply -f -", rayjob


#: The backend of a notebook: on AWS Glue that of its cells.
_NOTEBOOK_BACKENDS = {"glue": GLUE_STATEMENT, "kuberay": KUBERAY_JOB, "ray": RAY_JOB}
_BACKENDS: Mapping[str, Callable[[_Task], _Requests]] = {
    "glue": _to_glue,
    "kuberay": _to_kuberay,
    "ray": _to_ray,
}


def _staged(task: _Task) -> Generator[tuple[str, str, Any], None, RayJobSpec]:
    """Yield the uploads of local files; return the spec with the URIs they will have."""
    from airflow_provider_glueray.packaging.upload import object_uri, read_local_files

    uris = {}
    for file, archive in read_local_files(task.spec).items():
        uris[file] = object_uri(archive, task.staging_uri or "s3://STAGING")
        name = str(getattr(file, "name", file))
        packed = "" if archive.name == name.rpartition("/")[2] else ", packed by the operator"
        yield f"{archive.name}{packed}", _command("aws", "s3", "cp", archive.name, uris[file]), None
    return task.spec.with_uploads(uris)


def _command(*words: str) -> str:
    return shlex.join(words)
