"""A column of token lists as Arrow holds it: flat tokens and where each document begins, read without copies.

``[[1, 2, 3], [4, 5]]`` lies in memory as the tokens ``1 2 3 4 5`` and the offsets ``0 3 5``; a data set on disk
has one such pair for every record batch, memory-mapped. ``ListColumn`` finds document ``i`` in them, and
``gather`` copies any segments of documents end to end: a few steps in C for each segment, none for a token.

Not here: formats, decoding, Python lists. They are what makes reading a data set slow.
"""

from __future__ import annotations

import itertools
from operator import getitem
from typing import TYPE_CHECKING, Any

import numpy as np

from varlen_lab.errors import InputError, nearest

if TYPE_CHECKING:
    from datasets import Dataset

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
