"""Figures in Chinese: no English word is left, every sign has a font, nothing lies on another, and all can do without.

A figure is drawn in English too: that it is drawn there without a word on another is what the Chinese one is held to.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from matplotlib.font_manager import FontProperties, fontManager, get_font
from matplotlib.text import Text
from test_viz_rates import overlapping

from varlen_lab import viz
from varlen_lab.course.parameters import speak_as_told
from varlen_lab.language import counted, listed, phrase, say, speak, speaking, spoken
from varlen_lab.packing.strategies import pack_lengths
from varlen_lab.viz import style
from varlen_lab.viz.masks import PackedRow
from varlen_lab.viz.style import FONT, NO_FONT, Picture, chinese_font

needs_font = pytest.mark.skipif(chinese_font() is None, reason="no font of this machine has Chinese signs")
# names that stay as they are written: in code, of modes, of units, and those that the tests below hand over
NAMES = {
    *("token", "varlen", "packed", "unpacked", "restarting", "query", "key", "position_ids", "labels", "max_length"),
    *("concat", "best_fit", "nat", "len", "TFLOP", "Trainer", "train"),
    *("abc", "def", "ghi", "cat", "sat", "xy"),
}
TOKENS = ["Q1", "Q2", "xy", "\n", "2", "+", "2", "=", "4", "Q3", "Q4"]
LONG = [12, 700, 300, 1048, 5, 83, 2000] * 6
DOWN = (3 - np.linspace(0, 2, 40)).tolist()
UP = (3 + np.linspace(0, 1, 40)).tolist()
NEAR = (np.array(DOWN) + 1e-7).tolist()
EYES = np.eye(3)[None]
LEAK = np.array([[[1, 0, 0], [0.4, 0.6, 0], [0.2, 0.3, 0.5]]])
ARMS = {"unpacked": ([0, 9, 20], [2.4, 2.3, 2.1]), "varlen": ([0, 9, 20], [2.4, 2.3, 2.1])}
HELD, FALLEN = {"restarting": ([0, 9, 20], [2.4, 2.4, 2.39])}, {"restarting": ([0, 9, 20], [2.4, 1.8, 1.1])}
MOVED, STILL = np.array([0, 0.1, 0.3, *[0.2] * 8]), np.array([0, 0.1, 0.3, *[0] * 8])
SOME = np.array([0, 0.1, 0.3, 0.1, *[0] * 7])
ONE = [("abc", "def"), ["exact", "exact *", "refused", "leaks", "raises", "not built"]]

DRAWN: dict[str, Callable[[], Any]] = {
    "masks": lambda: viz.draw_masks([70, 300, 180]),
    "masks with a window": lambda: viz.draw_masks([300, 700, 1048], window=256),
    "masks of many": lambda: viz.draw_masks(LONG * 4),
    "masks with tokens": lambda: viz.draw_masks([3, 6, 2], names=["abc", "def", "ghi"], tokens=TOKENS),
    "masks of one": lambda: viz.draw_masks([2048]),
    "masks of single tokens": lambda: viz.draw_masks([5, 5], window=1),
    "masks both ways": lambda: viz.draw_masks([70, 300, 180], causal=False, dark=True),
    "poke": lambda: viz.draw_poke(
        [3, 6, 2],
        TOKENS,
        {"packed": MOVED, "varlen": STILL},
        poked=1,
        became="cat",
        next_words={"packed": ["xy", "cat"], "varlen": ["sat", "sat"]},
    ),
    "poke of some": lambda: viz.draw_poke([3, 6, 2], TOKENS, {"packed": SOME, "varlen": STILL}, poked=1, became="cat"),
    "poke of one": lambda: viz.draw_poke([11], TOKENS, {"packed": STILL, "varlen": STILL}, poked=1, became="cat"),
    "seen": lambda: viz.draw_seen([70, 300, 180], np.repeat(LEAK, 4, 0), caption="abc"),
    "seen clean": lambda: viz.draw_seen([70, 300, 180], EYES),
    "seen of one": lambda: viz.draw_seen([9], EYES[:, :1, :1]),
    "seen in gradients": lambda: viz.draw_seen([70, 300, 180], 40 * LEAK, what="gradient", layers=["abc"]),
    "seen in cells": lambda: viz.draw_seen([2, 4, 3], LEAK, cells=np.tril(np.ones((9, 9)))[None] / 9),
    "losses": lambda: viz.draw_losses({"unpacked": DOWN, "packed": UP, "varlen": NEAR}, caption="abc"),
    "losses of runs": lambda: viz.draw_losses({"unpacked": [DOWN, NEAR], "packed": [UP, UP], "varlen": [NEAR, UP]}),
    "losses of one": lambda: viz.draw_losses({"varlen": DOWN}),
    "losses apart": lambda: viz.draw_losses({"packed": UP, "varlen": DOWN}),
    "losses of a mode": lambda: viz.draw_losses({"unpacked": DOWN, "abc": UP}),
    "losses of recipes": lambda: viz.draw_losses({"train": DOWN, "TRL": NEAR, "Trainer": DOWN}, reference="train"),
    "losses of recipes apart": lambda: viz.draw_losses({"train": DOWN, "TRL": UP}, reference="train"),
    "floors": lambda: viz.draw_floors({"abc": UP, "def": DOWN}, {"abc": 2.9, "def": 2.9}, wrong="def"),
    "floors of one": lambda: viz.draw_floors({"abc": UP, "def": DOWN}, {"def": 0.4}, wrong="def"),
    "floors of none": lambda: viz.draw_floors({"abc": UP, "def": DOWN}, {}, wrong="def"),
    "cost": lambda: viz.draw_cost([900, 700, 600, 520, 460, 380, 300, 236]),
    "cost of many": lambda: viz.draw_cost([9] * 14, batch=3),
    "gaps": lambda: viz.draw_gaps({"abc": [0.1, -0.2, 0.3], "def": [0.3, 0.1, 0.1]}),
    "gaps of one": lambda: viz.draw_gaps({"abc": [0.1, -0.2]}, what="abc", base="def"),
    "effect": lambda: viz.draw_effect(ARMS | HELD, ARMS | FALLEN, caption="abc"),
    "effect of two": lambda: viz.draw_effect({"varlen": ([1, 2], [2.0, 1.0]), "packed": ([1, 2], [2.0, 1.5])}, ARMS),
    "lengths": lambda: viz.draw_lengths(LONG, 1500),
    "lengths with one": lambda: viz.draw_lengths([*LONG, 3000], 2000),
    "lengths that fit": lambda: viz.draw_lengths(LONG, 4000),
    "lengths of few": lambda: viz.draw_lengths([5, 9, 70]),
    "lengths alike": lambda: viz.draw_lengths([5, 5, 5]),
    "rates": lambda: viz.draw_rates(
        [viz.Rate("abc", 60_000, " · xy", "own"), viz.Rate("def", 58_000, "", "crossing"), viz.Rate("ghi", 20_000)],
        {"4,096": 1.02, "16,384": 1.4},
        claim="abc",
        caption="abc",
    ),
    "rates of one": lambda: viz.draw_rates([viz.Rate("abc", 60.0)]),
    "speeds": lambda: viz.draw_speeds({"abc": {"def": [10, 30], "ghi": [3, 4]}}, ["64", "256"], {"def": "own"}),
    "speeds of none": lambda: viz.draw_speeds({"abc": {"def": [10, 30]}}, ["64", "256"], {}),
    "rows": lambda: viz.draw_rows(pack_lengths(LONG, 1024)),
    "rows that are full": lambda: viz.draw_rows([[5, 5], [5, 5]], 10),
    "rows against others": lambda: viz.draw_rows(pack_lengths(LONG, 2048, "concat"), against=pack_lengths(LONG, 2048)),
    "shifts": lambda: viz.draw_shifts({"abc": 2.1, "def": -0.03, "ghi": 0.2}, [-0.5, 0.3, 0.8], caption="abc"),
    "held out": lambda: viz.draw_held_out({"abc": 6.17, "def": 6.72, "ghi": 6.1}, caption="abc"),
    "held out, none worse": lambda: viz.draw_held_out({"abc": 6.17, "def": 6.1}),
    "verdicts": lambda: viz.draw_verdicts(dict([ONE, (("ghi", "xy"), ["exact"] * 6)])),
}


@pytest.fixture
def chinese() -> Iterator[None]:
    with speaking("zh"):
        yield


@pytest.fixture
def fontless(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose fonts know no Chinese."""
    monkeypatch.setattr(style, "fonts", lambda: [FONT])
    style.text_width.cache_clear()
    yield
    style.text_width.cache_clear()


