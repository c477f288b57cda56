"""``@task.glue_ray``: a function of the DAG file whose body runs on the Ray cluster.

The function becomes the script of a run (``functions.py``); its arguments and its value pass through a folder
of that run in the staging area, which the code in ``glueray_step`` reads and writes at the other end.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from airflow.sdk import Context
from airflow.sdk.bases.decorator import DecoratedOperator, TaskDecorator, task_decorator_factory

from airflow_provider_glueray.airflow_compat import PassesXComPush
from airflow_provider_glueray.core.errors import (
    FunctionFailed,
    GlueRayError,
    PackagingError,
    ResultMissing,
    RunFailed,
    SpecError,
)
from airflow_provider_glueray.core.runs import Outcome, RunRef, RunState, StatementError
from airflow_provider_glueray.core.spec import SourceFile
from airflow_provider_glueray.core.validation import items_of
from airflow_provider_glueray.glueray_step.calls import ARGUMENTS, CALL, RESULT
from airflow_provider_glueray.glueray_step.values import NotSerializableError, decode, encode
from airflow_provider_glueray.operators.glue_jobs import GlueRayJobOperator
from airflow_provider_glueray.packaging.function_source import Script, check_function, source_of, to_script
from airflow_provider_glueray.task.life import Start
from airflow_provider_glueray.task.operator import check_rendered, is_unrendered
from airflow_provider_glueray.task.record import RunRecord, call_uri, empty_results


class GlueRayDecoratedOperator(DecoratedOperator, GlueRayJobOperator, PassesXComPush):
    """Run a function as a Ray job and return its value; made by :func:`glue_ray_task`.

    :raises SourceFileError, PackagingError: while the DAG is parsed, when the function or an object that it uses has no
        source to send.
    :raises SpecError: likewise, for each value that breaks a rule.
    """

    template_fields: Sequence[str] = (
        *DecoratedOperator.template_fields,
        *(name for name in GlueRayJobOperator.template_fields if name != "script"),
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **DecoratedOperator.template_fields_renderers,
        **GlueRayJobOperator.template_fields_renderers,
    }
    custom_operator_name: ClassVar[str] = "@task.glue_ray"

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Collection[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        check_function(python_callable)
        if not kwargs.get("wait_for_completion", True):
            raise SpecError(["wait_for_completion=False: a function's value is there when its run has ended"])
        if not kwargs.get("staging_uri"):
            raise SpecError(["staging_uri=None: a function, its arguments and its value pass through an S3 prefix"])
        super().__init__(
            python_callable=python_callable,
            op_args=op_args,
            op_kwargs=op_kwargs,
            script=f"{python_callable.__name__}.py",
            **kwargs,
        )
        self._refuse_strays(to_script(python_callable))

    def get_python_source(self) -> str:
        """Return the function's source without its task decorators."""
        return source_of(self.python_callable)

    # -- what it says of its runs -----------------------------------------------------------------------------

    def _prepare(self, context: Context) -> Start:
        prepared = self._prepare_job(context)
        args, kwargs = self._call(context)
        sent = False

        def start(client_token: str) -> RunRef:
            nonlocal sent
            folder = self.hook.storage.folder(self._call_uri(client_token))
            if not sent:  # and not again for each time that the service has had no capacity
                empty_results(folder, ARGUMENTS, [RESULT])
                _send(folder, args, kwargs)
                sent = True
            return prepared.start(client_token, self._call_arguments(client_token))

        return start

    def _script(self) -> SourceFile:
        return SourceFile(f"{self.python_callable.__name__}.py", to_script(self.python_callable).text)

    def _call_arguments(self, client_token: str) -> Mapping[str, str]:
        """Return where the arguments of the function lie."""
        return {f"--{CALL}": self._call_uri(client_token)}

    def _needs_step(self) -> bool:
        return True

    def _finish(self, outcome: Outcome, context: Context) -> Any:
        """Return what the function returned; raise with the traceback it left, not with the end of a log."""
        try:
            super()._finish(outcome, context)
        except RunFailed:
            error = self._error(context) if outcome.snapshot.state is RunState.FAILED else None
            if error is None:
                raise
            raise self._failure(outcome, error) from None
        result = self._result(context)
        if "error" in result:  # it left the interpreter by itself, with 0
            raise self._failure(outcome, result["error"])
        if "value" not in result:
            raise ResultMissing(
                f"{self.python_callable.__name__} has run, but it has left no {RESULT} in {self.staging_uri}"
            )
        return decode(result["value"])

    def _result(self, context: Context) -> dict[str, Any]:
        """Return what the run has left in the folder of its call; nothing if it did not come that far."""
        record = RunRecord.load(context)
        assert record is not None, "a run that has ended was recorded"
        content = self.hook.storage.folder(self._call_uri(record.client_token)).read(RESULT)
        return json.loads(content) if content else {}

    def _error(self, context: Context) -> Mapping[str, str] | None:
        """Return the exception that a failed run has left, if it can be had; its log tells it as well."""
        try:
            return self._result(context).get("error")
        except GlueRayError as error:
            self.log.warning("Could not read what the function raised: %s", error)
            return None

    def _failure(self, outcome: Outcome, error: Mapping[str, str]) -> FunctionFailed:
        lines = tuple(error["traceback"].rstrip().splitlines())
        about = [f"{error['name']}: {error['value']}"]
        url = self.hook.url(outcome.snapshot.ref)
        return FunctionFailed(outcome, url, StatementError(error["name"], error["value"], lines), about)

    # -- the call ---------------------------------------------------------------------------------------------

    def _call(self, context: Context) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments; parameters that are named like a part of the context get that part."""
        names = list(inspect.signature(self.python_callable).parameters)
        asked = (name for name in names[len(self.op_args) :] if name in context and name not in self.op_kwargs)
        return list(self.op_args), {**self.op_kwargs, **{name: context[name] for name in asked}}  # type: ignore[literal-required]

    def _call_uri(self, client_token: str) -> str:
        return call_uri(self.staging_uri, self._job_name(), client_token)

    def _refuse_strays(self, script: Script) -> None:
        """Refuse a module of the user's that nothing sends along."""
        given = [str(each) for each in [*items_of(self.py_modules), *items_of(self.working_dir)]]
        # What is in S3, or in an archive, cannot be seen while a DAG is parsed.
        is_closed = any(path.startswith("s3://") or path.endswith(".zip") for path in given)
        if is_closed or is_unrendered(self.py_modules) or is_unrendered(self.working_dir):
            return
        beside = Path(inspect.getsourcefile(self.python_callable) or ".").parent
        for name in sorted(script.user_modules):
            if not any(_holds(beside / path, name) for path in given):
                raise PackagingError(
                    f"{self.python_callable.__name__} uses the module {name!r}, which is a file of yours that the "
                    f"cluster does not have. Send it along: py_modules=[…]"
                )


