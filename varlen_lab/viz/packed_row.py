"""One packed row, checked and counted once: what every part of the mask figure is drawn from.

It holds O(documents) numbers. It draws nothing, but knows the words for a reader who does not see the figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from varlen_lab.errors import InputError
from varlen_lab.viz.masks import band_outlines, check_names, check_window, count_cells, lengths_of, stair_outline
from varlen_lab.viz.style import factor, percent, plural

DOCUMENT_LIMIT = 100_000  # a few seconds; beyond it nothing new is seen
CELL_LIMIT = 40  # up to this many tokens every cell is drawn


class PackedRow:
    """One packed row, checked and counted: what both halves of the figure are drawn from."""

    def __init__(self, boundaries: Any, window: int | None, names: Sequence[str] | None, causal: bool = True) -> None:
        self.lengths = lengths_of(boundaries)
        self.window = check_window(window)
        self.causal = bool(causal)
        self.full = "Full causal" if self.causal else "Full"  # what the left half is called
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

    def outlines(self, part: slice = slice(None)) -> Any:
        """Own blocks of some documents, cell by cell in a small row."""
        starts, lengths = self.starts[part], self.lengths[part]
        if self.total > CELL_LIMIT:
            return band_outlines(starts, lengths, self.window, self.causal)
        pairs = zip(starts.tolist(), lengths.tolist(), strict=True)
        return [stair_outline(start, length, self.window, self.causal) for start, length in pairs]

    def whole(self) -> np.ndarray:
        """The full mask, as if the row were one document."""
        if self.total > CELL_LIMIT:
            return band_outlines(np.array([0]), np.array([self.total]), self.window, self.causal)[0]
        return stair_outline(0, self.total, self.window, self.causal)

    def name(self, index: int) -> str:
        """The name of a document; a number when it was given none."""
        return " ".join(self.names[index].split()) if self.names else f"document {index + 1:,}"

    def summary(self) -> str:
        """The numbers of the row on one line: what the explorer shows above its canvas."""
        told = f"{plural(len(self.lengths), 'document')}, {plural(self.total, 'token')}"
        if not self.cells.cross:
            return f"{told}: {self.full.lower()} and varlen are the same {plural(self.cells.own, 'cell')}"
        cross = f"{percent(self.cells.cross_share)} of what a token sees is another document"
        return f"{told}. {self.full}: {cross}. Varlen: attention ÷ {factor(self.cells.saving)}"

    def alt_text(self) -> str:
        """The figure in one or two sentences."""
        documents, cells, total = len(self.lengths), self.cells, plural(self.total, "token")
        window = "" if self.window is None else f" with a window of {plural(self.window, 'token')}"
        kind = "" if self.causal else "bidirectional "
        if documents == 1:
            same = f"{self.full.lower()} and varlen are the same {plural(cells.own, 'cell')}."
            return f"Two {kind}attention masks{window} of one row with a single document of {total}: {same}"
        sizes = ", ".join(f"{length:,}" for length in self.lengths[:8].tolist())
        names = ", ".join(self.name(index) for index in range(min(8, documents)))
        more = ", …" if documents > 8 else ""
        who = f" named {names}{more}" if self.names else ""
        return (
            f"Two {kind}attention masks{window} of one row of {total} that packs {documents:,} documents{who} "
            f"({sizes}{more} tokens). Left, {self.full.lower()}: {cells.full:,} cells, {percent(cells.cross_share)} "
            f"of them look into another document. Right, varlen: {plural(cells.own, 'cell')} in blocks along "
            f"the diagonal, each token sees only its own document, {factor(cells.saving)} times fewer."
        )