def words_of(figure: Picture) -> list[str]:
    """Every text that is seen in a figure."""
    figure.canvas.draw()
    return [text.get_text() for text in figure.findobj(Text) if text.get_visible() and text.get_text()]


def english(text: str) -> set[str]:
    """The words of a text, of two small letters and more, that are no names."""
    text = re.sub(r"\\mathdefault", "", text)
    return {word for word in re.findall(r"[A-Za-z_]*[a-z]{2}[A-Za-z_]*", text) if word not in NAMES}


def pixels(figure: Picture) -> bytes:
    drawn = io.BytesIO()
    figure.savefig(drawn, format="raw", dpi=50)
    return drawn.getvalue()


def outside(figure: Picture) -> list[str]:
    """Texts that reach beyond the edge of their figure."""
    figure.canvas.draw()
    width, height = figure.canvas.get_width_height()
    found = []
    for text in figure.findobj(Text):
        left, low, right, high = text.get_window_extent().extents
        if text.get_visible() and text.get_text() and (left < -1 or low < -1 or right > width + 1 or high > height + 1):
            found.append(text.get_text())
    return found


def test_every_figure_is_drawn_here() -> None:
    first = {f"draw_{name.split(' ')[0].rstrip(',')}" for name in DRAWN if not name.startswith("held out")}
    assert first | {"draw_held_out"} == {name for name in viz.__all__ if name.startswith("draw_")}


