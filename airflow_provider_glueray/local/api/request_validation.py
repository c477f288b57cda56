"""Validate requests against botocore's model of Glue, as the service's front end does.

botocore's client checks required members, types and minimums; the service also checks lengths, patterns and enums, and
responds with `ValidationException`. This module makes the service's checks; `rules` has the checks about Ray jobs.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from botocore.loaders import Loader
from botocore.model import ServiceModel

from airflow_provider_glueray.local.engine.errors import GlueError

#: Java writes the range of all astral characters this way; Python needs the range itself.
_JAVA_ASTRAL = r"\uD800\uDC00-\uDBFF\uDFFF"


@functools.cache
def service_model() -> ServiceModel:
    """Return botocore's model of Glue."""
    return ServiceModel(Loader().load_service_model("glue", "service-2"), "glue")


def check_input(operation: str, request: Mapping[str, Any]) -> None:
    """Refuse a request that the model of `operation` does not allow.

    Raises GlueError `SerializationException` for a wrong JSON type and `ValidationException` for a missing member or a
    violated constraint, with the text "N validation error(s) detected: ..." of AWS's front end [seen in Glue and EMR
    threads]. Members that the model does not have are ignored, as the service ignores them.
    """
    shape = service_model().operation_model(operation).input_shape
    found = list(_violations(shape, request, "")) if shape is not None else []
    if found:
        noun = "error" if len(found) == 1 else "errors"
        raise GlueError("ValidationException", f"{len(found)} validation {noun} detected: {'; '.join(found)}")


def _lower(name: str) -> str:
    return name[:1].lower() + name[1:]


def _violation(value: Any, path: str, rule: str) -> str:
    shown = "null" if value is None else f"'{value}'"
    return f"Value {shown} at '{path}' failed to satisfy constraint: Member must {rule}"


def _violations(shape: Any, value: Any, path: str) -> Iterator[str]:
    if not _has_type(shape.type_name, value):
        raise GlueError("SerializationException", f"Expected a {shape.type_name} at '{path or 'request'}'")
    if shape.type_name == "structure":
        for name in shape.required_members:
            if value.get(name) is None:
                yield _violation(None, f"{path}{_lower(name)}", "not be null")
        for name, member in shape.members.items():
            if value.get(name) is not None:
                child = f"{path}{_lower(name)}"
                yield from _violations(member, value[name], child + _separator(member))
    elif shape.type_name == "list":
        yield from _range(shape, len(value), value, path, "length")
        for position, item in enumerate(value, start=1):
            yield from _violations(shape.member, item, f"{path}.{position}.member{_separator(shape.member)}")
    elif shape.type_name == "map":
        yield from _range(shape, len(value), value, path, "length")
        for key, item in value.items():
            yield from _violations(shape.key, key, f"{path}.key")
            yield from _violations(shape.value, item, f"{path}.{key}.member")
    elif shape.type_name == "string":
        yield from _text(shape, value, path)
    elif shape.type_name in _NUMBERS:
        yield from _range(shape, value, value, path, "value")


def _separator(shape: Any) -> str:
    return "." if shape.type_name == "structure" else ""


_NUMBERS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("integer", "long"), int),
    **dict.fromkeys(("float", "double"), (int, float)),
}
_TYPES = {"structure": Mapping, "map": Mapping, "list": list, "string": str, "boolean": bool}


def _has_type(type_name: str, value: Any) -> bool:
    if type_name in _NUMBERS:
        return isinstance(value, _NUMBERS[type_name]) and not isinstance(value, bool)
    return isinstance(value, _TYPES.get(type_name, object))


def _range(shape: Any, size: float, value: Any, path: str, noun: str) -> Iterator[str]:
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if low is not None and size < low:
        yield _violation(value, path, f"have {noun} greater than or equal to {low}")
    if high is not None and size > high:
        yield _violation(value, path, f"have {noun} less than or equal to {high}")


def _text(shape: Any, value: str, path: str) -> Iterator[str]:
    yield from _range(shape, len(value), value, path, "length")
    if shape.enum and value not in shape.enum:
        yield _violation(value, path, f"satisfy enum value set: [{', '.join(shape.enum)}]")
    pattern = shape.metadata.get("pattern")
    expression = _compiled(pattern) if pattern else None
    if expression is not None and expression.fullmatch(value) is None:
        yield _violation(value, path, f"satisfy regular expression pattern: {pattern}")


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str] | None:
    try:
        return re.compile(pattern.replace(_JAVA_ASTRAL, "\U00010000-\U0010ffff"))
    except re.error:
        return None  # Python's re has no \p{..} classes, and no member of an implemented operation needs them
