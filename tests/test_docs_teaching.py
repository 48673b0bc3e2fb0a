"""The answer key for teachers is that of the lessons, and says something of each."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from varlen_lab.course.lessons import Lesson, find_lessons

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))
import teaching  # noqa: E402


def test_the_answer_key_is_that_of_the_lessons() -> None:
    assert teaching.main(["--check"]) == 0, "python docs/teaching.py writes it"


@pytest.mark.parametrize("lesson", find_lessons(), ids=lambda lesson: lesson.name)
def test_every_lesson_judges_its_claim_and_has_a_solution(lesson: Lesson) -> None:
    assert teaching.verdict(lesson), "a sentence such as: So the claim is **false**"
    assert teaching.solutions(lesson)


def test_a_page_that_is_old_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "teaching.md"
    page.write_text(teaching.PAGE.read_text(encoding="utf-8").replace("*Claim.*", "*Clam.*", 1), encoding="utf-8")
    monkeypatch.setattr(teaching, "PAGE", page)
    assert teaching.main(["--check"]) == 1
    assert teaching.main([]) == 0 and teaching.main(["--check"]) == 0
