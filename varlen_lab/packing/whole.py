"""What is placed, and the strategies that need nothing but a few lines of numpy: best-fit, concat, unpacked.

What is placed are segments, each so many tokens of one document from a start on. Documents of 4 and 12 tokens with
rows of 10 become, by the rule for over-long documents:

    truncate   4 of document 0, 10 of document 1          2 tokens lost, and counted
    split      4 of document 0, 10 and 2 of document 1    a seam more
    drop       4 of document 0                            12 tokens lost, and counted
    error      nothing: an InputError names document 1

Best-fit decreasing takes the longest segment first and puts each into the fullest row that has room for it. It works
on counted lengths: a row with room ``r`` takes ``r // length`` segments of one length before the next row is tried,
just as placing them one by one would do, so the Python loop runs once for each (length, room) that occurs - a few
thousand times for a million documents - and numpy does the rest. Lengths 7, 4, 4, 3, 3 in rows of 10:

    7     -> one new row, room 3
    4, 4  -> one new row takes both, room 2
    3, 3  -> one into the room of 3 (full now), one into a new row
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import NamedTuple

import numpy as np

from varlen_lab.errors import InputError

MOST_SEGMENTS = 2**27  # of a plan: a gigabyte for each of its arrays
LONG = 2**24  # tokens; of shorter segments all lengths are counted in one array


class Segments(NamedTuple):
    """Segments that fit in a row, all arrays int64 of shape (segments,)."""

    documents: np.ndarray  # whose tokens
    starts: np.ndarray  # first token within the document
    lengths: np.ndarray  # how many tokens


class Placement(NamedTuple):
    """Segments in rows, CSR: row ``r`` holds the segments ``order[offsets[r]:offsets[r + 1]]``."""

    order: np.ndarray
    offsets: np.ndarray
    segments: Segments | None = None  # only of a strategy that cuts the documents itself


def whole_segments(document_lengths: np.ndarray, max_length: int, overlong: str) -> Segments:
    """Documents as segments that fit in a row, after the ``overlong`` rule.

    Raises InputError for an over-long document under ``error``, and when ``drop`` leaves nothing.
    """
    documents = np.arange(len(document_lengths))
    starts = np.zeros(len(documents), dtype=np.int64)
    too_long = document_lengths > max_length
    if not too_long.any():
        return Segments(documents, starts, document_lengths)
    if overlong == "error":
        first = int(np.argmax(too_long))
        raise InputError(
            f"document {first} has {document_lengths[first]:,} tokens and a row holds {max_length:,}; "
            "raise max_length or choose overlong='truncate', 'split' or 'drop'."
        )
    if overlong == "drop":
        documents = documents[~too_long]
        if not len(documents):
            raise InputError(
                f"every document has over {max_length:,} tokens, overlong='drop' leaves nothing; raise max_length."
            )
        starts = starts[documents]
    if overlong == "split":
        pieces = -(-document_lengths // max_length)
        refuse_many(int(pieces.sum()), max_length)
        documents = np.repeat(documents, pieces)
        first_piece = np.repeat(np.cumsum(pieces) - pieces, pieces)
        starts = (np.arange(len(documents)) - first_piece) * max_length
    return Segments(documents, starts, np.minimum(document_lengths[documents] - starts, max_length))


def refuse_many(segments: int, max_length: int) -> None:
    """InputError for a plan that would not fit into memory, before it is made."""
    if segments > MOST_SEGMENTS:
        raise InputError(
            f"rows of {max_length:,} tokens cut the documents into {segments:,} segments, a plan has at most "
            f"{MOST_SEGMENTS:,}; raise max_length, or pack a part of the data."
        )


def unpacked(lengths: np.ndarray, max_length: int, seed: int | None = None, lookahead: int = 0) -> Placement:
    """One segment a row, in their order: no packing at all, as the baseline to compare with."""
    return Placement(np.arange(len(lengths)), np.arange(len(lengths) + 1))


def concat(lengths: np.ndarray, max_length: int, seed: int | None = None, lookahead: int = 0) -> Placement:
    """All documents end to end, cut every ``max_length`` tokens; the last row is as short as it comes out."""
    ends = np.cumsum(lengths)
    refuse_many(int(ends[-1]) // max_length + len(lengths), max_length)
    cuts = np.union1d(ends, np.arange(max_length, ends[-1], max_length))
    begins = np.concatenate([[0], cuts[:-1]])
    documents = np.searchsorted(ends, begins, side="right")
    # where a piece begins in its document: its place in the long row, less the document's
    starts = begins - (ends - lengths)[documents]
    offsets = np.concatenate([np.searchsorted(begins, np.arange(0, ends[-1], max_length)), [len(begins)]])
    return Placement(np.arange(len(begins)), offsets, Segments(documents, starts, cuts - begins))


def best_fit(lengths: np.ndarray, max_length: int, seed: int | None = None, lookahead: int = 0) -> Placement:
    """Place segments (int64 lengths, none over ``max_length``) in as few rows as best-fit decreasing finds.

    ``seed`` shuffles which of several equally long segments goes where; the rows' lengths do not change.
    """
    runs, rows = place_counts(*counted(lengths), max_length)
    if rows == len(lengths):  # a row each
        return Placement(longest_first(lengths, seed), np.arange(rows + 1))
    first, number, each, placed = runs.T
    # Segments of each row. A run adds `each` to all its rows: up where it begins, down behind its end, then summed up,
    # so a run costs two numbers however many rows it has.
    changes = np.zeros(rows + 1, dtype=np.int64)
    np.add.at(changes, first, each)
    np.subtract.at(changes, first + number, each)
    offsets = np.concatenate([[0], np.cumsum(np.cumsum(changes[:-1]))])

    # A run visits `number` rows; a visit puts `taken` neighbours behind those that are there.
    row = np.arange(number.sum()) + np.repeat(first - (np.cumsum(number) - number), number)
    taken = np.repeat(each, number)
    begins = offsets[row] + np.repeat(placed, number)
    target = np.repeat(begins - (np.cumsum(taken) - taken), taken) + np.arange(len(lengths))
    order = np.empty(len(lengths), dtype=np.int64)
    order[target] = longest_first(lengths, seed)
    return Placement(order, offsets)


def counted(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lengths that occur, increasing, and how many segments have each."""
    if lengths.max() > LONG:  # a place for every length up to there is more than sorting takes
        return np.unique(lengths, return_counts=True)  # type: ignore[return-value]
    counts = np.bincount(lengths)
    present = np.flatnonzero(counts)
    return present, counts[present]


