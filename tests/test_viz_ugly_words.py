"""Names, captions and tokens are somebody else's: whatever they hold, a figure is drawn, and its files can be read."""

from __future__ import annotations

import io
import json
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from varlen_lab import viz
from varlen_lab.viz.explorer_page import page
from varlen_lab.viz.masks import PackedRow, legible

# what XML cannot hold, half characters, noncharacters, marks that turn the direction, markup, mathematics
UGLY = "a\0\x01\x0b\x0c\x1c\x1f\x7f\x85\x1b[31m\u2028\u202e\ufffe\uffff\ufdd0\ud800\udcff $x$ $ <&>\"'--> ]]> \\\r\n\te"
LENGTHS = [3, 4, 2]


def two(word: str) -> dict[str, list[float]]:
    return {"unpacked": [2.0, 1.0, 0.5], word: [2.0, 1.1, 0.6]}


DRAWN: dict[str, Callable[[str], Any]] = {
    "masks": lambda word: viz.draw_masks(LENGTHS, names=[word] * 3),
    "masks with tokens": lambda word: viz.draw_masks(LENGTHS, tokens=[word] * 9),
    "losses": lambda word: viz.draw_losses(two(word), caption=word),
    "gaps": lambda word: viz.draw_gaps({word: [0.1, 0.2], "b": [0.3, 0.1]}, what=word, base=word),
    "effect": lambda word: viz.draw_effect(
        {"varlen": ([1, 2], [2.0, 1.0]), word: ([1, 2], [2.0, 1.0])},
        {"varlen": ([1, 2], [2.0, 1.0]), word: ([1, 2], [2.0, 1.0])},
        caption=word,
    ),
    "floors": lambda word: viz.draw_floors(two(word), {word: 0.1}, wrong=word, caption=word),
    "rates": lambda word: viz.draw_rates(
        [viz.Rate(word, 1.0, word, "own")], {word: 2.0}, claim=word, unit=word, caption=word
    ),
    "speeds": lambda word: viz.draw_speeds({word: {word: [1.0, 2.0]}}, [word, "b"], {word: "own"}, caption=word),
    "seen": lambda word: viz.draw_seen(LENGTHS, np.eye(3)[None], names=[word] * 3, layers=[word], caption=word),
    "shifts": lambda word: viz.draw_shifts({word: 0.1, "b": -0.2}, [0.01, -0.01], caption=word),
    "held out": lambda word: viz.draw_held_out({word: 1.0, "b": 2.0}, caption=word),
    "verdicts": lambda word: viz.draw_verdicts({(word, word): ["exact", "leaks"]}, title=word),
    "poke": lambda word: viz.draw_poke(
        LENGTHS,
        [word] * 9,
        {"varlen": np.ones(9), "packed": np.ones(9)},
        poked=3,
        became=word,
        next_words={"varlen": [word]},
    ),
}


def test_every_figure_that_takes_words_is_drawn_here() -> None:
    without = {"draw_cost", "draw_lengths", "draw_rows"}
    asked = {f"draw_{name.split(' with ')[0].replace(' ', '_')}" for name in DRAWN}
    assert asked | without == {name for name in viz.__all__ if name.startswith("draw_")}


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_with_ugly_words_is_whole(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of signs that the font lacks
        figure = DRAWN[name](UGLY)
        for kind in ("svg", "png", "pdf"):
            drawn = io.BytesIO()
            figure.savefig(drawn, format=kind, dpi=30)
            if kind == "svg":
                ElementTree.fromstring(drawn.getvalue())
        data, metadata = figure._repr_mimebundle_()
    json.dumps([data, metadata], ensure_ascii=False).encode()  # as a notebook is saved


@settings(max_examples=300)
@given(st.text(st.characters(exclude_categories=[])))
def test_legible_text_can_stand_in_xml_json_and_a_terminal(text: str) -> None:
    told = legible(text)
    ElementTree.fromstring(f"<a>{told.replace('&', '').replace('<', '').replace('>', '')}</a>")
    assert told.encode().decode() == told
    assert legible(told) == told


@settings(max_examples=15)
@given(st.text(st.characters(exclude_categories=[]), max_size=12))
def test_a_page_of_any_names_and_tokens_can_be_written(text: str) -> None:
    html = page(PackedRow(LENGTHS, None, [text, UGLY, "c"]), [text, UGLY] + ["t"] * 7, title=text)
    assert "\0" not in html.encode().decode()
