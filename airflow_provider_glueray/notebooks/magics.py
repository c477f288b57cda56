"""The magics of the old Glue Jupyter kernel, read as the settings of a session.

Standard library only, no I/O. The kernel obeyed the magics at the top of a cell and sent what was left to the
session, which the first code had started (kernel 1.0.5). Here all magics are read before there is a session.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from airflow_provider_glueray.core.errors import SpecError
from airflow_provider_glueray.core.validation import number

#: The line magics that set something. Source: kernel 1.0.5.
_LINE_MAGICS = frozenset(
    {"iam_role", "region", "number_of_workers", "min_workers", "worker_type", "idle_timeout", "timeout"}
    | {"glue_version", "object_memory_head", "object_memory_worker", "additional_python_modules", "session_id_prefix"}
)
#: What shows something, ends the session (the operator does), or says what is so anyway: Ray, and timed cells.
_NO_EFFECT = frozenset(
    {"%glue_ray", "%help", "%list_sessions", "%session_id", "%status", "%stop_session", "%time", "%%time"}
)

_CONNECTION = "the operator's Airflow connection decides who calls AWS and where; take it out"
_SPARK = "for Spark sessions; a Ray session has no {} [kernel 1.0.5]"
_PIP = """name packages in the operator's pip= or in %%configure {"pip-install": "…"}"""
_NO_IPYTHON = "a Glue session is no IPython: it takes Python, and we the magics of the old Glue kernel"
_LATE = "comes after code, which starts the session without it [kernel 1.0.5]; move it above all code"

#: Refused wherever it is given: as a magic, or as a key of %%configure.
_REFUSED_SETTINGS = {
    "connections": "Ray has no VPC integration (dg/edit-script-ray-connections-formats); take it out",
    "security_config": "the kernel refused it for Ray sessions [kernel 1.0.5]; take it out",
    "extra_py_files": "the kernel refused it for Ray sessions [kernel 1.0.5]; pass zip archives in py_modules=",
    "extra_jars": _SPARK.format("Java class path"),
    "spark_conf": _SPARK.format("Spark configuration"),
    "conf": _SPARK.format("Spark configuration"),
    "profile": _CONNECTION,
    "endpoint": _CONNECTION,
    "session_id": "the operator names the session; use its session_id",
    "max_capacity": "it clashes with the worker fields (botocore CreateSession); use number_of_workers",
}
_REFUSED_MAGICS = {
    **_REFUSED_SETTINGS,
    "assume_role": _CONNECTION,
    "reconnect": "use the operator's session_id to run in a session that exists",
    "etl": _SPARK.format("ETL engine"),
    "streaming": _SPARK.format("streams"),
    "session_type": "the type of a Ray session is glue_ray; the others are for Spark sessions",
    "sql": _SPARK.format("SQL engine"),
    "ray_conf": "the kernel listed it but never did anything [kernel 1.0.5]; use %%configure",
    "configure": "it is a cell magic: write %%configure, and a dict below it",
    "tags": "it is a cell magic: write %%tags, and a dict below it",
    "pip": f"{_NO_IPYTHON}; {_PIP}",
    "conda": f"{_NO_IPYTHON}; {_PIP}",
    "!": f"a Glue session is no IPython and runs no shell commands; {_PIP}",
}


class Magic(NamedTuple):
    """One magic of a notebook.

    :param name: with its percent signs; ``!`` for a shell command.
    :param text: what stands behind the name; for a cell magic also all lines below it.
    :param cell, line: where it stands; both count from 1.
    :param written: the line itself.
    :param late: stands after code, so the old kernel would have set nothing.
    """

    name: str
    text: str
    cell: int
    line: int
    written: str
    late: bool = False

    @property
    def location(self) -> str:
        """Say where it stands and what it is."""
        return f"cell {self.cell}, line {self.line}, {self.written[:80]!r}"


def split(source: str, cell: int) -> tuple[list[Magic], str]:
    """Return the magics of a cell and the code without them: on the same lines, "" if only comments are left.

    Nothing is refused here. Magics below code are found too, for they would be no Python in the session.
    """
    lines = re.split(r"\r\n?|\n", source)
    magics = []
    for at, line in enumerate(lines):
        text = line.strip()
        if text.startswith(("%", "!")):
            magics.append(_cut(lines, at, cell, late=False))
        if lines[at].strip() and not lines[at].lstrip().startswith("#"):
            break
    while (found := _no_python(lines)) is not None:
        magics.append(_cut(lines, found, cell, late=True))
    is_code = any(line.strip() and not line.lstrip().startswith("#") for line in lines)
    return magics, "\n".join(lines) if is_code else ""


