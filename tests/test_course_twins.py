"""The Chinese twins: the same code as the lessons, prose that has not fallen behind, words as the glossary has them."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))
import twins  # noqa: E402

NAMES = sorted(path.name for path in twins.FOLDER.glob("*.ipynb"))
each_twin = pytest.mark.parametrize("name", NAMES)
CHINESE = re.compile("[\u4e00-\u9fff]")
FENCE = re.compile(r"^```\w*\n.*?^```", re.M | re.S)
GLOSSARY = twins.CHINESE / "glossary.md"
DIFFICULTIES = {"easy": "简单", "medium": "中等", "hard": "困难"}
FORM = {  # marks of a lesson's form, and the same in Chinese
    "> **Claim.**": "> **论断。**",
    "**The page says**": "**原文说**",
    "<details><summary>Solution</summary>": "<details><summary>参考答案</summary>",
    "## What you know now": "## 现在你知道了",
    "## Puzzle": "## 练习",
}
UNCHECKED = {"文件"}  # right of a file on a disk


def pair(name: str) -> tuple[Any, Any]:
    """A lesson and its twin."""
    return nbformat.read(twins.FOLDER / name, 4), nbformat.read(twins.CHINESE / name, 4)


def terms() -> dict[str, tuple[str, list[str]]]:
    """English -> the word that is used and those that are not, of the glossary's table."""
    rows = re.findall(r"^\| ([^|]+?) \| ([^|]+?) \| ([^|]*?) ?\| [^|]*?\|$", GLOSSARY.read_text(encoding="utf-8"), re.M)
    return {
        english: (word, [one for one in unused.split("、") if one and one not in UNCHECKED])
        for english, word, unused in rows
        if english != "English" and not set(word) <= set("-")
    }


def unused_words(text: str) -> list[str]:
    """Words of a Chinese text that the glossary does not use."""
    return [word for _, unused in terms().values() for word in unused if word in text]


def prose(notebook: Any) -> list[tuple[int, str]]:
    """The markdown cells, by number, without code."""
    cells = [(n, cell.source) for n, cell in enumerate(notebook.cells) if cell.cell_type == "markdown"]
    return [(n, re.sub(r"`[^`\n]*`", "`", FENCE.sub("", source))) for n, source in cells]


def test_each_lesson_has_its_twin() -> None:
    assert sorted(path.name for path in twins.CHINESE.glob("*.ipynb")) == NAMES


@each_twin
def test_a_twin_does_what_its_lesson_does_and_does_not_lag(name: str) -> None:
    assert twins.lagging(*pair(name)) == []


@each_twin
def test_a_twin_differs_in_one_line_of_code(name: str) -> None:
    lesson, twin = pair(name)
    lines = [
        (one, other)
        for cell, same in zip(lesson.cells, twin.cells, strict=True)
        if cell.cell_type == "code"
        for one, other in zip(cell.source.split("\n"), same.source.split("\n"), strict=True)
        if one != other
    ]
    assert [(one.split("  #")[0], other.split("  #")[0]) for one, other in lines] == [
        ('language: str = "en"', 'language: str = "zh"')
    ]


@each_twin
def test_a_twin_is_told_in_chinese(name: str) -> None:
    lesson, twin = pair(name)
    for (number, english), (_, chinese) in zip(prose(lesson), prose(twin), strict=True):
        if re.search(r"[a-z]{3,} [a-z]{3,}", english):
            assert CHINESE.search(chinese), f"{name}, cell {number} is not in Chinese: {chinese[:60]!r}"


@each_twin
def test_a_twin_shows_the_commands_code_and_places_of_its_lesson(name: str) -> None:
    lesson, twin = pair(name)
    for number, (cell, same) in enumerate(zip(lesson.cells, twin.cells, strict=True)):
        if cell.cell_type == "markdown":
            assert FENCE.findall(cell.source) == FENCE.findall(same.source), f"{name}, cell {number}: its fenced code"
            links = [re.findall(r"\]\(([^)\s]+)\)", one.source) for one in (cell, same)]
            assert sorted(links[0]) == sorted(links[1]), f"{name}, cell {number}: its links"


@each_twin
def test_a_twin_keeps_the_form_of_its_lesson(name: str) -> None:
    lesson, twin = pair(name)
    meta, head = lesson.metadata, twin.cells[0].source
    if "needs" in meta:  # colab.ipynb names none
        needs = {"a CPU": "需要 CPU"}[meta.needs]
        assert f"*{meta.minutes} 分钟 · {DIFFICULTIES[meta.difficulty]} · {needs}*" in head
    for number, (cell, same) in enumerate(zip(lesson.cells, twin.cells, strict=True)):
        for english, chinese in FORM.items():
            assert cell.source.count(english) == same.source.count(chinese), f"{name}, cell {number}: {chinese}"
        if same.cell_type == "markdown":
            levels = [re.findall(r"^(#+) ", FENCE.sub("", one.source), re.M) for one in (cell, same)]
            assert levels[0] == levels[1], f"{name}, cell {number}: its headings"


def test_links_of_twins_lead_somewhere() -> None:
    for name in NAMES:
        for number, source in prose(pair(name)[1]):
            for link in re.findall(r"\]\(([^)\s]+)\)", source):
                if "://" not in link:
                    assert (twins.CHINESE / link.split("#")[0]).exists(), f"{name}, cell {number}: {link}"


@each_twin
def test_a_twin_uses_the_words_of_the_glossary(name: str) -> None:
    lesson, twin = pair(name)
    for number, source in prose(twin):
        assert unused_words(source) == [], f"{name}, cell {number}"
    english, chinese = (" ".join(source for _, source in prose(one)) for one in (lesson, twin))
    for term, (word, _) in terms().items():
        if len(re.findall(rf"\b{re.escape(term.split(' (')[0])}\b", english)) >= 4:
            assert word.split("：")[0] in chinese, f"{name} says {term} often and its twin never {word}"


