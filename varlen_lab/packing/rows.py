"""A plan becomes rows: tokenised documents in, a packed ``datasets.Dataset`` out.

Columns of the result: ``input_ids`` and ``labels`` (the documents of a row end to end) and ``seq_lengths``
(how long each of them is, in row order). Seams travel with the row; nobody has to guess them back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from varlen_lab.errors import InputError, nearest
from varlen_lab.packing.planner import Packs, pack_lengths

if TYPE_CHECKING:
    from datasets import Dataset

IGNORE = -100  # the label PyTorch's cross entropy skips


def pack_dataset(
    dataset: Dataset,
    max_length: int,
    strategy: str = "best_fit",
    overlong: str = "truncate",
) -> Dataset:
    """Pack a dataset of documents (columns ``input_ids`` and, optionally, ``labels``) into rows.

    Without ``labels`` every token is trained on, as in pretraining. In the result the first label of every
    document is -100: what follows a seam cannot be predicted from before it.
    Raises InputError for an empty dataset or columns that do not fit.
    """
    return rows_from_plan(dataset, pack_lengths(document_lengths(dataset), max_length, strategy, overlong))


def document_lengths(dataset: Dataset) -> np.ndarray:
    """Tokens of each document, int64, read from the Arrow offsets without touching the tokens."""
    import pyarrow.compute as pc

    if "input_ids" not in dataset.column_names:
        names = ", ".join(dataset.column_names)
        raise InputError(
            f"the dataset has columns {names}, packing needs input_ids"
            f"{nearest('input_ids', dataset.column_names)}; tokenise it first."
        )
    if not len(dataset):
        raise InputError("the dataset has no documents, there is nothing to pack; check its path and split.")
    return pc.list_value_length(dataset.with_format("arrow")[:]["input_ids"]).to_numpy().astype(np.int64)


def rows_from_plan(dataset: Dataset, packs: Packs) -> Dataset:
    """The rows that ``packs`` describes, gathered column by column."""
    import pyarrow as pa
    from datasets import Dataset as HFDataset

    table = dataset.with_format("arrow")[:]
    columns = {"input_ids": table["input_ids"]}
    columns["labels"] = table["labels"] if "labels" in table.column_names else table["input_ids"]
    row_tokens = np.add.reduceat(packs.lengths, packs.offsets[:-1])
    row_offsets = np.concatenate([[0], np.cumsum(row_tokens)])
    seams = np.cumsum(packs.lengths) - packs.lengths
    packed = {}
    for name, column in columns.items():
        tokens = gather(column, packs)
        if name == "labels":
            tokens[seams] = IGNORE
        packed[name] = pa.LargeListArray.from_arrays(pa.array(row_offsets), pa.array(tokens))
    packed["seq_lengths"] = pa.LargeListArray.from_arrays(
        pa.array(packs.offsets), pa.array(packs.lengths.astype(np.int32))
    )
    return HFDataset(pa.table(packed))


def gather(column: Any, packs: Packs) -> np.ndarray:
    """Tokens of all segments of the plan, end to end, int32: one copy per segment, in C."""
    import pyarrow as pa

    lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(lists, pa.ChunkedArray):  # no chunk at all, or too large for one
        lists = pa.concat_arrays(lists.chunks)
    offsets = lists.offsets.to_numpy()
    lengths = np.diff(offsets)
    if not np.array_equal(lengths, packs.document_lengths):
        worst = int(np.argmax(lengths != packs.document_lengths))
        raise InputError(
            f"document {worst} has {packs.document_lengths[worst]} input_ids and {lengths[worst]} labels, "
            "they must be equally long; tokenise it again."
        )
    begins = offsets[packs.order] + packs.starts
    cuts = np.unique(np.concatenate([begins, begins + packs.lengths]))
    # Segments never overlap, so between two neighbouring cuts lies one segment, or tokens nobody asked for.
    pieces = pa.LargeListArray.from_arrays(pa.array(cuts), lists.values.cast(pa.int32()))
    taken = pieces.take(pa.array(np.searchsorted(cuts, begins)))
    return taken.flatten().to_numpy(zero_copy_only=False).copy()
