"""Rows before and after packing, as bars on one scale: what is document, and what is padding.

The rule: left, every document has a row to itself, padded to the longest of them; right, the packed rows.
Both sides use the same tokens per inch and the same height per row, so areas compare. Waste is hatched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from varlen_lab.errors import InputError
from varlen_lab.viz.masks import lengths_of
from varlen_lab.viz.style import BODY, CLAIM, SMALL, TITLE, WIDTH, factor, percent, plural, theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from varlen_lab.viz.picture import Picture

LEFT, RIGHT, GAP, HEAD, FOOT = 0.10, 0.10, 0.30, 1.02, 0.42  # inches
TALL, HIGHEST = 0.24, 4.2  # inches: one row at most, all rows at most
SEPARATE = 2.0  # points: rows at least this high have space between them


def draw_rows(packed: Any, max_length: int | None = None, *, dark: bool = False) -> Figure:
    """Padded rows beside packed rows.

    ``packed``: ``Packs`` from ``pack_lengths``, or a list of rows, each a list of document lengths.
    ``max_length``: tokens a packed row holds; taken from ``Packs``, else the fullest row.
    Raises InputError for no rows or a row longer than ``max_length``.
    """
    from varlen_lab.viz.picture import Picture, text_width

    rows, max_length = check_rows(packed, max_length)
    colours, title = theme(dark), "Rows before and after packing"
    documents = np.sort(np.concatenate(rows))[::-1]
    before = [np.array([length]) for length in documents]
    tall = min(TALL, HIGHEST / len(before))
    height = HEAD + tall * len(before) + FOOT
    longest = int(documents[0])
    picture = Picture(WIDTH, height, colours, title, alt_text_rows(packed, max_length))
    inch = (WIDTH - LEFT - RIGHT - GAP) / (longest + max_length)
    right = LEFT + longest * inch + GAP
    narrow = 2.6  # inches a heading needs, whatever the rows do
    right = min(max(right, LEFT + narrow), WIDTH - RIGHT - narrow)
    inch = min((right - GAP - LEFT) / longest, (WIDTH - RIGHT - right) / max_length)
    for left, name, lines, size in ((LEFT, "Padded", before, longest), (right, "Packed", rows, max_length)):
        waste = 1 - documents.sum() / (len(lines) * size)
        room = (right - GAP if left == LEFT else WIDTH - RIGHT) - left
        picture.write(left, 0.29, name, TITLE, weight="bold")
        kind = "padding" if left == LEFT else "unused"
        claim = f"{percent(waste)} is {kind}" if waste else f"nothing is {kind}"
        picture.write(left, 0.55, claim, CLAIM, color=colours.cross_ink if waste else colours.own)
        numbers = f"{plural(len(lines), 'row')} of {plural(size, 'token')}"
        if left == right and len(lines) < len(before):
            extra = f"  ·  rows ÷ {factor(len(before) / len(lines))}"
            numbers += extra if text_width(numbers + extra, BODY) <= room else ""
        picture.write(left, 0.79, numbers, BODY, color=colours.quiet)
        draw_bars(picture, lines, size, left, inch, tall)
    words = f"{plural(len(documents), 'document')}, one scale; padded rows longest first; hatched: no token there"
    picture.write(LEFT, height - 0.15, words, SMALL, color=colours.quiet)
    return picture


def alt_text_rows(packed: Any, max_length: int | None = None) -> str:
    """What ``draw_rows`` shows, in words, for a reader who does not see it."""
    rows, max_length = check_rows(packed, max_length)
    documents = np.concatenate(rows)
    count, longest = plural(len(documents), "document"), int(documents.max())
    padded = 1 - documents.sum() / (len(documents) * longest)
    waste = 1 - documents.sum() / (len(rows) * max_length)
    return (
        f"{count} as rows of bars. Left, one padded row each: {plural(len(documents), 'row')} of "
        f"{plural(longest, 'token')}, {percent(padded)} padding. Right, packed: {plural(len(rows), 'row')} "
        f"of {plural(max_length, 'token')}, {percent(waste)} unused."
    )


def check_rows(packed: Any, max_length: int | None) -> tuple[list[np.ndarray], int]:
    """Rows as arrays of document lengths and the size of a row, or an InputError."""
    if hasattr(packed, "offsets") and hasattr(packed, "lengths"):
        rows = np.split(np.asarray(packed.lengths), np.asarray(packed.offsets)[1:-1])
        max_length = int(packed.max_length) if max_length is None else max_length
    else:
        rows = list(packed)
        if rows and np.ndim(rows[0]) == 0:
            raise InputError(f"the rows are {rows[0]!r}, …: a row is a list of lengths; pass e.g. [[70, 300], [180]].")
    rows = [lengths_of(row) for row in rows]
    if not rows:
        raise InputError("there are no rows to draw; pass Packs or lists of lengths, e.g. [[70, 300], [180]].")
    fullest = max(int(row.sum()) for row in rows)
    if max_length is not None and fullest > max_length:
        raise InputError(f"a row holds {fullest:,} tokens, more than max_length {max_length:,}; pack again with it.")
    return rows, fullest if max_length is None else int(max_length)


def draw_bars(picture: Picture, rows: Sequence[np.ndarray], size: int, left: float, inch: float, tall: float) -> None:
    """Rows from the top down: documents in two blues, hatched up to ``size`` tokens."""
    from varlen_lab.viz.picture import boxes, fill, hatch, lettering, text_width

    colours = picture.colours
    axes = picture.panel(left, HEAD, size * inch, tall * len(rows))
    axes.set(xlim=(0, size), ylim=(len(rows), 0))
    axes.spines[:].set_visible(False)
    number = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    ends = np.concatenate([np.cumsum(row) for row in rows])
    starts = ends - np.concatenate(rows)
    place = np.concatenate([np.arange(len(row)) for row in rows])
    space = 0.06 if 72 * tall >= 3 * SEPARATE else 0.0
    used = np.array([row.sum() for row in rows])
    if (used < size).any():  # one outline for all the padding: a staircase down the ends of the rows
        edge = np.repeat(used, 2)
        down = np.repeat(np.arange(len(rows) + 1), 2)[1:-1]
        outline = np.concatenate([np.stack([edge, down], -1), [[size, len(rows)], [size, 0]]])
        hatch(axes, outline, colours)
    shades = np.array([colours.own, colours.own_soft])[place % 2]
    fill(axes, boxes(starts, ends, number + space, number + 1 - space), shades)
    if space:
        axes.hlines(np.arange(1, len(rows)), 0, size, colors=colours.page, linewidth=2 * space * tall * 72)
    if tall < 0.15:
        return
    inks = (colours.on_own, colours.on_soft)
    for start, end, row, index in zip(starts, ends, number, place, strict=True):
        if text_width(f"{end - start:,}", SMALL) + 0.06 <= (end - start) * inch:
            style = lettering(inks[index % 2], ha="center")
            axes.text((start + end) / 2, row + 0.5, f"{end - start:,}", **style)
