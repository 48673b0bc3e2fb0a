"""Loss curves and the line that no honest run gets below: what is left when all that can be learned is learned.

    draw_floors({"causal": honest, "not causal": other}, {"causal": 3.91, "not causal": 3.91}, wrong="not causal")

A floor is known before anything is trained: tokens thrown with a die of 50 faces cost ln 50 each, whatever the model.
A curve that comes to rest on its floor has learned all there is. One below it was told the answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from varlen_lab.errors import InputError
from varlen_lab.language.saying import listed, phrase, say
from varlen_lab.viz import style
from varlen_lab.viz.losses import NUMBERS, check_losses, first_and_last, name_axes
from varlen_lab.viz.style import inked

WIDTH, EDGE, LEFT, RIGHT, HEAD, CURVES, FOOT = 6.4, 0.20, 0.72, 1.05, 0.86, 2.4, 0.62  # inches
BELOW = 0.95  # a curve that ends under this share of its floor is below it
LINE: dict[str, Any] = {"linewidth": 2.2, "solid_capstyle": "round", "zorder": 3}


def draw_floors(
    losses: Mapping[str, Sequence[float]],
    floors: Mapping[str, float],
    *,
    wrong: str,
    caption: str = "",
    dark: bool = False,
) -> Figure:
    """Loss curves, the floor of each that has one, and the one that is ``wrong`` in orange.

    ``losses``: name -> loss of every step. ``floors``: name of a curve -> the loss that is left when all is learned.
    Raises InputError for what cannot be drawn.
    """
    with style.inking():
        title, claim = headline(losses, floors, wrong)
    colours = style.theme(dark)
    alt = alt_text_floors(losses, floors, wrong=wrong)
    picture = style.Picture(WIDTH, HEAD + CURVES + FOOT, colours, title, alt)
    picture.write(EDGE, 0.30, title, style.TITLE, weight="bold")
    picture.write(EDGE, 0.56, style.shorten(claim, WIDTH - EDGE - 0.1, style.CLAIM), style.CLAIM)
    curves = {name: values[0] for name, values in check_losses(losses).items()}
    steps = np.arange(1, len(next(iter(curves.values()))) + 1)
    axes = picture.panel(LEFT, HEAD, WIDTH - LEFT - RIGHT, CURVES)
    for name, values in curves.items():
        mistaken = {"color": colours.cross_ink, "linestyle": (0, (4, 1.5))} if name == wrong else {}
        axes.plot(steps, values, label=name, **LINE | {"color": colours.own} | mistaken)
    name_axes(axes, colours, inked("loss"), steps)
    axes.set_ylim(bottom=0)
    for value in dict.fromkeys(floors.values()):
        whose = [name for name in floors if floors[name] == value]
        draw_floor(axes, value, [] if len(whose) == len(curves) else whose, len(steps), colours)
    write_names(picture, axes, curves, wrong)
    axes.set_xlabel(inked("optimizer step"), **style.lettering(colours.quiet, va="top", fontsize=NUMBERS))
    if caption:
        picture.write_caption(EDGE, caption)
    return picture


@style.inking()
def draw_floor(axes: Axes, value: float, whose: Sequence[str], steps: int, colours: style.Theme) -> None:
    """A line across, with its number on the side that a run on it does not come from; ``whose``: none where of all."""
    axes.axhline(value, color=colours.ink, linewidth=1.0, zorder=2)
    high = axes.get_ylim()[1]
    names, above = listed(map(phrase, whose)), value < 0.8 * high
    words = (
        say("floor of {names}: {value:.2f}", names=names, value=value)
        if whose
        else say("floor {value:.2f}", value=value)
    )
    place = value + 0.04 * high if above else value - 0.03 * high
    font = style.lettering(colours.ink, va="bottom" if above else "top", fontsize=NUMBERS)
    axes.text(0.55 * steps, place, words, **font)


def write_names(picture: style.Picture, axes: Axes, curves: Mapping[str, np.ndarray], wrong: str) -> None:
    """Each curve's name at its right end, pushed apart where two end together."""
    colours, high = picture.colours, axes.get_ylim()[1]
    least, at = 0.20 / CURVES * high, -1e9
    for name, end in sorted(((name, first_and_last(values)[1]) for name, values in curves.items()), key=lambda x: x[1]):
        at = max(end, at + least)
        ink = colours.cross_ink if name == wrong else colours.own
        font = style.lettering(ink, fontsize=style.BODY, weight="bold" if name == wrong else "normal")
        axes.text(1.012, at / high, style.shorten(inked(name), RIGHT - 0.1), transform=axes.transAxes, **font)


def is_below(losses: Mapping[str, Sequence[float]], floors: Mapping[str, float], name: str) -> bool:
    """Whether a curve ends below its floor."""
    return name in floors and first_and_last(np.asarray(losses[name], dtype=float))[1] < BELOW * floors[name]


def headline(losses: Mapping[str, Sequence[float]], floors: Mapping[str, float], wrong: str) -> tuple[str, str]:
    """The claim that these numbers support, and the numbers."""
    check_losses(losses)
    if strange := next((name for name in (wrong, *floors) if name not in losses), ""):
        raise InputError(f"there is no curve {strange!r}, there are {', '.join(losses)}; name one of these.")
    ends = {name: first_and_last(np.asarray(values, dtype=float))[1] for name, values in losses.items()}
    words = say(",  ").join(say("{name} ends at {end:.2f}", name=phrase(name), end=end) for name, end in ends.items())
    if is_below(losses, floors, wrong):
        words = say("{words};  no honest loss stays below {floor:.2f}", words=words, floor=floors[wrong])
        return say("Below the floor: this model was told the answers"), words
    if wrong in floors:
        of = {"words": words, "wrong": phrase(wrong), "floor": floors[wrong]}
        return say("A floor that no training gets below"), say("{words};  the floor of {wrong} is {floor:.2f}", **of)
    return say("Loss by step"), words


def alt_text_floors(losses: Mapping[str, Sequence[float]], floors: Mapping[str, float], *, wrong: str) -> str:
    """What ``draw_floors`` shows, in words, for a reader who does not see it."""
    title, claim = headline(losses, floors, wrong)
    count = len(next(iter(losses.values())))
    told = {"title": title, "steps": count, "claim": " ".join(claim.split())}
    return say("{title}. Loss curves over {steps} steps: {claim}.", **told)
