"""A plan becomes rows: tokenised documents in, Arrow record batches out, a chunk of rows at a time.

Columns of the result: ``input_ids`` and ``labels`` (the documents of a row end to end) and ``seq_lengths``
(how long each of them is, in row order). Seams travel with the row; nobody has to guess them back.

    input_ids  [[1, 2, 3], [4, 5]]   ->   input_ids      1 2 3    4 5
                                          labels      -100 2 3 -100 5
                                          seq_lengths        3      2

A column of token lists as Arrow holds it: flat tokens and where each document begins, read without copies.

``[[1, 2, 3], [4, 5]]`` lies in memory as the tokens ``1 2 3 4 5`` and the offsets ``0 3 5``; a data set on disk
has one such pair for every record batch, memory-mapped. ``ListColumn`` finds document ``i`` in them, and
``gather`` copies any segments of documents end to end: a few steps in C for each segment, none for a token.

Not here: formats, decoding, Python lists. They are what makes reading a data set slow.

Packed rows read straight from Arrow's memory, for training loops that should not wait for data.

``datasets`` turns every row it hands out into Python or numpy objects through a layer of formats, which costs more
than collating. ``RowReader`` looks the row up in the memory map instead: three views, nothing copied.

    rows = RowReader(pack_dataset(documents, 2048))
    loader = DataLoader(rows, batch_size=2, collate_fn=VarlenCollator())      # or HF Trainer's train_dataset
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from varlen_lab.errors import InputError
from varlen_lab.packing.strategies import Packs

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset


import itertools
from operator import getitem
from typing import TYPE_CHECKING, Any

from varlen_lab.errors import nearest

if TYPE_CHECKING:
    from datasets import Dataset


from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from datasets import Dataset

IGNORE = -100  # the label PyTorch's cross entropy skips
CHUNK = 1 << 18  # tokens in memory at a time: 2 MB of rows; more is slower, the processor's cache is small
COLUMNS = ("input_ids", "labels", "seq_lengths")


def document_lengths(dataset: Dataset) -> np.ndarray:
    """Tokens of each document, int64, read from the Arrow offsets without touching the tokens."""
    if not len(dataset):
        raise InputError("the dataset has no documents, there is nothing to pack; check its path and split.")
    return ListColumn(dataset, "input_ids").lengths


def rows_from_plan(dataset: Dataset, packs: Packs) -> Dataset:
    """The rows that ``packs`` describes, in memory."""
    import pyarrow as pa
    from datasets import Dataset as HFDataset

    return HFDataset(pa.Table.from_batches(row_batches(dataset, packs)))


def schema() -> pa.Schema:
    """Three columns of int32 lists."""
    import pyarrow as pa

    return pa.schema([(name, pa.list_(pa.int32())) for name in COLUMNS])


def row_batches(
    dataset: Dataset, packs: Packs, chunk_tokens: int = CHUNK, rows: range | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows of a plan (or the range ``rows`` of them), about ``chunk_tokens`` tokens to a batch.

    Raises InputError when ``labels`` are not as long as ``input_ids``, or the plan is another dataset's.
    """
    import pyarrow as pa

    input_ids = ListColumn(dataset, "input_ids")
    labels = ListColumn(dataset, "labels") if "labels" in dataset.column_names else None
    for column in filter(None, (input_ids, labels)):
        check_lengths(column, packs.document_lengths)
    ends = np.cumsum(packs.lengths)[packs.offsets[1:] - 1]  # tokens up to the end of each row
    rows = rows or range(len(packs))
    first = rows.start
    while first < rows.stop:
        begin = ends[first - 1] if first else 0
        last = min(max(int(np.searchsorted(ends, begin + chunk_tokens, side="right")), first + 1), rows.stop)
        part = slice(packs.offsets[first], packs.offsets[last])
        plan = packs.order[part], packs.starts[part], packs.lengths[part]
        edges = np.concatenate([[0], ends[first:last] - begin])
        seams = packs.offsets[first : last + 1] - packs.offsets[first]
        yield pa.record_batch(
            [
                lists(edges, input_ids.gather(*plan)),
                # What follows a seam cannot be predicted from before it: every first label is masked.
                lists(edges, (labels or input_ids).gather(*plan, first=IGNORE)),
                lists(seams, plan[2].astype(np.int32)),
            ],
            schema=schema(),
        )
        first = last


def lists(offsets: np.ndarray, values: np.ndarray) -> pa.ListArray:
    """Arrow lists over numpy memory, not copied."""
    import pyarrow as pa

    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values))


def check_lengths(column: ListColumn, expected: np.ndarray) -> None:
    """Raises InputError naming the first document of another length than planned."""
    if len(column) != len(expected):
        raise InputError(
            f"the plan is for {len(expected):,} documents and the dataset has {len(column):,}, "
            "they must belong together; plan again with document_lengths(dataset)."
        )
    wrong = column.lengths != expected
    if wrong.any():
        first = int(np.argmax(wrong))
        raise InputError(
            f"document {first} has {expected[first]} input_ids and {column.lengths[first]} {column.name}, "
            "they must be equally long; tokenise it again."
        )


