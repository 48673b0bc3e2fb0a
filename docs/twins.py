"""The Chinese twins of the lessons: their code is the English lesson's, their prose is written by people.

    python docs/twins.py              copy the code of each lesson into its twin in notebooks/zh/, and say what lags
    python docs/twins.py 05 --written    the prose of twin 05 says what the English lesson says now

A cell and its twin have one id. A prose cell of a twin notes a digest of the English one it was written after
(``metadata.after``); where that has changed since, the twin lags, and ``tests/test_course_twins.py`` names lesson and
cell until somebody has read both and says ``--written``. A new cell is copied as it is, in English, and lags.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path
from typing import Any

import nbformat

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
CHINESE = FOLDER / "zh"
LANGUAGE = re.compile(r'^language: str = "en"', re.M)


def digest(source: str) -> str:
    """Ten letters of a text's sum."""
    return hashlib.sha256(source.encode()).hexdigest()[:10]


def code_of_twin(source: str, tags: list[str]) -> str:
    """The code of a cell as its twin has it."""
    return LANGUAGE.sub('language: str = "zh"', source) if "parameters" in tags else source


def lagging(lesson: Any, twin: Any) -> list[str]:
    """What in a twin is not what its lesson has now, a sentence for each cell that lags."""
    if [(cell.id, cell.cell_type) for cell in lesson.cells] != [(cell.id, cell.cell_type) for cell in twin.cells]:
        return ["its cells are not those of the lesson, in kind and order; python docs/twins.py copies them"]
    found = []
    for number, (cell, other) in enumerate(zip(lesson.cells, twin.cells, strict=True)):
        tags = cell.metadata.get("tags", [])
        if tags != other.metadata.get("tags", []):
            found.append(f"cell {number} ({cell.id}) has the tags {other.metadata.get('tags', [])}, not {tags}")
        if cell.cell_type == "code" and other.source != code_of_twin(cell.source, tags):
            found.append(f"cell {number} ({cell.id}) has other code; python docs/twins.py copies it")
        if cell.cell_type == "markdown" and other.metadata.get("after") != digest(cell.source):
            found.append(f"cell {number} ({cell.id}) was written after an older English cell; read both")
    return found


def brought_up(lesson: Any, twin: Any | None, written: bool) -> Any:
    """The twin with the lesson's cells and code, its own prose and outputs; ``written``: the prose is that of now."""
    own = {} if twin is None else {cell.id: cell for cell in twin.cells}
    made = nbformat.from_dict(lesson)
    made.metadata = nbformat.from_dict(dict(lesson.metadata))
    for cell in made.cells:
        kept, english = own.get(cell.id), cell.source
        if cell.cell_type == "code":
            cell.source = code_of_twin(english, cell.metadata.get("tags", []))
            same = kept is not None and kept.source == cell.source
            cell.outputs, cell.execution_count = (kept.outputs, kept.execution_count) if same else ([], None)
            continue
        if kept is not None:
            cell.source = kept.source
        after = digest(english) if written else kept.metadata.get("after", "") if kept else ""
        cell.metadata = nbformat.from_dict({**cell.metadata, "after": after})
    return made


def main(words: list[str]) -> int:
    """Bring the twins up to date that ``words`` name by their beginnings, or all; 1 where one lags."""
    written = "--written" in words
    starts = tuple(word for word in words if not word.startswith("-"))
    late = 0
    CHINESE.mkdir(exist_ok=True)
    for path in sorted(FOLDER.glob("*.ipynb")):
        if starts and not path.stem.startswith(starts):
            continue
        lesson, place = nbformat.read(path, as_version=4), CHINESE / path.name
        twin = nbformat.read(place, as_version=4) if place.exists() else None
        made = brought_up(lesson, twin, written)
        if made != twin:
            nbformat.write(made, place)
        for sentence in lagging(lesson, made):
            print(f"notebooks/zh/{path.name}: {sentence}")
            late = 1
    return late


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
