"""``pack_dataset``: a tokenised dataset in, a packed one out, on disk where the dataset is on disk.

    Dataset in memory       packed in memory
    Dataset on disk         packed beside its files, a chunk at a time; the second time it is only opened
    IterableDataset         a ``PackedStream``, packed as it is read

The plan is made once for the whole dataset. Chunks and processes only copy, so their number changes no row.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from varlen_lab.errors import InputError
from varlen_lab.packing.cache import cache_folder, cache_paths, open_rows, write_rows
from varlen_lab.packing.rows import CHUNK, document_lengths, rows_from_plan
from varlen_lab.packing.sequential import LOOKAHEAD
from varlen_lab.packing.strategies import pack_lengths
from varlen_lab.packing.stream import PackedStream

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


def pack_dataset(
    dataset: Dataset | IterableDataset,
    max_length: int,
    strategy: str | None = None,
    overlong: str = "truncate",
    *,
    seed: int | None = None,
    lookahead: int = LOOKAHEAD,
    cache_dir: str | os.PathLike[str] | None = None,
    num_proc: int = 1,
    chunk_tokens: int = CHUNK,
) -> Dataset | PackedStream:
    """Pack a dataset of documents (columns ``input_ids`` and, optionally, ``labels``) into rows.

    The result has ``input_ids``, ``labels`` and ``seq_lengths``. Without ``labels`` every token is trained on, as in
    pretraining. The first label of every document is -100: it cannot be predicted from before the seam.

    ``strategy`` (default ``best_fit``), ``overlong``, ``seed``, ``lookahead``: as in ``pack_lengths``.
    ``cache_dir``: where the packed file goes; by default beside the dataset's own files, if it has any.
    ``num_proc``: processes that write it. ``chunk_tokens``: about so many tokens are in memory at a time.

    An ``IterableDataset`` becomes a ``PackedStream`` (strategy ``sequential``); nothing is cached.
    Raises InputError for an empty dataset, columns that do not fit, and a folder that cannot be written.
    """
    from datasets import IterableDataset

    for name, value in (("num_proc", num_proc), ("chunk_tokens", chunk_tokens)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name} is {value!r}, it must be a whole number of at least 1; leave it out if unsure.")
    if isinstance(dataset, IterableDataset):
        if strategy not in (None, "sequential"):
            raise InputError(f"strategy {strategy!r} needs all lengths at once, a stream is packed by 'sequential'.")
        return PackedStream(dataset, max_length, overlong, lookahead)
    strategy = strategy or "best_fit"
    folder = cache_folder(dataset, cache_dir)
    if folder is not None:
        facts = (dataset._fingerprint, max_length, strategy, overlong, seed, lookahead)
        paths = cache_paths(folder, facts, num_proc)
        rows = open_rows(paths)
        if rows is not None:
            return rows
    packs = pack_lengths(document_lengths(dataset), max_length, strategy, overlong, seed=seed, lookahead=lookahead)
    if folder is None:
        return rows_from_plan(dataset, packs)
    write_rows(dataset, packs, paths, chunk_tokens)
    return open_rows(paths)