@needs_font
@pytest.mark.usefixtures("chinese")
@pytest.mark.parametrize("name", DRAWN)
def test_no_english_word_is_left_and_every_sign_is_drawn(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")  # of a sign that no font has
        figure = DRAWN[name]()
        seen = words_of(figure)
    assert {word for text in seen for word in english(text)} == set()
    assert english(figure.alt_text) == set() == english(figure.title)
    assert re.search("[\u4e00-\u9fff]", figure.alt_text) and "{" not in figure.alt_text + figure.title + "".join(seen)
    assert not re.search("[\u4e00-\u9fff] [\u4e00-\u9fff]", figure.alt_text)
    assert caplog.records == []  # such as one of a weight that a font lacks


@pytest.mark.parametrize("name", DRAWN)
def test_words_of_an_english_figure_would_be_seen(name: str) -> None:
    """The planted fault: nobody speaks Chinese."""
    assert {word for text in words_of(DRAWN[name]()) for word in english(text)}


@needs_font
@pytest.mark.parametrize("name", DRAWN)
def test_nothing_lies_on_another_or_outside_that_does_not_in_english(name: str) -> None:
    figure = DRAWN[name]()
    before = len(overlapping(figure)), len(outside(figure))
    with speaking("zh"):
        figure = DRAWN[name]()
        laid, out = overlapping(figure), outside(figure)
    assert len(laid) <= before[0] and len(out) <= before[1], (laid, out)


@pytest.mark.usefixtures("fontless")
@pytest.mark.parametrize("name", DRAWN)
def test_without_a_font_a_figure_is_the_english_one_and_its_words_are_chinese(name: str) -> None:
    wanted = pixels(DRAWN[name]())
    with speaking("zh"), warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = DRAWN[name]()
        assert pixels(figure) == wanted
        assert spoken() == "zh" and re.search("[\u4e00-\u9fff]", figure.alt_text)


@pytest.mark.usefixtures("fontless")
def test_without_a_font_words_that_were_said_before_are_english_too() -> None:
    def draw() -> Any:
        gains = listed([say("{gain:.2f}× {way}", gain=2.0, way=phrase("padded")), "abc"])
        bars = [viz.Rate(phrase("padded"), 6e4, say(" · {fill:.0%} full, {gib:.0f} GiB", fill=0.5, gib=3), "own")]
        claim = say("Tokens a second of varlen: {gains}; rows of {row:,}", gains=gains, row=1024)
        parts = {"config": say("a small Llama"), "kernel": "abc", "device": counted(3, "step"), "dtype": "", "seed": 0}
        caption = say("{config} · varlen backend {kernel} · {device} · {dtype} · seed {seed}", **parts)
        return viz.draw_rates(bars, claim=claim, caption=caption)

    wanted = draw()
    with speaking("zh"), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert words_of(draw()) == words_of(wanted) and english(" ".join(words_of(wanted)))


@pytest.mark.usefixtures("fontless")
def test_a_lesson_is_told_once_that_no_font_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        speak_as_told({"language": "zh"})
        assert capsys.readouterr().out == NO_FONT + "\n"
    finally:
        speak("en")


@needs_font
def test_a_lesson_with_a_font_is_told_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        speak_as_told({"language": "zh"})
        assert capsys.readouterr().out == "" and spoken() == "zh"
    finally:
        speak("en")


def test_a_font_without_bold_letters_stands_in_for_them(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    thin = FontProperties(family=FONT)
    (entry,) = [font for font in fontManager.ttflist if font.fname == fontManager.findfont(thin)][:1]
    monkeypatch.setattr(fontManager, "ttflist", [*fontManager.ttflist, style.replace(entry, name="Only Thin")])
    monkeypatch.setattr(style, "CHINESE_FONTS", ("Only Thin",))
    style.fonts.cache_clear()
    try:
        assert style.fonts() == [FONT, "Only Thin"]
        with caplog.at_level(logging.WARNING):
            found = fontManager.findfont(FontProperties(family="Only Thin", weight="bold"))
        assert get_font(found).family_name == FONT and caplog.records == []
    finally:
        style.fonts.cache_clear()


def test_names_that_stand_in_a_catalogue_are_translated_and_others_kept() -> None:
    with speaking("zh"):
        row = PackedRow([3, 6], None, ["note", "an unheard-of name"])
        assert row.name(0) != "note" and row.name(1) == "an unheard-of name"
    assert row.name(0) == "note"
