"""What travels with a function, and what is refused while the DAG is parsed."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from airflow_provider_glueray.core.errors import SourceFileError
from airflow_provider_glueray.packaging.function_source import check_function, source_of, to_script

NUMBERS = itertools.count()


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Return what imports a DAG file given as text, as Airflow does: under a name of its own."""

    def import_file(text: str) -> ModuleType:
        name = f"unusual_prefix_{next(NUMBERS)}_dag"
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return import_file


def run(text: str, tmp_path: Path, call: str) -> object:
    """Run a script where nothing of the DAG file is to be found, and return what a call in it gives."""
    body = text[: text.index("\nif __name__")]
    script = tmp_path / "elsewhere" / "script.py"
    script.parent.mkdir(exist_ok=True)
    script.write_text(f"{body}\nimport json\nprint(json.dumps({call}))\n")
    plain = {"PATH": os.environ["PATH"]}
    done = subprocess.run([sys.executable, "-I", str(script)], capture_output=True, text=True, check=False, env=plain)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_everything_that_it_stands_on_comes_along(load, tmp_path):
    """Imports under the names they have here, values, functions that need functions, classes and their bases."""
    module = load(
        """
import collections as c
import os.path
import xml.etree.ElementTree
from dataclasses import dataclass, field as f
from functools import lru_cache
from pathlib import Path

LIMIT = 3
TABLE = {"a": (1, 2.5), "none": None, "set": {1}, "nothing": set()}

class Base:
    start = LIMIT

@dataclass
class Derived(Base):
    more: list = f(default_factory=list)

    def total(self):
        return self.start + sum(self.more)

@lru_cache(maxsize=None)
def first(n):
    return second(n) if n else LIMIT

def second(n):
    return first(n - 1) + len(TABLE)

def unused():
    return open("/nowhere")

def step(n, most=LIMIT):
    tags = [xml.etree.ElementTree.fromstring("<a><b/></a>")[0].tag for _ in range(most)]
    return [first(n), Derived(more=[1, 2]).total(), dict(c.Counter("aa")), os.path.join("x", Path("y").name), tags]
"""
    )
    script = to_script(module.step)

    assert run(script.text, tmp_path, "step(2)") == [11, 6, {"a": 2}, "x/y", ["b", "b", "b"]]
    assert "unused" not in script.text
    assert script.user_modules == frozenset()


def test_a_function_in_a_function(load, tmp_path):
    """As in `@dag` style: it sees values, modules and helpers of the function around it."""
    module = load(
        """
from datetime import date

def make(region):
    import json as j
    suffix = "-" + region

    def named(text):
        return text + suffix

    helper = named

    def step(day: date):
        return j.dumps([helper("x"), region])

    return step
"""
    )

    assert run(to_script(module.make("eu")).text, tmp_path, "step(None)") == '["x-eu", "eu"]'


def test_annotations_need_nothing(load, tmp_path):
    """What stands under TYPE_CHECKING exists for type checkers only, here as there."""
    module = load(
        """
from __future__ import annotations
from typing import TYPE_CHECKING, Any
if TYPE_CHECKING:
    import pandas as pd
    from airflow.sdk import Context
from airflow.sdk import DAG

def step(frame: pd.DataFrame, context: Context = None, dag: DAG | None = None) -> dict[str, Any]:
    out: pd.Series = frame
    return out
"""
    )
    text = to_script(module.step).text

    assert "import" not in text.replace("from __future__ import annotations", "").replace("import glueray_step", "")
    assert run(text, tmp_path, "step(1)") == 1


