"""The explorer without a browser: what the kernel sends, what a saved page keeps, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from expect import fresh_python, refused, within
from hypothesis import given
from hypothesis import strategies as st

from varlen_lab.packing.boundaries import Boundaries
from varlen_lab.viz.explorer import DOCUMENTS, START, TOTALS, example_lengths, explore_masks
from varlen_lab.viz.masks import count_cells


@given(st.integers(1, 2000), st.integers(1, 2**17))
def test_an_example_row_is_full(documents: int, total: int) -> None:
    lengths = example_lengths(documents, total)
    assert sum(lengths) == total and min(lengths) >= 1
    assert len(lengths) == min(documents, total)
    assert lengths == example_lengths(documents, total)


def test_an_example_row_has_long_and_short_documents() -> None:
    lengths = np.array(example_lengths(64, 8192))
    assert lengths.max() > 4 * np.median(lengths)


def test_a_slider_sends_one_row_and_its_words() -> None:
    explorer = explore_masks()
    sent = []
    explorer.canvas.observe(lambda change: sent.append(change["new"]), "row")
    explorer.documents.value = 12
    assert len(sent) == 1 and sent[0]["lengths"] == example_lengths(12, START[1])
    assert "12 documents" in explorer.summary.value and "packs 12 documents" in sent[0]["words"]
    explorer.window.value = 64
    assert sent[-1]["window"] == 64
    explorer.mode.value = "varlen"
    assert explorer.canvas.mode == "varlen" and len(sent) == 2
    assert (list(dict(explorer.documents.options).values()), list(dict(explorer.total.options).values())) == (
        DOCUMENTS,
        TOTALS,
    )


@pytest.mark.alone
def test_the_widest_row_is_sent_in_a_moment() -> None:
    explorer = explore_masks()
    explorer.total.value = TOTALS[-1]
    with within(0.1):
        explorer.documents.value = DOCUMENTS[-1]


def test_given_lengths_are_shown_first_documents_first() -> None:
    explorer = explore_masks(Boundaries.from_lengths([3, 2]), names=["note", "essay"], tokens=list("abcde"), window=2)
    assert explorer.canvas.row["lengths"] == [3, 2] and explorer.canvas.row["names"] == ["note", "essay"]
    assert explorer.canvas.row["tokens"] == list("abcde") and explorer.canvas.row["window"] == 2
    explorer.documents.value = 1
    assert explorer.canvas.row["lengths"] == [3] and explorer.canvas.row["names"] == ["note"]
    assert explorer.canvas.row["tokens"] == list("abc")


def test_the_numbers_above_the_canvas_are_counted() -> None:
    """Hand-worked: documents of 2, 4 and 3 tokens have 45 causal cells, 26 of them (58 %) cross a seam."""
    said = explore_masks([2, 4, 3]).summary.value
    assert "58 % of what a token sees is another document" in said and "÷ 2.4" in said
    assert count_cells([2, 4, 3]).cross == 26


def test_a_click_makes_it_bidirectional() -> None:
    explorer = explore_masks([2, 4, 3])
    assert explorer.canvas.row["causal"] is True
    explorer.causal.value = False
    assert explorer.canvas.row["causal"] is False and "Full: 64 %" in explorer.summary.value  # 52 of 81 cells
    assert explore_masks([2, 4, 3], causal=False).canvas.row["causal"] is False


def test_a_saved_page_keeps_a_picture_with_words() -> None:
    data, metadata = explore_masks([2, 4, 3])._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"} <= set(data)
    assert data["text/plain"] == metadata["image/png"]["alt"] and "45 cells" in data["text/plain"]


def test_without_widgets_it_is_the_figure() -> None:
    code = (
        "import sys; sys.modules['anywidget'] = None\n"
        "from varlen_lab.viz import explore_masks\n"
        "print(type(explore_masks([2, 4, 3])).__name__, type(explore_masks()).__name__)"
    )
    assert fresh_python(code) == "Picture Picture"


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([],), {}, "no documents"),
        (([3, 0],), {}, "0"),
        (([3],), {"names": ["a", "b"]}, "2 names"),
        (([3],), {"tokens": ["a"]}, "1 tokens for a row of 3"),
        (([3],), {"window": 0}, "window is 0"),
        ((), {"names": ["a"]}, "no lengths"),
        (([1] * 20_000,), {}, "20,000 documents"),
        (({"input_ids": [1]},), {}, "cu_seq_lens_q"),
    ],
)
def test_what_cannot_be_explored_is_one_sentence(arguments: tuple, options: dict, message: str) -> None:
    with refused(message):
        explore_masks(*arguments, **options)