PIECE = 1 << 15  # tokens joined at a time: they are still in the processor's cache when they are copied on
INT32 = np.iinfo(np.int32)


class ListColumn:
    """One column of a ``datasets.Dataset`` that holds lists of whole numbers.

    ``lengths``: tokens of each document, int64, as the dataset shows them (selected, shuffled).
    Raises InputError for a column that is missing, holds something else, or has gaps.
    """

    def __init__(self, dataset: Dataset, name: str) -> None:
        if name not in dataset.column_names:
            raise InputError(
                f"the dataset has columns {', '.join(dataset.column_names)}, packing needs {name}"
                f"{nearest(name, dataset.column_names) or '; tokenise it first'}."
            )
        self.name = name
        chunks = [chunk for chunk in dataset.data.column(name).chunks if len(chunk)]
        self.tokens = [flat_tokens(chunk, name) for chunk in chunks]
        self.dtype = self.tokens[0].dtype if chunks else np.dtype(np.int32)
        self.views: list[Any] = [memoryview(tokens.view(np.uint8)) for tokens in self.tokens]  # type: ignore[arg-type]
        offsets = [chunk.offsets.to_numpy() for chunk in chunks]
        self.begins = np.concatenate([o[:-1] for o in offsets] or [[]]).astype(np.int64)
        self.lengths = np.concatenate([np.diff(o) for o in offsets] or [[]]).astype(np.int64)
        self.chunk = np.repeat(np.arange(len(chunks), dtype=np.int32), [len(chunk) for chunk in chunks])
        if dataset._indices is not None:  # selected or shuffled: the table is as before, the order is here
            rows = dataset._indices.column(0).to_numpy()
            self.begins, self.lengths, self.chunk = self.begins[rows], self.lengths[rows], self.chunk[rows]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> np.ndarray:
        """The tokens of one row, a view that must not be written to."""
        begin = self.begins[row]
        return self.tokens[self.chunk[row]][begin : begin + self.lengths[row]]

    def gather(
        self, documents: np.ndarray, starts: np.ndarray, lengths: np.ndarray, first: int | None = None
    ) -> np.ndarray:
        """``lengths[i]`` tokens of ``documents[i]`` from ``starts[i]`` on, for all ``i`` end to end, int32.

        ``first``: what to write in place of the first token of every segment. The result is not to be written to.
        """
        import pyarrow as pa

        ends = np.cumsum(lengths)
        # Arrow's allocator keeps its pages; malloc would give them back, and every chunk would fault them in again.
        tokens = np.frombuffer(pa.allocate_buffer(4 * int(ends[-1])), np.int32)
        cuts = [0, *(np.searchsorted(ends, np.arange(PIECE, len(tokens), PIECE)) + 1).tolist(), len(ends)]
        done = 0
        for begin, end in itertools.pairwise(cuts):
            piece = self._joined(documents[begin:end], starts[begin:end], lengths[begin:end])
            if self.dtype != np.int32 and len(piece) and (piece.max() > INT32.max or piece.min() < INT32.min):
                raise InputError(f"{self.name} holds {piece.max()}, a token is at most {INT32.max}; tokenise it again.")
            tokens[done : done + len(piece)] = piece
            done += len(piece)
        if first is not None:
            tokens[ends - lengths] = first
        return tokens

    def _joined(self, documents: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """The same in the column's own type, by one join of slices of memory."""
        size = self.dtype.itemsize
        begins = (self.begins[documents] + starts) * size
        ends = begins + lengths * size
        views = map(self.views.__getitem__, self.chunk[documents].tolist())
        return np.frombuffer(b"".join(map(getitem, views, map(slice, begins.tolist(), ends.tolist()))), self.dtype)


def flat_tokens(chunk: object, name: str) -> np.ndarray:
    """The values below one Arrow list array, as numpy sees them without a copy; or an InputError."""
    import pyarrow as pa

    kind = chunk.type  # type: ignore[attr-defined]
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_integer(kind.value_type):
        raise InputError(f"{name} is a column of {kind}, it must hold lists of token numbers; tokenise it first.")
    if chunk.null_count or chunk.values.null_count:  # type: ignore[attr-defined]
        raise InputError(f"{name} has missing values, every document needs all its tokens; drop those documents.")
    return chunk.values.to_numpy(zero_copy_only=True)  # type: ignore[attr-defined]


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
        return {name: column[row] for name, column in self.columns.items()}

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return (self[row] for row in range(len(self)))

    def __reduce__(self) -> tuple[type[RowReader], tuple[Dataset]]:
        return RowReader, (self.dataset,)  # a DataLoader worker opens the file itself
