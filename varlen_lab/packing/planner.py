"""Lengths in, packs out: which documents share a row.

``pack_lengths`` looks at nothing but the lengths. The result is in CSR form: pack ``p`` holds the segments
``order[offsets[p]:offsets[p + 1]]``, and segment ``s`` is ``lengths[s]`` tokens of document ``order[s]`` from
token ``starts[s]`` on. Lengths 4, 4, 7, 3, 3 in rows of 10:

    best_fit   [7 3] [4 4] [3]              whole documents, the fullest rows first
    concat     [4 4 2] [5 3 2] [1]          cut anywhere, as XTuner's packer, but the tail is kept
    unpacked   [4] [4] [7] [3] [3]          the baseline

Whatever is cut, truncated or dropped is counted in ``Packs.report()``. Same input, same packs, always.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from varlen_lab.errors import InputError, nearest
from varlen_lab.packing.report import PackReport

Plan = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # order, starts, lengths, offsets of Packs
OVERLONG = ("truncate", "split", "drop", "error")


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
) -> Packs:
    """Plan rows of at most ``max_length`` tokens for documents of these lengths.

    ``strategy``: ``best_fit`` keeps documents whole, ``concat`` cuts them wherever a row ends, ``unpacked``
    gives every document a row of its own.
    ``overlong``: what happens to a document longer than a row: ``truncate`` its tail, ``split`` it into
    pieces, ``drop`` it, or ``error``. (``concat`` never needs it: it cuts anyway.)
    Raises InputError for lengths that are not positive whole numbers and for unknown names.
    """
    document_lengths = checked_lengths(lengths)
    if isinstance(max_length, bool) or not isinstance(max_length, (int, np.integer)) or max_length < 1:
        raise InputError(f"max_length is {max_length!r}, a row must hold at least 1 token; try 2048.")
    if strategy not in STRATEGIES:
        raise InputError(
            f"strategy {strategy!r} is unknown, use one of {', '.join(STRATEGIES)}{nearest(strategy, STRATEGIES)}."
        )
    if overlong not in OVERLONG:
        raise InputError(
            f"overlong {overlong!r} is unknown, use one of {', '.join(OVERLONG)}{nearest(overlong, OVERLONG)}."
        )
    order, starts, sizes, offsets = STRATEGIES[strategy](document_lengths, int(max_length), overlong)
    return Packs(order, starts, sizes, offsets, int(max_length), strategy, document_lengths)


def checked_lengths(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """The lengths as an int64 array, or an InputError naming the first bad one."""
    array = np.asarray(lengths)
    if array.ndim != 1 or array.size == 0:
        raise InputError(f"lengths has shape {array.shape}, it must be a non-empty list of token counts.")
    if array.dtype.kind not in "iu":
        raise InputError(f"lengths has type {array.dtype}, document lengths must be whole numbers of tokens.")
    if array.min() < 1:
        first = int(np.argmax(array < 1))
        raise InputError(
            f"document {first} has length {array[first]}, every document needs at least 1 token; drop it first."
        )
    return array.astype(np.int64)


def whole_segments(
    document_lengths: np.ndarray, max_length: int, overlong: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Documents as segments that fit in a row: ``(document, start, length)`` after the ``overlong`` rule."""
    documents = np.arange(len(document_lengths))
    too_long = document_lengths > max_length
    if overlong == "error" and too_long.any():
        first = int(np.argmax(too_long))
        raise InputError(
            f"document {first} has {document_lengths[first]:,} tokens and a row holds {max_length:,}; "
            "raise max_length or choose overlong='truncate', 'split' or 'drop'."
        )
    if overlong == "drop":
        documents = documents[~too_long]
        if not len(documents):
            raise InputError(
                f"every document is longer than {max_length:,} tokens, overlong='drop' leaves nothing; "
                "raise max_length."
            )
    if overlong == "split":
        pieces = -(-document_lengths // max_length)
        documents = np.repeat(documents, pieces)
        first_piece = np.repeat(np.cumsum(pieces) - pieces, pieces)
        starts = (np.arange(len(documents)) - first_piece) * max_length
    else:
        starts = np.zeros(len(documents), dtype=np.int64)
    return documents, starts, np.minimum(document_lengths[documents] - starts, max_length)


def best_fit(document_lengths: np.ndarray, max_length: int, overlong: str) -> Plan:
    """Best-fit decreasing on counted lengths: the longest first, each into the fullest row that takes it.

    Equal lengths are placed together: a row with room ``r`` takes ``r // length`` of them before the next row
    is tried, just as placing them one by one would do. So the Python loop runs once for each (length, room) that
    occurs, a few thousand times for a million documents, and numpy does the rest.
    """
    documents, starts, sizes = whole_segments(document_lengths, max_length, overlong)
    longest_first = np.argsort(-sizes, kind="stable")
    counts = np.bincount(sizes)
    rows_with_room: dict[int, list[tuple[int, int]]] = {}  # room left -> runs of rows (first, how many)
    rooms: list[int] = []  # the keys above, sorted
    rows = 0
    placed: list[tuple[int, int, int]] = []  # (first row, how many rows, segments in each)

    def leave(room: int, first: int, number: int) -> None:
        if room not in rows_with_room:
            rows_with_room[room] = []
            insort(rooms, room)
        rows_with_room[room].append((first, number))

    for length in np.flatnonzero(counts)[::-1].tolist():
        left = int(counts[length])
        while left:
            at = bisect_left(rooms, length)
            if at < len(rooms):
                room = rooms[at]
                first, number = rows_with_room[room].pop()
                if not rows_with_room[room]:
                    del rows_with_room[room], rooms[at]
            else:
                room, first, number = max_length, rows, -(-left // (max_length // length))
                rows += number
            each = min(room // length, left)
            used = min(number, left // each)
            placed.append((first, used, each))
            left -= used * each
            if used < number:
                leave(room, first + used, number - used)
            if room - each * length:
                leave(room - each * length, first, used)
    row_first, row_number, each_row = np.array(placed, dtype=np.int64).T
    sizes_placed = row_number * each_row
    step = np.repeat(np.arange(len(placed)), sizes_placed)
    within = np.arange(len(sizes)) - np.repeat(np.cumsum(sizes_placed) - sizes_placed, sizes_placed)
    row_of = row_first[step] + within // each_row[step]
    segments = longest_first[np.argsort(row_of, kind="stable")]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row_of, minlength=rows))])
    return documents[segments], starts[segments], sizes[segments], offsets


def concat(document_lengths: np.ndarray, max_length: int, overlong: str) -> Plan:
    """All documents end to end, cut every ``max_length`` tokens; the last row is as short as it comes out."""
    ends = np.cumsum(document_lengths)
    cuts = np.union1d(ends, np.arange(max_length, ends[-1], max_length))
    begins = np.concatenate([[0], cuts[:-1]])
    order = np.searchsorted(ends, begins, side="right")
    starts = begins - (ends - document_lengths)[order]
    offsets = np.concatenate([np.searchsorted(begins, np.arange(0, ends[-1], max_length)), [len(begins)]])
    return order, starts, cuts - begins, offsets


def unpacked(document_lengths: np.ndarray, max_length: int, overlong: str) -> Plan:
    """One document a row: no packing at all, as the baseline to compare with."""
    documents, starts, sizes = whole_segments(document_lengths, max_length, overlong)
    return documents, starts, sizes, np.arange(len(documents) + 1)


STRATEGIES = {"best_fit": best_fit, "concat": concat, "unpacked": unpacked}