def settings(magics: Sequence[Magic]) -> dict[str, Any]:
    """Return what the magics of a notebook set: one flat mapping, with only what was given.

    ``number_of_workers``, ``min_workers`` and ``object_store_memory_…`` are ints, ``idle_timeout`` and
    ``session_timeout`` seconds; ``role``, ``region_name``, ``worker_type``, ``glue_version``, ``session_id_prefix`` and
    ``working_dir`` texts; ``pip``, ``py_modules`` lists; ``tags``, ``arguments`` map texts to texts;
    ``object_spilling_config``, ``logging_configuration``: see the spec.

    :raises SpecError: with every magic that means nothing in a Ray session, comes too late, or contradicts another.
    """
    given: dict[tuple[str, str | None], tuple[Any, Magic]] = {}
    problems: list[str] = []
    for magic in magics:
        for name, key, value in _read(magic, problems):
            shown = f"{name} {key!r}" if key is not None else name
            if (name, key) not in given:
                if magic.late:
                    problems.append(f"{magic.location}: {shown} {_LATE}")
                else:
                    given[name, key] = value, magic
            elif given[name, key][0] != value:
                before, first = given[name, key]
                problems.append(
                    f"{magic.location}: {shown} is {value!r} here, and {before!r} in {first.location}; take one out"
                )
    if problems:
        raise SpecError(problems)
    found: dict[str, Any] = {}
    for (name, key), (value, _) in given.items():
        if key is None:
            found[name] = value
        else:
            found.setdefault(name, {})[key] = value
    return found


def _cut(lines: list[str], at: int, cell: int, *, late: bool) -> Magic:
    """Take a magic out of the lines of a cell; a cell magic takes all lines below it along."""
    line = lines[at]
    written = line.strip()
    match = re.fullmatch(r"(!|%%?[\w.-]*)\s*(.*)", written)
    assert match, "the line begins with % or !"
    name, text = match.groups()
    kept = text if name == "%time" else ""
    if name.startswith("%%") and name != "%%time":
        text = "\n".join([text, *lines[at + 1 :]])
        lines[at + 1 :] = [""] * len(lines[at + 1 :])
    indent = line[: len(line) - len(line.lstrip())] if late else ""
    # Inside a block something has to be left.
    lines[at] = indent + (kept or "pass") if indent else kept
    return Magic(name, text.strip(), cell, at + 1, written, late)


def _no_python(lines: Sequence[str]) -> int | None:
    """Return the index of the line that keeps the code from being Python, if it looks like a magic."""
    try:
        ast.parse("\n".join(lines))
    except SyntaxError as error:
        at = (error.lineno or 0) - 1
        if 0 <= at < len(lines) and lines[at].lstrip().startswith(("%", "!")):
            return at
    except ValueError:
        pass  # it has null bytes; whoever sends it will say so
    return None


def _read(magic: Magic, problems: list[str]) -> Iterator[tuple[str, str | None, Any]]:
    """Yield what one magic sets: name, key (for tags and arguments, else None), value."""
    try:
        words = _words(magic)
    except ValueError as error:
        problems.append(f"{magic.location}: {error}")
        return
    for word, raw in words.items():
        try:
            name, value = _setting(word, raw)
        except ValueError as error:
            location = f"{magic.location}, key {word!r}" if magic.name == "%%configure" else magic.location
            problems.append(f"{location}: {error}")
            continue
        parts = value.items() if name in ("tags", "arguments") else ((None, value),)
        yield from ((name, key, part) for key, part in parts)


def _words(magic: Magic) -> Mapping[str, Any]:
    name, text = magic.name, magic.text
    word = name.lstrip("%")
    if name == "%%time" and text:
        raise ValueError("IPython takes no statement behind %%time; write %time, or put it on the next line")
    if name in _NO_EFFECT or (name, text) == ("%matplotlib", "inline"):
        return {}
    if name == "%session_type" and _text(text).lower() in ("glue_ray", "glueray"):
        return {}
    if name == "%%configure":
        return _dict(text)
    if name == "%%tags":
        return {"tags": _dict(text)}
    if word in _LINE_MAGICS:
        if name.startswith("%%"):
            raise ValueError(f"it is a line magic: write %{word}, and the value behind it")
        return {word: text}
    reason = _SPARK.format("Spark") if "spark" in word else f"{_NO_IPYTHON}; take it out"
    raise ValueError(_REFUSED_MAGICS.get(word, reason))


