"""Rows before and after packing: what is drawn is the plan, and a document that was cut is marked."""

from __future__ import annotations

import io

import numpy as np
import pytest
from expect import refused, within
from hypothesis import given, settings
from hypothesis import strategies as st

from varlen_lab.packing.strategies import pack_lengths
from varlen_lab.viz.rows import alt_text_rows, check_rows, draw_rows
from varlen_lab.viz.style import LIGHT

LENGTHS = [5, 30, 3, 14, 9]


def marks(figure) -> list[int]:
    """Orange edges in the padded half and in the packed half."""
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgba

    counts = []
    for axes in figure.axes:
        edges = [c for c in axes.collections if isinstance(c, LineCollection)]
        orange = [c for c in edges if len(c.get_colors()) and tuple(c.get_colors()[0]) == to_rgba(LIGHT.cross_ink)]
        counts.append(sum(len(c.get_segments()) for c in orange))
    return counts


def test_a_hand_worked_cut() -> None:
    """30 tokens do not fit in 16: truncated they end at one edge, split they go on in another row."""
    truncated = draw_rows(pack_lengths(LENGTHS, 16, "best_fit", "truncate"))
    assert marks(truncated) == [1, 1] and "1 document had to be cut" in truncated.alt_text
    split = draw_rows(pack_lengths(LENGTHS, 16, "best_fit", "split"))
    assert marks(split) == [1, 2]  # the first piece ends, the second begins inside the document
    assert marks(draw_rows(pack_lengths(LENGTHS, 30))) == [0, 0]
    assert "cut" not in alt_text_rows(pack_lengths(LENGTHS, 30))


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=25),
    st.integers(5, 50),
    st.sampled_from(["best_fit", "concat"]),
    st.sampled_from(["truncate", "split"]),
)
def test_marks_are_where_pieces_are_not_whole(lengths: list[int], room: int, strategy: str, overlong: str) -> None:
    packs = pack_lengths(lengths, room, strategy, overlong)
    plan = check_rows(packs, None)
    ends = packs.starts + packs.lengths
    sizes = np.array(lengths)[packs.order]
    whole = (packs.starts == 0) & (ends == sizes)
    assert ((plan.cuts[0] | plan.cuts[1]) == ~whole).all()
    assert plan.cut == len({document for document, is_whole in zip(packs.order.tolist(), whole) if not is_whole})
    assert sum(int(row.sum()) for row in plan.rows) == packs.lengths.sum()
    assert sorted(plan.documents.tolist()) == sorted(min(length, room) for length in lengths)


@settings(max_examples=10)
@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=6), st.booleans())
def test_any_rows_draw(rows: list[list[int]], dark: bool) -> None:
    file = io.BytesIO()
    figure = draw_rows(rows, dark=dark)
    figure.savefig(file, format="png", dpi=50)
    assert marks(figure) == [0, 0] and f"{sum(map(len, rows))} document" in figure.alt_text


def test_thousands_of_rows_draw_soon() -> None:
    lengths = np.random.default_rng(0).lognormal(5, 1, 5000).astype(int) + 1
    packs = pack_lengths(lengths, 2048)
    with within(5):
        draw_rows(packs).savefig(io.BytesIO(), format="png", dpi=60)


@pytest.mark.parametrize(
    ("rows", "max_length", "message"),
    [
        ([], None, "no rows"),
        ([3, 4], None, "a row is a list"),
        ([[3], []], None, "no documents"),
        ([[11]], 10, "more than max_length 10"),
        ([[3, 0]], None, "0"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(rows: list, max_length: int | None, message: str) -> None:
    with refused(message):
        draw_rows(rows, max_length)


def test_two_plans_stand_side_by_side() -> None:
    """Whole on the left, glued and cut on the right: 13 tokens of three documents in rows of 8."""
    whole, glued = pack_lengths([5, 5, 3], 8), pack_lengths([5, 5, 3], 8, "concat")
    figure = draw_rows(glued, against=whole)
    assert marks(figure) == [0, 2]
    assert figure.alt_text == (
        "3 documents packed in two ways, left best_fit: 2 rows of 8 tokens, 0 documents cut, "
        "right concat: 2 rows of 8 tokens, 1 document cut."
    )
    written = {text.get_text() for text in figure.texts}
    assert {"best_fit", "no document cut", "concat", "1 document cut"} <= written  # what they differ in is said first
    assert "2 rows of 8 tokens  ·  19 % unused" in written
