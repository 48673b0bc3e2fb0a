"""``pack_dataset``: a tokenised dataset in, a packed one out, on disk where the dataset is on disk.

    Dataset in memory       packed in memory
    Dataset on disk         packed beside its files, a chunk at a time; the second time it is only opened
    IterableDataset         a ``PackedStream``, packed as it is read

The plan is made once for the whole dataset. Chunks and processes only copy, so their number changes no row.

Packed rows on disk: written once, a chunk at a time, and opened from then on.

The rule: a packed file is there whole or not at all. It is written under another name and moved into place, so a
run that is killed leaves nothing that a later run would take for rows, and two runs at once can only write the
same thing twice. Its name says what it was made from: the dataset's fingerprint and every choice of the packing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from varlen_lab.errors import InputError
from varlen_lab.files.writing import written_whole
from varlen_lab.packing.rows import CHUNK, document_lengths, rows_from_plan
from varlen_lab.packing.sequential import LOOKAHEAD, PackedStream
from varlen_lab.packing.strategies import pack_lengths

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


import itertools
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from varlen_lab.packing.rows import row_batches, schema
from varlen_lab.packing.strategies import Packs

if TYPE_CHECKING:
    from datasets import Dataset


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


LAYOUT = "1"  # of the packed files; another number when rows of the same plan would come out differently


def cache_folder(dataset: Dataset, chosen: str | os.PathLike[str] | None) -> Path | None:
    """Where packed rows go: the folder chosen, else the dataset's own, else None (it lives in memory)."""
    if chosen is not None:
        return Path(chosen).expanduser()
    import datasets

    files = dataset.cache_files
    return Path(files[0]["filename"]).parent if files and datasets.is_caching_enabled() else None


def cache_paths(folder: Path, facts: Sequence[object], shards: int) -> list[Path]:
    """The files of a packing, one for each process that writes."""
    from datasets.fingerprint import Hasher

    name = f"packed-{Hasher.hash([LAYOUT, *map(repr, facts)])}"
    if shards == 1:
        return [folder / f"{name}.arrow"]
    return [folder / f"{name}-{shard:05d}-of-{shards:05d}.arrow" for shard in range(shards)]


def open_rows(paths: Sequence[Path]) -> Dataset | None:
    """The rows in these files, memory-mapped; None when one is missing or damaged."""
    from datasets import Dataset, concatenate_datasets

    if not all(path.is_file() for path in paths):
        return None
    try:
        return concatenate_datasets([Dataset.from_file(str(path)) for path in paths])
    except (OSError, ValueError):  # what pyarrow raises for a file cut short
        return None


def write_rows(dataset: Dataset, packs: Packs, paths: Sequence[Path], chunk_tokens: int) -> None:
    """Write the rows of a plan, an equal share of them to each path, each by a process of its own."""
    try:
        paths[0].parent.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise InputError(f"{paths[0].parent} cannot be made ({problem.strerror}); choose another cache_dir.") from None
    cuts = np.linspace(0, len(packs), len(paths) + 1).astype(int).tolist()
    shares = [range(first, last) for first, last in itertools.pairwise(cuts)]
    if len(paths) == 1:
        return write_share(dataset, packs, paths[0], chunk_tokens, shares[0])
    # spawn, not fork: this process has threads (torch's, Arrow's) that a forked one would find half alive
    with ProcessPoolExecutor(len(paths), mp_context=get_context("spawn")) as pool:
        jobs = [
            pool.submit(write_share, dataset, packs, path, chunk_tokens, share)
            for path, share in zip(paths, shares, strict=True)
        ]
        for job in jobs:
            job.result()
    return None


def write_share(dataset: Dataset, packs: Packs, path: Path, chunk_tokens: int, rows: range) -> None:
    """Write a range of rows to ``path``: all of it appears, or nothing."""
    import pyarrow as pa

    try:
        with written_whole(path) as file, pa.ipc.new_stream(file, schema()) as stream:
            for batch in row_batches(dataset, packs, chunk_tokens, rows):
                stream.write_batch(batch)
                del batch  # before the next is made: one chunk in memory, not two
    except OSError as problem:
        raise InputError(f"{path} cannot be written ({problem.strerror}); choose another cache_dir.") from None
