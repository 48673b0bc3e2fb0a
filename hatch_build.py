"""Where the project lives is one setting, ``[tool.varlen_lab] repository`` in pyproject.toml: owner/name on GitHub.

While it is empty, the built package names no address. Once it is set, the package links to the repository, and the
README that a package index shows finds its pictures and files there.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class Repository(MetadataHookInterface):
    """Fills in ``urls`` and ``readme`` when a package is built."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Put both into ``metadata``, the project's table."""
        root = Path(self.root)
        settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
        repository = settings["tool"]["varlen_lab"]["repository"]
        text = (root / "README.md").read_text(encoding="utf-8")
        metadata["urls"] = urls(repository)
        metadata["readme"] = {"content-type": "text/markdown", "text": with_whole_links(text, repository)}


def urls(repository: str) -> dict[str, str]:
    """The links that a package index shows, none for an empty ``repository``; ValueError if it is no owner/name."""
    if not repository:
        return {}
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ValueError(f"repository is {repository!r} in pyproject.toml; it must be owner/name, as on GitHub")
    home = f"https://github.com/{repository}"
    return {"Repository": home, "Issues": f"{home}/issues", "Changelog": f"{home}/blob/main/CHANGELOG.md"}


def with_whole_links(readme: str, repository: str) -> str:
    """``readme`` with the links to files of the repository made whole; unchanged for an empty ``repository``."""
    if not repository:
        return readme
    pages = f"https://github.com/{repository}/blob/main/"
    files = f"https://raw.githubusercontent.com/{repository}/main/"  # pictures: a page about a picture is none
    readme = re.sub(r'((?:src|srcset)=")(?!https?:)', rf"\g<1>{files}", readme)
    link = r"(!?)(\[[^\[\]]*\]\()(?!https?:|#)"
    return re.sub(link, lambda found: found[1] + found[2] + (files if found[1] else pages), readme)
