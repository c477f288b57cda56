"""What of the kubelet needs no cluster: logs, names of images, environments."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes import build
from tests.kubernetes.kubelet import environment, images, logs


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Return what writes a log as if a container had printed bytes; it returns the file."""

    def write(*printed: bytes) -> Path:
        path = tmp_path / "0.log"
        reader, writer = os.pipe()
        with os.fdopen(writer, "wb") as pipe:
            pipe.writelines(printed)
        logs.copy(reader, path)
        os.close(reader)
        return path

    return write


def shown(path: Path, **query: str) -> bytes:
    return b"".join(logs.read(path, logs.Asked.of(query), lambda: False))


def test_what_is_printed_is_shown(write: Any) -> None:
    """What has no end of line gets one, as container runtimes do; a long line stays one line."""
    long = b"x" * (logs.MOST_LINE * 2 + 5)
    path = write(b"one\n\n" + long + b"\n", b"no end")

    assert shown(path) == b"one\n\n" + long + b"\nno end\n"


def test_a_part_of_a_log(write: Any) -> None:
    path = write(b"one\ntwo\nthree\n")

    assert shown(path, tailLines="2") == b"two\nthree\n"
    assert shown(path, tailLines="0") == b""
    assert shown(path, limitBytes="5") == b"one\nt"
    assert shown(path, sinceTime="2100-01-01T00:00:00Z") == b""
    assert shown(path, sinceTime="2020-01-01T00:00:00Z", timestamps="true").endswith(b"Z three\n")


def test_a_log_is_rotated(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who follows it misses nothing; who asks later gets the newest file."""
    monkeypatch.setattr(logs, "MOST_BYTES", 100)
    path = write(b"one\n")
    following = logs.read(path, logs.Asked.of({"follow": "true"}), iter((True, False)).__next__)
    assert next(following) == b"one\n"
    write(b"x" * 90 + b"\n")
    write(b"three\n")

    assert b"".join(following) == b"x" * 90 + b"\nthree\n"
    assert shown(path) == b"three\n"


def test_an_image_that_is_not_found() -> None:
    """It is tried with growing pauses; between the tries another reason is told."""
    told = [images.problem_of("a/nosuch:1", "Always", seconds) for seconds in (0, 5, 11, 20, 31, 69, 71)]

    assert [each.reason if each else "" for each in told] == [
        "ErrImagePull", "ImagePullBackOff", "ErrImagePull", "ImagePullBackOff", "ErrImagePull", "ImagePullBackOff",
        "ErrImagePull",
    ]  # fmt: skip


def test_an_image_takes_its_time() -> None:
    early, late = (images.problem_of("a/slowpull:1", "Always", seconds) for seconds in (1, 21))

    assert early is not None
    assert early.reason == "ContainerCreating"
    assert late is None


def test_references_in_an_environment() -> None:
    """As Kubernetes reads them: what is not known stays, and two dollars are one."""
    assert environment.expand("$(A) $$(A) $(B) $A", {"A": "1"}) == "1 $(A) $(B) $A"


@pytest.mark.parametrize(("quantity", "number"), [("500m", 0.5), ("2", 2.0), ("2Gi", 2.0 * 2**30), ("1k", 1000.0)])
def test_quantities(quantity: str, number: float) -> None:
    assert environment.amount(quantity) == number


def test_who_has_no_go_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(build, "BUILT", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(build.GoMissing, match=r"^Go 1\.26 or newer is needed to build a Kubernetes; there is none"):
        build.build()
