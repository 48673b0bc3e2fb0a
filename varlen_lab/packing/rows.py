"""A plan becomes rows: tokenised documents in, Arrow record batches out, a chunk of rows at a time.

Columns of the result: ``input_ids`` and ``labels`` (the documents of a row end to end) and ``seq_lengths``
(how long each of them is, in row order). Seams travel with the row; nobody has to guess them back.

    input_ids  [[1, 2, 3], [4, 5]]   ->   input_ids      1 2 3    4 5
                                          labels      -100 2 3 -100 5
                                          seq_lengths        3      2
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from varlen_lab.errors import InputError
from varlen_lab.packing.columns import ListColumn
from varlen_lab.packing.strategies import Packs

if TYPE_CHECKING:
    import pyarrow as pa
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
