"""How long the documents are, and where the tokens sit: two histograms over one logarithmic axis.

The rule: both panels have the same bins, so a tall bar above and a low one below mean many documents that hold
few tokens. Bins end where ``max_length`` ends; what is longer is hatched, for packing has to cut or drop it.

    draw_lengths([12, 15, 30, 45, 400, 2600], max_length=2048)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from varlen_lab.language.saying import capital, counted, say
from varlen_lab.packing.checks import checked_count
from varlen_lab.viz import style
from varlen_lab.viz.masks import lengths_of, percent
from varlen_lab.viz.style import inked

LEFT, RIGHT, HEAD, PANEL, BETWEEN, FOOT = 0.86, 0.22, 0.98, 1.62, 0.40, 0.62  # inches
BINS = 34  # about this many, equally wide on the logarithmic axis
HEADLINE_SHARE = 0.1  # the share of documents the headline speaks of


class LengthCounts(NamedTuple):
    """What the figure says, counted once."""

    lengths: np.ndarray  # int64, longest first
    max_length: int | None
    edges: np.ndarray  # between whole numbers, so that no length lies on an edge
    documents: np.ndarray  # of each bin
    tokens: np.ndarray  # of each bin

    @property
    def headline(self) -> str:
        """The share of tokens in the longest tenth, or that all documents are equally long."""
        if self.lengths[0] == self.lengths[-1]:
            return say("Every document has {tokens}", tokens=counted(int(self.lengths[0]), "token"))
        longest = max(1, round(HEADLINE_SHARE * len(self.lengths)))
        share = percent(self.lengths[:longest].sum() / self.lengths.sum())
        if len(self.lengths) < 1 / HEADLINE_SHARE:
            documents = len(self.lengths)
            return say(
                "The longest of {documents} documents holds {share} of the tokens", documents=documents, share=share
            )
        most = percent(longest / len(self.lengths))
        return say("The longest {most} of the documents hold {share} of the tokens", most=most, share=share)

    @property
    def facts(self) -> str:
        """Number, median, longest."""
        return say(
            "{documents}, {tokens}: median {median:,.0f}, longest {longest:,}",
            documents=counted(len(self.lengths), "document"),
            tokens=counted(int(self.lengths.sum()), "token"),
            median=np.median(self.lengths),
            longest=self.lengths[0],
        )

    @property
    def over(self) -> np.ndarray:
        """By how many tokens each document that does not fit is too long, int64; empty without a max_length."""
        return self.lengths[self.lengths > (self.max_length or np.inf)] - (self.max_length or 0)

    @property
    def overlong(self) -> str:
        """What does not fit, or that everything does; '' without a max_length."""
        if self.max_length is None:
            return ""
        over = len(self.over)
        if not over:
            return say("all fit in max_length {limit:,}", limit=self.max_length)
        longer = (
            "{documents} is longer than max_length {limit:,}; {share} of all tokens lie beyond it"
            if over == 1
            else "{documents} are longer than max_length {limit:,}; {share} of all tokens lie beyond it"
        )
        share = percent(self.over.sum() / self.lengths.sum())
        return say(longer, documents=counted(over, "document"), limit=self.max_length, share=share)


def draw_lengths(lengths: Any, max_length: int | None = None, *, dark: bool = False) -> Figure:
    """Documents per length above, tokens per length below.

    ``lengths``: of every document, in tokens (a list, an array or ``Boundaries``). ``max_length``: tokens a packed
    row holds. Raises InputError for no documents, a length below 1 and a ``max_length`` below 1.
    """
    found = count_lengths(lengths, max_length)
    colours = style.theme(dark)
    height = HEAD + 2 * PANEL + BETWEEN + FOOT
    picture = style.Picture(
        style.WIDTH, height, colours, say("Lengths of the documents"), alt_text_lengths(lengths, max_length)
    )
    with style.inking():
        headline, overlong, facts = found.headline, found.overlong, found.facts
    picture.write(LEFT, 0.30, headline, style.TITLE, weight="bold")
    claim = style.shorten(overlong or facts, style.WIDTH - LEFT - RIGHT, style.CLAIM)
    picture.write(LEFT, 0.56, claim, style.CLAIM, color=colours.cross_ink if len(found.over) else colours.quiet)
    panels = (
        (inked("documents"), found.documents, HEAD),
        (inked("tokens in them"), found.tokens, HEAD + PANEL + BETWEEN),
    )
    for name, counts, top in panels:
        axes = picture.panel(LEFT, top, style.WIDTH - LEFT - RIGHT, PANEL)
        draw_bars(axes, found, counts, picture)
        write_axis(axes, found, name, picture, last=top > HEAD)
    if overlong:
        picture.write_caption(LEFT, facts)
    return picture


def alt_text_lengths(lengths: Any, max_length: int | None = None) -> str:
    """What ``draw_lengths`` shows, in words, for a reader who does not see it."""
    found = count_lengths(lengths, max_length)
    told = [say("Histograms of document lengths"), found.facts, found.headline]
    return say(". ").join([*told, *([capital(found.overlong)] if found.overlong else [])]) + say(".")


def count_lengths(lengths: Any, max_length: int | None) -> LengthCounts:
    """The bins and what is in them, or an InputError."""
    sizes = np.sort(lengths_of(lengths, one_row=False))[::-1]
    if max_length is not None:
        max_length = checked_count("max_length", max_length, "leave it out where there is no limit")
    edges = bin_edges(int(sizes[-1]), int(sizes[0]), max_length)
    documents, _ = np.histogram(sizes, edges)
    tokens, _ = np.histogram(sizes, edges, weights=sizes)
    return LengthCounts(sizes, max_length, edges, documents, tokens)


def bin_edges(shortest: int, longest: int, max_length: int | None) -> np.ndarray:
    """Edges at halves, about equally far apart on a logarithmic axis, one of them just above ``max_length``."""
    low, high = np.log(max(0.5, shortest - 0.5)), np.log(longest + 0.5)
    step = max((high - low) / BINS, 0.04)
    start = low if max_length is None else np.log(max_length + 0.5)
    marks = start + step * np.arange(np.floor((low - start) / step), np.ceil((high - start) / step) + 1)
    # cut at exp(22), which is beyond any length: exp of much more overflows
    edges = np.floor(np.exp(np.minimum(marks, 22.0)) + 1e-6) + 0.5
    edges = np.unique(np.append(edges, [shortest - 0.5, longest + 0.5]))
    return edges[(edges >= shortest - 0.5) & (edges <= longest + 0.5)]


def draw_bars(axes: Axes, found: LengthCounts, counts: np.ndarray, picture: style.Picture) -> None:
    """One bar a bin: blue for what fits, hatched for what does not; a guide at ``max_length``."""
    colours, edges = picture.colours, found.edges
    outlines = style.boxes(edges[:-1], edges[1:], 0, counts)
    over = edges[:-1] > (found.max_length or np.inf)
    shown = counts > 0
    style.fill(axes, outlines[shown & ~over], colours.own)
    for outline in outlines[shown & over]:
        style.hatch(axes, outline, colours, stroke=0.8)
    axes.set_xscale("log")
    low, high = edges[0], edges[-1]
    if found.max_length is not None:
        low, high = min(low, found.max_length), max(high, found.max_length + 0.5)
    margin = (high / low) ** 0.02 * 1.02
    axes.set(xlim=(low / margin, high * margin), ylim=(0, counts.max() * 1.15))
    if found.max_length is not None:
        axes.axvline(found.max_length + 0.5, color=colours.ink, linewidth=1.0)
        words = f"max_length {found.max_length:,}"
        at = np.log((found.max_length + 0.5) / (low / margin)) / np.log(high * margin / (low / margin))
        left = at * (style.WIDTH - LEFT - RIGHT) > style.text_width(words, style.SMALL) + 0.15
        place: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        font = style.lettering(colours.ink, va="top", ha="right" if left else "left")
        axes.annotate(words, (found.max_length + 0.5, 1.0), xytext=(-5 if left else 5, -2), **place, **font)


def write_axis(axes: Axes, found: LengthCounts, name: str, picture: style.Picture, last: bool) -> None:
    """Quiet axes: horizontal guides, whole lengths at 1, 2, 5, 10 ... below the last panel."""
    colours = picture.colours
    low, high = axes.get_xlim()
    digits = (1,) if high / low > 300 else (1, 2, 5) if high / low > 10 else (1, 2, 3, 5, 7)
    marks = [digit * 10.0**power for power in range(13) for digit in digits]
    marks = [mark for mark in marks if low <= mark <= high] or [float(found.lengths[0])]
    marks = marks[:: 1 + len(marks) // 9]
    axes.xaxis.set_major_locator(FixedLocator(marks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    style.quiet_axes(axes, colours, labelbottom=last)
    axes.set_title(name, loc="left", pad=5, **style.lettering(colours.quiet, va="baseline"))
    if last:
        axes.set_xlabel(inked("tokens of a document (logarithmic)"), **style.lettering(colours.quiet, va="top"))