def _setting(word: str, raw: Any) -> tuple[str, Any]:
    key = word.removeprefix("--").replace("-", "_")
    if key in _REFUSED_SETTINGS:
        raise ValueError(_REFUSED_SETTINGS[key])
    if key in _SETTINGS:
        name, read = _SETTINGS[key]
        return name, read(raw)
    return "arguments", {word.removeprefix("--"): str(raw)}


def _dict(text: str) -> dict[str, Any]:
    # The kernel ignored what else stood behind the name, such as sparkmagic's -f.
    body = text if text.startswith("{") else text.partition("\n")[2].strip() or text
    try:
        value = json.loads(body)
    except ValueError:
        try:
            value = ast.literal_eval(body)
        except (ValueError, SyntaxError, TypeError) as error:
            raise ValueError(f"needs a dict of JSON or Python values below it ({error})") from error
    if isinstance(value, dict):
        return {str(key): item for key, item in value.items()}
    raise ValueError(f"needs a dict below it, not {body[:80]!r}")


def _text(raw: Any) -> str:
    text = "" if raw is None else str(raw).strip().strip("\"'").strip()
    if not text:
        raise ValueError("has no value")
    return text


def _whole(raw: Any) -> int:
    value = None if isinstance(raw, bool) else number(_text(raw))
    if value is None:
        raise ValueError(f"{raw!r} is not a whole number")
    return value


def _minutes(raw: Any) -> int:
    """Read minutes, in which the kernel counts; return seconds, in which everything else does."""
    return _whole(raw) * 60


def _list(raw: Any) -> list[str]:
    """Read a list, or the text of one: as in `a,b`, `"a","b"` and `[a, b]`."""
    if not isinstance(raw, (list, tuple)):
        text = _text(raw)
        raw = (text[1:-1] if text.startswith("[") and text.endswith("]") else text).split(",")
    items = [_text(item) for item in raw]
    for item in items:
        if item.startswith(("<", ">", "=", "!", "~")):
            raise ValueError(f"{item!r}: Glue splits the list at commas, so give one bound only, such as == or ~=")
    return items


def _texts(raw: Any) -> dict[str, str]:
    if isinstance(raw, Mapping):
        return {str(key).strip(): str(text).strip() for key, text in raw.items()}
    raise ValueError(f"{raw!r} is not a dict")


def _switches(raw: Any) -> dict[str, bool]:
    """Read `{"CLOUDWATCH_LOGS": {"IS_ENABLED": "False"}}` (dg/author-job-ray-job-parameters)."""
    try:
        config = raw if isinstance(raw, Mapping) else json.loads(raw)
        return {str(name): {"true": True, "false": False}[str(on["IS_ENABLED"]).lower()] for name, on in config.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError("must map switches to {'IS_ENABLED': 'True' or 'False'}") from error


#: What each line magic, or key of %%configure, sets (hyphens and underscores are one here), and how it is read.
_SETTINGS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "iam_role": ("role", _text),
    "region": ("region_name", lambda raw: _text(raw).lower()),
    "number_of_workers": ("number_of_workers", _whole),
    "min_workers": ("min_workers", _whole),
    "auto_scaling_ray_min_workers": ("min_workers", _whole),
    "worker_type": ("worker_type", _text),
    "idle_timeout": ("idle_timeout", _minutes),
    "timeout": ("session_timeout", _minutes),
    "glue_version": ("glue_version", _text),
    "object_memory_head": ("object_store_memory_head", _whole),
    "object_store_memory_head": ("object_store_memory_head", _whole),
    "object_memory_worker": ("object_store_memory_worker", _whole),
    "object_store_memory_worker": ("object_store_memory_worker", _whole),
    "additional_python_modules": ("pip", _list),
    "pip_install": ("pip", _list),
    "s3_py_modules": ("py_modules", _list),
    "working_dir": ("working_dir", _text),
    "object_spilling_config": ("object_spilling_config", lambda raw: raw),
    "logging_configuration": ("logging_configuration", _switches),
    "session_id_prefix": ("session_id_prefix", _text),
    "tags": ("tags", _texts),
}
