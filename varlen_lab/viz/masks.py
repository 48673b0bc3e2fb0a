"""Which (query, key) cells an attention mask holds: exact counts and outlines, O(documents), no n x n array.

The rule: query q sees key k when k <= q, and, with a window w, when q - k < w (a token sees itself and the
w - 1 before it). *Full causal* asks nothing more; *varlen* asks that q and k lie in the same document.
Bidirectional (``causal=False``, as in encoders) drops the first condition and makes the window |q - k| < w.
Documents of 2, 4 and 3 tokens make one row of 9:

    full causal   9 * 10 / 2 = 45 cells
    varlen        3 + 10 + 6 = 19 cells     the other 26 look into another document

``PackedRow`` is one row, checked and counted once: what every part of a mask figure is drawn from, and the words for a
reader who does not see it. Outlines are in tokens, x = key, y = query. This module draws nothing.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from varlen_lab.errors import InputError
from varlen_lab.language.saying import counted, listed, phrase, say
from varlen_lab.packing.checks import checked_count, checked_lengths

DOCUMENT_LIMIT = 100_000  # a few seconds; beyond it nothing new is seen
CELL_LIMIT = 40  # up to this many tokens every cell is drawn
# what the explorer says too: explorer_words.py hands these to the browser
COUNTS = "{documents}, {tokens}"
SUMMARY = "{counts}. {full}: {share} of what a token sees is another document. Varlen: attention ÷ {saving}"
SUMMARY_SAME = "{counts}: {full} and varlen are the same {cells}"
REACH = " with a window of {tokens}"
MARKS = str.maketrans({"\n": "↵", "\t": "⇥"})  # in the text of a token


@dataclass(frozen=True)
class Cells:
    """How many cells a row has: ``full``, as if it were one document, and ``own``, those inside one document."""

    full: int
    own: int

    @property
    def cross(self) -> int:
        """Cells whose key belongs to another document than their query."""
        return self.full - self.own

    @property
    def cross_share(self) -> float:
        """Share of the full mask's cells that look into another document, 0 to 1."""
        return self.cross / self.full

    @property
    def saving(self) -> float:
        """How many times fewer cells varlen computes: full / own, 1 or more."""
        return self.full / self.own


def percent(share: float) -> str:
    """A share as a percentage that never rounds to a claim: 0 % means none, 100 % means all.

    >>> percent(0.757), percent(0.9991), percent(0.99999), percent(0.00001)
    ('76 %', '99.9 %', '>99.9 %', '<0.1 %')
    """
    value = 100 * share
    if value in (0, 100):
        return f"{value:.0f} %"
    if value < 0.1 or value > 99.9:
        return "<0.1 %" if value < 0.1 else ("99.9 %" if value < 99.95 else ">99.9 %")
    return f"{value:.1f} %" if value < 1 or value >= 99 else f"{value:.0f} %"


def factor(value: float) -> str:
    """A ratio with the digits that matter: 1, 1.01, 4.1, 38, 1,003."""
    if value < 1.1:
        return "1" if value == 1 else f"{max(value, 1.01):.2f}"
    return f"{value:.1f}" if value < 9.95 else f"{value:,.0f}"


def lengths_of(boundaries: Any, one_row: bool = True) -> np.ndarray:
    """Document lengths, int64 of shape (documents,), as ``checked_lengths`` takes them, or of a batch.

    A batch is what a VarlenCollator makes: a mapping with ``cu_seq_lens_q``. ``one_row``: they share one packed row.
    """
    if isinstance(boundaries, Mapping):
        if "cu_seq_lens_q" not in boundaries:
            raise InputError(
                f"the batch holds {', '.join(map(str, boundaries)) or 'nothing'}, its documents are told by "
                "cu_seq_lens_q; collate it with VarlenCollator, or pass lengths."
            )
        boundaries = np.diff(np.asarray(boundaries["cu_seq_lens_q"]))
    return checked_lengths(boundaries, one_row)


def check_window(window: int | None) -> int | None:
    """The window as an int, or an InputError when it is neither None nor a whole number of at least 1."""
    return None if window is None else checked_count("window", window, "leave it out for no window")


