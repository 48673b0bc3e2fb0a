"""Every puzzle of every lesson: its printed solution is right, known mistakes are named, and nothing raises.

A puzzle is a cell tagged ``puzzle``, then one tagged ``check``, then the folded solution. Solution and wrong answers
run after the import lines of the lesson and nothing else of it: a check cannot lean on what a lesson computed
before. The wrong answers of lesson NN are in ``tests/wrong_answers/NN.toml``::

    [[wrong]]
    puzzle = 0                # the first of the lesson, the default
    code = '''...'''          # in place of the puzzle's cell
    says = "running total"    # a part of the sentence, each with its own
"""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from varlen_lab.course.lessons import Lesson, find_lessons
from varlen_lab.course.verdicts import Verdict

FOLDER = Path(__file__).resolve().parent / "wrong_answers"
HOSTILE = ["None", "'62%'", "[[1, 2], [3]]", "float('nan')", "{}", "lambda *a, **k: None", "lambda *a, **k: '62%'"]
HOSTILE += ["lambda *a, **k: [[1, 2], [3]]", "lambda *a, **k: 1 / 0", "lambda: 3", "print", "type('X', (), {})()"]


class Puzzle:
    """A puzzle cell of a lesson, with what stands around it."""

    def __init__(self, lesson: Lesson, place: int) -> None:
        cells = lesson.notebook.cells
        self.start, self.check = cells[place].source, cells[place + 1].source
        self.solution = re.search(r"```python\n(.*?)```", cells[place + 2].source, re.S)
        self.imports = "\n".join(map(imports_of, (cell.source for cell in cells if cell.cell_type == "code")))
        nodes = ast.parse(self.start).body
        self.names = [n.name for n in nodes if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
        self.names += [t.id for n in nodes if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)]

    def judge(self, code: str) -> Verdict:
        """What the check says of ``code`` in place of the puzzle's cell."""
        space: dict[str, Any] = {}
        exec(self.imports, space)
        exec(code, space)
        body = ast.parse(self.check).body
        exec(compile(ast.Module(body[:-1], []), "check", "exec"), space)
        return eval(compile(ast.Expression(body[-1].value), "check", "eval"), space)


def imports_of(source: str) -> str:
    """The import statements of a cell."""
    lines = ["pass" if line.lstrip().startswith(("!", "%")) else line for line in source.splitlines()]
    body = ast.parse("\n".join(lines)).body
    return "\n".join(ast.unparse(node) for node in body if isinstance(node, (ast.Import, ast.ImportFrom)))


def puzzles(lesson: Lesson) -> list[Puzzle]:
    """The puzzles of a lesson, in their order."""
    cells = lesson.notebook.cells
    return [Puzzle(lesson, i) for i, cell in enumerate(cells) if "puzzle" in cell.metadata.get("tags", [])]


EACH = [(lesson, n) for lesson in find_lessons() for n in range(len(puzzles(lesson)))]
each_puzzle = pytest.mark.parametrize(("lesson", "n"), EACH, ids=[f"{lesson.name}-{n}" for lesson, n in EACH])


def wrong_answers(lesson: Lesson, n: int) -> list[dict[str, Any]]:
    """What is known to go wrong in puzzle ``n``."""
    path = FOLDER / f"{lesson.name[:2]}.toml"
    known = tomllib.loads(path.read_text(encoding="utf-8"))["wrong"] if path.exists() else []
    return [wrong for wrong in known if wrong.get("puzzle", 0) == n]


@each_puzzle
def test_the_printed_solution_is_right(lesson: Lesson, n: int) -> None:
    puzzle = puzzles(lesson)[n]
    assert puzzle.solution
    verdict = puzzle.judge(puzzle.solution[1])
    assert isinstance(verdict, Verdict) and verdict.right, verdict


@each_puzzle
def test_each_known_mistake_is_named_by_its_own_sentence(lesson: Lesson, n: int) -> None:
    puzzle, known = puzzles(lesson)[n], wrong_answers(lesson, n)
    assert len(known) >= 2
    verdicts = [puzzle.judge(wrong["code"]) for wrong in known]
    for wrong, verdict in zip(known, verdicts, strict=True):
        assert not verdict.right and wrong["says"] in verdict.words, verdict
    assert len({verdict.words for verdict in verdicts}) == len(known)
    assert not puzzle.judge(puzzle.start).right


@each_puzzle
def test_no_answer_makes_a_check_raise(lesson: Lesson, n: int) -> None:
    puzzle = puzzles(lesson)[n]
    for hostile in HOSTILE:
        verdict = puzzle.judge("\n".join(f"{name} = {hostile}" for name in puzzle.names))
        assert isinstance(verdict, Verdict) and not verdict.right and verdict.words, hostile
