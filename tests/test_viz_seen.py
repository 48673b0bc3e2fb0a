"""Promised and measured: what leaks is marked and said, what does not is not."""

from __future__ import annotations

import io

import numpy as np
import pytest
from expect import refused
from matplotlib.patches import Polygon

from varlen_lab.viz.seen import alt_text_seen, draw_seen

LENGTHS = [20, 30, 10]
CLEAN = np.stack([np.eye(3)] * 2)
LEAKY = np.array([[[1, 0, 0], [0.4, 0.6, 0], [0, 0, 1]], [[1, 0, 0], [0.2, 0.8, 0], [0, 0, 1]]])


def words_of(figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts] + [t.get_text() for t in figure.texts]


def hatched(figure) -> int:
    """Hatched patches in the measured square, the second panel of that size."""
    squares = [axes for axes in figure.axes if axes.get_xlim()[1] == axes.get_ylim()[0] > 1]
    return sum(isinstance(patch, Polygon) and bool(patch.get_hatch()) for patch in squares[1].patches)


def test_a_hand_worked_leak() -> None:
    """Document 2 (30 of 60 tokens) puts 40 % and 20 % on document 1: 20 % and 10 % of all, 15 % on average."""
    figure = draw_seen(LENGTHS, LEAKY, names=["note", "essay", "mail"])
    told = words_of(figure)
    assert "LEAK: 15 % goes to another document" in told and "LEAK 40 %" in told
    assert "layer 0: 20 %" in told and "layer 1: 10 %" in told
    assert hatched(figure) == 1
    assert "essay hears note." in figure.alt_text and "mail hears" not in figure.alt_text


def test_a_clean_model_shows_no_leak() -> None:
    figure = draw_seen(LENGTHS, CLEAN)
    assert hatched(figure) == 0
    assert "nothing crosses a seam" in words_of(figure)
    assert not any(words.startswith("LEAK") for words in words_of(figure) if "another document" not in words)


def test_a_leak_of_any_size_is_a_leak() -> None:
    tiny = CLEAN.copy()
    tiny[1, 2, 0] = 1e-12
    assert hatched(draw_seen(LENGTHS, tiny)) == 1
    assert "LEAK: <0.1 %" in alt_text_seen(LENGTHS, tiny)
    unknown = CLEAN.copy()
    unknown[0, 2, 0] = np.nan
    assert hatched(draw_seen(LENGTHS, unknown)) == 1


def test_every_leaking_cell_is_drawn() -> None:
    document = np.repeat([0, 1], [3, 4])
    full = np.tri(7)[None]
    mass = np.array([[[1, 0], [0.5, 0.5]]])
    figure = draw_seen([3, 4], mass, cells=full)
    assert hatched(figure) == int((np.tri(7, dtype=bool) & (document[:, None] != document)).sum()) == 12
    assert hatched(draw_seen([3, 4], np.eye(2)[None], cells=full * (document[:, None] == document))) == 0


def test_an_audits_matrix_is_drawn_the_same_way() -> None:
    leaks = np.array([[0, 0, 0], [3e-3, 0, 0], [0, 0, 0]])
    figure = draw_seen(LENGTHS, leaks[None], what="gradient")
    assert hatched(figure) == 1 and "LEAK: 1 of 3 documents hear another" in words_of(figure)
    assert "LEAK 0.003" in words_of(figure)
    for much, words in ((40.0, "LEAK 40"), (7.2, "LEAK 7"), (3e-7, "LEAK 3e-7")):
        assert words in words_of(draw_seen(LENGTHS, much * (leaks > 0)[None], what="gradient"))
    assert "nothing crosses" in alt_text_seen(LENGTHS, 0 * leaks[None], what="gradient")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("lengths", [[1], [1, 1], [64], [1000, 1, 70], [3] * 60])
def test_ugly_rows_draw(lengths: list[int], dark: bool) -> None:
    mass = np.tri(len(lengths))[None] / np.arange(1, len(lengths) + 1)[:, None]
    file = io.BytesIO()
    draw_seen(lengths, mass, dark=dark).savefig(file, format="svg")
    assert b"<desc>" in file.getvalue()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([], CLEAN), {}, "no documents"),
        (([3, 4], CLEAN), {}, r"mass has shape \(2, 3, 3\), it must be \(layers, 2, 2\)"),
        ((LENGTHS, CLEAN[0]), {}, "mass has shape"),
        ((LENGTHS, "x"), {}, "mass has shape"),
        ((LENGTHS, CLEAN), {"cells": np.ones((2, 5, 5))}, "cells has shape"),
        ((LENGTHS, CLEAN), {"layers": ["one"]}, "2 layers of mass and 1 names"),
        ((LENGTHS, CLEAN), {"what": "magic"}, "what is 'magic'"),
        ((LENGTHS, CLEAN), {"names": ["a"]}, "1 name"),
        (([1] * 300, np.eye(300)[None]), {}, "300 documents"),
    ],
)
def test_what_does_not_fit_is_one_sentence(arguments: tuple, options: dict, message: str) -> None:
    with refused(message):
        draw_seen(*arguments, **options)