def test_all_else_that_is_chinese_uses_the_words_of_the_glossary() -> None:
    catalogues = sorted((ROOT / "varlen_lab/language").rglob("*.toml"))
    for path in [ROOT / "README_zh.md", *catalogues]:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert unused_words(line) == [], f"{path.relative_to(ROOT)}, line {number}"


def test_the_glossary_has_each_word_once() -> None:
    found = terms()
    assert len(found) > 40
    used = {word for word, _ in found.values()}
    assert not {word for _, unused in found.values() for word in unused} & used


def test_each_way_to_lag_is_named() -> None:
    def notebook(*cells: Any) -> Any:
        return nbformat.v4.new_notebook(cells=list(cells))

    text = nbformat.v4.new_markdown_cell("# One", id="a")
    told = nbformat.v4.new_code_cell('language: str = "en"  # of words', id="b", metadata={"tags": ["parameters"]})
    code = nbformat.v4.new_code_cell("x = 1", id="c")
    lesson = notebook(text, told, code)
    twin = twins.brought_up(lesson, None, written=True)
    assert twins.lagging(lesson, twin) == [] and twin.cells[1].source == 'language: str = "zh"  # of words'
    lesson.cells[0].source = "# One, and another word"
    assert twins.lagging(lesson, twin) == ["cell 0 (a) was written after an older English cell; read both"]
    twin = twins.brought_up(lesson, twin, written=True)
    twin.cells[2].source = "x = 2"
    assert twins.lagging(lesson, twin) == ["cell 2 (c) has other code; python docs/twins.py copies it"]
    twin.cells[2].source, twin.cells[1].metadata.tags = "x = 1", []
    assert twins.lagging(lesson, twin) == ["cell 1 (b) has the tags [], not ['parameters']"]
    twin.cells[1].metadata = {"tags": ["parameters"], "tolerance": 1}
    twin.metadata.minutes = 5
    assert twins.lagging(lesson, twin) == [
        "its metadata are not those of the lesson; python docs/twins.py copies them",
        "cell 1 (b) has other metadata; python docs/twins.py copies them",
    ]
    del twin.cells[1]
    assert "cell 1 is the code cell b in the lesson and the code cell c in the twin" in twins.lagging(lesson, twin)[0]
    del twin.cells[1]
    assert "cell 1 is the code cell b in the lesson and no cell in the twin" in twins.lagging(lesson, twin)[0]


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one lesson, ``05_train``, and its twin, whose code cell keeps an output."""
    shown = nbformat.v4.new_code_cell("x", id="c", outputs=[nbformat.v4.new_output("stream", text="1")])
    cells = [nbformat.v4.new_markdown_cell("# One", id="a"), nbformat.v4.new_markdown_cell("Two", id="b"), shown]
    lesson = nbformat.v4.new_notebook(cells=cells)
    twin = nbformat.from_dict(lesson)
    for cell, words in zip(twin.cells, ("# 一", "二"), strict=False):
        cell.metadata, cell.source = {"after": twins.digest(cell.source)}, words
    (tmp_path / "zh").mkdir()
    for place, notebook in ((tmp_path, lesson), (tmp_path / "zh", twin)):
        nbformat.write(notebook, place / "05_train.ipynb")
    monkeypatch.setattr(twins, "FOLDER", tmp_path)
    monkeypatch.setattr(twins, "CHINESE", tmp_path / "zh")
    return tmp_path


def edit(path: Path, cell: int, **changes: Any) -> None:
    """Change a cell of the notebook at ``path``, or delete it where nothing is said."""
    notebook = nbformat.read(path, 4)
    notebook.cells[cell].update(changes)
    notebook.cells = [one for number, one in enumerate(notebook.cells) if changes or number != cell]
    nbformat.write(notebook, path)


@pytest.mark.parametrize("folder", ["", "zh"])
def test_prose_under_another_id_stays_chinese(folder: str, course: Path) -> None:
    edit(course / folder / "05_train.ipynb", 1, id="other")
    assert twins.main([]) == 0
    lesson, twin = (nbformat.read(course / place / "05_train.ipynb", 4) for place in ("", "zh"))
    assert twins.lagging(lesson, twin) == []
    assert [one.source for one in twin.cells] == ["# 一", "二", "x"] and twin.cells[2].outputs


@pytest.mark.parametrize("changes", [{}, {"cell_type": "code", "outputs": [], "execution_count": None}])
def test_chinese_prose_that_has_no_cell_any_more_is_not_lost(
    changes: dict[str, Any], course: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (course / "zh" / "05_train.ipynb").read_bytes()
    edit(course / "05_train.ipynb", 1, **changes)
    assert twins.main(["05", "--written"]) == 1
    assert "05_train.ipynb: cell 1 (b) is Chinese prose and the lesson has no cell for it" in capsys.readouterr().out
    assert (course / "zh" / "05_train.ipynb").read_bytes() == before
    edit(course / "zh" / "05_train.ipynb", 1)
    assert twins.main(["05"]) == 0


@pytest.mark.parametrize("word", ["99", "zh/05", "--writen", "05_train.ipynb"])
def test_a_slip_is_said_and_nothing_copied(word: str, course: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(course / "05_train.ipynb", 1, source="Two and more")
    before = (course / "zh" / "05_train.ipynb").read_bytes()
    assert twins.main(["05", "--written", word]) == 2
    assert f"no lesson begins with {word}" in capsys.readouterr().err
    assert (course / "zh" / "05_train.ipynb").read_bytes() == before
