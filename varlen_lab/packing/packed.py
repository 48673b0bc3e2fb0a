"""A packed dataset whose rows keep their seams: ``seq_lengths`` goes where ``input_ids`` go.

HF Trainer removes every column that ``model.forward`` does not name, ``seq_lengths`` among them, unless it is told not
to; TRL's ``packing=True`` selects ``input_ids`` and ``labels`` and would pack rows as if each were one document. Rows
without seams are not packed rows any more, they are long documents that nobody wrote. To lose the column on purpose,
make a plain dataset of them first: ``datasets.Dataset(rows.data)``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from datasets import Dataset, DatasetDict, IterableDataset

from varlen_lab.packing.through import with_seams


class PackedRows(Dataset):
    """A ``datasets.Dataset`` of packed rows; what is selected, sorted, mapped or split off of it is one too.

    What ``datasets`` makes by a function of its own (``concatenate_datasets``, ``load_from_disk``) is a plain dataset;
    ``PackedRows.of`` makes it one of packed rows again.
    """

    @classmethod
    def of(cls, rows: Dataset) -> PackedRows:
        """The same rows in the same format, nothing copied."""
        packed = copy.copy(rows)
        packed.__class__ = cls
        return packed

    def remove_columns(self, column_names: str | Sequence[str], *args: Any, **options: Any) -> Dataset:
        """Without these columns, but ``seq_lengths`` stays while ``input_ids`` do."""
        names = [column_names] if isinstance(column_names, str) else list(column_names)
        if "input_ids" in self.column_names and "input_ids" not in names:
            names = [name for name in names if name != "seq_lengths"]
        return super().remove_columns(names, *args, **options)

    def select_columns(self, column_names: str | Sequence[str], *args: Any, **options: Any) -> Dataset:
        """With these columns only, and ``seq_lengths`` where ``input_ids`` are among them."""
        names = [column_names] if isinstance(column_names, str) else list(column_names)
        if "input_ids" in names and "seq_lengths" in set(self.column_names) - set(names):
            names.append("seq_lengths")
        return super().select_columns(names, *args, **options)

    def train_test_split(self, *args: Any, **options: Any) -> DatasetDict:
        parts = super().train_test_split(*args, **options)
        return DatasetDict({name: PackedRows.of(part) for name, part in parts.items()})

    def to_iterable_dataset(self, *args: Any, **options: Any) -> IterableDataset:
        """The rows one by one, whose tokens know their seams whatever columns a trainer drops."""
        rows = super().to_iterable_dataset(*args, **options)
        return rows.map(with_seams) if {"input_ids", "seq_lengths"} <= set(self.column_names) else rows


def kept_packed(name: str) -> Callable[..., Dataset]:
    """A method of ``datasets.Dataset`` that gives a dataset, for packed rows: it gives packed rows."""
    plain = getattr(Dataset, name)

    @wraps(plain)
    def method(self: PackedRows, *args: Any, **options: Any) -> Dataset:
        return PackedRows.of(plain(self, *args, **options))

    return method


for _name in ("add_column", "select", "shuffle", "sort", "map", "cast", "flatten_indices", "repeat"):
    setattr(PackedRows, _name, kept_packed(_name))
