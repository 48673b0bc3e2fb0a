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

A stream of documents as a stream of packed rows, which can stop anywhere and go on exactly there.

``pack_dataset(an_iterable_dataset, 2048)`` gives a ``PackedStream``. It yields what a packed dataset holds,
``{"input_ids", "labels", "seq_lengths"}`` as numpy arrays, and a collator takes it from there. It reads at most
``lookahead`` documents ahead. ``state_dict()`` has the place in the source, the documents that wait, and the row
begun; a new stream over the same source that loads it yields the rows that would have come, no document lost or
seen twice.

Several DataLoader workers: a ``datasets.IterableDataset`` gives each worker its own shards; any other source is
read by all of them, and each keeps every n-th document.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import get_worker_info

from varlen_lab.errors import InputError, nearest
from varlen_lab.packing.whole import OVERLONG, Placement, checked_max_length, whole_segments

LOOKAHEAD = 512  # documents; on SFT-like lengths the rows are then within 1 % of best-fit's


class SequentialPacker:
    """Lengths in, one at a time; rows out, as lists of the numbers of the documents (0 is the first ever fed).

    >>> packer = SequentialPacker(10, lookahead=2)
    >>> [row for length in (4, 4, 7, 3, 3) for row in packer.feed(length)] + packer.finish()
    [[0, 1], [2, 3], [4]]
    """

    def __init__(self, max_length: int, lookahead: int = LOOKAHEAD) -> None:
        self.max_length = checked_max_length(max_length)
        if isinstance(lookahead, bool) or not isinstance(lookahead, (int, np.integer)) or lookahead < 1:
            raise InputError(f"lookahead is {lookahead!r}, at least 1 document must be able to wait; try {LOOKAHEAD}.")
        self.lookahead = int(lookahead)
        self.fed = 0
        self.waiting: dict[int, int] = {}  # number -> length, oldest first
        self.by_length: list[tuple[int, int]] = []  # the same as (length, -number), sorted: the last is taken first
        self.row: list[int] = []
        self.room = self.max_length

    def feed(self, length: int) -> list[list[int]]:
        """Take the next document; the rows that are decided now (often none)."""
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


def sequential(lengths: np.ndarray, max_length: int, lookahead: int = LOOKAHEAD) -> Placement:
    """Place segments as the stream packer does."""
    packer = SequentialPacker(max_length, lookahead)
    rows = [row for length in lengths.tolist() for row in packer.feed(length)] + packer.finish()
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    return Placement(np.concatenate([np.array(row, dtype=np.int64) for row in rows]), offsets)


IGNORE = -100
Piece = tuple[np.ndarray, np.ndarray]  # input_ids and labels of one segment


