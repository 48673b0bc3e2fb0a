"""Rows from documents in the order they come, with a bounded look-ahead: what a stream needs.

A row starts with the document that has waited longest. Then, as long as one of the waiting documents fits, the
longest that fits joins it (of equals, the oldest). At most ``lookahead`` documents wait; each time one is placed
the next one is read. Lengths 4, 4, 7, 3, 3 in rows of 10, two waiting:

    waiting 4 4     row 4, then 4 joins            7 3 wait, neither fits: row [4 4]
    waiting 7 3     row 7, then 3 joins            3 waits: row [7 3]
    waiting 3       nothing left to read           row [3]

A row is decided once no waiting document fits, so it never depends on more than ``lookahead`` documents ahead.
``state_dict`` holds everything that is waiting and the row begun: a packer that loads it goes on as if it had
never stopped.

``PackedStream`` in ``readers.py`` packs with it as it reads.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from typing import Any

import numpy as np

from varlen_lab.errors import InputError
from varlen_lab.packing.checks import checked_count
from varlen_lab.packing.whole import Placement

LOOKAHEAD = 512  # documents; on SFT-like lengths the rows are then within 1 % of best-fit's


class SequentialPacker:
    """Lengths in, one at a time; rows out, as lists of the numbers of the documents (0 is the first ever fed).

    Rows hold at most ``max_length`` tokens, ``lookahead`` documents wait for a place. InputError where one of them is
    below 1.

    >>> packer = SequentialPacker(10, lookahead=2)
    >>> [row for length in (4, 4, 7, 3, 3) for row in packer.feed(length)] + packer.finish()
    [[0, 1], [2, 3], [4]]
    """

    def __init__(self, max_length: int, lookahead: int = LOOKAHEAD) -> None:
        self.max_length = checked_count("max_length", max_length, "try 2048")
        self.lookahead = checked_count("lookahead", lookahead, f"try {LOOKAHEAD}")
        self.fed = 0
        self.waiting: dict[int, int] = {}  # number -> length, oldest first
        self.by_length: list[tuple[int, int]] = []  # the same as (length, -number), sorted: the last is taken first
        self.row: list[int] = []
        self.room = self.max_length

    def feed(self, length: int) -> list[list[int]]:
        """Take a document of ``length`` tokens; the rows that are decided now (often none).

        InputError if it fits no row.
        """
        if not 1 <= length <= self.max_length:
            raise InputError(
                f"document {self.fed} has {length} tokens, a row takes from 1 to {self.max_length:,}; cut it first."
            )
        self.waiting[self.fed] = length
        insort(self.by_length, (length, -self.fed))
        self.fed += 1
        return self._place() if len(self.waiting) == self.lookahead else []

    def finish(self) -> list[list[int]]:
        """Nothing more comes: the remaining rows."""
        rows = []
        while self.waiting:
            rows += self._place()
        return [*rows, self._close()] if self.row else rows

    def _place(self) -> list[list[int]]:
        """Put one waiting document into the row; the row before it, if none fitted there."""
        rows = []
        # numbers are kept negative, so of equal lengths the oldest stands last and is found first
        at = bisect_right(self.by_length, (self.room, 0)) - 1
        if self.row and at < 0:
            rows.append(self._close())
        if not self.row:  # the oldest begins a row, so nobody waits for ever
            number = next(iter(self.waiting))
            at = bisect_right(self.by_length, (self.waiting[number], -number)) - 1
        length, negative = self.by_length.pop(at)
        del self.waiting[-negative]
        self.row.append(-negative)
        self.room -= length
        return rows

    def _close(self) -> list[int]:
        """The row that was begun; the next one is empty."""
        row, self.row, self.room = self.row, [], self.max_length
        return row

    def state_dict(self) -> dict[str, Any]:
        """Everything the packer knows, as plain lists and numbers."""
        return {
            "max_length": self.max_length,
            "lookahead": self.lookahead,
            "fed": self.fed,
            "waiting": [[number, length] for number, length in self.waiting.items()],
            "row": list(self.row),
            "room": self.room,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``. Raises InputError when it was saved with another row length or look-ahead."""
        for name in ("max_length", "lookahead"):
            if state[name] != getattr(self, name):
                raise InputError(
                    f"the saved state has {name} {state[name]}, this packer has {getattr(self, name)}; "
                    "resume with the saved value, or start anew."
                )
        self.fed, self.row, self.room = state["fed"], list(state["row"]), state["room"]
        self.waiting = dict(state["waiting"])
        self.by_length = sorted((length, -number) for number, length in self.waiting.items())


def sequential(lengths: np.ndarray, max_length: int, seed: int | None = None, lookahead: int = LOOKAHEAD) -> Placement:
    """Place segments (int64 lengths, none over ``max_length``) as the stream packer does; ``seed`` changes nothing."""
    packer = SequentialPacker(max_length, lookahead)
    rows = [row for length in lengths.tolist() for row in packer.feed(length)] + packer.finish()
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    return Placement(np.concatenate([np.array(row, dtype=np.int64) for row in rows]), offsets)
