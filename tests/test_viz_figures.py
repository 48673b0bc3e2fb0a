"""Loss and row figures draw whatever numbers come, and the palette can be read by everybody."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest

from varlen_lab.errors import InputError, plural
from varlen_lab.packing.strategies import pack_lengths
from varlen_lab.viz.losses import alt_text_losses, draw_losses
from varlen_lab.viz.masks import factor, percent
from varlen_lab.viz.rows import alt_text_rows, draw_rows
from varlen_lab.viz.style import DARK, LIGHT, Theme

# Machado, Oliveira & Fernandes 2009, severity 1.0, for linear RGB.
DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
)
PROTANOPIA = np.array(
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
)


def linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(one: str, two: str) -> float:
    """WCAG 2 contrast ratio, 1 to 21."""
    light, dark = sorted((float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (one, two)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of linear sRGB, D65."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb.clip(0, 1)
    f = np.cbrt(xyz / [0.9505, 1.0, 1.089])
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_words_can_be_read(theme: Theme) -> None:
    for ink, ground in (
        (theme.ink, theme.page),
        (theme.quiet, theme.page),
        (theme.ink, theme.empty),
        (theme.cross_ink, theme.page),
        (theme.on_own, theme.own),
        (theme.on_soft, theme.own_soft),
    ):
        assert contrast(ink, ground) >= 4.5, (ink, ground)


@pytest.mark.parametrize("vision", [np.eye(3), DEUTERANOPIA, PROTANOPIA], ids=["full", "deuteranopia", "protanopia"])
@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_own_other_and_empty_are_apart_for_every_eye(theme: Theme, vision: np.ndarray) -> None:
    seen = [lab(vision @ linear(colour)) for colour in (theme.own, theme.cross, theme.empty)]
    for one, two in itertools.combinations(seen, 2):
        assert np.linalg.norm(one - two) > 12


def test_the_contrast_formula_finds_grey_on_grey() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#888888") < 1.5


def saved(figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=60)
    return file.getvalue()


LOSSES = [
    {"unpacked": [2.0, 1.0], "packed": [2.1, 1.2], "varlen": [2.0, 1.0 + 1e-7]},
    {"varlen": [1.0]},
    {"unpacked": [1.0] * 5, "varlen": [1.0] * 5},
    {"unpacked": [2.0, float("nan"), 1.0], "varlen": [2.0, 1.5, float("inf")]},
    {"unpacked": [float("nan"), float("nan"), 1.0], "varlen": [1.0, 2.0, 3.0]},
    {"unpacked": [1e30, 1e-30], "another $mode_": [0.0, 0.0]},
]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("losses", LOSSES, ids=range(len(LOSSES)))
def test_any_losses_draw(losses: dict, dark: bool) -> None:
    figure = draw_losses(losses, caption="tiny · sdpa · cpu · fp32 · seed 0", dark=dark)
    assert saved(figure).startswith(b"\x89PNG")
    assert all(mode in alt_text_losses(losses) for mode in losses)


def test_the_words_say_what_the_numbers_say() -> None:
    text = alt_text_losses(LOSSES[0])
    assert "0.2" in text and "1e-7" in text.replace("1.0e-7", "1e-7").replace("−", "-")
    same = alt_text_losses({"unpacked": [1.0, 2.0], "varlen": [1.5, 2.5]})
    assert "0.5" in same


@pytest.mark.parametrize(
    "losses",
    [
        {},
        {"varlen": []},
        {"unpacked": [1.0], "varlen": [1.0, 2.0]},
        {"varlen": ["a"]},
        {"varlen": [float("nan")]},
        {"varlen": None},
    ],
)
def test_losses_that_cannot_be_drawn_are_one_sentence(losses: dict) -> None:
    with pytest.raises(InputError) as caught:
        draw_losses(losses)
    assert "\n" not in str(caught.value)


def test_rows_draw_from_a_plan_and_from_lists() -> None:
    packs = pack_lengths([4, 4, 7, 3, 3] * 20, 10)
    assert saved(draw_rows(packs)).startswith(b"\x89PNG")
    assert saved(draw_rows([[4, 4], [7, 3], [3]], 10)).startswith(b"\x89PNG")
    assert "5 documents" in alt_text_rows([[4, 4], [7, 3], [3]], 10)
    for bad in ([], [[11]], [[]]):
        with pytest.raises(InputError):
            draw_rows(bad, 10)


def test_numbers_never_round_to_a_claim() -> None:
    assert (percent(0), percent(1), percent(0.99999), percent(0.00001)) == ("0 %", "100 %", ">99.9 %", "<0.1 %")
    assert (factor(1), factor(1.001), factor(2.44), factor(1003)) == ("1", "1.01", "2.4", "1,003")
    assert (plural(1, "document"), plural(1000, "document")) == ("1 document", "1,000 documents")
