"""Put the Colab badge into the READMEs: ``python docs/badge.py``, after ``repository`` in pyproject.toml changed.

``[tool.varlen_lab] repository`` says owner/name on GitHub. The badge stands between ``<!-- badge -->`` and
``<!-- /badge -->`` of a README, and the notebook that it opens installs from the same repository. Without a repository
there is no badge.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
READMES = ("README.md", "README_zh.md")
NOTEBOOK = "notebooks/colab.ipynb"
BLOCK = re.compile(r"<!-- badge -->.*?<!-- /badge -->", re.DOTALL)
PARAMETER = re.compile(r'^repository: str = "[^"]*"', re.MULTILINE)
PICTURE = "https://colab.research.google.com/assets/colab-badge.svg"


def badge(repository: str) -> str:
    """The block for ``repository`` (owner/name), with nothing in it where that is empty."""
    if not repository:
        return "<!-- badge -->\n<!-- /badge -->"
    page = f"https://colab.research.google.com/github/{repository}/blob/main/{NOTEBOOK}"
    # on a line of its own: markdown reads nothing in a line that begins with a comment
    return f"<!-- badge -->\n[![Open in Colab]({PICTURE})]({page})\n<!-- /badge -->"


def write(root: Path) -> str:
    """Bring the READMEs and the notebook of ``root`` up to date; a sentence where that cannot be, else ''."""
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    repository = settings.get("tool", {}).get("varlen_lab", {}).get("repository", "")
    if repository and not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        return f"repository in pyproject.toml is {repository!r}; write it as owner/name, or leave it empty."
    texts = {name: (root / name).read_text(encoding="utf-8") for name in READMES}
    if missing := [name for name, text in texts.items() if repository and not BLOCK.search(text)]:
        return f"{missing[0]} has no place for a badge; write <!-- badge --><!-- /badge --> where it shall stand."
    for name, text in texts.items():
        (root / name).write_text(BLOCK.sub(lambda _: badge(repository), text), encoding="utf-8")
    notebook = nbformat.read(root / NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = PARAMETER.sub(lambda _: f'repository: str = "{repository}"', cell.source)
    nbformat.write(notebook, root / NOTEBOOK)
    return ""


if __name__ == "__main__":
    if problem := write(ROOT):
        sys.exit(f"error: {problem}")
