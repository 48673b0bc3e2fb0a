"""The picture of the whole idea: one packed row, full causal attention beside varlen, on one true scale.

Left, every token sees everything before it; right, only its own document. Blue cells are the token's own
document, hatched orange cells are another one, grey is not seen. Under each square: whose token it is, its
position id, and which labels are trained on. Blocks too thin to see get a minimum stroke, and a lens in the
empty corner. Time and memory grow with the number of documents, not with tokens squared.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from varlen_lab.language.saying import counted, say
from varlen_lab.viz import style
from varlen_lab.viz.masks import CELL_LIMIT, COUNTS, PackedRow, check_tokens, factor, percent
from varlen_lab.viz.strips import DEPTH, draw_strips, write_axis_names, write_heading, write_legend

READABLE = 6.0  # points: when the typical block is thinner, there is a lens
SEAM_LIMIT = 40  # up to this many documents seams are drawn across the square
LEFT, RIGHT, GAP, HEAD = 0.92, 0.10, 0.30, 1.08  # inches


def draw_masks(
    boundaries: Any,
    *,
    window: int | None = None,
    names: Sequence[str] | None = None,
    causal: bool = True,
    tokens: Sequence[str] | None = None,
    dark: bool = False,
) -> Figure:
    """Full attention beside varlen attention for one packed row.

    ``boundaries``: a ``Boundaries`` or a list of document lengths. ``window``: a token sees itself and the
    ``window - 1`` before it. ``names``: one per document. ``causal=False``: tokens see what follows them too, as in
    an encoder, and the window reaches both ways. ``tokens``: the text of each one, written beside its line where a
    row is so short that its cells are drawn. Raises InputError for what cannot be drawn.
    """
    row = PackedRow(boundaries, window, names, causal)
    texts = check_tokens(tokens, row)
    side = (style.WIDTH - LEFT - RIGHT - GAP) / 2
    height = HEAD + side + DEPTH + 0.52
    title = title_of(row)
    picture = style.Picture(style.WIDTH, height, style.theme(dark), title, row.alt_text())
    for left, varlen in ((LEFT, False), (LEFT + side + GAP, True)):
        write_claim(picture, row, left, side, varlen)
        axes = picture.panel(left, HEAD, side, side, xlim=(0, row.total), ylim=(row.total, 0))
        draw_square(axes, row, picture.colours, varlen, side)
        lens = draw_lens(picture, axes, row, varlen, left, side)
        if texts and not varlen:
            write_tokens(axes, texts, picture.colours, side)
        elif not (varlen and lens):
            write_names(axes, row, picture.colours, varlen, side)
        draw_strips(picture, row, left, HEAD + side, side, varlen)
    write_axis_names(picture, LEFT, HEAD)
    picture.folds_at(LEFT, LEFT + side + GAP, foot=0.38)
    write_foot(picture, row, height - 0.17)
    return picture


def title_of(row: PackedRow) -> str:
    """What the picture is called."""
    documents = counted(len(row.lengths), "document")
    return say("{full} and varlen attention over {documents} in one row", full=row.full, documents=documents)


@style.inking()
def write_foot(picture: style.Picture, row: PackedRow, top: float) -> None:
    """What the colours are, and at the right how many documents and tokens there are, where there is room for it."""
    colours = picture.colours
    legend = {"own document": colours.own, "another document": colours.cross, "not seen": colours.empty}
    end = write_legend(picture, LEFT, top, legend | {"label −100": colours.ink})
    words = say(COUNTS, documents=counted(len(row.lengths), "document"), tokens=counted(row.total, "token"))
    if end + style.text_width(words, style.SMALL) <= style.WIDTH - RIGHT:
        picture.write(style.WIDTH - RIGHT, top, words, style.SMALL, ha="right", color=colours.quiet)


def alt_text_masks(
    boundaries: Any, *, window: int | None = None, names: Sequence[str] | None = None, causal: bool = True
) -> str:
    """What ``draw_masks`` shows, in words, for a reader who does not see it."""
    return PackedRow(boundaries, window, names, causal).alt_text()


@style.inking()
def write_claim(picture: style.Picture, row: PackedRow, left: float, side: float, varlen: bool) -> None:
    """The heading of one half: what its mask lets a token see, with its numbers."""
    cells, colours = row.cells, picture.colours
    title = say("Varlen") if varlen else row.full
    if row.window is not None:
        title = say("{title}, window {window:,}", title=title, window=row.window)
    if varlen:
        claim, colour = say("a token sees only its own document"), colours.own
        saved = factor(cells.saving)
        numbers = say("{cells}  ·  attention ÷ {saving}", cells=counted(cells.own, "cell"), saving=saved)
    else:
        claim = say("{share} of what a token sees is another document", share=percent(cells.cross_share))
        colour, numbers = colours.cross_ink, counted(cells.full, "cell")
    if not cells.cross:
        colour = colours.quiet
        if varlen:
            claim = say("the same mask")
        elif len(row.lengths) == 1:
            claim = say("nothing to leak: there is one document")
        else:
            claim = say("nothing to leak: a token sees only itself")
    write_heading(picture, left, side, title, claim, colour, numbers)


def draw_square(
    axes: Axes, row: PackedRow, colours: style.Theme, varlen: bool, side: float, part: slice = slice(None)
) -> None:
    """The cells of one mask, to scale, none of them thinner than the minimum stroke. ``side`` in inches."""
    low, high = axes.get_xlim()
    points = 72 * side / (high - low)
    axes.set_facecolor(colours.empty)
    if not varlen and row.cells.cross:
        thin = (row.window or row.total) * points < style.STROKE
        style.hatch(axes, row.full_outline(), colours, stroke=style.STROKE if thin else 0.0)
    if len(row.lengths[part]) <= SEAM_LIMIT:
        before = np.concatenate([[0], row.lengths])[:-1]
        clear = np.maximum(before, row.lengths)[part] * points >= 5  # guides among slivers would hide the cells
        seams = row.starts[part][clear & (row.starts[part] > low)]
        across, down = style.segments(low, seams, seams, seams), style.segments(seams, seams, seams, high)
        style.lines(axes, np.concatenate([across, down]), colours.page, 1.0)
    strokes = np.where(row.thickness[part] * points < style.STROKE, style.STROKE, 0.0)
    style.fill(axes, row.outlines(part), colours.own, strokes)
    if row.total <= CELL_LIMIT:
        draw_grid(axes, row.total, colours)


def draw_grid(axes: Axes, total: int, colours: style.Theme, width: float = 1.0) -> None:
    """Lines between the cells of a small row of ``total`` tokens."""
    marks = np.arange(1, total)
    across, down = style.segments(0, marks, total, marks), style.segments(marks, 0, marks, total)
    style.lines(axes, np.concatenate([across, down]), colours.page, width)


def lens_part(row: PackedRow, side: float) -> tuple[slice, float, float] | None:
    """The documents to magnify and the tokens they cover, or None when the square itself is readable."""
    points, documents = 72 * side / row.total, len(row.lengths)
    if documents == 1 or np.median(row.thickness) * points >= READABLE:
        return None
    if np.median(row.lengths) * points < 2 * READABLE:  # short documents: a typical run of six near the middle
        run = min(6, documents)
        edges = np.concatenate([[0], row.ends])
        sums = edges[run:] - edges[:-run]
        unusual = np.round(np.abs(sums / np.median(sums) - 1), 1)
        off_centre = np.abs((edges[run:] + edges[:-run]) / row.total - 1)
        first = int(np.argmin(unusual + off_centre))
        return slice(first, first + run), float(edges[first]), float(edges[first + run])
    second = 1 + int(np.argmin(np.abs(row.starts[1:] - row.total / 2)))  # long documents, thin window: one seam
    seam, reach = float(row.starts[second]), 3.0 * int(row.window or 1)
    return slice(second - 1, second + 1), seam - reach, seam + reach


@style.inking()
def draw_lens(picture: style.Picture, axes: Axes, row: PackedRow, varlen: bool, left: float, side: float) -> bool:
    """The inset in the empty corner, with guides to the place it magnifies; False when none is needed."""
    place = lens_part(row, side)
    if place is None:
        return False
    part, low, high = place
    colours, size = picture.colours, 0.43 * side
    x, y = left + side - size - 0.09, HEAD + 0.27
    lens = picture.panel(x, y, size, size, xlim=(low, high), ylim=(high, low))
    lens.set_zorder(3)
    draw_square(lens, row, colours, varlen, size, part)
    for spine in lens.spines.values():
        spine.set(color=colours.ink, linewidth=1.0)
    scale = row.total / side
    edge: dict[str, Any] = {"color": colours.ink, "linewidth": 0.7, "zorder": 2.5}
    axes.plot([low, high, high, low, low], [low, low, high, high, low], **edge)
    near, far, top, bottom = (inch * scale for inch in (x - left, x - left + size, y - HEAD, y - HEAD + size))
    below = low > bottom  # the place is under the lens: guides end at its lower corners
    axes.plot([low, near], [high if below else low, bottom if below else top], **edge)
    axes.plot([high, far], [low if below else high, bottom], **edge)
    times = row.total / (high - low) * size / side
    documents = counted(part.stop - part.start, "document")
    words = say("{documents}, enlarged {times} times", documents=documents, times=factor(times))
    lens.set_title(words, **style.lettering(colours.quiet, va="baseline"), loc="right", pad=4)
    return True


def write_tokens(axes: Axes, texts: Sequence[str], colours: style.Theme, side: float) -> None:
    """The text of each token at the left end of its line of cells."""
    inch = side / len(texts)
    size = min(style.SMALL, 72 * 0.9 * inch)
    for place, text in enumerate(texts):
        words = style.shorten(style.one_line(text), LEFT - 0.14, size)
        style.label(axes, -0.07 / inch, place + 0.5, words, colours.ink, ha="right", clip_on=False, fontsize=size)


@style.inking()
def write_names(axes: Axes, row: PackedRow, colours: style.Theme, varlen: bool, side: float) -> None:
    """Names at the left edge of the first square, and beside each block of the second, where they fit."""
    inch = side / row.total  # of one token
    for index in np.flatnonzero(row.lengths * inch >= 0.15).tolist():
        start, length = int(row.starts[index]), int(row.lengths[index])
        name = style.shorten(style.one_line(row.name(index)), 1.6, style.SMALL)
        if not varlen:
            name = style.shorten(name, LEFT - 0.14, style.SMALL)
            style.label(axes, -0.07 / inch, start + length / 2, name, colours.ink, ha="right", clip_on=False)
            continue
        # The diagonal passes through the middle of the block; in a row of cells, a step ends there.
        cell = row.total <= CELL_LIMIT
        height, edge = (
            (start + (length - 1) // 2 + 0.5, start + (length + 1) // 2) if cell else (start + length / 2,) * 2
        )
        right = edge + 0.12 / inch if row.causal else start + length + 0.07 / inch
        sides = (
            (right, "left", (row.total - right) * inch - 0.04),
            (start - 0.07 / inch, "right", start * inch - 0.1),
        )
        both = say("{name}, {tokens}", name=name, tokens=counted(length, "token"))
        for words, (x, ha, room) in product((both, name), sides):
            if style.text_width(words, style.SMALL) <= room:
                style.label(axes, x, height, words, colours.ink, paper=colours.empty, ha=ha, zorder=2.2)
                break
