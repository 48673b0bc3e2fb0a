"""What stands around the two squares of the mask figure: the strips below them, and how to read it all.

One strip a fact: whose token it is, its position id, and which labels are not trained on.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from varlen_lab.language.saying import phrase, say
from varlen_lab.viz import style
from varlen_lab.viz.masks import PackedRow

DOCUMENTS, POSITIONS, LABELS = (0.07, 0.20), (0.33, 0.30), (0.69, 0.16)  # inches below the square, and height
DEPTH = sum(LABELS)
NOTCH_LIMIT = 100  # up to this many documents a notch marks each label that is -100


@style.inking()
def draw_strips(picture: style.Picture, row: PackedRow, left: float, top: float, side: float, varlen: bool) -> None:
    """Under a square: documents, position_ids (restarting at each seam in varlen) and labels not trained."""
    strips = (
        (say("documents"), DOCUMENTS, show_documents),
        ("position_ids", POSITIONS, show_positions),
        ("labels", LABELS, show_labels),
    )
    for name, (below, height), draw in strips:
        axes = picture.panel(left, top + below, side, height, frame=False, xlim=(0, row.total), ylim=(0, 1))
        draw(axes, row, picture.colours, varlen, side / row.total)
        if not varlen:
            centre = top + below + height / 2
            picture.write(left - 0.07, centre + 0.04, name, style.SMALL, ha="right", color=picture.colours.quiet)


@style.inking()
def show_documents(axes: Axes, row: PackedRow, colours: style.Theme, varlen: bool, inch: float) -> None:
    """Whose token it is: neighbours in two blues, with names that fit. ``inch`` is the width of a token."""
    shades, inks = (colours.own, colours.own_soft), (colours.on_own, colours.on_soft)
    style.fill(axes, style.boxes(row.starts, row.ends, 0, 1), [shades[index % 2] for index in range(len(row.lengths))])
    for index in np.flatnonzero(row.lengths * inch > 0.2).tolist():
        room = row.lengths[index] * inch - 0.06
        words = style.shorten(style.one_line(row.name(index)), 2.0, style.SMALL)
        if style.text_width(words, style.SMALL) > room:
            words = "" if row.names else f"{index + 1:,}"
        if style.text_width(words, style.SMALL) <= room:
            style.label(axes, (row.starts[index] + row.ends[index]) / 2, 0.5, words, inks[index % 2])


def show_positions(axes: Axes, row: PackedRow, colours: style.Theme, varlen: bool, inch: float) -> None:
    """position_ids: the numbers in a tiny row, else ramps from 0 to the last position."""
    starts, ends = (row.starts, row.ends) if varlen else (np.array([0]), np.array([row.total]))
    sizes = ends - starts
    if inch > 0.2:
        for token, position in enumerate((np.arange(row.total) - np.repeat(starts, sizes)).tolist()):
            style.label(axes, token + 0.5, 0.5, str(position), colours.ink)
        return
    tops = 0.92 * sizes / sizes.max()
    slopes = style.segments(starts, 0, ends, tops)
    style.fill(axes, np.concatenate([slopes, style.segments(ends, 0, ends, 0)[:, :1]], axis=1), colours.line)
    style.lines(axes, slopes, colours.quiet, 1.0 if len(starts) < 200 else 0.5)
    for index in np.flatnonzero((tops > 0.6) & (sizes * inch > 0.6)).tolist():
        last = f"{sizes[index] - 1:,}"
        x = ends[index] - (style.text_width(last, style.SMALL) / 2 + 0.05) / inch
        style.label(axes, x, 0.22, last, colours.ink)


def show_labels(axes: Axes, row: PackedRow, colours: style.Theme, varlen: bool, inch: float) -> None:
    """The first label of every document is -100: nothing before a seam can predict what follows it."""
    style.fill(axes, style.boxes(0, row.total, 0, 1), colours.line)
    if len(row.lengths) > NOTCH_LIMIT:
        words = say(
            "{documents:,} of {total:,} are −100: the first of each document",
            documents=len(row.lengths),
            total=row.total,
        )
        style.label(axes, row.total / 2, 0.5, words, colours.ink)
        return
    notch = np.maximum(1.0, np.minimum(0.02 / inch, 0.3 * row.lengths))
    style.fill(axes, style.boxes(row.starts, row.starts + notch, 0, 1), colours.ink)


def write_axis_names(picture: style.Picture, left: float, top: float) -> None:
    """How to read a square, at its upper left corner: queries go down, keys go right."""
    picture.write(left - 0.07, top - 0.07, "query ↓", style.SMALL, ha="right", color=picture.colours.quiet)
    picture.write(left, top - 0.07, "key →", style.SMALL, color=picture.colours.quiet)


def write_heading(
    picture: style.Picture, left: float, width: float, title: str, claim: str, colour: str, numbers: str
) -> None:
    """Three lines above a square of ``width`` inches: its title, what it shows in ``colour``, and the numbers."""
    picture.write(left, 0.29, title, style.TITLE, weight="bold")
    shrink = min(1.0, width / style.text_width(claim, style.CLAIM))
    picture.write(left, 0.545, claim, style.CLAIM * shrink, color=colour)
    picture.write(left, 0.775, numbers, style.BODY, color=picture.colours.quiet)


@style.inking()
def write_legend(picture: style.Picture, left: float, top: float, entries: Mapping[str, str]) -> float:
    """Colours in words (words -> colour), on one line from ``left`` on; returns where the next would begin.

    The words are English, as they are written here: what is drawn is ``phrase`` of them.
    """
    for entry, colour in entries.items():
        words = phrase(entry)
        frame = colour == picture.colours.empty
        axes = picture.panel(left, top - 0.11, 0.2, 0.13, frame, xlim=(0, 1), ylim=(0, 1))
        if colour == picture.colours.cross:
            style.hatch(axes, style.boxes(0, 1, 0, 1)[0], picture.colours)
        else:
            style.fill(axes, style.boxes(0, 1, 0, 1), colour)
        picture.write(left + 0.27, top, words, style.SMALL, color=picture.colours.quiet)
        left += 0.27 + style.text_width(words, style.SMALL) + 0.24
    return left
