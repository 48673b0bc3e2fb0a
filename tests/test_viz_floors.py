"""A floor under loss curves: the words say which side of it a run ended on, whatever was hoped for."""

from __future__ import annotations

import io

from expect import refused

from varlen_lab.viz.floors import alt_text_floors, draw_floors, headline

HONEST, CHEAT = [4.2, 4.0, 3.92], [4.2, 2.0, 0.02]


def test_a_curve_below_its_floor_was_told_the_answers() -> None:
    told = headline({"causal": HONEST, "cheat": CHEAT}, {"causal": 3.91, "cheat": 3.91}, "cheat")
    assert told[0].startswith("Below the floor") and "cheat ends at 0.02" in told[1]
    assert headline({"causal": HONEST}, {"causal": 3.91}, "causal")[0] == "A floor that no training gets below"
    assert headline({"causal": HONEST, "cheat": CHEAT}, {"causal": 3.91}, "cheat")[0] == "Loss by step"


def test_the_figure_has_the_floor_and_the_names_of_all_curves() -> None:
    figure = draw_floors({"a": HONEST, "b": HONEST}, {"b": 3.91}, wrong="b", caption="llama")
    words = [text.get_text() for text in (*figure.texts, *figure.axes[0].texts)]
    assert {"floor of b: 3.91", "a", "b", "llama"} <= set(words)
    both = draw_floors({"a": HONEST, "b": HONEST}, {"a": 3.91, "b": 3.91}, wrong="b")
    assert "floor 3.91" in [text.get_text() for text in both.axes[0].texts]
    places = [text.get_position()[1] for text in figure.axes[0].texts if text.get_text() in "ab"]
    assert abs(places[0] - places[1]) > 0.05  # two ends at one place, two names beside it
    assert figure.alt_text == alt_text_floors({"a": HONEST, "b": HONEST}, {"b": 3.91}, wrong="b")
    for dark in (False, True):
        draw_floors({"a": CHEAT}, {"a": 3.91}, wrong="a", dark=dark).savefig(io.BytesIO(), format="png")


def test_a_name_that_no_curve_has_is_said() -> None:
    for floors, wrong in (({"c": 1.0}, "a"), ({}, "c")):
        with refused("there is no curve 'c', there are a"):
            draw_floors({"a": HONEST}, floors, wrong=wrong)
    with refused("there are no losses to draw"):
        draw_floors({}, {}, wrong="a")
