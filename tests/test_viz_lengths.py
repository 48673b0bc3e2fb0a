"""The length figure: every document is in one bar, what does not fit is hatched, and the words are counted."""

from __future__ import annotations

import io
from html import unescape

import numpy as np
import pytest
from expect import refused
from hypothesis import given, settings
from hypothesis import strategies as st

from varlen_lab.errors import InputError
from varlen_lab.packing.boundaries import Boundaries
from varlen_lab.packing.collators import VarlenCollator
from varlen_lab.viz.lengths import alt_text_lengths, bin_edges, count_lengths, draw_lengths
from varlen_lab.viz.masks import count_cells

LENGTHS = st.lists(st.integers(1, 5000), min_size=1, max_size=60)


def svg_of(*arguments: object, **options: object) -> str:
    file = io.BytesIO()
    draw_lengths(*arguments, **options).savefig(file, format="svg")
    return file.getvalue().decode()


@given(LENGTHS, st.none() | st.integers(1, 6000))
def test_every_document_and_token_is_in_one_bar(lengths: list[int], max_length: int | None) -> None:
    spread = count_lengths(lengths, max_length)
    assert spread.documents.sum() == len(lengths) and spread.tokens.sum() == sum(lengths)
    over = spread.edges[:-1] > (max_length or np.inf)
    assert spread.documents[over].sum() == sum(length > (max_length or np.inf) for length in lengths)


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.none() | st.integers(1, 10**6))
def test_bins_lie_between_whole_numbers(one: int, two: int, max_length: int | None) -> None:
    edges = bin_edges(min(one, two), max(one, two), max_length)
    assert (np.diff(edges) > 0).all() and (edges % 1 == 0.5).all()
    assert (edges[0], edges[-1]) == (min(one, two) - 0.5, max(one, two) + 0.5)


def test_a_hand_worked_set() -> None:
    """Ten documents; the longest one holds 91 of 100 tokens, 31 of which do not fit in 60."""
    told = alt_text_lengths([1] * 9 + [91], max_length=60)
    assert "10 documents, 100 tokens: median 1, longest 91" in told
    assert "The longest 10 % of the documents hold 91 % of the tokens" in told
    assert "1 document is longer than max_length 60; 31 % of all tokens lie beyond it" in told
    assert "All fit in max_length 91" in alt_text_lengths([1] * 9 + [91], max_length=91)
    assert "Every document has 7 tokens" in alt_text_lengths([7, 7, 7])


@pytest.mark.parametrize("lengths", [[1], [1, 1, 1], [5] * 40, [1, 2**30], list(range(1, 3000)), [2**31, 1]])
@pytest.mark.parametrize("options", [{}, {"max_length": 3}, {"max_length": 10**6, "dark": True}])
def test_ugly_lengths_draw(lengths: list[int], options: dict) -> None:
    svg = svg_of(lengths, **options)
    assert "<title>" in svg
    assert unescape(svg.split("<desc>")[1].split("</desc>")[0]) == alt_text_lengths(lengths, options.get("max_length"))


def test_what_is_too_long_is_hatched_and_what_fits_is_not() -> None:
    assert "<pattern" in svg_of([10, 20, 3000], max_length=2048)
    assert "<pattern" not in svg_of([10, 20, 3000], max_length=3000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "no documents"),
        (([3, 0],), "0"),
        (([2.5],), "2.5"),
        (([3], 0), "max_length is 0"),
        (([3], 2.5), "max_length is 2.5"),
        (([3], True), "max_length is True"),
        ((5,), "must be a flat list"),
    ],
)
def test_what_cannot_be_counted_is_one_sentence(arguments: tuple, message: str) -> None:
    with refused(message):
        draw_lengths(*arguments)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=8))
def test_a_batch_draws_like_its_lengths(lengths: list[int]) -> None:
    ids = list(range(sum(lengths)))
    batch = VarlenCollator()([{"input_ids": ids, "labels": ids, "seq_lengths": lengths}])
    assert count_cells(batch) == count_cells(lengths) == count_cells(Boundaries.from_lengths(lengths))


def test_a_batch_without_boundaries_is_told_so() -> None:
    with pytest.raises(InputError, match=r"input_ids.*cu_seq_lens_q; collate it with VarlenCollator"):
        count_cells({"input_ids": [1, 2, 3]})
