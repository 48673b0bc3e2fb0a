"""The poke: one token of a packed row is changed, and every token shows how far its prediction moved.

The row stands in the middle, a token a column. Bars up are the packed row, bars down the same row with varlen
attention. Blue is the document that was changed: it may move. Hatched orange is another document: it must not.

    draw_poke([3, 2], ["My", "dog", "barks", "2", "+"], {"packed": [0, .4, .3, .2, .1], "varlen": [0, .4, .3, 0, 0]},
              poked=1, became="cat")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from varlen_lab.errors import InputError
from varlen_lab.language.saying import capital, counted, phrase, say
from varlen_lab.viz import style
from varlen_lab.viz.masks import PackedRow, percent, written
from varlen_lab.viz.style import inked

TOKEN_LIMIT = 80  # more columns than that cannot be read
LEFT, RIGHT, HEAD, BARS, FOOT = 0.62, 0.12, 0.98, 1.6, 0.42  # inches
LEAST, CLAIM = 0.62, 0.34  # of the lower bars, and below them
CAPTION = "height of a bar: the share of a token's prediction (its next word's probability) that went to other words"
GUIDES = np.array([part * 10.0**power for power in range(-9, 0) for part in (1, 2, 5)] + [1.0])  # shares


class Poke:
    """What was measured, checked: ``moved[mode]`` is a share for each token, ``own`` which tokens may move."""

    def __init__(
        self,
        boundaries: Any,
        tokens: Sequence[str],
        moved: Mapping[str, Any],
        poked: int,
        became: str,
        next_words: Mapping[str, Sequence[str]] | None,
    ) -> None:
        self.row = PackedRow(boundaries, None, None)
        total = self.row.total
        if total > TOKEN_LIMIT:
            raise InputError(f"the row has {total:,} tokens, at most {TOKEN_LIMIT} can be read; take a shorter one.")
        if len(tokens) != total:
            raise InputError(f"there are {len(tokens):,} tokens for a row of {total:,}; give the text of each one.")
        if not 0 <= poked < total:
            raise InputError(f"token {poked} was changed, the row has tokens 0 to {total - 1}.")
        if len(moved) != 2:
            raise InputError(f"two modes are drawn, above and below; moved holds {', '.join(moved) or 'none'}.")
        self.moved = {mode: np.asarray(values, dtype=float).reshape(-1) for mode, values in moved.items()}
        for mode, values in self.moved.items():
            if len(values) != total or not ((values >= 0) & (values <= 1)).all():
                raise InputError(f"moved[{mode!r}] must be {total} shares between 0 and 1, one for each token.")
        self.tokens = [written(token) for token in tokens]
        self.poked, self.became = poked, written(became)
        self.next_words = {mode: [written(word) for word in words] for mode, words in (next_words or {}).items()}
        document = np.repeat(np.arange(len(self.row.lengths)), self.row.lengths)
        self.own = document == document[poked]

    def title(self) -> str:
        """The change, in words."""
        return say("“{token}” becomes “{became}”. Who notices?", token=self.tokens[self.poked], became=self.became)

    def heard(self, mode: str) -> int:
        """How many tokens of other documents moved."""
        return int((self.moved[mode][~self.own] > 0).sum())

    def claim(self, mode: str) -> str:
        """What one mode shows."""
        heard, others = self.heard(mode), int((~self.own).sum())
        name = capital(phrase(mode))
        if not others:
            return say("{mode}: there is no other document", mode=name)
        if not heard:
            tokens = counted(others, "token")
            return say("{mode}: none of the strangers' {tokens} moves, not by one bit", mode=name, tokens=tokens)
        most = percent(float(self.moved[mode][~self.own].max()))
        if heard == others:
            return say(
                "{mode}: all {others} tokens of strangers move, by up to {most}", mode=name, others=others, most=most
            )
        return say(
            "{mode}: {heard} of {others} tokens of strangers move, by up to {most}",
            mode=name,
            heard=heard,
            others=others,
            most=most,
        )

    def alt_text(self) -> str:
        """The figure in a few sentences."""
        seen = say(
            "A packed row of {tokens} in {documents}, a bar for each token: how far its prediction moves when "
            "token {poked} is changed. {title} ",
            tokens=counted(self.row.total, "token"),
            documents=counted(len(self.row.lengths), "document"),
            poked=self.poked,
            title=self.title(),
        )
        said = [
            say(
                " Next word of the row, {mode}: before “{before}”, after “{after}”.",
                mode=phrase(mode),
                before=words[0],
                after=words[-1],
            )
            for mode, words in self.next_words.items()
        ]
        claims = say(". ").join(self.claim(mode) for mode in self.moved) + say(".")
        return seen + claims + "".join(said)


def draw_poke(
    boundaries: Any,
    tokens: Sequence[str],
    moved: Mapping[str, Any],
    *,
    poked: int,
    became: str,
    next_words: Mapping[str, Sequence[str]] | None = None,
    dark: bool = False,
) -> Figure:
    """Who notices that one token of a packed row was changed.

    ``tokens``: the text of each. ``moved``: two modes, the first is drawn above; for each token the share (0 to 1) of
    the next word's probability that went to other words. ``poked``: the place of the changed token, ``became``: its
    new text. ``next_words``: for each mode what follows the row, before and after. Raises InputError for what cannot
    be drawn.
    """
    poke = Poke(boundaries, tokens, moved, poked, became, next_words)
    (above, high), (below, low) = ((mode, float(values.max())) for mode, values in poke.moved.items())
    inch = BARS / (max(high, low) or 1.0)  # of a share of 1; the same in both halves
    rise, fall = max(LEAST, high * inch + 0.12), max(LEAST, low * inch + 0.12)
    widest = max(style.text_width(token, style.BODY) for token in poke.tokens)
    strip = min(1.3, widest + 0.2)  # tokens are written upwards
    height = HEAD + rise + strip + fall + CLAIM + FOOT
    colours, limits = style.theme(dark), {"xlim": (0.0, float(poke.row.total))}
    picture = style.Picture(style.WIDTH, height, colours, poke.title(), poke.alt_text())
    with style.inking():
        picture.write(LEFT, 0.30, style.one_line(poke.title()), style.TITLE, weight="bold")
    width, middle = style.WIDTH - LEFT - RIGHT, HEAD + rise
    upper = picture.panel(LEFT, HEAD, width, rise, frame=False, ylim=(0.0, rise / inch), **limits)
    lower = picture.panel(LEFT, middle + strip, width, fall, frame=False, ylim=(fall / inch, 0.0), **limits)
    for mode, axes, said in ((above, upper, 0.68), (below, lower, height - FOOT - 0.1)):
        draw_bars(axes, poke, mode, colours, inch)
        write_claim(picture, poke, mode, said)
    axes = picture.panel(LEFT, middle, width, strip, frame=False, ylim=(0, 1), **limits)
    draw_tokens(axes, poke, colours, strip)
    picture.write_caption(LEFT, inked(CAPTION))
    return picture


def draw_bars(axes: Axes, poke: Poke, mode: str, colours: style.Theme, inch: float) -> None:
    """The bars of one mode, the seams through them, and ``exactly 0`` where a whole document stays.

    ``inch``: the height of a share of 1.
    """
    places, moved, room = np.arange(poke.row.total), poke.moved[mode], max(axes.get_ylim())
    guide = GUIDES[np.searchsorted(GUIDES, 0.4 * BARS / inch)]  # the same in both halves
    if guide <= room:
        style.lines(axes, style.segments(0, guide, poke.row.total, guide), colours.line, 0.8, zorder=0.4)
        axes.text(-0.15, guide, percent(guide), **style.lettering(colours.quiet, ha="right"))
    seams = poke.row.starts[1:]
    style.lines(axes, style.segments(seams, 0, seams, room), colours.quiet, 0.9, linestyles="dashed", zorder=0.6)
    shown = moved > 0
    outlines = style.boxes(places + 0.12, places + 0.88, 0, moved)
    style.fill(axes, outlines[shown & poke.own], colours.own)
    for outline in outlines[shown & ~poke.own]:
        style.hatch(axes, outline, colours, stroke=0.8)
    for start, end in zip(poke.row.starts.tolist(), poke.row.ends.tolist(), strict=True):
        if not poke.own[start] and not shown[start:end].any():
            style.label(axes, (start + end) / 2, 0.3 / inch, inked("exactly 0"), colours.own, fontsize=style.CLAIM)


def draw_tokens(axes: Axes, poke: Poke, colours: style.Theme, strip: float) -> None:
    """The row itself, written upwards, a document in one colour and the next in another; the changed token inked."""
    row, places = poke.row, np.arange(poke.row.total)
    document = np.repeat(np.arange(len(row.lengths)), row.lengths)
    shades, inks = (colours.own, colours.own_soft), (colours.on_own, colours.on_soft)
    fills = [shades[number % 2] for number in document.tolist()]
    fills[poke.poked] = colours.ink
    style.fill(axes, style.boxes(places + 0.04, places + 0.96, 0.03, 0.97), fills)
    column = 72 * (style.WIDTH - LEFT - RIGHT) / row.total  # points
    size = min(style.BODY, 0.8 * column)
    for place, token in enumerate(poke.tokens):
        ink = colours.page if place == poke.poked else inks[int(document[place]) % 2]
        words = style.shorten(style.one_line(token), strip - 0.1, size)
        style.label(axes, place + 0.5, 0.5, words, ink, rotation=90, fontsize=size, va="center")


@style.inking()
def write_claim(picture: style.Picture, poke: Poke, mode: str, top: float) -> None:
    """What one mode shows, on a line, and what it says next at the right."""
    colours = picture.colours
    claim, words = poke.claim(mode), poke.next_words.get(mode)
    colour = colours.cross_ink if poke.heard(mode) else colours.own
    said = say("next word: {before} → {after}", before=words[0], after=words[-1]) if words else ""
    said = style.one_line(said)
    said = style.shorten(said, (style.WIDTH - LEFT - RIGHT) / 2, style.TITLE)
    room = style.WIDTH - LEFT - RIGHT - style.text_width(said, style.TITLE, "bold") - (0.25 if said else 0)
    shrink = min(1.0, room / style.text_width(claim, style.CLAIM))
    picture.write(LEFT, top, claim, style.CLAIM * shrink, color=colour)
    picture.write(style.WIDTH - RIGHT, top, said, style.TITLE, weight="bold", ha="right", color=colour)
