"""The lint of the suite finds what it is there for."""

from __future__ import annotations

import pytest

from tests.lint import retired, skips, sleeps, ungated


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import time\ntime.sleep(0.2)", []),
        ("import time\ntime.sleep(0.3)", [(2, 0.3)]),
        ("import asyncio\nasync def f():\n    await asyncio.sleep(5)", [(3, 5)]),
        ("from time import sleep\nsleep(1)", [(2, 1)]),
        ("CODE = 'import time; time.sleep(2)'", [(1, 2.0)]),
        ("CODE = 'import time; time.sleep(120)'", []),
        ("import time\ntime.sleep(pause)", []),
    ],
)
def test_fixed_sleeps(source, found):
    """In the tests, and in the scripts that they hand on; what never ends by itself is meant to be stopped."""
    assert list(sleeps(source)) == found


def test_skips():
    """Calls and marks."""
    source = "import pytest\npytest.skip('x')\npytest.mark.skipif(True, reason='x')\nother.skip()\n"
    assert list(skips(source)) == [2, 3]


def test_retired_words_are_found():
    """In prose and in names of their own, in any case; not as a part of another word, nor after a dot."""
    text = "A Parcel\n# the run's mark\npytest.mark.full\nbenchmarks, nothing, remarks\ntaking up a run; take it up\n"
    found = [(line, word) for line, word, _ in retired(text)]

    assert found == [(1, "Parcel"), (2, "mark"), (5, "taking up")]


def test_xcoms_that_pass_by_the_gate():
    assert list(ungated("def f(ti):\n    push(ti, 1)\n    ti.xcom_push('k', 1)\n")) == [3]