def test_source_keeps_texts_and_comments(load, tmp_path):
    """Lines of a text that begin with # or at the margin stay; so do comments; decorators of tasks go."""
    module = load(
        '''
def task(function):
    return function
task.glue_ray = lambda **kwargs: lambda function: function
class setup_:
    pass

def keep(function):
    function.kept = True
    return function

if True:
    @task
    @task.glue_ray(role="x",
                   pip=["a"])
    @keep
    def step(a,
             b="""
# not a comment
"""):
        # a comment
        sql = f"""
# heading {a}
    indented
"""
        return sql, b, step.kept
'''
    )
    text = to_script(module.step).text

    assert "# a comment" in text
    assert "role=" not in text
    here = list(module.step(1))
    assert run(text, tmp_path, "step(1)") == here
    assert source_of(module.step).startswith("@keep\ndef step(a,\n")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import threading\nLOCK = threading.Lock()\ndef step():\n    return LOCK", "uses LOCK, a lock, which has no"),
        ("CONN = object()\ndef step():\n    return helper()\ndef helper():\n    return CONN", "uses CONN, a object"),
        ("from airflow.sdk import Variable\ndef step():\n    return Variable.get('x')", "there is no Airflow on the"),
        ("BIG = list(range(50_000))\ndef step():\n    return BIG", "uses BIG, a list, which has no source to send"),
        ("def step(x):\n    match x:\n        case 1:\n            return 2", "is not Python 3.9"),
        ("async def step():\n    pass", "is a coroutine"),
        ("def step():\n    yield 1", "is a generator; return a list"),
        ("step = lambda: 1", "A lambda has no source"),
        ("class A:\n    def b(self):\n        pass\nstep = A().b", "A.b is a bound method"),
        ("import functools\nstep = functools.partial(print)", "a partial, not a function"),
        ("def around():\n    lock = object()\n    def step():\n        return lock\n    return step\nstep = around()",
         "uses lock, a object, which has no source to send"),
        ("exec('def step():\\n    return 1')", "The source of step is not to be found"),
        ("x = float('nan')\ndef step():\n    return x", "uses x, a float, which has no source to send"),
    ],
)  # fmt: skip
def test_what_cannot_travel_is_refused_at_parse(load, text, words):
    with pytest.raises(SourceFileError, match=words):
        to_script(load(text).step)


def test_a_task_is_no_function_of_the_file(load):
    """A task called inside of a task would be a task there, too; Airflow is not there."""
    module = load("from airflow.sdk import task\n@task\ndef other():\n    return 1\ndef step():\n    return other()\n")

    with pytest.raises(SourceFileError, match="uses other, a _TaskDecorator"):
        to_script(module.step)


def test_modules_of_ones_own_are_named(load, tmp_path, monkeypatch):
    """Installed packages and the standard library are not; what is imported conditionally is found by its value."""
    (tmp_path / "our_rules.py").write_text("def rule():\n    return 1\n")
    (tmp_path / "our_package").mkdir()
    (tmp_path / "our_package" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    script = to_script(
        load(
            "try:\n    import our_rules\nexcept ImportError:\n    our_rules = None\nimport our_package\nimport json\n"
            "import pytest\ndef step():\n    return our_rules.rule(), our_package, json, pytest\n"
        ).step
    )

    assert script.user_modules == {"our_rules", "our_package"}
    assert "import our_rules as our_rules" in script.text


def test_every_process_makes_the_same_script(tmp_path):
    """Else each worker would upload it anew and change the job."""
    (tmp_path / "stable.py").write_text(
        "import base64, ast, csv, json, os\nS = {'b', 'a', 'c'}\nD = {'k': [{'x', 'y', 'z'}, (1,), ()], 'e': set()}\n"
        "def step():\n    return ast, base64, csv, json, os, S, D\n"
    )
    code = "import stable\nfrom airflow_provider_glueray.packaging.function_source import to_script\n"
    code += "print(to_script(stable.step).text)"
    texts = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path,
            env={**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": str(tmp_path)},
        ).stdout
        for seed in range(4)
    }  # fmt: skip

    (text,) = texts
    assert run(text, tmp_path, "[sorted(S), sorted(D['k'][0]), D['k'][1:], len(D['e'])]") == [
        ["a", "b", "c"], ["x", "y", "z"], [[1], []], 0,
    ]  # fmt: skip


def test_the_script_is_python_of_the_cluster(load):
    """3.9 for Glue."""
    text = to_script(load("def step(x: int | None):\n    return x\n").step).text

    ast.parse(text, feature_version=(3, 9))
    assert text.endswith('if __name__ == "__main__":\n    import glueray_step\n\n    glueray_step.run(step)\n')


def test_what_is_sent_along_is_python_of_the_cluster_too():
    """The code at the other end has no syntax and no module-level import that Python 3.9 does not have."""
    import airflow_provider_glueray.glueray_step as step

    for path in Path(next(iter(step.__path__))).glob("*.py"):
        tree = ast.parse(path.read_text(), feature_version=(3, 9))
        names = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
        names |= {str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom) and not node.level}
        assert {name.partition(".")[0] for name in names} <= set(sys.stdlib_module_names), path


def test_plain_functions_pass():
    check_function(test_plain_functions_pass)
