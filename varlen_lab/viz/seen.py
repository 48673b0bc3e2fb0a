"""The mask that was promised, and beside it what a model was seen to do: every LEAK is marked.

Left is the varlen mask of the row. Right is a measurement: attention weights of a live model (``attention_seen``), or
an audit's leak matrix. Up to a few dozen tokens every cell is drawn, beyond that every pair of documents, to scale.
Below, how much crosses in each layer. The title says what was measured, whatever was hoped for.

    seen = attention_seen(model, batch)
    draw_seen(seen.lengths, seen.mass, cells=seen.cells, layers=seen.layers)
    draw_seen(report.lengths, report.leaks[None], what="gradient")
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from varlen_lab.errors import InputError
from varlen_lab.language.saying import counted, listed, phrase, say
from varlen_lab.viz import style
from varlen_lab.viz.figures import draw_grid, draw_square
from varlen_lab.viz.masks import PackedRow, percent
from varlen_lab.viz.strips import show_documents, write_axis_names, write_heading, write_legend
from varlen_lab.viz.style import inked

DOCUMENT_LIMIT = 200  # the measurement is document x document
LEFT, RIGHT, GAP, HEAD, STRIP, LAYERS, FOOT = 0.92, 0.10, 0.30, 1.08, 0.27, 0.62, 0.50  # inches
MEASURES = ("attention", "gradient")


class Measured:
    """The row that was promised and what was measured on it, checked once."""

    def __init__(
        self, boundaries: Any, mass: Any, cells: Any, layers: Any, names: Any, window: int | None, what: str
    ) -> None:
        self.row = PackedRow(boundaries, window, names)
        count, total = len(self.row.lengths), self.row.total
        if count > DOCUMENT_LIMIT:
            raise InputError(f"the row has {count} documents, a measurement is drawn of at most {DOCUMENT_LIMIT}.")
        if what not in MEASURES:
            raise InputError(f"what is {what!r}, it must be {' or '.join(map(repr, MEASURES))}.")
        self.what = what
        self.mass = checked_matrices(mass, count, "mass")
        self.cells = None if cells is None else checked_matrices(cells, total, "cells")
        self.layers = None if layers is None else [str(name) for name in layers]
        named = len(self.mass) if self.layers is None else len(self.layers)
        if named != len(self.mass) or (self.cells is not None and len(self.cells) != len(self.mass)):
            raise InputError(
                f"there are {len(self.mass)} layers of mass and {named} names for them; give one each, "
                "and as many layers of cells."
            )
        other = ~np.eye(count, dtype=bool)
        self.leaks = (self.mass != 0).any(axis=0) & other  # nan is a leak too: nothing is known to be 0
        weights = self.row.lengths / total
        crossing = np.where(other, self.mass, 0.0)
        shares = (crossing.sum(axis=2) * weights).sum(axis=1)
        self.crossing = shares if what == "attention" else crossing.max(axis=(1, 2))

    @property
    def claim(self) -> str:
        """The headline of the measured half."""
        if not self.leaks.any():
            return say("nothing crosses a seam") if len(self.row.lengths) > 1 else say("there is one document")
        if self.what == "attention":
            return say("LEAK: {share} goes to another document", share=percent(float(self.crossing.mean())))
        hearing, documents = int(self.leaks.any(axis=1).sum()), counted(len(self.row.lengths), "document")
        return say("LEAK: {hearing} of {documents} hear another", hearing=hearing, documents=documents)

    def layer(self, number: int) -> str:
        """The name of a layer, its number where it was given none."""
        return phrase(self.layers[number]) if self.layers is not None else say("layer {number}", number=number)

    def alt_text(self) -> str:
        """The figure in two or three sentences."""
        row, measure = self.row, say("attention weights" if self.what == "attention" else "gradients")
        pairs = [
            say("{hearer} hears {heard}", hearer=row.name(i), heard=row.name(j))
            for i, j in np.argwhere(self.leaks)[:6].tolist()
        ]
        more = ["…"] if self.leaks.sum() > 6 else []
        return say(
            "The promised varlen mask of {documents} in {tokens}, and beside it measured {measure} of {layers}: "
            "{claim}.",
            documents=counted(len(row.lengths), "document"),
            tokens=counted(row.total, "token"),
            layers=counted(len(self.mass), "layer"),
            measure=measure,
            claim=self.claim,
        ) + (say(" {pairs}.", pairs=listed(pairs + more)) if pairs else "")


def checked_matrices(values: Any, size: int, name: str) -> np.ndarray:
    """Square matrices, float64 (layers, size, size), or an InputError."""
    try:
        array = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.ndim != 3 or array.shape[1:] != (size, size) or not len(array):
        raise InputError(f"{name} has shape {np.shape(values)}, it must be (layers, {size}, {size}) for this row.")
    return array


def draw_seen(
    boundaries: Any,
    mass: Any,
    *,
    cells: Any = None,
    layers: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    window: int | None = None,
    what: str = "attention",
    caption: str = "",
    dark: bool = False,
) -> Figure:
    """The promised mask beside the measured one.

    ``mass``: (layers, documents, documents), what document i takes from document j; ``cells``: (layers, T, T) weights,
    for a small row; ``layers``: their names. ``what``: ``attention`` (mass is shares that sum to 1) or ``gradient``
    (mass is the largest gradient). ``caption``: what it was measured on. Raises InputError for what does not fit.
    """
    seen = Measured(boundaries, mass, cells, layers, names, window, what)
    row, colours = seen.row, style.theme(dark)
    side = (style.WIDTH - LEFT - RIGHT - GAP) / 2
    bars = LAYERS if len(seen.mass) > 1 else 0.0
    height = HEAD + side + STRIP + bars + FOOT + (0.22 if caption else 0)
    picture = style.Picture(style.WIDTH, height, colours, say("Promised and measured"), seen.alt_text())
    right = LEFT + side + GAP
    write_headings(picture, seen, right, side)
    for left in (LEFT, right):
        axes = picture.panel(left, HEAD, side, side, xlim=(0, row.total), ylim=(row.total, 0))
        if left == LEFT:
            draw_square(axes, row, colours, True, side)
        else:
            draw_measured(axes, seen, picture, side)
        axes = picture.panel(left, HEAD + side + 0.07, side, 0.20, frame=False, xlim=(0, row.total), ylim=(0, 1))
        show_documents(axes, row, colours, True, side / row.total)
    picture.write(LEFT - 0.07, HEAD + side + 0.21, inked("documents"), style.SMALL, ha="right", color=colours.quiet)
    write_axis_names(picture, LEFT, HEAD)
    if bars:
        draw_layers(picture, seen, LEFT, HEAD + side + STRIP + 0.20, style.WIDTH - LEFT - RIGHT, bars - 0.22)
    legend = {"own document": colours.own, "LEAK: another document": colours.cross, "not seen": colours.empty}
    write_legend(picture, LEFT, height - 0.17 - (0.22 if caption else 0), legend)
    if caption:
        picture.write_caption(LEFT, caption, above=0.14)
    if not bars or len(seen.mass) % 2 == 0:  # or the cut would go through the bar of a layer
        picture.folds_at(LEFT, right, foot=0.38 + (0.22 if caption else 0))
    return picture


def alt_text_seen(boundaries: Any, mass: Any, *, what: str = "attention", names: Sequence[str] | None = None) -> str:
    """What ``draw_seen`` shows, in words, for a reader who does not see it."""
    return Measured(boundaries, mass, None, None, names, None, what).alt_text()


@style.inking()
def write_headings(picture: style.Picture, seen: Measured, right: float, side: float) -> None:
    """What each half shows: the promise, and what was found."""
    colours, layers = picture.colours, len(seen.mass)
    source = say("attention of this model" if seen.what == "attention" else "gradients of this model")
    if layers > 1:
        source = say("{source}, {layers} layers", source=source, layers=layers)
    found = colours.cross_ink if seen.leaks.any() else colours.own
    promise = say("a token sees only its own document")
    write_heading(picture, LEFT, side, say("Promised"), promise, colours.own, say("the varlen mask"))
    write_heading(picture, right, side, say("Measured"), seen.claim, found, source)


def draw_measured(axes: Axes, seen: Measured, picture: style.Picture, side: float) -> None:
    """Own cells blue, leaks hatched and named; cell by cell where they were measured."""
    row, colours = seen.row, picture.colours
    if seen.cells is None:
        draw_square(axes, row, colours, True, side)
        for i, j in np.argwhere(seen.leaks).tolist():
            # what lies below the diagonal is a whole rectangle, whatever part of it a window leaves
            outline = style.boxes(row.starts[j], row.ends[j], row.starts[i], row.ends[i])[0]
            style.hatch(axes, outline, colours, stroke=style.STROKE / 2)
    else:
        axes.set_facecolor(colours.empty)
        used = (seen.cells != 0).any(axis=0)
        owner = np.repeat(np.arange(len(row.lengths)), row.lengths)
        own = owner[:, None] == owner[None, :]
        for query, key in np.argwhere(used & ~own).tolist():
            style.hatch(axes, style.boxes(key, key + 1, query, query + 1)[0], colours)
        queries, keys = np.nonzero(used & own)
        style.fill(axes, style.boxes(keys, keys + 1, queries, queries + 1), colours.own)
        draw_grid(axes, row.total, colours, 0.8)
    largest = seen.mass.max(axis=0)
    inch = side / row.total
    for i, j in np.argwhere(seen.leaks).tolist():
        value = largest[i, j]
        number = percent(value) if seen.what == "attention" else plain(value)
        for words in (inked("LEAK {number}", number=number), inked("LEAK")):
            width = style.text_width(words, style.SMALL, "bold") + 0.12
            if width <= row.lengths[j] * inch and row.lengths[i] * inch >= 0.2:
                x, y = row.starts[j] + row.lengths[j] / 2, row.starts[i] + row.lengths[i] / 2
                style.label(axes, x, y, words, colours.cross_ink, paper=colours.page, weight="bold")
                break


def plain(value: float) -> str:
    """A gradient in as few signs as it needs: 40, 0.2, 3e-7."""
    return f"{value:.0f}" if value >= 10 else f"{value:.1g}".replace("e-0", "e-")


@style.inking()
def draw_layers(picture: style.Picture, seen: Measured, left: float, top: float, width: float, height: float) -> None:
    """A bar a layer: the share of its attention (or its largest gradient) that crosses a seam."""
    colours, count = picture.colours, len(seen.mass)
    highest = 1.0 if seen.what == "attention" else float(np.nanmax(seen.crossing)) or 1.0
    axes = picture.panel(left, top, width, height, xlim=(-0.02 * count, count * 1.02), ylim=(0, highest * 1.05))
    axes.spines[["top", "right", "left"]].set_visible(False)
    spots = np.arange(count)
    for spot, value in zip(spots.tolist(), seen.crossing.tolist(), strict=True):
        if value:
            style.hatch(axes, style.boxes(spot + 0.1, spot + 0.9, 0, value)[0], colours, stroke=0.8)
    style.fill(axes, style.boxes(spots + 0.1, spots + 0.9, 0, 0), colours.own, 1.2)
    picture.write(left - 0.07, top + height / 2 + 0.02, say("crossing,"), style.SMALL, ha="right", color=colours.quiet)
    picture.write(left - 0.07, top + height / 2 + 0.15, say("by layer"), style.SMALL, ha="right", color=colours.quiet)
    if count > 12:
        return
    for spot, value in zip(spots.tolist(), seen.crossing.tolist(), strict=True):
        number = percent(value) if seen.what == "attention" else plain(value)
        words = say("{name}: {number}", name=seen.layer(spot), number=number)
        style.label(axes, spot + 0.5, axes.get_ylim()[1] * 0.45, words, colours.ink, paper=colours.page)
