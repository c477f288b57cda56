"""Prove a release without publishing it: ``make release-check REPOSITORY=https://…``.

Builds the distributions, has twine check them, and compares what is in them with what the project says of itself. Then
``dist`` also has a list of all that ``[all]`` installs (CycloneDX), and the notes of the release.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

from airflow_provider_glueray import __version__

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
UV = str(Path(sys.executable).with_name("uv"))


def main() -> int:
    """Build and check; print each problem, and return 1 if there is one."""
    if not os.environ.get("GLUERAY_REPOSITORY"):
        print("release-check: say where the repository is: make release-check REPOSITORY=https://…", file=sys.stderr)
        return 1
    subprocess.run([UV, "build", "--quiet", "--clear", "--out-dir", str(DIST), str(ROOT)], check=True)
    distributions = sorted(str(path) for path in DIST.iterdir() if path.suffix in (".whl", ".gz"))
    subprocess.run([UV, "tool", "run", "--quiet", "twine", "check", "--strict", *distributions], check=True)
    wheel = next(DIST.glob("*.whl"))
    problems = [*_problems_of(wheel), *_problems_of_notes()]
    _write_materials(wheel)
    for problem in problems:
        print(f"release-check: {problem}", file=sys.stderr)
    print(f"release-check: {len(problems)} problems; {', '.join(sorted(path.name for path in DIST.iterdir()))}")
    return int(bool(problems))


def _problems_of(wheel: Path) -> Iterator[str]:
    """Yield what is wrong with the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        info = next(name.partition("/")[0] for name in names if ".dist-info/" in name)
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
    if metadata["Version"] != __version__:
        yield f"the wheel is version {metadata['Version']}, the package says {__version__}"
    strays = [name for name in names if not name.startswith(("airflow_provider_glueray/", info))]
    if strays:
        yield f"the wheel has {strays[0]}, which is no part of the package"
    if "airflow_provider_glueray/py.typed" not in names:
        yield "the wheel has no py.typed"
    if not metadata.get_all("Project-URL"):
        yield "there is no project URL"
    relative = re.findall(r"\]\((?!https?://|#)([^)]+)\)", str(metadata.get_payload()))
    if relative:
        yield f"the README has {len(relative)} relative links, such as {relative[0]}"
    classifiers = metadata.get_all("Classifier") or []
    pythons = {line.rpartition(" ")[2] for line in classifiers if re.search(r":: 3\.\d+$", line)}
    if f"3.{metadata['Requires-Python'].rpartition('.')[2]}" not in pythons:
        yield f"Requires-Python {metadata['Requires-Python']} is not among the classifiers {sorted(pythons)}"


def _problems_of_notes() -> Iterator[str]:
    """Yield what is wrong with the changelog."""
    if not notes():
        yield f"CHANGELOG.md has no section {__version__}"


def notes() -> str:
    """Return what the changelog says of this version."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(__version__)}\b.*?\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return found[1].strip() if found else ""


def _write_materials(wheel: Path) -> None:
    """Write the notes of the release, and what it installs."""
    (DIST / "NOTES.md").write_text(notes() + "\n", encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        python = str(Path(folder) / "venv" / "bin" / "python")
        subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, str(Path(folder) / "venv")], check=True)
        wanted = f"airflow-provider-glueray[all] @ {wheel.as_uri()}"
        subprocess.run([UV, "pip", "install", "--quiet", "--python", python, wanted], check=True)
        command = [UV, "tool", "run", "--quiet", "--from", "cyclonedx-bom", "cyclonedx-py", "environment", python]
        subprocess.run([*command, "--output-file", str(DIST / "sbom.cdx.json")], check=True)


if __name__ == "__main__":
    sys.exit(main())
