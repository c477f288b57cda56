"""A folder or a module as the one zip archive that Glue takes, and a look into archives that are given.

Reads local files, talks to nobody. The same files make the same digest wherever and whenever they are packed,
so a folder that has not changed is not uploaded again.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from airflow_provider_glueray.core.errors import PackagingError

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

#: The most bytes of files in a folder. Ray unpacks it on every node before anything runs.
MOST_BYTES = 250 * 1024 * 1024
#: Never packed: what tools leave behind, and what Glue does not want (dg/edit-script-ray-env-dependencies).
ALWAYS_IGNORED = {
    ".git",
    "__pycache__",
    "__MACOSX",
    ".DS_Store",
    ".venv",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
}
ALWAYS_IGNORED_SUFFIXES = (".pyc", ".pyo", ".dist-info", ".egg-info")
#: The first moment that a zip archive can tell; the real times of files differ from checkout to checkout.
_NO_TIME = (1980, 1, 1, 0, 0, 0)


class Archive(NamedTuple):
    """A file that is ready for S3.

    :param name: what to call it there, before its digest is added.
    :param digest: of what is in it.
    :param modules: what can be imported from it, if it goes on the import path.
    """

    name: str
    content: bytes
    digest: str
    modules: frozenset[str] = frozenset()


def zip_folder(folder: Path, *, module: bool) -> Archive:
    """Zip a folder with exactly one folder at its root, which is what Glue takes; what git ignores stays out.

    :param module: whether it goes on the import path: then a folder that is a package itself is importable by its name.
    :raises PackagingError: nothing is in it, too much is, or a link leads to another folder.
    """
    files = dict(_files(folder))
    if not files:
        raise PackagingError(f"{folder} has no files to send")
    sizes = {name: path.stat().st_size for name, path in files.items()}
    if sum(sizes.values()) > MOST_BYTES:
        largest = ", ".join(f"{name} ({sizes[name]:,})" for name in sorted(sizes, key=sizes.__getitem__)[:-4:-1])
        raise PackagingError(
            f"{folder} has {len(files)} files of {sum(sizes.values()):,} bytes, more than {MOST_BYTES:,}. The largest: "
            f"{largest}. Leave data in S3, or name in .gitignore what is not needed"
        )
    root = folder.resolve().name
    if module and "__init__.py" in files:
        root = f"{root}/{root}"
    contents = (
        (name, files[name].read_bytes(), bool(files[name].stat().st_mode & stat.S_IXUSR)) for name in sorted(files)
    )
    return _zipped(folder.resolve().name, root, contents)


def zip_module(path: Path, content: bytes) -> Archive:
    """Zip a module that is a single file, in a folder of its name.

    :raises PackagingError: no import statement could name it.
    """
    if not path.stem.isidentifier() or path.stem == "__init__":
        raise PackagingError(f"{path} cannot be imported under its name; give the folder of a package, or another name")
    return _zipped(path.stem, path.stem, [(path.name, content, False)])


def _zipped(name: str, root: str, files: Iterable[tuple[str, bytes, bool]]) -> Archive:
    """Zip files below ``root``, in the order given: their names, contents, and whether they are programs."""
    body, digest, names = io.BytesIO(), hashlib.sha256(root.encode()), []
    with zipfile.ZipFile(body, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, content, is_program in files:
            names.append(f"{root}/{file}")
            entry = zipfile.ZipInfo(names[-1], _NO_TIME)
            entry.external_attr = (0o755 if is_program else 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
            digest.update(f"\0{file}\0{is_program}\0{len(content)}\0".encode() + content)
    return Archive(f"{name}.zip", body.getvalue(), digest.hexdigest(), _importable(names))


def inspect_archive(path: str, content: bytes) -> Archive:
    """Look into an archive that is there already.

    :raises PackagingError: it is no zip, does not have exactly one folder at its root, or would write outside of it.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise PackagingError(f"{path} is no zip archive: {error}") from error
    outside = [name for name in names if name.startswith(("/", "\\")) or ".." in PurePosixPath(name).parts]
    if outside:
        raise PackagingError(f"{path} would write outside of its folder: {outside[0]}")
    roots = sorted({PurePosixPath(name).parts[0] + ("/" if "/" in name else "") for name in names})
    if len(roots) != 1 or not roots[0].endswith("/"):
        raise PackagingError(
            f"{path} must have exactly one folder at its root and nothing beside it (dg/edit-script-ray-env-"
            f"dependencies); it has {', '.join(roots[:5]) or 'nothing'}"
        )
    return Archive(Path(path).name, content, hashlib.sha256(content).hexdigest(), _importable(names))


def _importable(names: Iterable[str]) -> frozenset[str]:
    """Return the modules below the one folder at the root, which itself is taken away when Ray unpacks it."""
    below = [PurePosixPath(name).parts[1:] for name in names]
    packages = {parts[0] for parts in below if len(parts) > 1}
    modules = {parts[0].removesuffix(".py") for parts in below if len(parts) == 1 and parts[0].endswith(".py")}
    return frozenset(packages | modules)


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files of a folder that are to be sent, by their names within it."""
    folder = folder.resolve()
    rules = list(_ignored_above(folder))
    if any(_is_ignored(each, rules, is_folder=True) for each in (folder, *folder.parents)):
        # Whoever names a folder wants it, though git does not: a build, or what is installed in a .venv.
        rules = []
    for folder_path, directories, names in os.walk(folder):
        here = Path(folder_path)
        rules += _ignored_in(here)
        directories[:] = sorted(name for name in directories if not _is_ignored(here / name, rules, is_folder=True))
        for name in directories:
            if (here / name).is_symlink():
                raise PackagingError(f"{here / name} is a link to a folder; copy it, or name it in .gitignore")
        for name in names:
            if not _is_ignored(here / name, rules, is_folder=False) and (here / name).is_file():
                yield (here / name).relative_to(folder).as_posix(), here / name


def _is_ignored(path: Path, rules: list[tuple[Path, GitIgnoreSpec]], *, is_folder: bool) -> bool:
    if path.name in ALWAYS_IGNORED or path.name.endswith(ALWAYS_IGNORED_SUFFIXES):
        return True
    ignored = False
    for base, spec in rules:
        if base in path.parents:
            verdict = spec.check_file(path.relative_to(base).as_posix() + ("/" if is_folder else "")).include
            ignored = ignored if verdict is None else verdict
    return ignored


def _ignored_above(folder: Path) -> Iterator[tuple[Path, GitIgnoreSpec]]:
    """Yield the rules of the git repository that a folder is in, from its root down to the folder's parent."""
    above = list(folder.parents)
    root = next((at for at, folder_path in enumerate(above) if (folder_path / ".git").exists()), -1)
    for folder_path in reversed(above[: root + 1]):
        yield from _ignored_in(folder_path)


def _ignored_in(folder_path: Path) -> Iterator[tuple[Path, GitIgnoreSpec]]:
    from pathspec import GitIgnoreSpec

    file = folder_path / ".gitignore"
    if file.is_file():
        yield folder_path, GitIgnoreSpec.from_lines(file.read_text(errors="replace").splitlines())
