"""Functions that need no endpoint: tails of growing files, failure messages, layouts of zips."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from airflow_provider_glueray.local.engine.job_inputs import CannotPrepare, check_layout
from airflow_provider_glueray.local.engine.logs import Tail
from airflow_provider_glueray.local.engine.runs import failure_message


def test_a_tail_yields_whole_lines_as_the_file_grows(tmp_path: Path) -> None:
    """`lines` yields an unfinished line when the line ends, or with `last`."""
    path = tmp_path / "log"
    tail = Tail(path)
    assert list(tail.lines()) == []
    path.write_bytes("one\r\ntwö\n\nthr".encode())
    assert list(tail.lines()) == ["one", "twö", ""]
    assert list(tail.lines()) == []
    with path.open("a") as file:
        file.write("ee\nfour")
    assert list(tail.lines()) == ["three"]
    assert list(tail.lines(last=True)) == ["four"]
    assert list(tail.lines(last=True)) == []


def test_a_tail_splits_lines_that_exceed_an_event(tmp_path: Path) -> None:
    """It splits an endless line too, and never inside a character."""
    limit = 256 * 1024 - 26
    path = tmp_path / "log"
    text = "x" + "€" * 1_000_000
    path.write_text(text)
    tail = Tail(path)
    pieces = list(tail.lines()) + list(tail.lines(last=True))
    assert "".join(pieces) == text
    assert max(len(piece.encode()) for piece in pieces) <= limit


@pytest.mark.parametrize(
    ("exit_code", "report", "reason"),
    [
        (7, "bye\n", "Job entrypoint command failed with exit code 7"),
        (
            1,
            'Traceback (most recent call last):\n  File "x"\nKeyError: 1\n\nDuring handling:\n\n'
            'Traceback (most recent call last):\n  File "x"\nmy.Broken: a\nsecond line\n',
            "my.Broken: a. Job entrypoint command failed with exit code 1",
        ),
        (None, "runtime_env setup failed: no", "runtime_env setup failed: no"),
        (None, "", "Ray gave no reason"),
    ],
)
def test_a_failure_gives_its_reason(exit_code: int | None, report: str, reason: str) -> None:
    """The message has the last exception and the exit code, or Ray's own report."""
    assert failure_message(exit_code, report) == reason


@pytest.mark.parametrize(
    ("names", "good"),
    [
        (["a/", "a/b.py", "a/c/d.py"], True),
        (["a/b.py"], True),
        (["a/b.py", "c/d.py"], False),
        (["a/b.py", "c.py"], False),
        (["a"], False),
        ([], False),
    ],
)
def test_the_layout_of_a_zip(tmp_path: Path, names: list[str], good: bool) -> None:
    """A zip needs exactly one directory at its root and no files beside it."""
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "")
    if good:
        check_layout("--working-dir", "s3://b/x.zip", path)
    else:
        with pytest.raises(CannotPrepare, match="exactly one top-level directory"):
            check_layout("--working-dir", "s3://b/x.zip", path)
