"""One small square for each model class, one large square for each way of packing: who keeps documents apart?

The rule: a class stands at the same place in every panel. Blue keeps documents apart (light: a part of it runs document
by document), grey is refused, hatched orange runs and is wrong, an outline is a class that was not measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from varlen_lab.errors import InputError
from varlen_lab.language.saying import listed, phrase, say
from varlen_lab.viz import style
from varlen_lab.viz.style import inked

Panels = Mapping[tuple[str, str], Sequence[str]]  # (title, what is done) -> a word a class, in one order
WORDS = {  # word -> what the legend says of it
    "exact": "exact: packed is alone",
    "exact *": "exact, run document by document",
    "refused": "refused, in a sentence",
    "leaks": "runs, and is wrong",
    "raises": "stops with an error",
    "not built": "not measured",
}
EDGE, HEAD, SIDE, BETWEEN, GAP = 0.14, 1.62, 1.9, 0.2, 0.1  # inches; the gap is a share of a cell
LETTER = 0.24  # inches from one line of the legend to the next


def draw_verdicts(panels: Panels, *, title: str = "", dark: bool = False) -> Figure:
    """A panel for each way of packing, a square for each class, its colour the verdict.

    ``panels``: (title, what is done) -> the words of all classes (keys of ``WORDS``), in the same order in each.
    InputError for no panel, panels of different sizes and an unknown word.
    """
    told = alt_text_verdicts(panels)
    colours = style.theme(dark)
    words = [word for word in WORDS if any(word in panel for panel in panels.values())]
    count = len(next(iter(panels.values())))
    across = math.ceil(math.sqrt(count))
    down = math.ceil(count / across)
    height = SIDE * down / across
    width = 2 * EDGE + len(panels) * SIDE + (len(panels) - 1) * BETWEEN
    foot = 0.2 + LETTER * math.ceil(len(words) / 2)
    picture = style.Picture(width, HEAD + height + foot, colours, title_of(title, count), told)
    with style.inking():
        headline = title_of(title, count)
    picture.write(EDGE, 0.3, style.shorten(headline, width - 2 * EDGE, style.TITLE), style.TITLE, weight="bold")
    for number, ((name, about), panel) in enumerate(panels.items()):
        left = EDGE + number * (SIDE + BETWEEN)
        kept = sum(word.startswith("exact") for word in panel)
        picture.write(left, 0.72, inked(name), style.CLAIM, weight="bold")
        picture.write(left, 0.94, style.shorten(inked(about), SIDE, style.SMALL), style.SMALL, color=colours.quiet)
        picture.write(left, 1.42, str(kept), 24, weight="bold", color=colours.own)
        beside = left + style.text_width(str(kept), 24, "bold") + 0.1
        picture.write(beside, 1.42, inked("of {count} exact", count=count), style.CLAIM, color=colours.quiet)
        axes = picture.panel(left, HEAD, SIDE, height, frame=False, xlim=(0, across), ylim=(down, 0))
        for word in words:
            places = np.flatnonzero(np.array(panel) == word)
            draw_cells(axes, word, cells(places, across), colours)
    draw_legend(picture, words, HEAD + height + 0.24)
    return picture


def title_of(title: str, count: int) -> str:
    """What somebody called the figure, else how many classes there are."""
    return phrase(title) if title else say("{count} model classes, one square each", count=count)


def cells(places: np.ndarray, across: int) -> np.ndarray:
    """Outlines of the squares at these places, columns first, so that equal ones stand side by side."""
    column, row = places % across, places // across
    return style.boxes(column + GAP, column + 1 - GAP, row + GAP, row + 1 - GAP)


def draw_cells(axes: Axes, word: str, outlines: np.ndarray, colours: style.Theme) -> None:
    """Squares of one verdict."""
    if word in ("leaks", "raises"):
        for outline in outlines:
            style.hatch(axes, outline, colours, stroke=0.4)
            if word == "raises":
                (left, top), (right, bottom) = outline[0], outline[2]
                cross = style.segments([left, left], [top, bottom], [right, right], [bottom, top])
                style.lines(axes, cross, colours.cross_ink, 1.0)
    elif word == "not built":
        corners = [style.segments(*a, *b) for one in outlines for a, b in zip(one, np.roll(one, -1, 0), strict=True)]
        if corners:
            style.lines(axes, np.concatenate(corners), colours.line, 0.8)
    else:
        fills = {"exact": colours.own, "exact *": colours.own_soft, "refused": colours.line}
        style.fill(axes, outlines, fills[word])


def draw_legend(picture: style.Picture, words: Sequence[str], top: float) -> None:
    """Two columns of a square and its words."""
    for number, word in enumerate(words):
        column, row = number % 2, number // 2
        left = EDGE + column * (picture.inches[0] - 2 * EDGE) * 0.5
        at = top + row * LETTER
        axes = picture.panel(left, at - 0.13, 0.16, 0.16, frame=False, xlim=(0, 1), ylim=(1, 0))
        draw_cells(axes, word, cells(np.array([0]), 1), picture.colours)
        picture.write(left + 0.24, at, inked(WORDS[word]), style.BODY)


def alt_text_verdicts(panels: Panels) -> str:
    """What ``draw_verdicts`` shows, in words, for a reader who does not see it; InputError for bad panels."""
    if not panels or not next(iter(panels.values())):
        raise InputError("there is no verdict to draw; give at least one panel with one class.")
    sizes = {len(panel) for panel in panels.values()}
    if len(sizes) > 1:
        raise InputError(f"the panels have {sorted(sizes)} classes; each class stands in every panel.")
    for panel in panels.values():
        for word in panel:
            if word not in WORDS:
                raise InputError(f"{word!r} is no verdict; it must be one of {', '.join(WORDS)}.")
    said = []
    for (name, about), panel in panels.items():
        counts = [
            say("{count} {verdict}", count=panel.count(word), verdict=phrase(word)) for word in WORDS if word in panel
        ]
        ways = {"name": phrase(name), "about": phrase(about), "counts": listed(counts)}
        said.append(say("{name} ({about}): {counts}.", **ways))
    return say("A square for each of {count} model classes. {panels}", count=sizes.pop(), panels=say(" ").join(said))
