"""A function of a DAG file on its way to a cluster: its source, and what else of the file it stands on.

Source text is sent, never a pickle. The names that a function uses are looked up in its file at parse time, so that an
object which has no source is refused there and not at night. Imports, plain values, and the file's own functions and
classes are sent, with the names that these use in turn.
"""

from __future__ import annotations
import __future__

import ast
import dis
import inspect
import linecache
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple, NoReturn

from airflow_provider_glueray.core.errors import SourceFileError
from airflow_provider_glueray.core.validation import parse

#: Decorators that make a task and mean nothing on a cluster; any ``task.…`` as well.
_TASK_DECORATORS = {"setup", "teardown", "task"}
_LOADS = {"LOAD_NAME", "LOAD_GLOBAL", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_GLOBALS", "LOAD_FROM_DICT_OR_DEREF"}
_PLAIN = (type(None), bool, int, float, str, bytes, tuple, list, dict, set)
#: The most characters that a value of the file may have; what is larger is data, and an argument.
_MOST_VALUE = 100_000


class Script(NamedTuple):
    """What runs on the cluster.

    :param text: a Python module that ends by calling the function through ``glueray_step``.
    :param own_modules: names of modules it imports that are files of the user, not installed packages.
    """

    text: str
    user_modules: frozenset[str]


def check_function(function: object) -> None:
    """Refuse what has no name and source of its own.

    :raises SourceFileError: it is a lambda, a method, a coroutine function, a generator, or no function at all.
    """
    if inspect.ismethod(function):
        _refuse(f"{function.__qualname__} is a bound method, and its object has no source")
    if not isinstance(function, FunctionType):
        _refuse(f"{function!r} is a {type(function).__name__}, not a function")
    if function.__name__ == "<lambda>":
        _refuse("A lambda has no source that could be sent")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        _refuse(f"{function.__name__} is a coroutine; nothing awaits it on the cluster")
    if inspect.isgeneratorfunction(function):
        _refuse(f"{function.__name__} is a generator; return a list or a DataFrame")


def source_of(function: Callable[..., Any]) -> str:
    """Return a function's source without the decorators that make it a task; comments and texts stay as they are.

    Airflow's own ``get_python_source`` drops every line that begins with ``#``, also inside of texts.
    """
    try:
        lines = inspect.getsource(function).splitlines()
    except (OSError, TypeError) as error:
        raise SourceFileError(f"The source of {function.__name__} is not to be found: {error}") from error
    indent = lines[0][: len(lines[0]) - len(lines[0].lstrip())]
    # Below an ``if``, an indented function is whole Python, and its lines are counted from 2.
    tree = ast.parse("\n".join(["if 1:", *lines] if indent else ["", *lines]))
    node = next(each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef))
    texts = (each for each in ast.walk(node) if isinstance(each, (ast.Constant, ast.JoinedStr)))
    within = {line - 2 for each in texts for line in range(each.lineno + 1, (each.end_lineno or 0) + 1)}
    lines = [line if at in within else line.removeprefix(indent) for at, line in enumerate(lines)]
    kept = [f"@{ast.unparse(each)}" for each in node.decorator_list if not _makes_a_task(each)]
    return "\n".join([*kept, *lines[node.lineno - 2 :]]) + "\n"


def to_script(function: Callable[..., Any]) -> Script:
    """Return the script that runs a function on the cluster.

    :raises SourceFileError: it, or an object that it uses by name, has no source, or is not the cluster's Python.
    """
    check_function(function)
    slice_ = _DependencyCollector(function)
    source = slice_.collect(function)
    name = function.__name__
    parts = [
        f"# {name} of {Path(slice_.file).name}, as airflow-provider-glueray sends it to a cluster.",
        "from __future__ import annotations\n",
        *sorted(set(slice_.imports)),
        *slice_.values,
        *(f"\n\n{each.rstrip()}" for each in [*slice_.definitions, source]),
        f'\n\nif __name__ == "__main__":\n    import glueray_step\n\n    glueray_step.run({name})',
    ]
    text = "\n".join(parts) + "\n"
    parse(text, name)
    return Script(text, frozenset(slice_.user_modules))


