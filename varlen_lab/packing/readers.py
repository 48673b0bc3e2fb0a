"""Packed rows for a training loop: ``PackedStream`` packs while it reads, ``RowReader`` reads what is packed.

``pack_dataset(an_iterable_dataset, 2048)`` gives a ``PackedStream``: a stream of documents as a stream of packed rows,
which can stop anywhere and go on exactly there. It yields what a packed dataset holds, ``{"input_ids", "labels",
"seq_lengths"}`` as numpy arrays, and a collator takes it from there. It reads at most ``lookahead`` documents ahead.
``state_dict()`` has the place in the source, the documents that wait, and the row begun; a new stream over the same
source that loads it yields the rows that would have come, no document lost or seen twice. Several DataLoader workers:
a ``datasets.IterableDataset`` gives each worker its own shards; any other source is read by all of them, and each
keeps every n-th document.

``datasets`` turns every row it hands out into Python or numpy objects through a layer of formats, which costs more
than collating. ``RowReader`` looks the row up in the memory map instead: three views, nothing copied.

    rows = RowReader(pack_dataset(documents, 2048))
    loader = DataLoader(rows, batch_size=2, collate_fn=VarlenCollator())      # or HF Trainer's train_dataset
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import get_worker_info

import varlen_lab.machine.repeatable  # noqa: F401  its import is the work: before anything here computes
from varlen_lab.errors import InputError, unknown_choice
from varlen_lab.packing.checks import checked_count
from varlen_lab.packing.columns import flat_numbers, fold_in, read_columns, wrong_length
from varlen_lab.packing.registry import IGNORE, LOSS_MASKS, OVERLONG
from varlen_lab.packing.rows import COLUMNS, ListColumn
from varlen_lab.packing.sequential import LOOKAHEAD, SequentialPacker
from varlen_lab.packing.through import with_seams
from varlen_lab.packing.whole import whole_segments

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

TARGETS = ("labels", *LOSS_MASKS)  # what a document says of its labels
Piece = tuple[np.ndarray, np.ndarray]  # input_ids and labels of one segment


class PackedStream(torch.utils.data.IterableDataset):
    """Packed rows of at most ``max_length`` tokens from an iterable of ``{"input_ids", "labels"}``.

    A row has int64 ``input_ids``, ``labels`` and ``seq_lengths``. ``overlong`` as in ``pack_lengths``; ``lookahead``
    documents wait for a place; ``dropped_tokens`` counts what ``truncate`` and ``drop`` have cost so far. InputError
    for an unknown ``overlong``, and while reading for a document that cannot be packed.
    """

    def __init__(
        self, source: Iterable[Any], max_length: int, overlong: str = "truncate", lookahead: int = LOOKAHEAD
    ) -> None:
        if overlong not in OVERLONG:
            raise unknown_choice("overlong", overlong, OVERLONG)
        self.source = source
        self.overlong = overlong
        self.max_length = checked_count("max_length", max_length, "try 2048")
        self.lookahead = lookahead
        self._start_anew()

    def to_iterable_dataset(self) -> IterableDataset:
        """The same rows as a ``datasets.IterableDataset``, the only stream that TRL's trainers take."""
        from datasets import IterableDataset

        return IterableDataset.from_generator(self._in_one_worker)

    def _in_one_worker(self) -> Iterator[dict[str, np.ndarray]]:
        """All rows: of several DataLoader workers, ``datasets`` lets one call a generator, and stops the others."""
        worker, shards = get_worker_info(), getattr(self.source, "num_shards", 1)
        if worker is not None and worker.num_workers > 1 and shards > 1:
            raise InputError(
                f"one of {worker.num_workers} DataLoader workers reads this stream, and its source of {shards} shards "
                "would give it a part of them; set dataloader_num_workers=1, or hand the PackedStream itself over."
            )
        return self._read(None)

    def _start_anew(self) -> None:
        """Forget everything that was read."""
        self.packer = SequentialPacker(self.max_length, self.lookahead)
        self.pieces: dict[int, Piece] = {}  # of the documents waiting and of rows not yet yielded
        self.ready: list[list[int]] = []
        self.documents = self.dropped_tokens = 0
        self.source_state: Any = None
        self.resumed = False
        self.expected: tuple[str, ...] = ()  # what the first document says of its labels, every other must

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self._read(get_worker_info())

    def _read(self, worker: Any) -> Iterator[dict[str, np.ndarray]]:
        """The rows that one DataLoader worker reads, or all of them (None)."""
        # a second pass begins anew, unless a state was loaded since the first
        if not self.resumed:
            self._start_anew()
        self.resumed = False
        yield from self._rows()
        for document in self._documents(worker):
            for piece in self._segments(document):
                self.pieces[self.packer.fed] = piece
                self.ready += self.packer.feed(len(piece[0]))
            self.documents += 1
            yield from self._rows()
        self.ready += self.packer.finish()
        yield from self._rows()
        # of several workers the first alone knows, and only where there are no other shards
        others = worker is not None and worker.num_workers > 1 and getattr(self.source, "num_shards", 1) > 1
        if not self.documents and not others and not (worker and worker.id):
            raise InputError("the stream has no documents, there is nothing to pack; check its path and split.")

    def _documents(self, worker: Any) -> Iterator[Any]:
        """The source from where we are on, or a worker's share of it."""
        if hasattr(self.source, "load_state_dict"):  # a datasets.IterableDataset finds its place, and its shards
            if self.source_state is not None:
                self.source.load_state_dict(self.source_state)
            yield from self.source
            return
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        yield from islice(self.source, first + step * self.documents, None, step)

    def _segments(self, document: Any) -> list[Piece]:
        """The document after the ``overlong`` rule; its labels, masked at the beginning of every segment."""
        if not hasattr(document, "keys") or "input_ids" not in document:
            names = ", ".join(document) if hasattr(document, "keys") else type(document).__name__
            raise InputError(f"document {self.documents} has {names}, packing needs input_ids; tokenise it first.")
        ids = flat_numbers(self.documents, "input_ids", document["input_ids"], "iu")
        given = [name for name in document if name in TARGETS and document[name] is not None]
        self.expected = self.expected if self.documents else tuple(given)
        for name in self.expected:
            if name not in given:
                raise wrong_length(self.documents, name, 0, len(ids))
        labels = flat_numbers(self.documents, "labels", document["labels"], "iu") if "labels" in given else ids
        if not len(ids) or len(ids) != len(labels):
            raise InputError(
                f"document {self.documents} has {len(ids)} input_ids and {len(labels)} labels, it needs equally many, "
                "at least 1; tokenise it again."
            )
        masks = read_columns(document.keys(), warn=not self.documents)
        labels = labels.copy() if masks else labels  # to be written to
        for name in masks:
            values = flat_numbers(self.documents, name, [] if document[name] is None else document[name], "iubf")
            if values.shape != ids.shape:
                raise wrong_length(self.documents, name, values.size, len(ids))
            fold_in(name, values, labels)
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
            row = {
                "input_ids": np.concatenate([ids for ids, _ in documents]),
                "labels": np.concatenate([labels for _, labels in documents]),
                "seq_lengths": np.array([len(ids) for ids, _ in documents], dtype=np.int32),
            }
            yield with_seams(row)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, after the last row it gave: plain numbers and lists, fit for JSON or torch.save."""
        pieces = {str(number): [part.tolist() for part in piece] for number, piece in self.pieces.items()}
        return {**self.position(), "pieces": pieces}

    def position(self) -> dict[str, Any]:
        """As ``state_dict`` without the tokens: of ``pieces`` there is nothing."""
        state = self.source.state_dict() if hasattr(self.source, "state_dict") else None
        return {
            "packer": self.packer.state_dict(),
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


class RowReader(torch.utils.data.Dataset):
    """A packed dataset as rows ``{"input_ids", "labels", "seq_lengths"}`` of numpy views, int32, read-only.

    Raises InputError when the dataset lacks a column of a packed one.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.columns = {name: ListColumn(dataset, name) for name in COLUMNS}

    def __len__(self) -> int:
        return len(self.columns["input_ids"])

    def __getitem__(self, row: int) -> dict[str, np.ndarray]:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return with_seams({name: column[row] for name, column in self.columns.items()})

    def __reduce__(self) -> tuple[type[RowReader], tuple[Dataset]]:
        return RowReader, (self.dataset,)  # a DataLoader worker opens the file itself