def band_cells(length: int, window: int | None = None, causal: bool = True) -> int:
    """Cells of one block of ``length`` tokens: a triangle (bidirectional a square), with a window a band of it."""
    seen = length if window is None else min(length, window)
    triangle = seen * (seen + 1) // 2 + (length - seen) * seen
    return triangle if causal else 2 * triangle - length  # both triangles share the diagonal


def count_cells(boundaries: Any, window: int | None = None, causal: bool = True) -> Cells:
    """Exact cell counts of a row, in closed form.

    >>> count_cells([2, 4, 3])
    Cells(full=45, own=19)
    >>> count_cells([2, 4, 3], causal=False)
    Cells(full=81, own=29)
    """
    lengths = lengths_of(boundaries).tolist()
    window = check_window(window)
    own = sum(band_cells(length, window, causal) for length in lengths)
    return Cells(band_cells(sum(lengths), window, causal), own)


def band_outlines(
    starts: np.ndarray, lengths: np.ndarray, window: int | None = None, causal: bool = True
) -> np.ndarray:
    """Corners of each block, float64 (documents, 4 or 6, 2): a triangle or square, or the band a window leaves."""
    starts, ends = starts.astype(float), (starts + lengths).astype(float)
    seen = lengths if window is None else np.minimum(lengths, window)
    corners = [(starts, starts), (starts, starts + seen), (ends - seen, ends), (ends, ends)]
    if not causal:
        corners += [(ends, ends - seen), (starts + seen, starts)]
    return np.stack([np.stack(corner, axis=-1) for corner in corners], axis=1)


def stair_outline(start: int, length: int, window: int | None = None, causal: bool = True) -> np.ndarray:
    """The outline of one block cell by cell, float64 (4 * length, 2). For rows of a few dozen tokens."""
    queries, end = range(start, start + length), start + length
    last = [q + 1 if causal else end if window is None else min(end, q + window) for q in queries]
    right = [(k, q + down) for q, k in zip(queries, last, strict=True) for down in (0, 1)]
    first = [start if window is None else max(start, q - window + 1) for q in queries]
    left = [(k, q + down) for q, k in zip(queries, first, strict=True) for down in (0, 1)]
    return np.array(right + left[::-1], dtype=float)


def check_names(names: Sequence[str] | None, documents: int) -> list[str] | None:
    """One name per document as strings that can be shown, or an InputError."""
    if names is None:
        return None
    given = [legible(str(name)) for name in ([names] if isinstance(names, str) else names)]
    if len(given) != documents:
        raise InputError(
            f"there are {len(given)} names for {documents} documents; give one per document, in row order."
        )
    return given


def legible(text: str) -> str:
    r"""Somebody else's text, what no file or font can hold written out: control characters, half characters.

    >>> print(legible("a\x1b[31mb"))
    a\x1b[31mb
    """
    odd = ("Cc", "Cf", "Cs", "Cn")  # Cf turns the direction of writing, but joins letters too (U+200C and U+200D)
    return "".join(
        c.encode("unicode_escape").decode("ascii")
        if unicodedata.category(c) in odd and c not in "\t\n\r\u200c\u200d"
        else c
        for c in text
    )


def check_tokens(tokens: Sequence[str] | None, row: PackedRow) -> list[str]:
    """The text of each token as it is written beside a cell; empty where none is given or cells are too small.

    Raises InputError where there is not one text for each token.
    """
    if tokens is None:
        return []
    if len(tokens) != row.total:
        raise InputError(f"there are {len(tokens):,} tokens for a row of {row.total:,}; give the text of each one.")
    return [written(token) for token in tokens] if row.total <= CELL_LIMIT else []


def written(token: str) -> str:
    """A token's text as it stands in a box: no space around it, line ends as signs.

    >>> written(" Paris"), written("\\n"), written(" ")
    ('Paris', '↵', '␣')
    """
    return legible(token.strip(" ").translate(MARKS)) or "␣"


