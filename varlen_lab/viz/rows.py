"""Rows before and after packing, as bars on one scale: what is document, and what is padding.

The rule: left, every document has a row to itself, padded to the longest of them; right, the packed rows.
Both sides use the same tokens per inch and the same height per row, so areas compare. Waste is hatched. Where a
document was cut (its tail lost, or gone on in another row) its edge is orange.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from varlen_lab.errors import InputError
from varlen_lab.language.saying import counted, phrase, say
from varlen_lab.viz import style
from varlen_lab.viz.masks import factor, lengths_of, percent

LEFT, RIGHT, GAP, HEAD, FOOT = 0.10, 0.10, 0.30, 1.02, 0.42  # inches
ROW_HEIGHT, ALL_ROWS_HEIGHT = 0.24, 4.2  # inches: one row at most, all rows at most
SPACED_FROM = 2.0  # points: rows at least this high have space between them


def draw_rows(packed: Any, max_length: int | None = None, *, against: Any = None, dark: bool = False) -> Figure:
    """Padded rows beside packed rows, or two plans of the same documents side by side.

    ``packed``: ``Packs`` from ``pack_lengths``, or a list of rows, each a list of document lengths.
    ``max_length``: tokens a packed row holds; taken from ``Packs``, else the fullest row.
    ``against``: another plan as ``Packs``, drawn on the left in place of the padded rows.
    Raises InputError for no rows or a row longer than ``max_length``.
    """
    plan = check_rows(packed, max_length)
    rows, max_length = plan.rows, plan.max_length
    colours, title = style.theme(dark), say("Rows before and after packing" if against is None else "Two ways to pack")
    whole = np.zeros(len(plan.documents), dtype=bool)
    first = Half("Padded", [np.array([n]) for n in plan.documents], int(plan.documents[0]), (whole, plan.truncated))
    if against is not None:
        other = check_rows(against, None)
        first = Half(name_of(against), other.rows, other.max_length, other.cuts)
    before, longest = first.rows, first.size
    most = max(len(before), len(rows))
    row_height = min(ROW_HEIGHT, ALL_ROWS_HEIGHT / most)
    height = HEAD + row_height * most + FOOT
    picture = style.Picture(style.WIDTH, height, colours, title, alt_text_rows(packed, max_length, against))
    inch = (style.WIDTH - LEFT - RIGHT - GAP) / (longest + max_length)
    right = LEFT + longest * inch + GAP
    narrow = 2.6  # inches a heading needs, whatever the rows do
    right = min(max(right, LEFT + narrow), style.WIDTH - RIGHT - narrow)
    inch = min((right - GAP - LEFT) / longest, (style.WIDTH - RIGHT - right) / max_length)
    second = Half("Packed" if against is None else name_of(packed), rows, max_length, plan.cuts)
    fewer = len(before) / len(rows) if against is None and len(rows) < len(before) else None
    for left, half in ((LEFT, first), (right, second)):
        room = (right - GAP if left == LEFT else style.WIDTH - RIGHT) - left
        torn = None if against is None else (other if left == LEFT else plan).cut
        padded = against is None and left == LEFT
        write_heading(picture, half, left, room, padded, torn, fewer if left == right else None)
        draw_bars(picture, half.rows, half.size, left, inch, row_height, half.cuts)
    picture.write_caption(LEFT, caption_of(plan, against is None))
    picture.folds_at(LEFT, right, foot=0.34)
    return picture


@style.inking()
def caption_of(plan: Plan, padded: bool) -> str:
    """How to read the bars."""
    documents = counted(len(plan.documents), "document")
    words = (
        "{documents}, one scale; padded rows longest first; hatched: no token there"
        if padded
        else "{documents}, one scale; hatched: no token there"
    )
    cut = say("; orange edge: {documents} cut there", documents=counted(plan.cut, "document")) if plan.cut else ""
    return say(words, documents=documents) + cut


@style.inking()
def write_heading(
    picture: style.Picture, half: Half, left: float, room: float, padded: bool, torn: int | None, fewer: float | None
) -> None:
    """Three lines above a half: its name, what is wasted or, between two plans, ``torn``, and the numbers.

    ``fewer``: how many times fewer rows there are than padded ones, said where there is room for it.
    """
    colours, lines, size = picture.colours, half.rows, half.size
    waste = 1 - sum(int(line.sum()) for line in lines) / (len(lines) * size)
    numbers = say("{rows} of {tokens}", rows=counted(len(lines), "row"), tokens=counted(size, "token"))
    picture.write(left, 0.29, phrase(half.name), style.TITLE, weight="bold")
    if torn is None:
        share, bad = percent(waste), waste > 0
        if waste:
            claim = say("{share} is padding" if padded else "{share} is unused", share=share)
        else:
            claim = say("nothing is padding" if padded else "nothing is unused")
    else:  # plans differ in what they cut
        numbers += say("  ·  {share} unused", share=percent(waste)) if waste else say("  ·  nothing unused")
        bad = torn > 0
        claim = say("{documents} cut", documents=counted(torn, "document")) if torn else say("no document cut")
    picture.write(left, 0.55, claim, style.CLAIM, color=colours.cross_ink if bad else colours.own)
    if fewer is not None:
        extra = say("  ·  rows ÷ {fewer}", fewer=factor(fewer))
        numbers += extra if style.text_width(numbers + extra, style.BODY) <= room else ""
    picture.write(left, 0.79, numbers, style.BODY, color=colours.quiet)


class Half(NamedTuple):
    """One side of the figure."""

    name: str  # in English: phrase() of it is drawn
    rows: list[np.ndarray]
    size: int  # tokens a row has room for
    cuts: tuple[np.ndarray, np.ndarray]


def name_of(packed: Any) -> str:
    """The strategy of a plan, as a heading."""
    return str(getattr(packed, "strategy", "packed"))


def alt_text_rows(packed: Any, max_length: int | None = None, against: Any = None) -> str:
    """What ``draw_rows`` shows, in words, for a reader who does not see it."""
    plan = check_rows(packed, max_length)
    if against is not None:
        halves = [
            say(
                "{side} {name}: {rows} of {tokens}, {documents} cut",
                side=side,
                name=phrase(name_of(one)),
                rows=counted(len(of.rows), "row"),
                tokens=counted(of.max_length, "token"),
                documents=counted(of.cut, "document"),
            )
            for side, one, of in ((say("left"), against, check_rows(against, None)), (say("right"), packed, plan))
        ]
        count = counted(len(plan.documents), "document")
        left, right = halves
        return say("{documents} packed in two ways, {left}, {right}.", documents=count, left=left, right=right)
    documents, tokens = plan.documents, sum(int(row.sum()) for row in plan.rows)
    count, longest = counted(len(documents), "document"), int(documents[0])
    padded = 1 - documents.sum() / (len(documents) * longest)
    waste = 1 - tokens / (len(plan.rows) * plan.max_length)
    cut = say(" {documents} had to be cut.", documents=counted(plan.cut, "document")) if plan.cut else ""
    return (
        say(
            "{documents} as rows of bars. Left, one padded row each: {before} of {longest}, {padded} padding. "
            "Right, packed: {after} of {limit}, {waste} unused.",
            documents=count,
            before=counted(len(documents), "row"),
            longest=counted(longest, "token"),
            padded=percent(padded),
            after=counted(len(plan.rows), "row"),
            limit=counted(plan.max_length, "token"),
            waste=percent(waste),
        )
        + cut
    )


class Plan(NamedTuple):
    """Rows to draw, checked: what is in them, and what was cut to get it there."""

    rows: list[np.ndarray]  # tokens of each piece, row after row
    max_length: int
    documents: np.ndarray  # tokens of each document, at most a row, longest first
    truncated: np.ndarray  # bool, of each document: is it longer than a row?
    cuts: tuple[np.ndarray, np.ndarray]  # bool, of each piece: begins inside its document, ends inside it
    cut: int  # documents that lost a part or were cut in two


def check_rows(packed: Any, max_length: int | None) -> Plan:
    """Rows of a plan or of lists of lengths, or an InputError."""
    planned = hasattr(packed, "offsets") and hasattr(packed, "lengths")
    if planned:
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
    max_length = fullest if max_length is None else int(max_length)
    pieces = np.concatenate(rows)
    none = np.zeros(len(pieces), dtype=bool)
    if not planned:
        return Plan(rows, max_length, np.sort(pieces)[::-1], none, (none, none), 0)
    starts, order = np.asarray(packed.starts), np.asarray(packed.order)
    sizes = np.asarray(packed.document_lengths)
    documents = np.sort(sizes[np.unique(order)])[::-1]
    cuts = (starts > 0, starts + pieces < sizes[order])
    cut = len(np.unique(order[cuts[0] | cuts[1]]))
    return Plan(rows, max_length, np.minimum(documents, max_length), documents > max_length, cuts, cut)


def draw_bars(
    picture: style.Picture,
    rows: Sequence[np.ndarray],
    size: int,
    left: float,
    inch: float,
    row_height: float,
    cuts: tuple[np.ndarray, np.ndarray],
) -> None:
    """Rows from the top down: documents in two blues, hatched up to ``size`` tokens, an orange edge at a cut."""
    colours = picture.colours
    axes = picture.panel(
        left, HEAD, size * inch, row_height * len(rows), frame=False, xlim=(0, size), ylim=(len(rows), 0)
    )
    number = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    ends = np.concatenate([np.cumsum(row) for row in rows])
    starts = ends - np.concatenate(rows)
    place = np.concatenate([np.arange(len(row)) for row in rows])
    space = 0.06 if 72 * row_height >= 3 * SPACED_FROM else 0.0
    used = np.array([row.sum() for row in rows])
    if (used < size).any():  # one outline for all the padding: a staircase down the ends of the rows
        edge = np.repeat(used, 2)
        down = np.repeat(np.arange(len(rows) + 1), 2)[1:-1]
        outline = np.concatenate([np.stack([edge, down], -1), [[size, len(rows)], [size, 0]]])
        style.hatch(axes, outline, colours)
    shades = np.array([colours.own, colours.own_soft])[place % 2]
    style.fill(axes, style.boxes(starts, ends, number + space, number + 1 - space), shades)
    if space:
        axes.hlines(np.arange(1, len(rows)), 0, size, colors=colours.page, linewidth=2 * space * row_height * 72)
    for edge, cut in zip((starts, ends), cuts, strict=True):
        inside = edge[cut] + (0.02 if edge is starts else -0.02) / inch  # the stroke lies within its piece
        marks = style.segments(inside, number[cut] + space, inside, number[cut] + 1 - space)
        style.lines(
            axes, marks, colours.cross_ink, min(3.0, 0.5 * row_height * 72 + style.STROKE), zorder=3, capstyle="butt"
        )
    if row_height < 0.15:
        return
    inks = (colours.on_own, colours.on_soft)
    for start, end, row, index in zip(starts, ends, number, place, strict=True):
        if style.text_width(f"{end - start:,}", style.SMALL) + 0.06 <= (end - start) * inch:
            style.label(axes, (start + end) / 2, row + 0.5, f"{end - start:,}", inks[index % 2])
