"""Runs over several seeds: lines are means, bands are ranges, and differences are taken seed by seed."""

from __future__ import annotations

import io

import numpy as np
import pytest
from expect import refused

from varlen_lab.viz.explorer import LiveLosses
from varlen_lab.viz.losses import alt_text_losses, check_losses, differences, draw_losses, largest, mean_over_runs

TWO_SEEDS = {
    "unpacked": [[3.0, 2.0], [5.0, 4.0]],
    "varlen": [[3.0, 2.0], [5.0, 4.0]],
    "packed": [[3.5, 2.0], [4.5, 4.0]],
}


def saved(losses: dict) -> bytes:
    file = io.BytesIO()
    draw_losses(losses).savefig(file, format="png", dpi=60)
    return file.getvalue()


def test_differences_are_paired_before_they_are_averaged() -> None:
    """Hand-worked: packed is 0.5 above in one seed and 0.5 below in the other; the means agree, the runs do not."""
    curves = check_losses(TWO_SEEDS)
    gaps = differences(curves)
    assert mean_over_runs(curves["packed"]).tolist() == mean_over_runs(curves["unpacked"]).tolist() == [4.0, 3.0]
    assert gaps["packed"].tolist() == [[0.5, 0.0], [-0.5, 0.0]]
    assert largest(gaps["packed"]) == 0.5 and largest(gaps["varlen"]) == 0.0


def test_one_run_in_a_list_is_the_run() -> None:
    once = {mode: runs[0] for mode, runs in TWO_SEEDS.items()}
    listed = {mode: [runs[0]] for mode, runs in TWO_SEEDS.items()}
    assert saved(once) == saved(listed)
    assert alt_text_losses(once) == alt_text_losses(listed)


def test_bands_are_drawn_from_the_lowest_run_to_the_highest() -> None:
    from matplotlib.collections import PolyCollection

    curves, gaps = draw_losses(TWO_SEEDS).axes
    bands = [band for band in curves.collections if isinstance(band, PolyCollection)]
    assert len(bands) == 3 and sum(isinstance(band, PolyCollection) for band in gaps.collections) == 2
    corners = bands[0].get_paths()[0].vertices
    assert (corners[:, 1].min(), corners[:, 1].max()) == (2.0, 5.0)
    lines = {line.get_label(): line.get_ydata().tolist() for line in curves.lines}
    assert lines["unpacked"] == [4.0, 3.0]
    assert not list(draw_losses({"unpacked": [1.0, 2.0]}).axes[0].collections)


def test_the_words_say_how_many_runs() -> None:
    text = alt_text_losses(TWO_SEEDS)
    assert "means and ranges of 2 runs" in text and "unpacked from 4 to 3" in text
    assert "runs" not in alt_text_losses({"unpacked": [1.0, 2.0]})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_run_that_blew_up_leaves_the_others_drawn(bad: float) -> None:
    runs = [[3.0, 2.0, 1.0], [3.0, bad, bad]]
    assert saved({"unpacked": runs, "varlen": runs}).startswith(b"\x89PNG")


@pytest.mark.parametrize("steps", [1, 2, 500])
def test_short_constant_and_long_losses_draw(steps: int) -> None:
    losses = {"unpacked": [1.5] * steps, "packed": [1.5] * steps, "varlen": [1.5] * steps}
    assert saved(losses).startswith(b"\x89PNG")
    assert "at most 0" in alt_text_losses(losses)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({"unpacked": [[1.0], [2.0]], "varlen": [[1.0]]}, r"different numbers of runs \(unpacked 2, varlen 1\)"),
        ({"unpacked": [[1.0, 2.0], [2.0]]}, "not equally long"),
        ({"unpacked": [[[1.0]]]}, r"shape \(1, 1, 1\)"),
        ({"unpacked": [[], []]}, "it needs one number per step"),
        ({"unpacked": [[1.0, 2.0]], "varlen": [[1.0]]}, r"different numbers of steps"),
    ],
)
def test_runs_that_do_not_pair_are_one_sentence(losses: dict, message: str) -> None:
    with refused(message):
        draw_losses(losses)


