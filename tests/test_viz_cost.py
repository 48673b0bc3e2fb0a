"""What a figure costs: documents, never tokens squared; and a row too large is a sentence, not a wait."""

from __future__ import annotations

import io
import time
import tracemalloc

import numpy as np
import pytest
from expect import refused, within

from varlen_lab.packing.boundaries import Boundaries
from varlen_lab.viz.figures import alt_text_masks, draw_masks
from varlen_lab.viz.lengths import draw_lengths
from varlen_lab.viz.losses import draw_losses
from varlen_lab.viz.masks import count_cells
from varlen_lab.viz.rows import draw_rows
from varlen_lab.viz.seen import draw_seen


def cpu_seconds(lengths: list[int]) -> float:
    start = time.process_time()
    draw_masks(lengths).savefig(io.BytesIO(), format="png", dpi=100)
    return time.process_time() - start


def peak(action) -> int:
    """The most bytes that Python and numpy held at once during ``action``."""
    action()  # fonts and caches are made once
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.alone
def test_1k_8k_and_128k_tokens_cost_the_same() -> None:
    cpu_seconds([10, 20])
    rows = [[tokens // 4] * 4 for tokens in (1024, 8192, 131072)]
    seconds = np.array([[cpu_seconds(row) for row in rows] for _ in range(5)]).min(axis=0)
    assert seconds.max() <= 1.0 and seconds.max() <= 1.5 * seconds.min(), seconds


@pytest.mark.parametrize("lengths", [[250_000] * 4, [1000] * 1000], ids=["4 documents", "1,000 documents"])
def test_a_million_tokens_need_no_square_of_them(lengths: list[int]) -> None:
    """A row of 10^6 tokens has 5 * 10^11 causal cells; one bit each would be 60 GB."""
    figure = peak(lambda: draw_masks(lengths))
    assert figure <= 30e6, f"{figure / 1e6:.0f} MB"
    drawn = sum(len(collection.get_paths()) for axes in draw_masks(lengths).axes for collection in axes.collections)
    assert drawn <= 12 * len(lengths) + 200


def test_a_thousand_documents_in_128k_tokens_are_drawn_soon() -> None:
    cuts = np.sort(np.random.default_rng(0).choice(np.arange(1, 131072), 999, replace=False))
    with within(2):
        cpu_seconds(np.diff([0, *cuts, 131072]).tolist())


def test_counting_a_million_documents_is_quick() -> None:
    lengths = np.full(10**6, 7)
    with within(5):
        assert count_cells(lengths).own == 28 * 10**6


@pytest.mark.parametrize("draw", [draw_masks, lambda lengths: draw_seen(lengths, np.zeros((1, 1, 1)))])
def test_a_million_documents_are_refused_in_one_sentence(draw) -> None:
    with within(10), refused("1,000,000 documents|1000000 documents"):
        draw([1] * 10**6)


def test_a_million_documents_have_a_length_figure() -> None:
    lengths = np.random.default_rng(0).lognormal(5, 1, 10**6).astype(int) + 1
    with within(5):
        assert "1,000,000 documents" in draw_lengths(lengths, 4096).alt_text


def test_no_figure_is_left_in_pyplot() -> None:
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    draw_masks([3, 4])
    draw_rows([[3, 4], [5]])
    draw_lengths([3, 4])
    draw_losses({"unpacked": [1.0, 2.0]})
    draw_seen([3, 4], np.eye(2)[None])
    assert pyplot.get_fignums() == before


def test_every_figure_is_told_in_words() -> None:
    row = Boundaries.from_lengths([2, 4, 3])
    figures = {
        "masks": draw_masks(row),
        "rows": draw_rows([[3, 4], [5]]),
        "lengths": draw_lengths([3, 4]),
        "losses": draw_losses({"unpacked": [1.0, 2.0]}),
        "seen": draw_seen(row, np.eye(3)[None]),
    }
    assert figures["masks"].alt_text == alt_text_masks(row)
    for name, figure in figures.items():
        file = io.BytesIO()
        figure.savefig(file, format="svg")
        svg = file.getvalue().decode()
        assert f"<title>{figure.title}</title>" in svg and "<desc>" in svg, name
        assert len(figure.alt_text) > 40 and "\n" not in figure.alt_text, name
