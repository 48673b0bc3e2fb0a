"""The figure of wrong losses: what it says, in words and on the picture."""

from __future__ import annotations

import pytest

from varlen_lab.errors import InputError
from varlen_lab.viz.shifts import alt_text_shifts, draw_shifts, headline, written

SHIFTS = {"mask of ones": 0.23, "running positions": -0.92, "far off": 7.0}
HONEST = [-1.5, 0.1, 0.8]


def test_the_title_counts_the_losses_that_look_honest() -> None:
    assert headline(SHIFTS, HONEST) == "2 of 3 wrong losses look like honest ones"
    picture = draw_shifts(SHIFTS, HONEST, caption="a model")
    words = [text.get_text() for text in picture.texts] + [t.get_text() for axes in picture.axes for t in axes.texts]
    assert {"the truth", *SHIFTS, "+0.23", "−0.92", "+7.00", "a model", headline(SHIFTS, HONEST)} <= set(words)
    assert "running positions -0.920" in picture.alt_text


def test_small_shifts_keep_digits_that_tell_them_apart() -> None:
    assert (written(-0.92, 2.5), written(0.0003, 0.08), written(0.0, 0.0)) == ("−0.92", "+0.000", "+0.00000000")


@pytest.mark.parametrize(("shifts", "honest"), [({}, [1.0]), ({"a": 1.0}, []), ({"a": float("nan")}, [0.0])])
def test_what_cannot_be_drawn_is_refused(shifts: dict[str, float], honest: list[float]) -> None:
    with pytest.raises(InputError, match="finite numbers"):
        alt_text_shifts(shifts, honest)
