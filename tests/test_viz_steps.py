"""The calculator's sliders change its table, and the bars of held-out losses are the losses."""

from __future__ import annotations

import sys

import pytest
from expect import refused

from varlen_lab.packing.steps import StepCount
from varlen_lab.viz.steps import alt_text_held_out, draw_held_out, explore_steps

RUNS = {"unpacked": 6.2, "packed": 6.7, "packed, more steps": 6.1}


def test_a_slider_changes_the_table() -> None:
    pytest.importorskip("ipywidgets")
    calculator = explore_steps(documents=1000, documents_per_row=5, batch_size=8, accumulative_counts=1, epochs=1)
    sliders, table = calculator.children[:-1], calculator.children[-1]
    assert ">125</td>" in table.value and ">25</td>" in table.value
    next(each for each in sliders if each.description == "epochs").value = 2
    assert ">250</td>" in table.value and ">50</td>" in table.value
    kept = calculator._repr_mimebundle_()
    assert ">125</td>" in kept["text/html"] and "unpacked" in kept["text/plain"]


def test_without_widgets_it_is_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert isinstance(explore_steps(), StepCount)


def test_bars_reach_from_the_first_run() -> None:
    from matplotlib.patches import Polygon

    figure = draw_held_out(RUNS)
    (axes,) = figure.axes
    hatched = [patch.get_xy()[:, 0].max() for patch in axes.patches if isinstance(patch, Polygon)]
    assert hatched == [pytest.approx(0.5)]
    words = " ".join(text.get_text() for text in [*figure.texts, *axes.texts])
    assert "up to 0.50 nats worse" in words and "6.70  (+0.50)" in words and "6.10  (-0.10)" in words
    assert (
        figure.alt_text
        == "Bars of held-out losses: unpacked 6.20, packed 6.70 (+0.50), packed, more steps 6.10 (-0.10)."
    )
    assert "none is worse" in draw_held_out({"a": 2.0, "b": 1.0}, dark=True).title
    assert alt_text_held_out({"a": 2.0, "b": 2.0}, caption="seed 0").endswith("seed 0")


def test_what_cannot_be_drawn_is_refused() -> None:
    for wrong, word in (({}, "two runs"), ({"a": 1.0}, "two runs"), ([1, 2], "two runs")):
        with refused(word):
            draw_held_out(wrong)
    with refused("a number"):
        draw_held_out({"a": 1.0, "b": "two"})
    with refused("nan or infinite"):
        draw_held_out({"a": 1.0, "b": float("nan")})
