"""The figures of speed: what is drawn is what was given, names keep apart, and bad numbers are refused in words."""

from __future__ import annotations

import io
from html import unescape
from itertools import pairwise

import pytest
from expect import refused
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from varlen_lab.viz import Rate, alt_text_rates, alt_text_speeds, draw_rates, draw_speeds
from varlen_lab.viz.rates import LETTER, PANEL, shown, spread

MIXES = ["512", "~600", "8,192"]
LONG = "sdpa, each document by itself"
SPEEDS = {
    "head dim 64": {
        "torch_varlen": [164, 171, 284],
        "flash_attn_3": [163, 170, 285],
        LONG: [162, 169, 283],
        "padded": [161, 168, 282],
        "full causal": [4, 5.2, 62],
        "flex": [120, None, None],
    },
    "head dim 128": {"torch_varlen": [174, 201, 344], "full causal": [5, 6.2, 72]},
}
ROLES = {"torch_varlen": "own", "flash_attn_3": "own", "flex": "own", "full causal": "crossing"}
RATES = [
    Rate("padded", 20e3, " · 50 GiB"),
    Rate("varlen", 60e3, " · 35 GiB", "own"),
    Rate("packed, seams ignored", 25e3, role="crossing"),
]


def svg_of(figure: Figure) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="svg")
    return file.getvalue().decode()


def boxes_of_words(figure: Figure) -> list[tuple[str, tuple[float, float, float, float]]]:
    """Every visible text with its edges in pixels."""
    figure.canvas.draw()
    found = [text for axes in figure.axes for text in axes.texts] + list(figure.texts)
    return [(text.get_text(), text.get_window_extent().extents) for text in found if text.get_text()]


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    words = boxes_of_words(figure)
    return [
        (one, other)
        for number, (one, a) in enumerate(words)
        for other, b in words[number + 1 :]
        if min(a[2], b[2]) - max(a[0], b[0]) > 0.5 and min(a[3], b[3]) - max(a[1], b[1]) > 0.5
    ]


def test_what_is_said_is_what_was_measured() -> None:
    told = alt_text_speeds(SPEEDS, MIXES, ROLES)
    assert "Fastest in one call: torch_varlen, 344 TFLOP/s (head dim 128, documents of 8,192)" in told
    assert "flex, head dim 64: 120;" in told and f"{LONG}, head dim 64: 162, 169, 283" in told
    assert "No kernel here takes a row of documents in one call" in alt_text_speeds(SPEEDS, MIXES, {})
    told = alt_text_rates(RATES, {"8k": 1.61, "16k": 2.4}, "Varlen is fast", "tokens a second")
    assert told == (
        "Varlen is fast. Tokens a second: varlen 60.0k · 35 GiB; packed, seams ignored 25.0k; padded 20.0k · 50 GiB. "
        "Varlen over packed, by row length: 8k 1.61×, 16k 2.40×."
    )


@pytest.mark.parametrize("dark", [False, True])
def test_the_pictures_carry_their_words(dark: bool) -> None:
    figures = {
        draw_speeds(SPEEDS, MIXES, ROLES, caption="$card$", dark=dark): alt_text_speeds(SPEEDS, MIXES, ROLES),
        draw_rates(RATES, {"8k": 0.9}, claim="c", unit="u", dark=dark): alt_text_rates(RATES, {"8k": 0.9}, "c", "u"),
    }
    for figure, told in figures.items():
        svg = svg_of(figure)
        assert unescape(svg.split("<desc>")[1].split("</desc>")[0]) == told == figure.alt_text


def test_no_name_lies_on_another_and_all_are_inside() -> None:
    many = {f"a kernel of a long name {number}": [100 + number / 10] * 3 for number in range(10)}
    for figure in (
        draw_speeds(SPEEDS, MIXES, ROLES, caption="a card · bf16"),
        draw_speeds({"head dim 64": many}, MIXES, {}, caption="a card · bf16"),
        draw_rates(RATES, {"8,192": 1.02, "16,384": 2.4, "32,768": 3.8}, claim="fast", caption="a card"),
    ):
        assert overlapping(figure) == []
        width, height = figure.canvas.get_width_height()
        for words, (left, low, right, high) in boxes_of_words(figure):
            assert left >= 0 and low >= 0 and right <= width and high <= height, words


def test_a_name_on_another_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("varlen_lab.viz.rates.spread", lambda places, *_: list(places))
    assert overlapping(draw_speeds(SPEEDS, MIXES, ROLES))


@given(st.lists(st.floats(0, PANEL), min_size=1, max_size=11))
def test_names_are_moved_apart_and_stay_in_order(places: list[float]) -> None:
    moved = spread(sorted(places), LETTER, PANEL)
    assert all(b - a >= LETTER - 1e-9 for a, b in pairwise(moved)) and moved[-1] <= PANEL + 1e-9
    assert spread([0.5], LETTER, PANEL) == [0.5]


def test_what_crosses_seams_is_told_without_colour() -> None:
    hatched = [patch for axes in draw_rates(RATES).axes for patch in axes.patches if patch.get_hatch()]
    assert len(hatched) == 1
    lines = [line for axes in draw_speeds(SPEEDS, MIXES, ROLES).axes for line in axes.lines]
    dashed = [line for line in lines if line.get_linestyle() == "--"]
    assert len(dashed) == 2 and {line.get_marker() for line in dashed} == {"X"}
    own = {line.get_marker() for line in lines if line.get_color() == "#0072b2"}
    assert len(own) == 3  # each kernel its own mark


def test_bad_numbers_are_refused() -> None:
    with refused("has 2 speeds for 3 mixes"):
        draw_speeds({"a": {"x": [1, 2]}}, MIXES, {})
    with refused("x is nan, a speed is a number above 0"):
        draw_speeds({"a": {"x": [1, 2, float("nan")]}}, MIXES, {})
    with refused("there is no speed to draw"):
        draw_speeds({"a": {"x": [None, None, None]}}, MIXES, {})
    with refused("role 'mine' is unknown"):
        draw_rates([Rate("x", 1, role="mine")])
    with refused("there is no rate to draw"):
        draw_rates([])
    with refused("8k is 0, a speed is a number above 0"):
        draw_rates(RATES, {"8k": 0})


def test_numbers_are_short() -> None:
    assert [shown(value) for value in (60e3, 999.6, 1234, 12.34, 0.5)] == ["60.0k", "1.0k", "1.2k", "12.3", "0.5"]
