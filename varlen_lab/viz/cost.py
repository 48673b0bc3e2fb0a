"""The cost triangle: what a row costs when seams are ignored, what of it is needed, and what padding costs instead.

Every token looks at itself and at all before it, so a row of T tokens has T² / 2 pairs: a triangle. Documents need the
small triangles on its diagonal. All areas of the figure have one scale: where twice the ink is, twice the pairs are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from varlen_lab.errors import InputError, plural
from varlen_lab.language.saying import counted, listed, say
from varlen_lab.viz import style
from varlen_lab.viz.style import inked

WIDTH, EDGE = 6.6, 0.25  # inches
HEAD, TALL, STRIP_HEAD, GAP = 0.78, 3.2, 0.62, 0.05
MOST = 64  # documents: beyond, the small triangles are dots
NAMED = 0.38  # inches of a side from which on a triangle has its length written in it


class Way(NamedTuple):
    """One way to feed documents: the tokens that are computed and the pairs of tokens that are looked at."""

    name: str
    tokens: int
    pairs: int


def ways_of(lengths: Sequence[int], batch: int = 2) -> list[Way]:
    """What the same documents cost in four ways; ``batch``: documents a batch when they are grouped by length.

    Pairs are those of causal attention, the token itself among them: n (n + 1) / 2 of n tokens.
    Raises InputError for lengths that are no lengths.
    """
    sides = checked(lengths)
    total, longest = sum(sides), max(sides)
    grouped = [group[0] for group in groups_of(sides, batch) for _ in group]
    return [
        Way(say("packed, seams ignored"), total, pairs(total)),
        Way(say("varlen: inside documents"), total, sum(map(pairs, sides))),
        Way(say("padded to the longest"), longest * len(sides), pairs(longest) * len(sides)),
        Way(say("grouped by length, {batch} a batch", batch=batch), sum(grouped), sum(map(pairs, grouped))),
    ]


def draw_cost(lengths: Sequence[int], batch: int = 2) -> Figure:
    """The triangle of a packed row with those of its documents inside, and the padded and grouped ones below.

    ``lengths``: of the documents of one row, at most 64. ``batch``: documents a batch when they are grouped by length.
    Blue is needed, hatched is not. Raises InputError for lengths that cannot be drawn.
    """
    with style.inking():
        ways = ways_of(lengths, batch)
    sides, colours = checked(lengths), style.theme(False)
    inch = TALL / sum(sides)
    across = WIDTH - 2 * EDGE
    strips = [(ways[2], [max(sides)] * len(sides), sides)]
    ordered = sorted(sides, reverse=True)
    strips.append((ways[3], [group[0] for group in groups_of(sides, batch) for _ in group], ordered))
    places = [placed([side * inch for side in full], across) for _, full, _ in strips]
    bottoms = [max(top + side * inch for (_, top), side in zip(at, full)) for at, (_, full, _) in zip(places, strips)]
    height = HEAD + TALL + sum(STRIP_HEAD + bottom for bottom in bottoms) + 0.42
    picture = style.Picture(WIDTH, height, colours, title_of(ways), alt_text_cost(lengths, batch))
    with style.inking():
        picture.write(EDGE, 0.34, title_of(ways), style.TITLE, weight="bold")
    words = inked("every token looks at itself and all before it; areas are to one scale")
    picture.write(EDGE, 0.60, words, style.CLAIM, color=colours.quiet)
    draw_row(picture, sides, ways)
    top = HEAD + TALL
    for (way, full, inside), at, bottom in zip(strips, places, bottoms, strict=True):
        name_way(picture, way, top + 0.38)
        top += STRIP_HEAD - 0.12
        axes = picture.panel(EDGE, top, across, bottom, frame=False, xlim=(0, across), ylim=(bottom, 0))
        for (x, y), outer, inner in zip(at, full, inside, strict=True):
            two_triangles(axes, x, y, outer * inch, inner * inch, inner, colours)
        top += bottom + 0.12
    words = inked("blue: needed · hatched: other documents, or padding")
    picture.write(EDGE, height - 0.16, words, style.BODY, color=colours.quiet)
    return picture


@style.inking()
def draw_row(picture: style.Picture, sides: list[int], ways: list[Way]) -> None:
    """The large triangle, its documents on the diagonal, and the numbers beside it."""
    colours, total = picture.colours, sum(sides)
    axes = picture.panel(EDGE, HEAD, TALL, TALL, frame=False, xlim=(0, total), ylim=(total, 0))
    style.hatch(axes, triangle(0, 0, total), colours, stroke=0.8)
    start = 0
    for number, side in enumerate(sides):
        soft = number % 2 == 1
        style.fill(axes, [triangle(start, start, side)], colours.own_soft if soft else colours.own)
        if side * TALL / total >= NAMED:
            name_side(axes, start, start, side, side, colours.on_soft if soft else colours.on_own)
        start += side
    left, whole, own = EDGE + TALL * 0.58, ways[0], ways[1]
    picture.write(left, HEAD + 0.30, say("{total:,} tokens in one row", total=total), style.BODY, color=colours.quiet)
    picture.write(
        left, HEAD + 0.62, say("T²/2 = {pairs} pairs", pairs=short(whole.pairs)), style.TITLE, color=colours.cross_ink
    )
    picture.write(left, HEAD + 0.84, say("the whole triangle: seams ignored"), style.BODY, color=colours.quiet)
    left += 0.75
    picture.write(left, HEAD + 1.30, f"Σ len²/2 = {short(own.pairs)}", style.TITLE, color=colours.own, weight="bold")
    words = say("the blue ones: {share:.0%} of it", share=own.pairs / whole.pairs)
    picture.write(left, HEAD + 1.52, words, style.BODY, color=colours.quiet)


def name_way(picture: style.Picture, way: Way, top: float) -> None:
    """A strip's heading: what it is, its tokens and its pairs."""
    picture.write(EDGE, top, way.name, style.CLAIM, weight="bold")
    left = EDGE + style.text_width(way.name, style.CLAIM, "bold") + 0.12
    words = inked("{tokens:,} tokens, {pairs} pairs", tokens=way.tokens, pairs=short(way.pairs))
    picture.write(left, top, words, style.CLAIM, color=picture.colours.quiet)


