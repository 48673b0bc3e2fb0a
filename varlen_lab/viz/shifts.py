"""How far wrong batches move a loss, beside what honest documents cost: a bar each from the truth.

The truth is a blue line, a hatched orange bar reaches from it to the loss of a wrong batch, and the grey band is what
single documents cost by themselves: a bar that ends in the band looks like any other loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from varlen_lab.errors import InputError
from varlen_lab.language.saying import listed, phrase, say
from varlen_lab.viz import style
from varlen_lab.viz.style import inked

WIDTH, HEAD, STEP, BAR, FOOT, EDGE = 6.4, 0.98, 0.36, 0.22, 0.62, 0.2  # inches
WHAT = "Loss minus the truth, in nats"


def draw_shifts(
    shifts: Mapping[str, float], honest: Sequence[float], *, caption: str = "", dark: bool = False
) -> Figure:
    """A bar for each wrong batch, from the truth to its loss.

    ``shifts``: name -> loss of a wrong batch minus that of the right one. ``honest``: losses of single documents minus
    that of the right batch, at least one; they make the band. Raises InputError for what cannot be drawn.
    """
    told = alt_text_shifts(shifts, honest)
    colours, height = style.theme(dark), HEAD + STEP * len(shifts) + FOOT
    picture = style.Picture(WIDTH, height, colours, headline(shifts, honest), told)
    with style.inking():
        picture.write(EDGE, 0.32, headline(shifts, honest), style.TITLE, weight="bold")
    picture.write(EDGE, 0.60, inked(WHAT), style.CLAIM, color=colours.quiet)
    names = [style.shorten(style.one_line(inked(name)), WIDTH / 2) for name in shifts]
    left = EDGE + max(map(style.text_width, names)) + 0.15
    low, high = min(0.0, *honest, *shifts.values()), max(0.0, *honest, *shifts.values())
    room = max(0.12 * (high - low), 1e-9)
    axes = picture.panel(left, HEAD, WIDTH - left - EDGE, STEP * len(shifts), frame=False)
    axes.set(xlim=(low - room, high + room), ylim=(len(shifts), 0))
    style.fill(axes, style.boxes(min(honest), max(honest), 0, len(shifts)), colours.empty)
    for place, (name, shift) in enumerate(zip(names, shifts.values(), strict=True)):
        middle = place + 0.5
        half = BAR / STEP / 2
        style.hatch(axes, style.boxes(min(0, shift), max(0, shift), middle - half, middle + half)[0], colours, 0.8)
        picture.write(EDGE, HEAD + STEP * middle + 0.05, name)
        side = 1 if shift >= 0 else -1
        x, where = shift + side * 0.012 * (high - low), "left" if side > 0 else "right"
        axes.text(x, middle, written(shift, high - low), **style.lettering(colours.cross_ink, ha=where))
    style.lines(axes, style.segments(0, 0, 0, len(shifts)), colours.own, 2.0)
    share = (np.array([0.0, min(honest), max(honest)]) - low + room) / (high - low + 2 * room)
    zero, first, last = (left + share * (WIDTH - left - EDGE)).tolist()
    bottom = HEAD + STEP * len(shifts)
    picture.write(zero, bottom + 0.17, inked("the truth"), style.SMALL, ha="center", color=colours.own)
    words = inked("grey: what single documents cost, each alone")
    picture.write((first + last) / 2, bottom + 0.34, words, style.SMALL, ha="center", color=colours.quiet)
    picture.write_caption(EDGE, caption, above=0.1)
    return picture


def written(shift: float, span: float) -> str:
    """A shift with as many decimals as a figure that spans ``span`` can show: at least two."""
    return f"{shift:+.{max(2, int(np.ceil(1.3 - np.log10(max(span, 1e-6)))))}f}".replace("-", "−")


def within(shifts: Mapping[str, float], honest: Sequence[float]) -> int:
    """How many of the wrong losses lie where losses of single documents lie."""
    return sum(min(honest) <= shift <= max(honest) for shift in shifts.values())


def headline(shifts: Mapping[str, float], honest: Sequence[float]) -> str:
    """What the figure shows, in a sentence."""
    alike = within(shifts, honest)
    return say("{alike} of {count} wrong losses look like honest ones", alike=alike, count=len(shifts))


def alt_text_shifts(shifts: Mapping[str, float], honest: Sequence[float]) -> str:
    """What ``draw_shifts`` shows, in words; InputError for what cannot be drawn."""
    values = [*shifts.values(), *honest]
    if not shifts or not len(honest) or not np.isfinite(values).all():
        raise InputError(
            "shifts and honest must be finite numbers, one each at least; leave out what was not measured."
        )
    return say(
        "{headline}. {what}: {numbers}; single documents cost between {least:+.2f} and {most:+.2f}.",
        headline=headline(shifts, honest),
        what=say(WHAT),
        numbers=listed(f"{phrase(name)} {shift:+.3f}" for name, shift in shifts.items()),
        least=min(honest),
        most=max(honest),
    )
