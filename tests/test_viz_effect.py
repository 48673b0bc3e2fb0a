"""Differences step by step, and held-out beside training loss: drawn as given, told as found, refused in words."""

from __future__ import annotations

from expect import refused
from test_viz_rates import overlapping

from varlen_lab.viz import alt_text_effect, alt_text_gaps, draw_effect, draw_gaps

HELD = {
    "varlen": ([0, 20, 40], [3.3, 2.8, 2.7]),
    "packed": ([0, 20, 40], [3.3, 2.82, 2.72]),
    "restarting": ([0, 20, 40], [3.3, 2.9, 2.89]),
    "unpacked": ([0, 20, 40], [3.3, 2.8, 2.7]),
}
TRAINING = {
    "varlen": ([10, 30], [3.0, 2.9]),
    "packed": ([10, 30], [2.9, 2.8]),
    "restarting": ([5, 20, 35], [4.3, 4.0, 3.7]),
    "unpacked": ([10, 30], [3.0, 2.9]),
}


def test_a_bar_for_every_step_and_the_count_of_those_above() -> None:
    picture = draw_gaps({"seed 0": [0.1, 0.2, -0.1], "seed 1": [-0.1, -0.2, 0.0]})
    assert "seed 0: above in 2 of 3 steps, mean +0.067; seed 1: above in 0 of 3 steps" in picture.alt_text
    assert sum(len(axes.patches) + len(axes.collections) for axes in picture.axes) == 6
    assert overlapping(picture) == []
    assert picture.title == "Packed lies above varlen in 2 of 3 steps, or 0 of 3"
    assert len({axes.get_ylim() for axes in picture.axes}) == 1  # strips that are compared have one scale
    assert draw_gaps({"a": [1.0, -1.0]}).title == "Packed lies above varlen in 1 of 2 steps"
    assert alt_text_gaps({"a": [1.0]}, what="x", base="y").startswith("Differences x minus y")


def test_differences_that_are_none_are_refused() -> None:
    for gaps in ({}, {"a": []}, {"a": [float("nan")]}):
        with refused("one finite number a step"):
            draw_gaps(gaps)


def test_the_title_says_what_the_numbers_say() -> None:
    assert draw_effect(HELD, TRAINING).title == "A leak trains on while its held-out loss stands still"
    falls = HELD | {"restarting": ([0, 20, 40], [3.3, 2.9, 2.2])}
    assert draw_effect(falls, TRAINING).title.startswith("Trainings of one checkpoint")
    only = {"varlen": HELD["varlen"]}
    assert draw_effect(only, {"varlen": TRAINING["varlen"]}).title.startswith("Trainings of one checkpoint")


def test_names_keep_apart_and_numbers_are_told() -> None:
    picture = draw_effect(HELD, TRAINING, caption="measured here")
    assert overlapping(picture) == []
    assert "restarting 3.300, 2.900, 2.890" in picture.alt_text and picture.alt_text.endswith("measured here")


def test_losses_that_are_none_are_refused() -> None:
    with refused("at least one arm"):
        draw_effect({}, TRAINING)
    with refused("varlen needs a finite loss"):
        alt_text_effect({"varlen": ([0, 1], [1.0])}, TRAINING)
