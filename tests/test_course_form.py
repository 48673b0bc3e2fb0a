"""The form every lesson keeps: a claim, a guess that is stored before and answered after, a puzzle, a recap."""

from __future__ import annotations

import ast
import re
from typing import Any

import nbformat
import pytest

from varlen_lab.course.lessons import DIFFICULTIES, PATHS, Lesson, find_lessons

LESSONS = find_lessons()
each_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=[lesson.name for lesson in LESSONS])
STEPS = ["01_install", "02_find_a_config", "03_copy_the_config", "04_edit_the_config", "05_train", "06_convert"]


def tagged(cells: list[Any], tag: str) -> list[int]:
    """Places of the cells with a tag."""
    return [place for place, cell in enumerate(cells) if tag in cell.metadata.get("tags", [])]


def assigned(source: str) -> list[str]:
    """Names that the statements of a cell assign."""
    nodes = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    return [target.id for node in nodes for target in node.targets if isinstance(target, ast.Name)]


def read(source: str) -> set[str]:
    """Names whose value a cell reads."""
    lines = ["pass" if line.lstrip().startswith(("!", "%")) else line for line in source.splitlines()]
    nodes = ast.walk(ast.parse("\n".join(lines)))
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


def faults_of_guesses(cells: list[Any]) -> list[str]:
    """What is wrong with how a lesson asks for guesses: each is stored, then something is measured, then it is read."""
    found, guesses, answers = [], tagged(cells, "guess"), tagged(cells, "answer")
    if not guesses:
        found.append("asks for no guess")
    for place in guesses:
        for name in assigned(cells[place].source):
            reading = [at for at in answers if at > place and name in read(cells[at].source)]
            between = cells[place + 1 : reading[0]] if reading else []
            if not reading:
                found.append(f"{name} is never answered")
            elif not any(cell.cell_type == "code" for cell in between):
                found.append(f"{name} is answered by the next cell")
            if not re.search(rf"^{name} = None\b", cells[place].source, re.M):
                found.append(f"{name} is guessed for the reader")
    return found


def test_the_six_steps_are_the_six_files() -> None:
    names = [lesson.name for lesson in LESSONS]
    assert len(names) == 18 and names[1:7] == STEPS
    assert [lesson.name for lesson in LESSONS if lesson.step] == STEPS


def test_the_three_paths_are_those_of_the_course() -> None:
    on = {path: [lesson.name[:2] for lesson in LESSONS if path in lesson.paths] for path in PATHS}
    assert on["page"] == ["00", "01", "02", "03", "04", "05", "06"]
    assert on["prove"] == ["07", "08", "11", "12", "13", "14", "17"]
    assert on["job"] == ["09", "10", "12", "15", "16"]
    assert sum(lesson.minutes or 0 for lesson in LESSONS if "page" in lesson.paths) <= 75


@each_lesson
def test_a_lesson_says_what_it_takes(lesson: Lesson) -> None:
    assert lesson.minutes and 5 <= lesson.minutes <= 30
    assert lesson.difficulty in DIFFICULTIES and lesson.needs and lesson.paths
    head = lesson.notebook.cells[0].source
    assert f"*{lesson.minutes} minutes · {lesson.difficulty} · needs {lesson.needs}*" in head
    assert "**Claim.**" in head
    assert all(command in head for command in lesson.step.values())


@each_lesson
def test_a_guess_is_stored_before_and_answered_after(lesson: Lesson) -> None:
    assert faults_of_guesses(lesson.notebook.cells) == []


@each_lesson
def test_a_lesson_has_a_puzzle_a_solution_and_a_recap(lesson: Lesson) -> None:
    cells = lesson.notebook.cells
    puzzles = tagged(cells, "puzzle")
    assert puzzles
    for place in puzzles:
        assert 3 <= len(cells[place].source.strip().splitlines()) <= 16
        assert "check" in cells[place + 1].metadata.get("tags", [])
        assert "<details><summary>Solution</summary>" in cells[place + 2].source
    assert "## What you know now" in cells[-1].source
    assert any("The page says" in cell.source for cell in cells if cell.cell_type == "markdown")


@each_lesson
def test_a_picture_is_shown_once(lesson: Lesson) -> None:
    pictures = [
        output.data["image/png"]
        for cell in lesson.notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == len(set(pictures))


def test_each_fault_of_a_guess_is_found() -> None:
    def lesson(*cells: tuple[str, str]) -> list[Any]:
        return [nbformat.v4.new_code_cell(source, metadata={"tags": [tag] if tag else []}) for tag, source in cells]

    ask, measure, answer = ("guess", "mine = None"), ("", "truth = 3"), ("answer", "guess(mine, truth)")
    assert faults_of_guesses(lesson(ask, measure, answer)) == []
    assert faults_of_guesses(lesson(measure)) == ["asks for no guess"]
    assert faults_of_guesses(lesson(ask, measure)) == ["mine is never answered"]
    assert faults_of_guesses(lesson(ask, answer)) == ["mine is answered by the next cell"]
    assert faults_of_guesses(lesson(measure, answer, ask)) == ["mine is never answered"]
    assert faults_of_guesses(lesson(("guess", "mine = 3"), measure, answer)) == ["mine is guessed for the reader"]
