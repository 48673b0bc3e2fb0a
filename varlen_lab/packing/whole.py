"""Best-fit decreasing on counted lengths: the longest first, each into the fullest row that takes it.

Equal lengths are placed together. A row with room ``r`` takes ``r // length`` of them before the next row is
tried, just as placing them one by one would do, so the Python loop runs once for each (length, room) that occurs
- a few thousand times for a million documents - and numpy does the rest. Lengths 7, 4, 4, 3, 3 in rows of 10:

    7     -> one new row, room 3
    4, 4  -> one new row takes both, room 2
    3, 3  -> one into the room of 3 (full now), one into a new row

What a plan places: segments, each so many tokens of one document from a start on.

Documents of 4 and 12 tokens with rows of 10 become, by the rule for over-long documents:

    truncate   4 of document 0, 10 of document 1          2 tokens lost, and counted
    split      4 of document 0, 10 and 2 of document 1    a seam more
    drop       4 of document 0                            12 tokens lost, and counted
    error      nothing: an InputError names document 1

A strategy that keeps documents whole (``Placement``) sees only the lengths of the segments.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from varlen_lab.errors import InputError


def best_fit(lengths: np.ndarray, max_length: int, seed: int | None = None) -> Placement:
    """Place segments (int64 lengths, none over ``max_length``) in as few rows as best-fit decreasing finds.

    ``seed`` shuffles which of several equally long segments goes where; the rows' lengths do not change.
    """
    runs, rows = place_counts(np.bincount(lengths), max_length)
    first, number, each, filled = runs.T
    per_row = np.zeros(rows + 1, dtype=np.int64)  # segments of each row, as differences
    np.add.at(per_row, first, each)
    np.subtract.at(per_row, first + number, each)
    offsets = np.concatenate([[0], np.cumsum(np.cumsum(per_row[:-1]))])

    # Where the segments of a run go: `each` neighbours in each of `number` rows, `filled` places into the row.
    amount = number * each
    if rows == len(lengths):
        target = np.arange(rows)  # a row each: nothing shares
    else:
        within = np.arange(len(lengths)) - np.repeat(np.cumsum(amount) - amount, amount)
        if each.max() == 1:
            row, place = np.repeat(first, amount) + within, np.repeat(filled, amount)
        else:
            row, place = np.divmod(within, np.repeat(each, amount))
            row += np.repeat(first, amount)
            place += np.repeat(filled, amount)
        target = offsets[row] + place
    order = np.empty(len(lengths), dtype=np.int64)
    order[target] = longest_first(lengths, seed)
    return Placement(order, offsets)


def place_counts(counts: np.ndarray, max_length: int) -> tuple[np.ndarray, int]:
    """The same on a histogram, ``counts[length]`` segments of each length: runs, and the number of rows.

    A run ``(first row, how many rows, segments in each, segments there already)`` is one decision, in the
    order in which the segments are placed. The rows of a run have the same contents.
    """
    rows_with_room: dict[int, list[tuple[int, int, int]]] = {}  # room left -> (first row, how many, filled)
    rooms: list[int] = []  # the keys above, sorted
    rows = 0
    runs: list[tuple[int, int, int, int]] = []
    for length in np.flatnonzero(counts)[::-1].tolist():
        left = int(counts[length])
        while left:
            at = bisect_left(rooms, length)
            if at < len(rooms):
                room = rooms[at]
                stack = rows_with_room[room]
                first, number, filled = stack.pop()
                if not stack:
                    del rows_with_room[room], rooms[at]
            else:
                room, first, number, filled = max_length, rows, -(-left // (max_length // length)), 0
                rows += number
            each = min(room // length, left)
            used = min(number, left // each)
            runs.append((first, used, each, filled))
            left -= used * each
            after = room - each * length
            for key, run in (
                (room if used < number else 0, (first + used, number - used, filled)),
                (after, (first, used, filled + each)),
            ):
                if key:
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


OVERLONG = ("truncate", "split", "drop", "error")


class Segments(NamedTuple):
    """Segments that fit in a row, all arrays int64 of shape (segments,)."""

    documents: np.ndarray  # whose tokens
    starts: np.ndarray  # first token within the document
    lengths: np.ndarray  # how many tokens


class Placement(NamedTuple):
    """Segments in rows, CSR: row ``r`` holds the segments ``order[offsets[r]:offsets[r + 1]]``."""

    order: np.ndarray
    offsets: np.ndarray


def checked_lengths(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """The lengths as an int64 array, or an InputError naming the first bad one."""
    try:
        array = np.asarray(lengths)
    except ValueError:  # numpy refuses lists of lists of different lengths
        raise InputError("lengths is nested, it must be a flat list of token counts; pass [2, 4, 3].") from None
    if array.ndim != 1 or array.size == 0:
        raise InputError(f"lengths has shape {array.shape}, it must be a non-empty list of token counts.")
    if array.dtype.kind not in "iu":
        raise InputError(f"lengths has type {array.dtype}, document lengths must be whole numbers of tokens.")
    if array.min() < 1:
        first = int(np.argmax(array < 1))
        raise InputError(
            f"document {first} has length {array[first]}, every document needs at least 1 token; drop it first."
        )
    return array.astype(np.int64, copy=False)


def checked_max_length(max_length: int) -> int:
    """``max_length`` as an int of at least 1, or an InputError."""
    if isinstance(max_length, bool) or not isinstance(max_length, (int, np.integer)) or max_length < 1:
        raise InputError(f"max_length is {max_length!r}, a row must hold at least 1 token; try 2048.")
    return int(max_length)


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
        documents = np.repeat(documents, pieces)
        first_piece = np.repeat(np.cumsum(pieces) - pieces, pieces)
        starts = (np.arange(len(documents)) - first_piece) * max_length
    return Segments(documents, starts, np.minimum(document_lengths[documents] - starts, max_length))


def lower_bound(lengths: np.ndarray, max_length: int) -> int:
    """Rows that any plan of whole segments needs (Martello and Toth's L2).

    Tokens / row is one bound; segments over half a row, which never share one, give the other. For each
    threshold ``t``: a segment over ``max_length - t`` has a row to itself, one over half has its own row, and
    those from ``t`` to half must fit in the room that the latter leave. Lengths 6, 6, 6 at 10 need 3 rows, not 2.
    """
    size, count = np.unique(lengths, return_counts=True)
    total = np.concatenate([[0], np.cumsum(size * count)])
    number = np.concatenate([[0], np.cumsum(count)])
    half = np.searchsorted(size, max_length / 2, side="right")  # sizes from here on are over half a row
    small = np.append(size[:half], 0)
    low = np.searchsorted(size, small, side="left")
    high = np.searchsorted(size, max_length - small, side="right")  # from here on: alone whatever happens
    over_half = number[-1] - number[half]
    room = (number[high] - number[half]) * max_length - (total[high] - total[half])
    needed = -(-np.maximum(total[half] - total[low] - room, 0) // max_length)
    return int(max((over_half + needed).max(), -(-total[-1] // max_length)))
