"""Lengths in, packs out: which documents share a row.

``pack_lengths`` looks at nothing but the lengths. The result is in CSR form: pack ``p`` holds the segments
``order[offsets[p]:offsets[p + 1]]``, and segment ``s`` is ``lengths[s]`` tokens of document ``order[s]`` from
token ``starts[s]`` on. Lengths 4, 4, 7, 3, 3 in rows of 10:

    best_fit     [7 3] [4 4] [3]            whole documents, the longest first
    tightest     [7 3] [4 4] [3]            the same or fewer rows; slower, for lengths that are much alike
    sequential   [4 4] [7 3] [3]            whole documents, nearly in their order, as a stream is packed
    concat       [4 4 2] [5 3 2] [1]        cut anywhere, as XTuner's packer, but the tail is kept
    unpacked     [4] [4] [7] [3] [3]        the baseline

Whatever is cut, truncated or dropped is counted in ``Packs.report()``. Same input, same packs, always.

What packing does to a dataset, in numbers a person can act on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from varlen_lab.errors import InputError, nearest
from varlen_lab.packing.sequential import LOOKAHEAD, sequential
from varlen_lab.packing.tightest import tightest
from varlen_lab.packing.whole import (
    OVERLONG,
    Placement,
    Segments,
    best_fit,
    checked_lengths,
    checked_max_length,
    lower_bound,
    whole_segments,
)


@dataclass(frozen=True, eq=False)
class Packs:
    """A plan: which segment of which document goes into which row (all arrays int64)."""

    order: np.ndarray  # document index of each segment, row after row
    starts: np.ndarray  # first token of the segment within its document
    lengths: np.ndarray  # tokens of the segment
    offsets: np.ndarray  # CSR: pack p holds segments offsets[p] .. offsets[p + 1]
    max_length: int
    strategy: str
    document_lengths: np.ndarray  # the input, for the report

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, pack: int) -> np.ndarray:
        """Document indices of one pack."""
        if not -len(self) <= pack < len(self):
            raise IndexError(f"pack {pack} of {len(self)}")
        pack %= len(self)
        return self.order[self.offsets[pack] : self.offsets[pack + 1]]

    def seq_lengths(self, pack: int) -> list[int]:
        """Segment lengths of one pack, in row order."""
        return self.lengths[self.offsets[pack] : self.offsets[pack + 1]].tolist()

    def report(self) -> PackReport:
        """What this plan does to the documents: fill, cost, and everything that was cut or lost."""
        return PackReport.of(
            document_lengths=self.document_lengths,
            order=self.order,
            lengths=self.lengths,
            offsets=self.offsets,
            max_length=self.max_length,
            strategy=self.strategy,
        )


def pack_lengths(
    lengths: Sequence[int] | np.ndarray,
    max_length: int,
    strategy: str = "best_fit",
    overlong: str = "truncate",
    *,
    seed: int | None = None,
    lookahead: int = LOOKAHEAD,
) -> Packs:
    """Plan rows of at most ``max_length`` tokens for documents of these lengths.

    ``strategy``: ``best_fit``, ``tightest`` and ``sequential`` keep documents whole, ``concat`` cuts them wherever
    a row ends, ``unpacked`` gives every document a row of its own.
    ``overlong``: what happens to a document longer than a row: ``truncate`` its tail, ``split`` it into
    pieces, ``drop`` it, or ``error``. (``concat`` never needs it: it cuts anyway.)
    ``seed`` only breaks ties: which of several equally long documents goes where (``best_fit``, ``tightest``).
    ``lookahead``: how many documents ``sequential`` may hold back.
    Raises InputError for lengths that are not positive whole numbers and for unknown names.
    """
    document_lengths = checked_lengths(lengths)
    max_length = checked_max_length(max_length)
    if strategy not in STRATEGIES:
        raise InputError(
            f"strategy {strategy!r} is unknown, use one of {', '.join(STRATEGIES)}{nearest(strategy, STRATEGIES)}."
        )
    if overlong not in OVERLONG:
        raise InputError(
            f"overlong {overlong!r} is unknown, use one of {', '.join(OVERLONG)}{nearest(overlong, OVERLONG)}."
        )
    if strategy == "concat":
        segments, placement = concat(document_lengths, max_length)
    else:
        segments = whole_segments(document_lengths, max_length, overlong)
        placement = WHOLE[strategy](segments.lengths, max_length, seed, lookahead)
    documents, starts, sizes = (column[placement.order] for column in segments)
    return Packs(documents, starts, sizes, placement.offsets, max_length, strategy, document_lengths)


def concat(document_lengths: np.ndarray, max_length: int) -> tuple[Segments, Placement]:
    """All documents end to end, cut every ``max_length`` tokens; the last row is as short as it comes out."""
    ends = np.cumsum(document_lengths)
    cuts = np.union1d(ends, np.arange(max_length, ends[-1], max_length))
    begins = np.concatenate([[0], cuts[:-1]])
    documents = np.searchsorted(ends, begins, side="right")
    starts = begins - (ends - document_lengths)[documents]
    offsets = np.concatenate([np.searchsorted(begins, np.arange(0, ends[-1], max_length)), [len(begins)]])
    return Segments(documents, starts, cuts - begins), Placement(np.arange(len(begins)), offsets)


def unpacked(lengths: np.ndarray) -> Placement:
    """One document a row: no packing at all, as the baseline to compare with."""
    return Placement(np.arange(len(lengths)), np.arange(len(lengths) + 1))


# name -> (segment lengths, max_length, seed, lookahead) -> rows of whole segments
WHOLE: dict[str, Callable[[np.ndarray, int, int | None, int], Placement]] = {
    "best_fit": lambda lengths, max_length, seed, lookahead: best_fit(lengths, max_length, seed),
    "tightest": lambda lengths, max_length, seed, lookahead: tightest(lengths, max_length, seed),
    "sequential": lambda lengths, max_length, seed, lookahead: sequential(lengths, max_length, lookahead),
    "unpacked": lambda lengths, max_length, seed, lookahead: unpacked(lengths),
}
STRATEGIES = (*WHOLE, "concat")


@dataclass(frozen=True)
class PackReport:
    """Counts of one packing plan. ``tokens`` is what went in, ``packed_tokens`` what is trained on."""

    strategy: str
    max_length: int
    documents: int
    tokens: int
    packs: int
    packed_tokens: int
    fill: float  # packed tokens / (packs * max_length)
    lower_bound: int  # no plan that keeps these segments whole needs fewer packs
    documents_per_pack: float
    truncated_documents: int
    truncated_tokens: int
    split_documents: int
    dropped_documents: int
    dropped_tokens: int
    attention_share: float  # sum of len^2 over sum of T^2: the attention work that varlen still does

    @classmethod
    def of(
        cls,
        document_lengths: np.ndarray,
        order: np.ndarray,
        lengths: np.ndarray,
        offsets: np.ndarray,
        max_length: int,
        strategy: str,
    ) -> PackReport:
        """Count from a plan in CSR form (see ``planner``)."""
        packed = np.bincount(order, weights=lengths, minlength=len(document_lengths)).astype(np.int64)
        segments = np.bincount(order, minlength=len(document_lengths))
        missing = document_lengths - packed
        row_tokens = np.add.reduceat(lengths, offsets[:-1])
        total = int(packed.sum())
        return cls(
            strategy=strategy,
            max_length=max_length,
            documents=len(document_lengths),
            tokens=int(document_lengths.sum()),
            packs=len(offsets) - 1,
            packed_tokens=total,
            fill=total / ((len(offsets) - 1) * max_length),
            lower_bound=lower_bound(lengths, max_length),
            documents_per_pack=len(order) / (len(offsets) - 1),
            truncated_documents=int(((segments > 0) & (missing > 0)).sum()),
            truncated_tokens=int(missing[segments > 0].sum()),
            split_documents=int((segments > 1).sum()),
            dropped_documents=int((segments == 0).sum()),
            dropped_tokens=int(missing[segments == 0].sum()),
            attention_share=float((lengths.astype(float) ** 2).sum() / (row_tokens.astype(float) ** 2).sum()),
        )

    def to_dict(self) -> dict[str, object]:
        """The fields as a plain dict, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        lost = [
            f"{self.truncated_tokens:,} tokens truncated from {self.truncated_documents:,} documents"
            if self.truncated_documents
            else "",
            f"{self.split_documents:,} documents cut across rows" if self.split_documents else "",
            f"{self.dropped_documents:,} documents dropped ({self.dropped_tokens:,} tokens)"
            if self.dropped_documents
            else "",
        ]
        return (
            f"{self.documents:,} documents, {self.packed_tokens:,} of {self.tokens:,} tokens in {self.packs:,} rows "
            f"of {self.max_length:,} ({self.strategy}): fill {self.fill:.1%}, {self.documents_per_pack:.1f} documents "
            f"a row, at least {self.lower_bound:,} rows needed, varlen attention does {self.attention_share:.1%} of "
            f"the full work; " + ("; ".join(filter(None, lost)) or "nothing cut, nothing lost")
        )
