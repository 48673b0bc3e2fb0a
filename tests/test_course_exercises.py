"""Every check accepts the right answer and names each mistake it knows."""

from __future__ import annotations

import pytest

from varlen_lab.course.verdicts import Verdict, guess

RIGHT = [guess(0.55, 0.577)]

WRONG = [
    (guess(None, 0.5), "Write a guess into its cell first"),
    (guess(0.1, 0.5), "measured: 0.5"),
]


@pytest.mark.parametrize("verdict", RIGHT, ids=[verdict.words[:40] for verdict in RIGHT])
def test_the_right_answer_is_right(verdict: Verdict) -> None:
    assert verdict.right and str(verdict).startswith("✓ right: ")


@pytest.mark.parametrize(("verdict", "hint"), WRONG, ids=[hint for _, hint in WRONG])
def test_the_mistake_is_named(verdict: Verdict, hint: str) -> None:
    assert not verdict.right
    assert hint in str(verdict)


def test_a_notebook_shows_words_not_markup() -> None:
    assert "&lt;b&gt;" in Verdict(False, "<b>")._repr_html_()
