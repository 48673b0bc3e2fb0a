"""The cost triangle: counts are exact, areas have one scale, nothing overlaps, what is no length is refused."""

from __future__ import annotations

import numpy as np
import pytest
from expect import refused
from hypothesis import given
from hypothesis import strategies as st
from test_viz_rates import overlapping

from varlen_lab.viz import alt_text_cost, draw_cost
from varlen_lab.viz.cost import pairs, placed, short, ways_of

LENGTHS = [900, 700, 600, 520, 460, 380, 300, 236]


def area(vertices: np.ndarray) -> float:
    x, y = vertices[:, 0], vertices[:, 1]
    return 0.5 * abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))))


def square_inches(picture, axes) -> float:
    """Inches of an area of one in the coordinates of the data."""
    box = axes.get_position()
    across = box.width * picture.inches[0] / abs(np.ptp(axes.get_xlim()))
    return across * box.height * picture.inches[1] / abs(np.ptp(axes.get_ylim()))


def test_the_four_ways_by_hand() -> None:
    ways = {way.name: (way.tokens, way.pairs) for way in ways_of([3, 2, 1], batch=2)}
    assert ways == {
        "packed, seams ignored": (6, 21),
        "varlen: inside documents": (6, 10),
        "padded to the longest": (9, 18),
        "grouped by length, 2 a batch": (7, 13),
    }


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=64), st.integers(1, 5))
def test_no_way_needs_fewer_pairs_than_varlen(lengths: list[int], batch: int) -> None:
    whole, own, padded, grouped = ways_of(lengths, batch)
    assert own.pairs <= grouped.pairs <= padded.pairs and own.pairs <= whole.pairs
    assert own.tokens == whole.tokens <= grouped.tokens <= padded.tokens


def test_areas_have_one_scale() -> None:
    picture = draw_cost(LENGTHS)
    per_pair = []
    for axes, side in ((picture.axes[0], sum(LENGTHS)), (picture.axes[1], 900), (picture.axes[2], 900)):
        shapes = [patch.get_xy() for patch in axes.patches]
        shapes += [path.vertices for collection in axes.collections for path in collection.get_paths()]
        largest = max(area(np.asarray(shape)[:3]) for shape in shapes)
        per_pair.append(largest * square_inches(picture, axes) / (side**2 / 2))
    assert per_pair == pytest.approx([per_pair[0]] * 3, rel=1e-6)


@pytest.mark.parametrize("lengths", [LENGTHS, [1], [4096], [64] * 64, [4000, 1, 1, 94]], ids=str)
def test_every_number_is_told_and_none_overlaps(lengths: list[int]) -> None:
    picture = draw_cost(lengths)
    assert overlapping(picture) == []
    assert picture.alt_text == alt_text_cost(lengths)
    for way in ways_of(lengths):
        assert f"{way.name}: {way.tokens:,} tokens, {short(way.pairs)} pairs" in picture.alt_text


def test_triangles_stand_apart() -> None:
    spots = placed([2.0, 2.0, 3.0], across=4.5)
    assert spots[0] == (0, 0) and spots[1][1] == 0 and spots[2][0] == 0 and spots[2][1] > 2


def test_lengths_that_are_none_are_refused() -> None:
    for lengths in ([], [0], [1.5], ["a"], 3, [[1]]):
        with refused("document lengths"):
            draw_cost(lengths)
    with refused("65 documents are too many"):
        draw_cost([1] * 65)
    with refused("batch is 0"):
        ways_of([1], batch=0)


def test_counts_are_short() -> None:
    assert [short(n) for n in (7, 999, 1000, 8_390_656, 3 * 10**9)] == ["7", "999", "1 k", "8.39 M", "3 G"]
    assert pairs(1) == 1
