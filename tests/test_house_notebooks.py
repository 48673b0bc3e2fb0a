"""Lessons import what users import: names of ``varlen_lab`` itself, or names in a room's ``__all__``."""

from __future__ import annotations

import ast
import importlib
import json
import pkgutil
from pathlib import Path

import pytest

import varlen_lab

LESSONS = sorted((Path(__file__).resolve().parent.parent / "notebooks").rglob("*.ipynb"))
ROOMS = {"", *(room.name for room in pkgutil.iter_modules(varlen_lab.__path__) if room.ispkg)}


def not_public(source: str) -> list[str]:
    """The imports of a cell that reach past the public face and the rooms' ``__all__``."""
    lines = ["pass" if line.lstrip().startswith(("!", "%")) else line for line in source.splitlines()]
    found = []
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.Import):
            found += [one.name for one in node.names if one.name.startswith("varlen_lab.")]
        elif isinstance(node, ast.ImportFrom) and (package := node.module or "").split(".")[0] == "varlen_lab":
            has_face = package.partition(".")[2] in ROOMS  # a file inside a room has none
            allowed = importlib.import_module(package).__all__ if has_face else []
            found += [f"{package}.{one.name}" for one in node.names if one.name not in allowed]
    return found


@pytest.mark.parametrize("path", LESSONS, ids=[path.stem for path in LESSONS])
def test_a_lesson_imports_only_what_users_import(path: Path) -> None:
    cells = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert [name for cell in cells for name in not_public("".join(cell["source"]))] == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from varlen_lab import train, Boundaries", []),
        ("from varlen_lab.viz import draw_rows\n!ls\nimport varlen_lab, torch", []),
        ("from varlen_lab.viz.rows import draw_rows", ["varlen_lab.viz.rows.draw_rows"]),
        ("from varlen_lab.viz import rows", ["varlen_lab.viz.rows"]),
        ("from varlen_lab import viz", ["varlen_lab.viz"]),
        ("def inside():\n    import varlen_lab.viz.rows", ["varlen_lab.viz.rows"]),
    ],
)
def test_what_reaches_into_a_room_is_found(source: str, found: list[str]) -> None:
    assert not_public(source) == found
