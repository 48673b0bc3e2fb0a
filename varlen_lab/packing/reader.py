"""Packed rows read straight from Arrow's memory, for training loops that should not wait for data.

``datasets`` turns every row it hands out into Python or numpy objects through a layer of formats, which costs more
than collating. ``RowReader`` looks the row up in the memory map instead: three views, nothing copied.

    rows = RowReader(pack_dataset(documents, 2048))
    loader = DataLoader(rows, batch_size=2, collate_fn=VarlenCollator())      # or HF Trainer's train_dataset
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from varlen_lab.packing.columns import ListColumn
from varlen_lab.packing.rows import COLUMNS

if TYPE_CHECKING:
    from datasets import Dataset


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
