"""What stands around the two squares of the mask figure: the strips below them, and how to read it all.

One strip a fact: whose token it is, its position id, and which labels are not trained on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from varlen_lab.viz.masks import PackedRow
from varlen_lab.viz.style import SMALL, Theme, plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from varlen_lab.viz.style import Picture

DOCUMENTS, POSITIONS, LABELS = (0.07, 0.20), (0.33, 0.30), (0.69, 0.16)  # inches below the square, and height
DEPTH = sum(LABELS)
NOTCH_LIMIT = 100  # up to this many documents a notch marks each label that is -100


def draw_strips(picture: Picture, row: PackedRow, left: float, top: float, side: float, varlen: bool) -> None:
    """Under a square: documents, position_ids (restarting at each seam in varlen) and labels not trained."""
    strips = (
        ("documents", DOCUMENTS, fill_documents),
        ("position_ids", POSITIONS, fill_positions),
        ("labels", LABELS, fill_labels),
    )
    for name, (below, height), draw in strips:
        axes = picture.panel(left, top + below, side, height)
        axes.set(xlim=(0, row.total), ylim=(0, 1))
        axes.spines[:].set_visible(False)
        draw(axes, row, picture.colours, varlen, side / row.total)
        if not varlen:
            middle = top + below + height / 2
            picture.write(left - 0.07, middle + 0.04, name, SMALL, ha="right", color=picture.colours.quiet)


def fill_documents(axes: Axes, row: PackedRow, colours: Theme, varlen: bool, inch: float) -> None:
    """Whose token it is: neighbours in two blues, with names that fit. ``inch`` is the width of a token."""
    from varlen_lab.viz.style import boxes, fill, lettering, plain, shorten, text_width

    shades, inks = (colours.own, colours.own_soft), (colours.on_own, colours.on_soft)
    fill(axes, boxes(row.starts, row.ends, 0, 1), [shades[index % 2] for index in range(len(row.lengths))])
    for index in np.flatnonzero(row.lengths * inch > 0.2).tolist():
        room = row.lengths[index] * inch - 0.06
        words = shorten(plain(row.name(index)), 2.0, SMALL)
        if text_width(words, SMALL) > room:
            words = "" if row.names else f"{index + 1:,}"
        if text_width(words, SMALL) <= room:
            axes.text(
                (row.starts[index] + row.ends[index]) / 2,
                0.5,
                words,
                **lettering(inks[index % 2], ha="center"),
            )


def fill_positions(axes: Axes, row: PackedRow, colours: Theme, varlen: bool, inch: float) -> None:
    """position_ids: the numbers in a tiny row, else ramps from 0 to the last position."""
    from varlen_lab.viz.style import fill, lettering, lines, text_width

    starts, ends = (row.starts, row.ends) if varlen else (np.array([0]), np.array([row.total]))
    sizes = ends - starts
    if inch > 0.2:
        for token, position in enumerate((np.arange(row.total) - np.repeat(starts, sizes)).tolist()):
            axes.text(token + 0.5, 0.5, str(position), **lettering(colours.ink, ha="center"))
        return
    tops = 0.92 * sizes / sizes.max()
    ramps = np.stack([np.stack([starts, 0 * tops], -1), np.stack([ends, tops], -1), np.stack([ends, 0 * tops], -1)], 1)
    fill(axes, ramps, colours.line)
    lines(axes, ramps[:, :2], colours.quiet, 1.0 if len(starts) < 200 else 0.5)
    for index in np.flatnonzero((tops > 0.6) & (sizes * inch > 0.6)).tolist():
        last = f"{sizes[index] - 1:,}"
        x = ends[index] - (text_width(last, SMALL) / 2 + 0.05) / inch
        axes.text(x, 0.22, last, **lettering(colours.ink, ha="center"))


def fill_labels(axes: Axes, row: PackedRow, colours: Theme, varlen: bool, inch: float) -> None:
    """The first label of every document is -100: nothing before a seam can predict what follows it."""
    from varlen_lab.viz.style import boxes, fill, lettering

    fill(axes, boxes(0, row.total, 0, 1), colours.line)
    if len(row.lengths) > NOTCH_LIMIT:
        words = f"{len(row.lengths):,} of {row.total:,} are −100: the first of each document"
        axes.text(row.total / 2, 0.5, words, **lettering(colours.ink, ha="center"))
        return
    notch = np.maximum(1.0, np.minimum(0.02 / inch, 0.3 * row.lengths))
    fill(axes, boxes(row.starts, row.starts + notch, 0, 1), colours.ink)


def write_axis_names(picture: Picture, left: float, top: float) -> None:
    """How to read a square, at its upper left corner: queries go down, keys go right."""
    picture.write(left - 0.07, top - 0.07, "query ↓", SMALL, ha="right", color=picture.colours.quiet)
    picture.write(left, top - 0.07, "key →", SMALL, color=picture.colours.quiet)


def write_legend(picture: Picture, row: PackedRow, left: float, right: float, top: float) -> None:
    """The colours in words, on one line between ``left`` and ``right`` inches."""
    from varlen_lab.viz.style import boxes, fill, hatch, text_width

    colours = picture.colours
    keys = {"own document": colours.own, "another document": colours.cross, "not seen": colours.empty}
    keys["label −100"] = colours.ink
    for words, colour in keys.items():
        axes = picture.panel(left, top - 0.11, 0.2, 0.13)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.spines[:].set_visible(colour == colours.empty)
        outline = boxes(0, 1, 0, 1)
        hatch(axes, outline[0], colours) if colour == colours.cross else fill(axes, outline, colour)
        picture.write(left + 0.27, top, words, SMALL, color=colours.quiet)
        left += 0.27 + text_width(words, SMALL) + 0.24
    row_words = f"{plural(len(row.lengths), 'document')}, {plural(row.total, 'token')}"
    if left + text_width(row_words, SMALL) <= right:
        picture.write(right, top, row_words, SMALL, ha="right", color=colours.quiet)
