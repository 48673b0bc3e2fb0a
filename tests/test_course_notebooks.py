"""The lessons as files: complete, readable, committed without what a run leaves behind."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from statistics import median
from typing import Any

import nbformat
import pytest

from varlen_lab.course.comparing import numbers_of
from varlen_lab.course.lessons import Lesson, find_lessons
from varlen_lab.course.pages.index import TAG
from varlen_lab.course.parameters import INJECTED

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))
import refresh  # noqa: E402

FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(path for path in FOLDER.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=[str(p.relative_to(FOLDER)) for p in NOTEBOOKS])


def cells(path: Path, kind: str) -> list[Any]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def code_lines(path: Path) -> list[int]:
    return [len(cell.source.strip().splitlines()) for cell in cells(path, "code")]


def missing_alts(markdown: str) -> list[str]:
    """Images of a markdown text that say nothing to a reader who cannot see them."""
    without = re.findall(r"!\[\s*\]\([^)]*\)", markdown)
    return without + [tag for tag in re.findall(r"<img\b[^>]*>", markdown) if not re.search(r'alt="[^"]+"', tag)]


def fetched_images(markdown: str) -> list[str]:
    """Images of a markdown text that need a network."""
    return re.findall(r"""!\[[^\]]*\]\(https?:[^)]*\)|<img\b[^>]*src=["']https?:[^>]*>""", markdown)


def test_the_lessons_are_numbered_without_a_gap_and_each_leads_to_the_next() -> None:
    lessons = find_lessons()
    assert [lesson.name[:2] for lesson in lessons] == [f"{number:02}" for number in range(len(lessons))]
    for lesson, following in zip(lessons, [*lessons[1:], lessons[0]], strict=True):
        assert f"]({following.path.name})" in lesson.notebook.cells[-1].source, lesson.name


def test_some_lesson_shows_something_on_the_index() -> None:
    tagged = {p.stem for p in NOTEBOOKS for cell in cells(p, "code") if TAG in cell.metadata.get("tags", [])}
    assert {lesson.name for lesson in find_lessons()} <= tagged


@each_notebook
def test_notebook_is_valid(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5)  # cells have ids, so diffs stay small
    assert notebook.metadata.get("kernelspec", {}).get("name", "python3") == "python3"


@each_notebook
def test_notebook_is_kept_as_one_clean_run_leaves_it(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert not {"papermill", "widgets"} & set(notebook.metadata)
    for number, cell in enumerate(cells(path, "code"), start=1):
        assert cell.execution_count == number
        assert not {"papermill", "execution", "collapsed"} & set(cell.metadata)
        assert all(refresh.WIDGET not in output.get("data", {}) for output in cell.outputs)
    assert refresh.unfit(notebook) == []
    assert path.stat().st_size <= refresh.LIMIT
    assert any(cell.outputs for cell in cells(path, "code"))


@each_notebook
def test_some_numbers_of_a_notebook_are_compared_and_kept(path: Path) -> None:
    compared = [cell for cell in cells(path, "code") if "tolerance" in cell.metadata]
    assert compared
    for cell in compared:
        assert numbers_of(cell), f"cell [{cell.execution_count}] has a tolerance and no number"
        assert 0 <= cell.metadata["tolerance"] <= 0.1
        assert "machine" not in cell.metadata.get("tags", [])


@each_notebook
def test_each_parameter_is_typed_and_used(path: Path) -> None:
    code = cells(path, "code")
    place = next(i for i, cell in enumerate(code) if "parameters" in cell.metadata.get("tags", []))
    assert [i for i, cell in enumerate(code) if "parameters" in cell.metadata.get("tags", [])] == [place]
    assert code[place + 1].source.endswith("check_parameters()")
    assert not code[place].source.startswith(INJECTED)
    assert all(isinstance(node, ast.AnnAssign) for node in ast.parse(code[place].source).body)
    used = {name for cell in code[place + 1 :] for name in names_read(cell.source)}
    used.add("language")  # check_parameters reads it
    parameters = Lesson(path).typed_parameters
    assert parameters and set(parameters) <= used
    assert all(one.default is not ... and one.takes(one.default) for one in parameters.values())


def names_read(source: str) -> set[str]:
    """Names whose value a cell reads, in braces of its shell lines too."""
    lines = source.splitlines()
    shell = "".join(line for line in lines if line.lstrip().startswith(("!", "%")))
    tree = ast.parse("\n".join("pass" if line.lstrip().startswith(("!", "%")) else line for line in lines))
    read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    return read | set(re.findall(r"\{(\w+)", shell))


def test_a_parameter_that_nothing_reads_is_found() -> None:
    assert names_read("steps = 3\nf(seed)\n!ls {folder.name} quick") == {"f", "seed", "folder"}


@each_notebook
def test_code_cells_are_short(path: Path) -> None:
    lengths = code_lines(path)
    assert max(lengths) <= 30
    assert median(lengths) <= 6


@each_notebook
def test_notebook_opens_with_its_title(path: Path) -> None:
    first = nbformat.read(path, as_version=4).cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    assert Lesson(path).title == first.source.splitlines()[0][2:].strip()


@each_notebook
def test_images_have_alt_text_and_need_no_network(path: Path) -> None:
    text = "\n".join(cell.source for cell in cells(path, "markdown"))
    assert missing_alts(text) == []
    assert fetched_images(text) == []


@each_notebook
def test_notebook_neither_installs_nor_names_a_machine(path: Path) -> None:
    text = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
    assert not re.search(r"^\s*[!%]\s*(pip|conda)\b", text, flags=re.MULTILINE)
    assert not re.search(r"(?<![\w.])/(root|home|Users|tmp|work)/", text)
    assert "sys.path" not in text


def test_the_image_rules_find_what_they_look_for() -> None:
    assert missing_alts('![](a.png) ![a mask](b.png) <img src=\'c.png\'> <img alt="d" src="d.png">') == [
        "![](a.png)",
        "<img src='c.png'>",
    ]
    assert len(fetched_images('![x](https://a/b.png) <img alt="y" src="http://c/d.png"> ![z](local.png)')) == 2