def test_the_title_claims_only_what_every_run_shows() -> None:
    good = {"unpacked": np.ones((2, 3)), "packed": np.ones((2, 3)) + 0.1, "varlen": np.ones((2, 3))}
    assert "Varlen trains like unpacked" in draw_losses(good).title
    good["varlen"] = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 1.05]])  # one step of one seed
    assert "Varlen trains like unpacked" not in draw_losses(good).title


def test_a_step_without_a_loss_is_a_gap() -> None:
    """A step that had no token to train on: the words speak of the first and the last that had one."""
    gap = [float("nan"), 3.0, float("nan"), 2.0, float("nan")]
    figure = draw_losses({"unpacked": gap, "varlen": gap, "packed": [0.5 + loss for loss in gap]})
    assert np.isnan(figure.axes[0].lines[0].get_ydata()).tolist() == [True, False, True, False, True]
    assert "unpacked from 3 to 2" in alt_text_losses({"unpacked": gap})
    assert "nan" not in alt_text_losses({"unpacked": gap, "varlen": gap})
    assert saved({"varlen": gap})


def test_a_live_plot_waits_for_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    live, drawn = LiveLosses(seconds=0), []
    monkeypatch.setattr(live, "draw", lambda: drawn.append(len(live.losses)))
    for loss in (float("nan"), float("nan"), 3.0, float("nan")):
        live({"loss": loss})
    assert drawn == [3, 4]


def test_recipes_are_compared_with_the_one_that_is_named() -> None:
    """A step of 1e-7 is one curve, one of 0.1 is another training; orange, the colour of leaks, is left out."""
    recipes = {"Trainer": [3.0, 2.0], "train": [3.0, 2.0 + 1e-7], "SFTTrainer": [3.0, 2.0]}
    figure = draw_losses(recipes, reference="train")
    assert figure.title == "Three recipes, one loss curve"
    assert "Trainer differs from train by at most 1.0e-7" in figure.alt_text
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert words.count("Trainer") == 2 and words.count("train") == 1
    colours = {line.get_color() for axes in figure.axes for line in axes.lines}
    assert figure.colours.cross_ink not in colours
    other = draw_losses(recipes | {"Trainer": [3.0, 2.1]}, reference="train")
    assert other.title == "Three recipes, and their losses differ"


def test_rounding_is_shaded_and_no_difference_is_drawn_as_zero() -> None:
    losses = {"unpacked": [3.0, 2.0, 1.0], "varlen": [3.0, 2.0 + 5e-7, 1.0], "packed": [3.1, 1.9, 1.1]}
    panel = draw_losses(losses).axes[1]
    drawn = {line.get_label(): line.get_ydata() for line in panel.lines}
    assert panel.get_yscale() == "log" and np.allclose(drawn["packed"], 0.1)  # how far, not to which side
    assert drawn["varlen"][0] == drawn["varlen"][2] == min(panel.get_yticks()) < 5e-7
    assert panel.get_yticklabels()[0].get_text() == "0"
    assert [text.get_text() for text in panel.texts if "rounding" in text.get_text()] == ["rounding: up to 1e−5"]
    half = draw_losses(losses, rounding=2e-3).axes[1]
    assert any("rounding: up to 0.002" in text.get_text() for text in half.texts)
    assert not any("rounding" in text.get_text() for text in draw_losses(losses, rounding=0).axes[1].texts)


def test_names_and_numbers_are_large_enough_for_a_telephone() -> None:
    """A notebook's figure is 830 points wide; at 420 pixels a letter must still have eight of them."""
    figure = draw_losses({"unpacked": [3.0, 2.0], "varlen": [3.0, 2.0], "packed": [3.1, 2.1]})
    texts = [text for axes in figure.axes for text in [*axes.texts, *axes.get_xticklabels(), axes.title]]
    shown = [text.get_fontsize() for text in texts if text.get_text()]
    assert shown and min(shown) / 72 * 420 / figure.inches[0] >= 8
