"""The Chinese twins of the lessons: their code is the English lesson's, their prose is written by people.

    python docs/twins.py              copy the code of each lesson into its twin in notebooks/zh/, and say what lags
    python docs/twins.py 05 --written    the prose of twin 05 says what the English lesson says now

A cell and its twin have one id. A prose cell of a twin notes a digest of the English one it was written after
(``metadata.after``); where that has changed since, the twin lags, and ``tests/test_course_twins.py`` names lesson and
cell until somebody has read both and says ``--written``. A new cell is copied as it is, in English, and lags. Chinese
prose is never lost: where the lesson has no cell for it any more, the twin stays as it was until a person moves the
cell or deletes it.
"""

from __future__ import annotations

import hashlib
import re
import sys
from itertools import zip_longest
from pathlib import Path
from typing import Any

import nbformat

from varlen_lab.files.writing import written_whole

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
CHINESE = FOLDER / "zh"
LANGUAGE = re.compile(r'^language: str = "en"', re.M)
SIGN = re.compile("[\u4e00-\u9fff]")


def digest(source: str) -> str:
    """Ten letters of a text's sum."""
    return hashlib.sha256(source.encode()).hexdigest()[:10]


def code_of_twin(source: str, tags: list[str]) -> str:
    """The code of a cell as its twin has it."""
    return LANGUAGE.sub('language: str = "zh"', source) if "parameters" in tags else source


def lagging(lesson: Any, twin: Any) -> list[str]:
    """What in a twin is not what its lesson has now, a sentence for each cell that lags."""
    if elsewhere := misplaced(lesson, twin):
        return [f"{elsewhere}; python docs/twins.py copies the cells"]
    found = []
    if lesson.metadata != twin.metadata:
        found.append("its metadata are not those of the lesson; python docs/twins.py copies them")
    for number, (cell, other) in enumerate(zip(lesson.cells, twin.cells, strict=True)):
        tags, has = cell.metadata.get("tags", []), {**other.metadata}
        after = has.pop("after", None)
        if tags != has.get("tags", []):
            found.append(f"cell {number} ({cell.id}) has the tags {has.get('tags', [])}, not {tags}")
        elif cell.metadata != has:
            found.append(f"cell {number} ({cell.id}) has other metadata; python docs/twins.py copies them")
        if cell.cell_type == "code" and other.source != code_of_twin(cell.source, tags):
            found.append(f"cell {number} ({cell.id}) has other code; python docs/twins.py copies it")
        if cell.cell_type != "code" and after != digest(cell.source):
            found.append(f"cell {number} ({cell.id}) was written after an older English cell; read both")
    return found


def misplaced(lesson: Any, twin: Any) -> str:
    """The first cell in which two notebooks differ in kind or order, in words; empty where there is none."""
    for number, (cell, other) in enumerate(zip_longest(lesson.cells, twin.cells)):
        wanted, has = (one and (one.id, one.cell_type) for one in (cell, other))
        if wanted != has:
            first, second = (f"the {one[1]} cell {one[0]}" if one else "no cell" for one in (wanted, has))
            return f"cell {number} is {first} in the lesson and {second} in the twin"
    return ""


def counterpart(cell: Any, twin: Any | None) -> Any | None:
    """The cell of the twin that stands for one of the lesson: of its id, else one written after this very text."""
    cells = [] if twin is None else [other for other in twin.cells if other.cell_type == cell.cell_type]
    after = digest(cell.source)
    same = [other for other in cells if other.id == cell.id]
    return next(iter([*same, *(other for other in cells if other.metadata.get("after") == after)]), None)


def homeless(lesson: Any, twin: Any | None) -> list[str]:
    """The Chinese prose of a twin that the lesson has no cell for, a sentence for each cell."""
    cells = [] if twin is None else twin.cells
    used = [id(counterpart(cell, twin)) for cell in lesson.cells]
    return [
        f"cell {number} ({cell.id}) is Chinese prose and the lesson has no cell for it, so nothing was copied; move it "
        f"or delete it: {cell.source[:30]!r}"
        for number, cell in enumerate(cells)
        if cell.cell_type != "code" and SIGN.search(cell.source) and id(cell) not in used
    ]


def brought_up(lesson: Any, twin: Any | None, written: bool) -> Any:
    """The twin with the lesson's cells and code, its own prose and outputs; ``written``: the prose is that of now."""
    made = nbformat.from_dict(lesson)
    made.metadata = nbformat.from_dict(dict(lesson.metadata))
    for cell in made.cells:
        kept, english = counterpart(cell, twin), cell.source
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
    """Bring the twins up to date that ``words`` name by their beginnings, or all; 1 where one lags, 2 for a slip."""
    written = "--written" in words
    starts = tuple(word for word in words if word != "--written")
    paths = sorted(FOLDER.glob("*.ipynb"))
    if slips := [start for start in starts if not any(path.stem.startswith(start) for path in paths)]:
        print(f"no lesson begins with {', '.join(slips)}; python docs/twins.py 05 --written", file=sys.stderr)
        return 2
    late = 0
    CHINESE.mkdir(exist_ok=True)
    for path in paths:
        if starts and not path.stem.startswith(starts):
            continue
        lesson, place = nbformat.read(path, as_version=4), CHINESE / path.name
        twin = nbformat.read(place, as_version=4) if place.exists() else None
        found = homeless(lesson, twin)
        if not found:
            made = brought_up(lesson, twin, written)
            if made != twin:
                with written_whole(place, "w") as file:
                    nbformat.write(made, file)
            found = lagging(lesson, made)
        for sentence in found:
            print(f"notebooks/zh/{path.name}: {sentence}")
            late = 1
    return late


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
