"""What a release is made of; ``make release-check`` builds it."""

from __future__ import annotations

import re
from pathlib import Path

import hatch_build
from tests import release

ROOT = Path(__file__).parents[1]


def test_the_readme_has_absolute_links_elsewhere():
    text = hatch_build.with_absolute_links(
        (ROOT / "README.md").read_text(encoding="utf-8"), "https://forge.example/us/it"
    )
    targets = re.findall(r"\]\(([^)]+)\)", text)

    assert len(targets) > 20
    assert all(target.startswith("https://") for target in targets)


def test_every_link_of_the_readme_leads_somewhere():
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert [target for target in targets if "://" not in target and not (ROOT / target).exists()] == []


def test_the_notes_are_the_section_of_the_version():
    assert release.notes().startswith("### Added")
    assert "\n## " not in release.notes()