class _DependencyCollector:
    """What a function needs of the file it stands in, collected in an order in which it can be executed."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.file = inspect.getsourcefile(function) or "?"
        self.imports: list[str] = []
        self.values: list[str] = []
        self.definitions: list[str] = []
        self.user_modules: set[str] = set()
        self._title = function.__name__
        self._module = function.__module__
        self._globals: dict[str, Any] = function.__globals__
        self._seen = {function.__name__}
        text = "".join(linecache.getlines(self.file, self._globals))
        self._file_lines = text.splitlines()
        self._statements = _bindings(ast.parse(text))

    def collect(self, function: Callable[..., Any]) -> str:
        """Collect what a function needs; return its source."""
        source = source_of(function)
        self._collect_names(source, _closure(inspect.unwrap(function)))
        return source

    def _collect_names(self, source: str, closure: dict[str, Any]) -> None:
        for name in _free_names(source):
            if name not in self._seen:
                self._seen.add(name)
                self._collect_name(name, closure)

    def _collect_name(self, name: str, closure: dict[str, Any]) -> None:
        nodes = self._statements.get(name, [])
        if name in closure:
            self._by_value(name, closure[name])
        elif any(isinstance(node, (ast.Import, ast.ImportFrom)) for node in nodes):
            for node in nodes:
                if isinstance(node, (ast.Import, ast.ImportFrom)):
                    self._import(node, name)
        elif name in self._globals:
            value = self._globals[name]
            defined = nodes[0] if nodes else None
            if isinstance(defined, ast.ClassDef) and isinstance(value, type) and value.__module__ == self._module:
                source = self._text_of(defined)
                self._collect_names(source, {})
                self.definitions.append(source)
            else:
                self._by_value(name, value)
        # Whatever is left is a builtin, or a name that does not exist here either: Python will say so.

    def _import(self, node: ast.Import | ast.ImportFrom, name: str) -> None:
        for alias in (each for each in node.names if _bound(node, each) == name):
            module = (alias.name if isinstance(node, ast.Import) else node.module) or ""
            if isinstance(node, ast.ImportFrom) and node.level:
                _refuse(f"{self._title} uses {name} by a relative import; a script on the cluster has no package")
            self._note_module(module, name)
            if isinstance(node, ast.Import):
                self.imports.append(ast.unparse(ast.Import([alias])))
            else:
                self.imports.append(ast.unparse(ast.ImportFrom(node.module, [alias], 0)))

    def _by_value(self, name: str, value: Any) -> None:
        home = getattr(value, "__module__", None)
        inner = None if hasattr(value, "_airflow_is_task_decorator") else inspect.unwrap(value)
        if isinstance(value, ModuleType):
            self._note_module(value.__name__, name)
            self.imports.append(f"import {value.__name__} as {name}")
        elif (text := _literal_source(value)) is not None:
            self.values.append(f"{name} = {text}")
        elif isinstance(inner, FunctionType) and inner.__code__.co_filename == self.file:
            check_function(inner)
            alias = f"\n{name} = {inner.__name__}\n" if inner.__name__ != name else ""
            self.definitions.append(self.collect(value) + alias)
        elif home and home != self._module and _is_importable_from(home, value):
            self._note_module(home, name)
            self.imports.append(f"from {home} import {value.__name__} as {name}")
        else:
            _refuse(
                f"{self._title} uses {name}, a {type(value).__name__}, which has no source to send. Pass what "
                "is needed of it as an argument, or make it inside the function"
            )

    def _note_module(self, module: str, name: str) -> None:
        root = module.partition(".")[0]
        if root == "airflow":
            _refuse(
                f"{self._title} uses {name} of {module}, and there is no Airflow on the cluster. Pass its value as an "
                "argument"
            )
        if root in sys.modules and _is_own(sys.modules[root]):
            self.user_modules.add(root)

    def _text_of(self, node: ast.ClassDef) -> str:
        first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
        return "\n".join(self._file_lines[first - 1 : node.end_lineno]) + "\n"


def _bindings(tree: ast.Module) -> dict[str, list[ast.stmt]]:
    """Return the imports and classes of a file by their names; what stands in ``if`` or ``try`` is taken by value."""
    found: dict[str, list[ast.stmt]] = {}
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for name in {_bound(node, alias) for alias in node.names}:
                found.setdefault(name, []).append(node)
        elif isinstance(node, ast.ClassDef):
            found[node.name] = [node]
    return found


def _is_importable_from(home: str, value: Any) -> bool:
    """Tell whether a function, class or other named object can be imported from where it says it is."""
    module = sys.modules.get(home)
    return module is not None and getattr(module, getattr(value, "__name__", ""), None) is value


def _bound(node: ast.Import | ast.ImportFrom, alias: ast.alias) -> str:
    return alias.asname or (alias.name.partition(".")[0] if isinstance(node, ast.Import) else alias.name)


def _free_names(source: str) -> list[str]:
    """Return the names that a piece of source looks up outside of itself; not those in annotations."""
    code = compile(source, "<function>", "exec", flags=__future__.annotations.compiler_flag, dont_inherit=True)
    own = {each.argval for each in dis.get_instructions(code) if each.opname == "STORE_NAME"}
    found = {each.argval: None for part in _codes(code) for each in dis.get_instructions(part) if each.opname in _LOADS}
    return [name for name in found if name not in own and not name.startswith("__")]


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _codes(const)


def _closure(function: Callable[..., Any]) -> dict[str, Any]:
    """Return what a nested function sees of the functions around it; names that have no value yet are left out."""
    found = {}
    code, cells = function.__code__, function.__closure__ or ()
    for name, cell in zip(code.co_freevars, cells, strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            continue
    return found


def _literal_source(value: Any) -> str | None:
    """Return a value as source, the same in every process, or None where it cannot be written down."""
    if type(value) not in _PLAIN:
        return None
    text = _canonical(value)
    try:
        return text if len(text) <= _MOST_VALUE and ast.literal_eval(text) == value else None
    except (ValueError, SyntaxError):
        return None


def _canonical(value: Any) -> str:
    """Return ``repr``, but of sets in an order: theirs differs from process to process, and so would the script."""
    if type(value) is set and value:
        return "{" + ", ".join(sorted(map(_canonical, value))) + "}"
    if type(value) is dict:
        return "{" + ", ".join(f"{_canonical(key)}: {_canonical(part)}" for key, part in value.items()) + "}"
    if type(value) is list:
        return "[" + ", ".join(map(_canonical, value)) + "]"
    if type(value) is tuple:
        return "(" + "".join(f"{_canonical(part)}, " for part in value) + ")"
    return repr(value)


def _is_own(module: ModuleType) -> bool:
    """Tell whether a module is a file of the user: neither built in, nor of the standard library, nor installed."""
    location = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    if location is None:
        return False
    above = Path(location).parents
    return (
        not {"site-packages", "dist-packages"} & set(Path(location).parts)
        and Path(sysconfig.get_path("stdlib")) not in above
    )


def _makes_a_task(decorator: ast.expr) -> bool:
    while isinstance(decorator, (ast.Call, ast.Attribute)):
        decorator = decorator.func if isinstance(decorator, ast.Call) else decorator.value
    return isinstance(decorator, ast.Name) and decorator.id in _TASK_DECORATORS


def _refuse(what: str) -> NoReturn:
    raise SourceFileError(f"{what}. See docs/functions.md for what is sent with a function")