def place_counts(distinct: np.ndarray, counts: np.ndarray, max_length: int) -> tuple[np.ndarray, int]:
    """Best-fit on a histogram, ``counts`` segments of the ``distinct`` lengths: runs, and the number of rows.

    A run ``(first row, how many rows, segments in each, segments there already)`` is one decision, in the
    order in which the segments are placed. The rows of a run have the same contents.
    """
    rows_with_room: dict[int, list[tuple[int, int, int]]] = {}  # room left -> (first row, how many, segments there)
    rooms: list[int] = []  # the keys above, sorted: the fullest row that still has room is found by bisection
    rows = 0
    runs: list[tuple[int, int, int, int]] = []
    for length, left in zip(distinct[::-1].tolist(), counts[::-1].tolist()):
        while left:
            at = bisect_left(rooms, length)
            if at < len(rooms):
                room = rooms[at]
                stack = rows_with_room[room]
                first, number, placed = stack.pop()
                if not stack:
                    del rows_with_room[room], rooms[at]
            else:
                room, first, number, placed = max_length, rows, -(-left // (max_length // length)), 0
                rows += number
            each = min(room // length, left)
            used = min(number, left // each)
            runs.append((first, used, each, placed))
            left -= used * each
            after = room - each * length
            # The rows of the stack that were not needed keep their room; those that were have less.
            for key, run in (
                (room if used < number else 0, (first + used, number - used, placed)),
                (after, (first, used, placed + each)),
            ):
                if key:  # a full row is never looked at again
                    if key not in rows_with_room:
                        rows_with_room[key] = []
                        insort(rooms, key)
                    rows_with_room[key].append(run)
    return np.array(runs, dtype=np.int64), rows


def longest_first(lengths: np.ndarray, seed: int | None = None) -> np.ndarray:
    """Indices by decreasing length; equal lengths in input order, or in one drawn from ``seed``."""
    if seed is not None:
        shuffled = np.random.default_rng(seed).permutation(len(lengths))
        return shuffled[longest_first(lengths[shuffled])]
    below = lengths.max() - lengths
    # numpy sorts 16-bit keys by radix, in linear time; longer keys are sorted by their low half first.
    order = np.argsort(below.astype(np.uint16), kind="stable")
    shift = 16
    while below.max() >> shift:
        order = order[np.argsort((below[order] >> shift).astype(np.uint16), kind="stable")]
        shift += 16
    return order


def lower_bound(lengths: np.ndarray, max_length: int) -> int:
    """Rows that any plan of whole segments needs (Martello and Toth's L2).

    Tokens / row is one bound; segments over half a row, which never share one, give the other. For each
    threshold ``t``: a segment over ``max_length - t`` has a row to itself, one over half has its own row, and
    those from ``t`` to half must fit in the room that the latter leave. Lengths 6, 6, 6 at 10 need 3 rows, not 2.
    """
    distinct, count = np.unique(lengths, return_counts=True)
    tokens = np.concatenate([[0], np.cumsum(distinct * count)])  # of all segments shorter than distinct[i]
    number = np.concatenate([[0], np.cumsum(count)])
    half = np.searchsorted(distinct, max_length / 2, side="right")  # lengths from here on are over half a row
    thresholds = np.append(distinct[:half], 0)
    low = np.searchsorted(distinct, thresholds, side="left")
    high = np.searchsorted(
        distinct, max_length - thresholds, side="right"
    )  # from here on: a row each, whatever happens
    over_half = number[-1] - number[half]
    room = (number[high] - number[half]) * max_length - (tokens[high] - tokens[half])
    needed = -(-np.maximum(tokens[half] - tokens[low] - room, 0) // max_length)
    return int(max((over_half + needed).max(), -(-tokens[-1] // max_length)))
