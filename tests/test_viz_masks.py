"""The mask figure: its counts are exact, and its cost is documents, not tokens squared."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from expect import fresh_python, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.text import Text

from varlen_lab.packing.boundaries import Boundaries
from varlen_lab.viz.figures import alt_text_masks, draw_masks
from varlen_lab.viz.masks import band_cells, band_outlines, count_cells, stair_outline

LENGTHS = st.lists(st.integers(1, 25), min_size=1, max_size=12)


def brute_force(lengths: list[int], window: int | None, causal: bool = True) -> tuple[int, int]:
    """Cells of the full and of the varlen mask, counted one by one."""
    document = np.repeat(np.arange(len(lengths)), lengths)
    query, key = np.indices((len(document), len(document)))
    seen = np.abs(query - key) < (window or len(document) + 1)
    seen &= (key <= query) | (not causal)
    return int(seen.sum()), int((seen & (document[query] == document[key])).sum())


def test_a_hand_worked_row() -> None:
    cells = count_cells([2, 4, 3])
    assert (cells.full, cells.own, cells.cross) == (45, 19, 26)
    assert cells.cross_share == pytest.approx(26 / 45) and cells.saving == pytest.approx(45 / 19)
    assert count_cells([2, 4, 3], window=1) == count_cells([1] * 9, window=1)


@given(LENGTHS, st.none() | st.integers(1, 40), st.booleans())
def test_counts_equal_brute_force(lengths: list[int], window: int | None, causal: bool) -> None:
    cells = count_cells(lengths, window, causal)
    assert (cells.full, cells.own) == brute_force(lengths, window, causal)


@given(st.integers(0, 5), st.integers(1, 20), st.none() | st.integers(1, 25), st.booleans())
def test_an_outline_cell_by_cell_encloses_its_cells(start: int, length: int, window: int | None, causal: bool) -> None:
    x, y = stair_outline(start, length, window, causal).T
    area = abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2
    assert area == band_cells(length, window, causal)


@given(st.integers(2, 50), st.none() | st.integers(1, 60), st.booleans())
def test_an_outline_in_few_corners_follows_the_band(length: int, window: int | None, causal: bool) -> None:
    x, y = band_outlines(np.array([3]), np.array([length]), window, causal)[0].T
    area = abs((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2
    seen = min(length, window or length)
    half = (length**2 - (length - seen) ** 2) / 2  # below the diagonal
    assert area == (half if causal else 2 * half)


def test_a_bidirectional_row_is_drawn_and_told() -> None:
    assert count_cells([2, 4, 3], causal=False).own == 4 + 16 + 9
    assert alt_text_masks([2, 4, 3], causal=False).startswith("Two bidirectional attention masks")
    picture = draw_masks([70, 300, 180], causal=False, window=50)
    assert "Full, window 50" in [text.get_text() for text in picture.findobj(Text)]


@given(LENGTHS, st.none() | st.integers(1, 40))
@settings(max_examples=8)
def test_the_words_hold_the_counts(lengths: list[int], window: int | None) -> None:
    text = alt_text_masks(lengths, window=window)
    assert f"{sum(lengths):,}" in text and "\n" not in text


def test_a_boundaries_and_its_lengths_draw_the_same() -> None:
    one, two = io.BytesIO(), io.BytesIO()
    draw_masks(Boundaries.from_lengths([7, 3])).savefig(one, format="png")
    draw_masks([7, 3]).savefig(two, format="png")
    assert one.getvalue() == two.getvalue()


@pytest.mark.parametrize("options", [{}, {"window": 3}, {"names": ["a", "文档", "$x_1$"]}, {"dark": True}])
@pytest.mark.parametrize("lengths", [[2, 4, 3], [1, 1, 1], [1000, 1, 70]])
def test_ugly_rows_draw(lengths: list[int], options: dict) -> None:
    file = io.BytesIO()
    draw_masks(lengths, **options).savefig(file, format="svg")
    svg = file.getvalue().decode()
    assert re.search(r"<title[^>]*>[^<]+</title>", svg) and re.search(r"<desc[^>]*>[^<]+</desc>", svg)


@pytest.mark.parametrize("lengths", [[5], [1], [2**20]])
def test_one_document_has_nothing_to_leak(lengths: list[int]) -> None:
    assert count_cells(lengths).cross == 0
    assert "Picture" in type(draw_masks(lengths)).__name__


def test_a_notebook_gets_a_picture_with_words() -> None:
    data, metadata = draw_masks([2, 4, 3])._repr_mimebundle_()
    assert data["image/png"] and "45" in str(metadata) + str(data.get("text/plain")) + str(data.get("text/html"))


BAD = [
    (([],), {}, "document"),
    (([3, 0],), {}, "0"),
    (([3, -1],), {}, "-1"),
    (([2.5],), {}, "2.5"),
    ((None,), {}, "None|document"),
    (([3, 4],), {"names": ["one"]}, "1 name"),
    (([3, 4],), {"window": 0}, "window"),
    (([2**31],), {}, "2,147,483,648 tokens"),
]


@pytest.mark.parametrize(("arguments", "options", "message"), BAD, ids=[str(arguments) for arguments, _, _ in BAD])
def test_what_cannot_be_drawn_is_one_sentence(arguments: tuple, options: dict, message: str) -> None:
    with refused(message):
        draw_masks(*arguments, **options)


def test_drawing_leaves_pyplot_alone() -> None:
    code = (
        "import sys; from varlen_lab.viz import draw_masks, draw_losses, draw_rows\n"
        "draw_masks([3, 4]); draw_losses({'unpacked': [1.0, 2.0]}); draw_rows([[3, 4], [5]])\n"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    assert fresh_python(code) == "False"
