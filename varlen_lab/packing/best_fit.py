"""Best-fit decreasing on counted lengths: the longest first, each into the fullest row that takes it.

Equal lengths are placed together. A row with room ``r`` takes ``r // length`` of them before the next row is
tried, just as placing them one by one would do, so the Python loop runs once for each (length, room) that occurs
- a few thousand times for a million documents - and numpy does the rest. Lengths 7, 4, 4, 3, 3 in rows of 10:

    7     -> one new row, room 3
    4, 4  -> one new row takes both, room 2
    3, 3  -> one into the room of 3 (full now), one into a new row
"""

from __future__ import annotations

from bisect import bisect_left, insort

import numpy as np

from varlen_lab.packing.segments import Placement


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
