"""Packed rows on disk: written once, a chunk at a time, and opened from then on.

The rule: a packed file is there whole or not at all. It is written under another name and moved into place, so a
run that is killed leaves nothing that a later run would take for rows, and two runs at once can only write the
same thing twice. Its name says what it was made from: the dataset's fingerprint and every choice of the packing.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from varlen_lab.errors import InputError
from varlen_lab.packing.rows import row_batches, schema
from varlen_lab.packing.strategies import Packs

if TYPE_CHECKING:
    from datasets import Dataset

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
        # In the same folder: os.replace is atomic only within one file system.
        handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".partial")
    except OSError as problem:
        raise InputError(f"{path.parent} cannot be written ({problem.strerror}); choose another cache_dir.") from None
    try:
        os.close(handle)
        with pa.OSFile(unfinished, "wb") as file, pa.ipc.new_stream(file, schema()) as stream:
            for batch in row_batches(dataset, packs, chunk_tokens, rows):
                stream.write_batch(batch)
                del batch  # before the next is made: one chunk in memory, not two
        os.replace(unfinished, path)
    except OSError as problem:
        Path(unfinished).unlink(missing_ok=True)
        raise InputError(f"{path} cannot be written ({problem.strerror}); choose another cache_dir.") from None
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise
