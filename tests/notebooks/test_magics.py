"""The magics of the old Glue kernel: which settings they become, and what each refusal says."""

from __future__ import annotations

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_glueray.core.errors import SpecError
from airflow_provider_glueray.notebooks.magics import settings, split


def read(*sources: str):
    """Return what the magics at the top of some cells set."""
    return settings([magic for cell, source in enumerate(sources, 1) for magic in split(source, cell)[0]])


def refusal(*sources: str) -> SpecError:
    """Return the error that the magics of some cells deserve."""
    with pytest.raises(SpecError) as caught:
        read(*sources)
    return caught.value


@pytest.mark.parametrize(
    ("source", "setting"),
    [
        ("%iam_role arn:aws:iam::123456789012:role/R", {"role": "arn:aws:iam::123456789012:role/R"}),
        ("%region EU-west-1", {"region_name": "eu-west-1"}),
        ("%number_of_workers 5", {"number_of_workers": 5}),
        ("%min_workers 1", {"min_workers": 1}),
        ("%worker_type Z.2X", {"worker_type": "Z.2X"}),
        ('%worker_type "Z.2X"', {"worker_type": "Z.2X"}),
        ("%worker_type 'Z.2X'", {"worker_type": "Z.2X"}),
        ("%idle_timeout 60", {"idle_timeout": 3600}),
        ("%idle_timeout\t'60'", {"idle_timeout": 3600}),
        ("%timeout 120", {"session_timeout": 7200}),
        ("%glue_version 4.0", {"glue_version": "4.0"}),
        ("%object_memory_head 40", {"object_store_memory_head": 40}),
        ("%object_memory_worker 50", {"object_store_memory_worker": 50}),
        ("%session_id_prefix nightly-", {"session_id_prefix": "nightly-"}),
        ("%additional_python_modules a==1", {"pip": ["a==1"]}),
        ("%additional_python_modules a==1, b", {"pip": ["a==1", "b"]}),
        ("%additional_python_modules 'a','b'", {"pip": ["a", "b"]}),
        ("%additional_python_modules [a, b]", {"pip": ["a", "b"]}),
        ("%additional_python_modules awswrangler[modin]", {"pip": ["awswrangler[modin]"]}),
        ('%%tags\n{"team": "etl", "year": 2026}', {"tags": {"team": "etl", "year": "2026"}}),
        ("   %idle_timeout 60", {"idle_timeout": 3600}),
        ("%idle_timeout 60\r\n%timeout 9\r\n", {"idle_timeout": 3600, "session_timeout": 540}),
    ],
)
def test_each_magic_becomes_its_setting(source, setting):
    """Every row of the facts' table that sets something for Ray."""
    assert read(source) == setting


@pytest.mark.parametrize(
    "source",
    [
        "%glue_ray", "%session_type glue_ray", "%session_type 'GlueRay'", "%status", "%list_sessions", "%help",
        "%session_id", "%stop_session", "%%time", "%%time\nx = 1", "%time", "%time x = 1", "%matplotlib inline",
        "x = 1", "",
    ],
)  # fmt: skip
def test_what_says_nothing_of_the_session_is_dropped(source):
    """Questions, the end of the session, timing, and what is so anyway."""
    assert read(source) == {}


@pytest.mark.parametrize(
    ("body", "setting"),
    [
        ('{"iam_role": "R"}', {"role": "R"}),
        ('{"region": "eu-west-1"}', {"region_name": "eu-west-1"}),
        ('{"number_of_workers": 5}', {"number_of_workers": 5}),
        ('{"number_of_workers": "5"}', {"number_of_workers": 5}),
        ('{"worker_type": "Z.2X"}', {"worker_type": "Z.2X"}),
        ('{"idle_timeout": 60, "timeout": "120"}', {"idle_timeout": 3600, "session_timeout": 7200}),
        ('{"glue_version": "4.0"}', {"glue_version": "4.0"}),
        ('{"tags": {"a": "b"}}', {"tags": {"a": "b"}}),
        ('{"min_workers": 1}', {"min_workers": 1}),
        ('{"min-workers": "1"}', {"min_workers": 1}),
        ('{"--auto-scaling-ray-min-workers": "1"}', {"min_workers": 1}),
        ('{"object_memory_head": 40}', {"object_store_memory_head": 40}),
        ('{"--object_store_memory_head": "40"}', {"object_store_memory_head": 40}),
        ('{"object_store_memory_worker": 50}', {"object_store_memory_worker": 50}),
        ('{"pip-install": "a==1,b"}', {"pip": ["a==1", "b"]}),
        ('{"--pip-install": "a"}', {"pip": ["a"]}),
        ('{"additional-python-modules": "a"}', {"pip": ["a"]}),
        ('{"--additional-python-modules": ["a", "b"]}', {"pip": ["a", "b"]}),
        ('{"s3-py-modules": "s3://b/m.zip"}', {"py_modules": ["s3://b/m.zip"]}),
        ('{"--working-dir": "s3://b/w.zip"}', {"working_dir": "s3://b/w.zip"}),
        ('{"object_spilling_config": {"type": "filesystem"}}', {"object_spilling_config": {"type": "filesystem"}}),
        ('{"logging_configuration": {"S3": {"IS_ENABLED": "False"}}}', {"logging_configuration": {"S3": False}}),
        ("""{"--logging_configuration": '{"S3": {"IS_ENABLED": "True"}}'}""", {"logging_configuration": {"S3": True}}),
        ('{"own": 1, "--other": true}', {"arguments": {"own": "1", "other": "True"}}),
        ("{'own': None, # why\n 'idle_timeout': 60}", {"arguments": {"own": "None"}, "idle_timeout": 3600}),
        ("{}", {}),
    ],
)
@pytest.mark.parametrize("head", ["%%configure\n", "%%configure -f\n", "%%configure ", "# first\n\n%%configure\n\n"])
def test_configure_becomes_settings(head, body, setting):
    """JSON or a Python literal; keys with or without dashes; below the magic or behind it."""
    assert read(head + body) == setting


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("%etl", "for Spark sessions"),
        ("%streaming", "for Spark sessions"),
        ("%session_type etl", "for Spark sessions"),
        ("%session_type", "has no value"),
        ("%%sql\nselect 1", "for Spark sessions"),
        ("%spark_conf spark.x=1", "for Spark sessions"),
        ("%%pyspark\nx", "for Spark sessions"),
        ("%extra_jars s3://b/j.jar", "for Spark sessions"),
        ('%%configure\n{"conf": "spark.x=1"}', "for Spark sessions"),
        ('%%configure\n{"extra-jars": "s3://b/j.jar"}', "key 'extra-jars': for Spark sessions"),
        ("%connections mine", "no VPC integration"),
        ('%%configure\n{"connections": "mine"}', "no VPC integration"),
        ("%security_config mine", "refused it for Ray"),
        ('%%configure\n{"security_config": "mine"}', "refused it for Ray"),
        ("%extra_py_files s3://b/x.py", "py_modules="),
        ("%profile mine", "Airflow connection"),
        ("%endpoint https://x", "Airflow connection"),
        ('%%assume_role\n"arn"', "Airflow connection"),
        ('%%configure\n{"profile": "mine"}', "Airflow connection"),
        ('%%configure\n{"endpoint": "https://x"}', "Airflow connection"),
        ("%reconnect abc", "operator's session_id"),
        ('%%configure\n{"session_id": "abc"}', "use its session_id"),
        ('%%configure\n{"max_capacity": 2}', "use number_of_workers"),
        ('%%ray_conf\n{"a": 1}', "use %%configure"),
        ("%configure {}", "cell magic"),
        ("%tags {}", "cell magic"),
        ("%%idle_timeout 60", "line magic"),
        ("!pip install x", "runs no shell commands"),
        ("!ls", "pip-install"),
        ("%pip install x", "no IPython"),
        ("%conda install x", "pip="),
        ("%load_ext x", "no IPython"),
        ("%%bash\nls", "no IPython"),
        ("%matplotlib notebook", "no IPython"),
        ("%%time x = 1", "no statement behind"),
        ("%", "no IPython"),
        ("%number_of_workers many", "'many' is not a whole number"),
        ("%idle_timeout 60  # an hour", "is not a whole number"),
        ("%idle_timeout 1.5", "is not a whole number"),
        ('%%configure\n{"timeout": true}', "key 'timeout': True is not a whole number"),
        ("%idle_timeout", "has no value"),
        ('%iam_role ""', "has no value"),
        ('%%configure\n{"iam_role": null}', "has no value"),
        ("%additional_python_modules a,,b", "has no value"),
        ("%additional_python_modules a>=1,<2", "'<2': Glue splits the list at commas"),
        ("%%tags", "needs a dict"),
        ("%%tags\n[1]", "needs a dict below it, not '[1]'"),
        ('%%configure\n{"tags": "x"}', "'x' is not a dict"),
        ("%%configure\n{'a': }", "needs a dict of JSON or Python values"),
        ("%%configure\n{'a': open('x')}", "needs a dict of JSON or Python values"),
        ("%%configure\n{[]: 1}", "needs a dict of JSON or Python values"),
        ('%%configure\n{"logging_configuration": {"S3": "off"}}', "IS_ENABLED"),
        ('%%configure\n{"logging_configuration": 1}', "IS_ENABLED"),
    ],
)
def test_each_refusal_says_where_and_why(source, words):
    """Cell, line, the line's text, and the reason."""
    (problem,) = refusal("%glue_ray", source).problems

    assert problem.startswith(f"cell 2, line 1, {source.partition(chr(10))[0]!r}")
    assert words in problem


def test_all_problems_are_told_at_once():
    """Nobody has to run a notebook ten times to learn of ten mistakes."""
    error = refusal("%etl\n%idle_timeout x", '%%configure\n{"profile": "p", "timeout": "y"}')

    assert len(error.problems) == 4


@pytest.mark.parametrize(
    ("sources", "places"),
    [
        (["%idle_timeout 60\n%idle_timeout 30"], ["cell 1, line 1", "cell 1, line 2", "60", "30"]),
        (["%idle_timeout 60", '# x\n%%configure\n{"idle_timeout": 30}'], ["cell 1, line 1", "cell 2, line 2"]),
        (["%min_workers 1", '%%configure\n{"min-workers": 2}'], ["min_workers is 2 here, and 1 in cell 1"]),
        (["%additional_python_modules a", '%%configure\n{"pip-install": "b"}'], ["pip is ['b'] here, and ['a']"]),
        (['%%tags\n{"a": "b"}', '%%configure\n{"tags": {"a": "c"}}'], ["tags 'a' is 'c' here, and 'b'"]),
        (['%%configure\n{"own": 1}', '%%configure\n{"--own": 2}'], ["arguments 'own' is '2' here, and '1'"]),
    ],
)
def test_contradictions_name_both_places(sources, places):
    """The old kernel let the later one win, which is seldom what was meant."""
    (problem,) = refusal(*sources).problems

    assert all(place in problem for place in places)


def test_saying_the_same_twice_is_no_contradiction():
    """Tags and arguments of several cells come together."""
    sources = ["%idle_timeout 60", '%%configure\n{"idle_timeout": "60", "a": 1}', '%%configure\n{"--a": "1", "b": 2}']

    assert read(*sources) == {"idle_timeout": 3600, "arguments": {"a": "1", "b": "2"}}


def test_the_code_keeps_its_lines():
    """A traceback's line numbers are those of the cell."""
    magics, code = split("# why\n\n%idle_timeout 60\n# and\n%%time\nimport os\nos.sep", 3)

    assert [(magic.name, magic.cell, magic.line) for magic in magics] == [("%idle_timeout", 3, 3), ("%%time", 3, 5)]
    assert code == "# why\n\n\n# and\n\nimport os\nos.sep"


@pytest.mark.parametrize(
    "source", ["", "\n\n", "# x", "%glue_ray", "%glue_ray\n# x\n", '%%tags\n{"a":\n"b"}', "%%time"]
)
def test_a_cell_without_code_has_none(source):
    """Comments and magics alone are not sent."""
    assert split(source, 1)[1] == ""


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("%time x = 1", "x = 1"),
        ("x = 1\n%time y = 2\nz = 3", "x = 1\ny = 2\nz = 3"),
        ("x = 1\n%status\nx", "x = 1\n\nx"),
        ("if x:\n    %status\nelse:\n    %time y = 1", "if x:\n    pass\nelse:\n    y = 1"),
        ("x = 1\n%%time\ny = 2", "x = 1\n\ny = 2"),
        ("x = (7\n% 4)", "x = (7\n% 4)"),
        ('x = """\n%etl\n!ls\n"""', 'x = """\n%etl\n!ls\n"""'),
        ("x = (\n%time", "x = (\n%time"),
        ("x = \0", "x = \0"),
    ],
)
def test_magics_below_code_are_found_and_nothing_else(source, code):
    """A remainder, or a percent sign in a text, is no magic; what is wrong in another way is left for later."""
    assert split(source, 1)[1] == code
    assert settings(split(source, 1)[0]) == {}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x = 1\n!ls", "line 2, '!ls': a Glue session"),
        ("for x in y:\n    %pip install z", "line 2, '%pip install z': a Glue session is no IPython"),
        ("x = 1\n%idle_timeout 60", "line 2, '%idle_timeout 60': idle_timeout comes after code"),
        ('x = 1\n%%configure\n{"timeout": 60}', "line 2, '%%configure': session_timeout comes after code"),
    ],
)
def test_magics_below_code_are_refused_where_they_would_do_harm(source, words):
    """In a Glue session they would be syntax errors."""
    (problem,) = refusal(source).problems

    assert words in problem


@given(st.text(alphabet="%!x =1\n\r\t#{}'\"", max_size=60))
def test_splitting_never_fails_and_keeps_the_lines(source):
    """Whatever the cell holds, there are as many lines after as before, and Python stays as it is."""
    _, code = split(source, 1)
    lines = source.replace("\r\n", "\n").replace("\r", "\n")

    assert code == "" or code.count("\n") == lines.count("\n")
    try:
        body = ast.parse(lines).body
    except SyntaxError:
        return
    assert code == (lines if body else "")