def _holds(path: Path, name: str) -> bool:
    """Tell whether a folder or a file of ``py_modules`` makes a module importable."""
    return path.name in (name, f"{name}.py") or (path / name).is_dir() or (path / f"{name}.py").is_file()


def _send(folder: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Put the arguments into the folder of the call."""
    from airflow_provider_glueray.core.extras import PANDAS, extra

    try:
        with extra(PANDAS, "A table as an argument"):
            call = {
                "args": [encode(value, f"argument {at + 1}", folder) for at, value in enumerate(args)],
                "kwargs": {name: encode(value, f"argument {name!r}", folder) for name, value in kwargs.items()},
            }
    except NotSerializableError as error:
        raise SpecError([str(error)]) from error
    with folder.write(ARGUMENTS) as file:
        file.write(json.dumps(call).encode())


def glue_ray_task(
    python_callable: Callable[..., Any] | None = None, multiple_outputs: bool | None = None, **kwargs: Any
) -> TaskDecorator:
    """Make a function a task whose body runs on a Ray cluster: ``@task.glue_ray(role=…, staging=…)``.

    What the function uses of its file is sent with it: imports, plain values, other functions and classes of the file.
    Arguments and value may be JSON values, dates, paths, tables (pandas, pyarrow, Modin, Ray Dataset), or results of
    other tasks. A table that is returned stays in the staging area as Parquet; the XCom is a small mapping that
    another ``@task.glue_ray`` takes as the table itself, and any other task with ``GlueRayJobHook().load(…)``.

    :param python_callable: the function, when the decorator is used without parentheses.
    :param multiple_outputs: make each key of a returned mapping an XCom of its own.
    :param kwargs: as for :class:`GlueRayJobOperator` without ``script`` and ``wait_for_completion``: ``role``,
        ``staging_uri``, ``number_of_workers``, ``pip``, ``py_modules``, ``run_timeout`` and so on.
    :raises SourceFileError: while the DAG is parsed, for a lambda, a method, or an object that has no source.
    """

    def decorated(function: Callable[..., Any]) -> TaskDecorator:
        # Airflow makes the operators of mapped tasks only when they run, so what can be refused is refused here.
        to_script(function)
        check_rendered(kwargs)
        return task_decorator_factory(
            python_callable=function,
            multiple_outputs=multiple_outputs,
            decorated_operator_class=GlueRayDecoratedOperator,
            **kwargs,
        )

    return decorated if python_callable is None else decorated(python_callable)  # type: ignore[return-value]
