"""Folders and modules as archives: what is in them, that the same files make the same, and what is refused."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pytest

from airflow_provider_glueray.core.errors import PackagingError, SourceFileError
from airflow_provider_glueray.packaging import archives
from airflow_provider_glueray.packaging.archives import inspect_archive, zip_folder
from airflow_provider_glueray.packaging.upload import read_local


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def names(content: bytes) -> list[str]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        return archive.namelist()


def zipped(*entries: str) -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        for entry in entries:
            archive.writestr(entry, "x")
    return body.getvalue()


def test_a_folder_of_modules_and_a_package(tmp_path):
    """One folder at the root; a package is importable by its own name."""
    libs = write(tmp_path / "libs", {"one.py": "", "two/__init__.py": "", "two/deep.py": ""})
    folder = zip_folder(libs, module=True)
    package = zip_folder(libs / "two", module=True)

    assert names(folder.content) == ["libs/one.py", "libs/two/__init__.py", "libs/two/deep.py"]
    assert folder.modules == {"one", "two"}
    assert names(package.content) == ["two/two/__init__.py", "two/two/deep.py"]
    assert package.modules == {"two"}
    assert names(zip_folder(libs / "two", module=False).content) == ["two/__init__.py", "two/deep.py"]
    assert (folder.name, inspect_archive("libs.zip", folder.content).modules) == ("libs.zip", folder.modules)


def test_the_same_files_make_the_same_archive(tmp_path):
    """Whenever and wherever they are laid; another content, name or mode makes another one."""
    first = zip_folder(write(tmp_path / "a" / "libs", {"x.py": "1", "y.py": "2"}), module=True)
    again = write(tmp_path / "b" / "libs", {"y.py": "2", "x.py": "1"})
    os.utime(again / "x.py", (1, 1))
    assert zip_folder(again, module=True)[:3] == first[:3]

    (again / "x.py").chmod(0o755)
    assert zip_folder(again, module=True).digest != first.digest
    (again / "x.py").chmod(0o644)
    (again / "x.py").write_text("1 ")
    assert zip_folder(again, module=True).digest != first.digest


def test_a_module_that_is_one_file(tmp_path):
    """In a folder of its name, the same whenever it was written; without ``module`` the file itself, for a script."""
    path = write(tmp_path, {"helpers.py": "X = 1\n"}) / "helpers.py"
    archive = read_local(str(path), "3.9", module=True)
    path.chmod(0o755)
    os.utime(path, (1, 1))

    assert (archive.name, names(archive.content), archive.modules) == (
        "helpers.zip",
        ["helpers/helpers.py"],
        {"helpers"},
    )
    assert read_local(str(path), "3.9", module=True) == archive
    assert inspect_archive("helpers.zip", archive.content).modules == {"helpers"}
    assert read_local(str(path), "3.9").content == b"X = 1\n"
    path.write_text("X = 2\n")
    assert read_local(str(path), "3.9", module=True).digest != archive.digest


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("helpers.py", "match 1:\n  case 1: pass\n", "is not Python 3.9"),
        ("helpers.py", " ", "is empty"),
        ("my-helpers.py", "X = 1", "cannot be imported under its name"),
        ("__init__.py", "X = 1", "give the folder"),
    ],
)
def test_modules_that_would_not_be_imported(tmp_path, name, text, words):
    write(tmp_path, {name: text})
    with pytest.raises((PackagingError, SourceFileError), match=words):
        read_local(str(tmp_path / name), "3.9", module=True)


def test_what_git_ignores_stays_at_home(tmp_path):
    """Rules of the repository, of the folder and of folders in it; what tools leave behind stays in any case."""
    empty = (
        "libs/a.py", "libs/a.csv", "libs/keep.csv", "libs/secret.txt", "libs/deep/b.py", "libs/deep/c.py",
        "libs/__pycache__/a.pyc", "libs/x.dist-info/METADATA", "libs/__MACOSX/y", "libs/.git/config",
    )  # fmt: skip
    files = {
        **dict.fromkeys(empty, ""),
        ".gitignore": "*.csv\n/build/\n",
        "libs/.gitignore": "secret.txt\n!keep.csv\n",
        "libs/deep/.gitignore": "b.py\n",
    }
    write(tmp_path / "repo", files)
    (tmp_path / "repo" / ".git").mkdir()
    (tmp_path / ".gitignore").write_text("*.py\n")  # above the repository: not its rules

    assert names(zip_folder(tmp_path / "repo" / "libs", module=True).content) == [
        "libs/.gitignore", "libs/a.py", "libs/deep/.gitignore", "libs/deep/c.py", "libs/keep.csv",
    ]  # fmt: skip


def test_what_is_named_itself_is_not_ignored(tmp_path):
    """What we send along may be installed in a .venv of a repository, and somebody may name a folder of builds."""
    write(tmp_path, {".git/HEAD": "", ".gitignore": ".venv/\nbuild/\n*.log\n"})
    installed = write(tmp_path / ".venv" / "site-packages" / "step", {"__init__.py": "", "calls.py": ""})
    built = write(tmp_path / "build" / "libs", {".gitignore": "secret.py\n", "one.py": "", "secret.py": ""})

    assert names(zip_folder(installed, module=True).content) == ["step/step/__init__.py", "step/step/calls.py"]
    assert names(zip_folder(built, module=True).content) == ["libs/.gitignore", "libs/one.py"]


def test_too_much_and_too_little(tmp_path, monkeypatch):
    """The size that counts, and the files that make it."""
    with pytest.raises(PackagingError, match="no files"):
        zip_folder(write(tmp_path / "empty", {".git/config": ""}), module=True)
    monkeypatch.setattr(archives, "MOST_BYTES", 10)
    big = write(tmp_path / "big", {"a.py": "12345", "data.bin": "1234567"})
    with pytest.raises(PackagingError, match=r"2 files of 12 bytes, more than 10.*data.bin \(7\), a.py \(5\)"):
        zip_folder(big, module=True)


def test_links(tmp_path):
    """To a file: its content; to a folder, and so every loop: refused by name."""
    libs = write(tmp_path / "libs", {"a.py": "1"})
    (libs / "b.py").symlink_to(libs / "a.py")
    assert names(zip_folder(libs, module=True).content) == ["libs/a.py", "libs/b.py"]
    (libs / "loop").symlink_to(libs)
    with pytest.raises(PackagingError, match="loop is a link to a folder"):
        zip_folder(libs, module=True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no zip", "is no zip archive"),
        (zipped("a/x.py", "b/y.py"), "exactly one folder .* it has a/, b/"),
        (zipped("x.py"), "it has x.py"),
        (zipped("a/x.py", "__MACOSX/x"), "it has __MACOSX/, a/"),
        (zipped("a/../../etc/passwd"), "write outside of its folder"),
        (zipped("/etc/passwd"), "write outside of its folder"),
        (zipped(), "it has nothing"),
    ],
)
def test_archives_that_glue_would_not_take(content, words):
    with pytest.raises(PackagingError, match=words):
        inspect_archive("lib.zip", content)
