"""Write the answer key of docs/teaching.md: ``python docs/teaching.py``; ``--check`` exits with 1 where it is old.

Everything in it is read from the lessons: the claim, the sentence that judges it, the printed solutions, and from
``tests/wrong_answers`` the mistakes that the checks know. tests/test_docs_teaching.py holds the page to it.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

from varlen_lab.course.lessons import PATHS, Lesson, find_lessons
from varlen_lab.course.pages.index import claim

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "teaching.md"
BEGIN, END = "<!-- answers -->\n", "<!-- /answers -->"
JUDGED = re.compile(r"[^.:\n|>]*\bclaim\b[^.\n]*\b(?:false|true|holds|right|wrong)\b[^\n]*?(?:[.!](?=\s|$)|$)", re.I)


def verdict(lesson: Lesson) -> str:
    """The sentence of a lesson that says whether its claim holds; '' where there is none."""
    for cell in lesson.notebook.cells[1:]:
        if cell.cell_type == "markdown" and (found := JUDGED.search(cell.source)):
            return found[0].strip()
    return ""


def solutions(lesson: Lesson) -> list[str]:
    """The code blocks of its folded solutions."""
    folded = [cell.source for cell in lesson.notebook.cells if "<summary>Solution</summary>" in cell.source]
    return [block.strip() for source in folded for block in re.findall(r"```python\n(.*?)```", source, re.S)]


def mistakes(lesson: Lesson) -> list[str]:
    """What the checks say of the mistakes they know, in part."""
    path = ROOT / "tests" / "wrong_answers" / f"{lesson.name[:2]}.toml"
    return (
        [wrong["says"] for wrong in tomllib.loads(path.read_text(encoding="utf-8"))["wrong"]] if path.exists() else []
    )


def answers(lessons: list[Lesson]) -> str:
    """The answer key as markdown."""
    lines = []
    for lesson in lessons:
        on = ", ".join(PATHS[path][0] for path in lesson.paths)
        lines += [f"### [{lesson.name[:2]}](../notebooks/{lesson.path.name}) {lesson.title}", ""]
        lines += [f"{lesson.minutes} minutes, {lesson.difficulty}, path: {on}.", ""]
        lines += [f"*Claim.* {claim(lesson.notebook)}", "", f"*Judged.* {verdict(lesson)}", ""]
        if known := mistakes(lesson):
            lines += ["*Mistakes that the check names:* " + "; ".join(f"“{each}”" for each in known) + ".", ""]
        for block in solutions(lesson):
            lines += ["```python", block, "```", ""]
    return "\n".join(lines)


def main(words: list[str]) -> int:
    """Write the page, or with ``--check`` say whether that would change it; 1 where it would."""
    before = PAGE.read_text(encoding="utf-8")
    head, _, rest = before.partition(BEGIN)
    after = head + BEGIN + answers(find_lessons()) + END + rest.partition(END)[2]
    if "--check" in words:
        return int(after != before)
    PAGE.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
