"""What only a release knows: the address of the repository, and with it absolute links in the README.

``GLUERAY_REPOSITORY`` is the address. Without it a build has no ``project.urls`` and the README as it is; `make
release-check` asks for it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_RELATIVE = re.compile(r"\]\((?!https?://|#|mailto:)([^)]+)\)")


class ReleaseMetadataHook(MetadataHookInterface):
    """Add the addresses and the README."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Fill in what ``pyproject.toml`` calls dynamic."""
        repository = os.environ.get("GLUERAY_REPOSITORY", "").rstrip("/")
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        if repository:
            metadata["urls"] = urls_of(repository)
            text = with_absolute_links(text, repository)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def urls_of(repository: str) -> dict[str, str]:
    """Return the addresses that a package page shows."""
    return {
        "Homepage": repository,
        "Documentation": f"{repository}/tree/main/docs",
        "Changelog": f"{repository}/blob/main/CHANGELOG.md",
        "Source": repository,
        "Issues": f"{repository}/issues",
    }


def with_absolute_links(text: str, repository: str) -> str:
    """Return a page of the repository as it is to be read elsewhere."""
    return _RELATIVE.sub(lambda found: f"]({repository}/blob/main/{found[1]})", text)
