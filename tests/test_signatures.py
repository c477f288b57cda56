"""The words that users write: public names, and the signatures of what they call. A change has to be meant."""

from __future__ import annotations

import inspect
from importlib import import_module

from airflow_provider_glueray.get_provider_info import get_provider_info

#: Public, and of no kind that Airflow lists.
MORE = ["decorators.glue_ray", "glueray_step", "links.runs"]


def modules() -> list[str]:
    """Return the public modules."""
    info = get_provider_info()
    listed = [
        module
        for kind in ("operators", "sensors", "hooks", "triggers")
        for entry in info[kind]
        for module in entry["python-modules"]
    ]
    return sorted([*listed, *(f"airflow_provider_glueray.{name}" for name in MORE)])


def words_of(cls: type) -> list[str]:
    """Return the public methods of a class that are ours, with their signatures."""
    ours = [base for base in cls.__mro__ if base.__module__.startswith("airflow_provider_glueray")]
    named = {name: part for base in reversed(ours) for name, part in vars(base).items() if not name.startswith("_")}
    calls = {name: part for name, part in named.items() if inspect.isfunction(part)}
    made = {
        name: parameter
        for base in reversed(ours)
        for name, parameter in inspect.signature(vars(base).get("__init__", base)).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY or (name != "self" and parameter.kind is not parameter.VAR_KEYWORD)
    }
    return [
        *(f"    {made[name]}" for name in sorted(made)),
        *(f"    .{name}{inspect.signature(calls[name])}" for name in sorted(calls)),
    ]


def test_public_names_and_signatures_stay(snapshot):
    """Of operators, sensors, hooks, the decorator and what a script imports."""
    lines = []
    for path in modules():
        module = import_module(path)
        lines.append(path)
        for name, value in sorted(vars(module).items()):
            if name.startswith("_") or not (inspect.isclass(value) or inspect.isfunction(value)):
                continue
            if value.__module__ == path or (path.endswith("glueray_step") and value.__module__.startswith(path)):
                lines.append(f"  {name}" + ("" if inspect.isclass(value) else str(inspect.signature(value))))
                lines += words_of(value) if inspect.isclass(value) else []

    assert "\n".join(lines) == snapshot
