"""The figure of verdicts: a square a class at the same place, and bad panels are refused in words."""

from __future__ import annotations

import pytest
from expect import refused

from varlen_lab.viz import alt_text_verdicts, draw_verdicts
from varlen_lab.viz.verdicts import WORDS

ALL = {("stock", "as called"): list(WORDS), ("ours", "with seams"): ["exact"] * len(WORDS)}


@pytest.mark.parametrize("dark", [False, True])
def test_every_word_is_drawn_and_said(dark: bool) -> None:
    figure = draw_verdicts(ALL, title="A title", dark=dark)
    drawn = [text.get_text() for text in figure.texts]
    assert {"A title", "stock", "ours", *WORDS.values()} <= set(drawn)
    assert "2" in drawn and f"of {len(WORDS)} exact" in drawn  # exact, and exact document by document
    assert "1 leaks" in figure.alt_text and f"{len(WORDS)} exact." in figure.alt_text


def test_the_legend_names_only_what_is_there() -> None:
    drawn = {text.get_text() for text in draw_verdicts({("a", "b"): ["exact", "leaks"]}).texts}
    assert WORDS["leaks"] in drawn and WORDS["refused"] not in drawn


def test_no_word_is_cut_or_leaves_the_figure() -> None:
    figure = draw_verdicts(ALL | {("three", "panels"): list(WORDS)})
    figure.canvas.draw()
    edges = [text.get_window_extent().x1 for text in figure.texts]
    assert max(edges) <= figure.bbox.x1 and not any("…" in text.get_text() for text in figure.texts)


def test_bad_panels_are_refused_in_words() -> None:
    for panels, words in [
        ({}, "no verdict"),
        ({("a", ""): []}, "no verdict"),
        ({("a", ""): ["exact"], ("b", ""): ["exact"] * 2}, r"\[1, 2\] classes"),
        ({("a", ""): ["fine"]}, "'fine' is no verdict"),
    ]:
        with refused(words):
            draw_verdicts(panels)
        with refused(words):
            alt_text_verdicts(panels)