class PackedStream(torch.utils.data.IterableDataset):
    """Packed rows of at most ``max_length`` tokens from an iterable of ``{"input_ids", "labels"}``.

    ``overlong`` as in ``pack_lengths``; ``dropped_tokens`` counts what ``truncate`` and ``drop`` have cost so far.
    """

    def __init__(
        self, source: Iterable[Any], max_length: int, overlong: str = "truncate", lookahead: int = LOOKAHEAD
    ) -> None:
        if overlong not in OVERLONG:
            raise InputError(
                f"overlong {overlong!r} is unknown, use one of {', '.join(OVERLONG)}{nearest(overlong, OVERLONG)}."
            )
        self.source = source
        self.overlong = overlong
        self.max_length = checked_max_length(max_length)
        self.lookahead = lookahead
        self._start_anew()

    def _start_anew(self) -> None:
        self.packer = SequentialPacker(self.max_length, self.lookahead)
        self.pieces: dict[int, Piece] = {}  # of the documents waiting and of rows not yet yielded
        self.ready: list[list[int]] = []
        self.documents = self.dropped_tokens = 0
        self.source_state: Any = None
        self.resumed = False

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        if not self.resumed:
            self._start_anew()
        self.resumed = False
        yield from self._rows()
        for document in self._documents():
            for piece in self._segments(document):
                self.pieces[self.packer.fed] = piece
                self.ready += self.packer.feed(len(piece[0]))
            self.documents += 1
            yield from self._rows()
        self.ready += self.packer.finish()
        yield from self._rows()
        if not self.documents:
            raise InputError("the stream has no documents, there is nothing to pack; check its path and split.")

    def _documents(self) -> Iterator[Any]:
        """The source from where we are on."""
        if hasattr(self.source, "load_state_dict"):  # a datasets.IterableDataset finds its place, and its shards
            if self.source_state is not None:
                self.source.load_state_dict(self.source_state)
            yield from self.source
            return
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        yield from islice(self.source, first + step * self.documents, None, step)

    def _segments(self, document: Any) -> list[Piece]:
        """The document after the ``overlong`` rule; its labels, masked at the beginning of every segment."""
        if not hasattr(document, "keys") or "input_ids" not in document:
            names = ", ".join(document) if hasattr(document, "keys") else type(document).__name__
            raise InputError(f"document {self.documents} has {names}, packing needs input_ids; tokenise it first.")
        ids = np.asarray(document["input_ids"])
        labels = np.asarray(document.get("labels", ids))
        if not len(ids) or len(ids) != len(labels) or ids.dtype.kind not in "iu" or labels.dtype.kind not in "iu":
            raise InputError(
                f"document {self.documents} has {len(ids)} input_ids and {len(labels)} labels ({ids.dtype}, "
                f"{labels.dtype}), it needs equally many whole numbers, at least 1; tokenise it again."
            )
        if self.overlong == "drop" and len(ids) > self.max_length:
            self.dropped_tokens += len(ids)
            return []
        segments = whole_segments(np.array([len(ids)]), self.max_length, self.overlong)
        pieces = []
        for start, length in zip(segments.starts.tolist(), segments.lengths.tolist()):
            targets = labels[start : start + length].astype(np.int32)
            targets[0] = IGNORE
            pieces.append((ids[start : start + length].astype(np.int32), targets))
        self.dropped_tokens += len(ids) - int(segments.lengths.sum())
        return pieces

    def _rows(self) -> Iterator[dict[str, np.ndarray]]:
        """Rows that are decided; each is forgotten before it is handed out, so a state never holds it."""
        while self.ready:
            documents = [self.pieces.pop(number) for number in self.ready.pop(0)]
            yield {
                "input_ids": np.concatenate([ids for ids, _ in documents]),
                "labels": np.concatenate([labels for _, labels in documents]),
                "seq_lengths": np.array([len(ids) for ids, _ in documents], dtype=np.int32),
            }

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, after the last row it gave: plain numbers and lists, fit for JSON or torch.save."""
        state = self.source.state_dict() if hasattr(self.source, "state_dict") else None
        return {
            "packer": self.packer.state_dict(),
            "pieces": {str(number): [part.tolist() for part in piece] for number, piece in self.pieces.items()},
            "ready": [list(row) for row in self.ready],
            "documents": self.documents,
            "dropped_tokens": self.dropped_tokens,
            "source": state,
            "overlong": self.overlong,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state`` at the next iteration. Raises InputError when it was saved with other settings."""
        if state["overlong"] != self.overlong:
            raise InputError(
                f"the saved state has overlong {state['overlong']!r}, this stream has {self.overlong!r}; "
                "resume with the saved value, or start anew."
            )
        self._start_anew()
        self.packer.load_state_dict(state["packer"])
        self.pieces = {
            int(number): (np.array(ids, dtype=np.int32), np.array(labels, dtype=np.int32))
            for number, (ids, labels) in state["pieces"].items()
        }
        self.ready = [list(row) for row in state["ready"]]
        self.documents, self.dropped_tokens = state["documents"], state["dropped_tokens"]
        self.source_state = state["source"]
        self.resumed = True