class PackedRow:
    """One packed row, checked and counted: what both halves of the figure are drawn from."""

    def __init__(self, boundaries: Any, window: int | None, names: Sequence[str] | None, causal: bool = True) -> None:
        self.lengths = lengths_of(boundaries)
        self.window = check_window(window)
        self.causal = bool(causal)
        self.names = check_names(names, len(self.lengths))
        if len(self.lengths) > DOCUMENT_LIMIT:
            raise InputError(
                f"the row has {len(self.lengths):,} documents, the figure shows at most {DOCUMENT_LIMIT:,}; "
                "draw a part of it."
            )
        self.total = int(self.lengths.sum())
        self.ends = np.cumsum(self.lengths)
        self.starts = self.ends - self.lengths
        self.cells = count_cells(self.lengths, self.window, self.causal)
        self.thickness = self.lengths if self.window is None else np.minimum(self.lengths, self.window)

    @property
    def full(self) -> str:
        """What the left half is called, at the beginning of a line."""
        return say("Full causal") if self.causal else say("Full")

    @property
    def full_within(self) -> str:
        """The same within a sentence."""
        return say("full causal") if self.causal else say("full")

    def outlines(self, part: slice = slice(None)) -> Any:
        """Own blocks of some documents, cell by cell in a small row."""
        starts, lengths = self.starts[part], self.lengths[part]
        if self.total > CELL_LIMIT:
            return band_outlines(starts, lengths, self.window, self.causal)
        pairs = zip(starts.tolist(), lengths.tolist(), strict=True)
        return [stair_outline(start, length, self.window, self.causal) for start, length in pairs]

    def full_outline(self) -> np.ndarray:
        """The full mask, as if the row were one document."""
        if self.total > CELL_LIMIT:
            return band_outlines(np.array([0]), np.array([self.total]), self.window, self.causal)[0]
        return stair_outline(0, self.total, self.window, self.causal)

    def name(self, index: int) -> str:
        """The name of a document; a number when it was given none."""
        if self.names:
            return phrase(" ".join(self.names[index].split()))
        return say("document {number:,}", number=index + 1)

    def summary(self) -> str:
        """The numbers of the row on one line: what the explorer shows above its canvas."""
        counts = say(COUNTS, documents=counted(len(self.lengths), "document"), tokens=counted(self.total, "token"))
        if not self.cells.cross:
            return say(SUMMARY_SAME, counts=counts, full=self.full_within, cells=counted(self.cells.own, "cell"))
        share, saving = percent(self.cells.cross_share), factor(self.cells.saving)
        return say(SUMMARY, counts=counts, full=self.full, share=share, saving=saving)

    def alt_text(self) -> str:
        """The figure in one or two sentences."""
        documents, cells, total = len(self.lengths), self.cells, counted(self.total, "token")
        window = "" if self.window is None else say(REACH, tokens=counted(self.window, "token"))
        kind = "" if self.causal else say("bidirectional ")
        if documents == 1:
            return say(
                "Two {kind}attention masks{window} of one row with a single document of {total}: "
                "{full} and varlen are the same {cells}.",
                kind=kind,
                window=window,
                total=total,
                full=self.full_within,
                cells=counted(cells.own, "cell"),
            )
        more = ["…"] if documents > 8 else []
        names = [self.name(index) for index in range(min(8, documents))]
        return say(
            "Two {kind}attention masks{window} of one row of {total} that packs {documents:,} documents{who} "
            "({sizes} tokens). Left, {full}: {left:,} cells, {share} of them look into another document. "
            "Right, varlen: {right} in blocks along the diagonal, each token sees only its own document, "
            "{saving} times fewer.",
            kind=kind,
            window=window,
            total=total,
            documents=documents,
            full=self.full_within,
            who=say(" named {names}", names=listed(names + more)) if self.names else "",
            sizes=listed([f"{length:,}" for length in self.lengths[:8].tolist()] + more),
            left=cells.full,
            share=percent(cells.cross_share),
            right=counted(cells.own, "cell"),
            saving=factor(cells.saving),
        )