def two_triangles(
    axes: Axes, x: float, y: float, outer: float, inner: float, length: int, colours: style.Theme
) -> None:
    """A padded document: its own triangle in blue, what its padding adds around it hatched."""
    if outer > inner:
        style.hatch(axes, triangle(x, y, outer), colours, stroke=0.8)
    style.fill(axes, [triangle(x, y, inner)], colours.own)
    if inner >= NAMED:
        name_side(axes, x, y, inner, length, colours.on_own)


def name_side(axes: Axes, x: float, y: float, side: float, length: int, ink: str) -> None:
    """A document's length, in the corner of its triangle where there is room."""
    axes.text(x + 0.36 * side, y + 0.78 * side, f"{length:,}", ha="center", **style.lettering(ink, fontsize=style.BODY))


def triangle(x: float, y: float, side: float) -> np.ndarray:
    """The outline of the lower half of a square whose upper left corner is there, ``y`` down: float (3, 2)."""
    return np.array([(x, y), (x, y + side), (x + side, y + side)], float)


def placed(sides: Sequence[float], across: float) -> list[tuple[float, float]]:
    """The upper left corner of each square, side by side and in as many lines as it takes."""
    spots, x, y, tallest = [], 0.0, 0.0, 0.0
    for side in sides:
        if x and x + side > across + 1e-9:
            x, y, tallest = 0.0, y + tallest + GAP, 0.0
        spots.append((x, y))
        x, tallest = x + side + GAP, max(tallest, side)
    return spots


def groups_of(sides: Iterable[int], batch: int) -> list[list[int]]:
    """Documents in batches of about one length, the longest first in each."""
    if not isinstance(batch, int) or isinstance(batch, bool) or batch < 1:
        raise InputError(f"batch is {batch!r}, it is a number of documents: 1 or more.")
    ordered = sorted(sides, reverse=True)
    return [ordered[at : at + batch] for at in range(0, len(ordered), batch)]


def pairs(length: int) -> int:
    """Pairs of causal attention: each token with itself and with all before it."""
    return length * (length + 1) // 2


def short(count: int) -> str:
    """``8.4 M``, ``640 k``, ``90``."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * size:
            return f"{count / size:.3g} {letter}"
    return str(count)


def checked(lengths: Sequence[int]) -> list[int]:
    """Whole lengths of at least one token, or an InputError."""
    try:
        sides = [int(length) for length in lengths]
        whole = all(side == length and side > 0 for side, length in zip(sides, lengths, strict=True))
    except (TypeError, ValueError):
        sides, whole = [], False
    if not sides or not whole:
        raise InputError("the cost triangle needs document lengths: whole numbers of at least 1, such as [900, 400].")
    if len(sides) > MOST:
        raise InputError(f"{plural(len(sides), 'document')} are too many to see; draw at most {MOST}.")
    return sides


def title_of(ways: Sequence[Way]) -> str:
    """The claim that these lengths support."""
    share = ways[1].pairs / ways[0].pairs
    return say("Of a packed row's triangle, {share:.0%} is needed", share=share)


def alt_text_cost(lengths: Sequence[int], batch: int = 2) -> str:
    """What ``draw_cost`` shows, in words, for a reader who does not see it."""
    ways, sides = ways_of(lengths, batch), checked(lengths)
    named = listed([f"{side:,}" for side in sides[:12]] + (["…"] if len(sides) > 12 else []))
    costs = [
        say("{name}: {tokens:,} tokens, {pairs} pairs", name=way.name, tokens=way.tokens, pairs=short(way.pairs))
        for way in ways
    ]
    return say(
        "{title}. {documents} of {named} tokens, areas to one scale. {costs}.",
        title=title_of(ways),
        documents=counted(len(sides), "document"),
        named=named,
        costs=say("; ").join(costs),
    )
