"""A plan becomes rows: tokenised documents in, Arrow record batches out, a chunk of rows at a time.

Columns of the result: ``input_ids`` and ``labels`` (the documents of a row end to end) and ``seq_lengths``
(how long each of them is, in row order). Seams travel with the row; nobody has to guess them back.

    input_ids  [[1, 2, 3], [4, 5]]   ->   input_ids      1 2 3    4 5
                                          labels      -100 2 3 -100 5
                                          seq_lengths        3      2

Arrow holds a column of token lists as flat tokens and offsets, memory-mapped: ``[[1, 2, 3], [4, 5]]`` is ``1 2 3 4 5``
and ``0 3 5``. ``ListColumn`` finds document ``i`` in them and copies any segments of documents end to end: a few steps
in C for each segment, none for a token. Decoding into Python lists is what makes reading a dataset slow.

On disk, packed rows are written once, whole or not at all, and opened from then on. A file's name says what it was made
from, the dataset's fingerprint and the plan; its last bytes are a digest of all the others, so that damage is noticed.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from operator import getitem
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from varlen_lab.errors import InputError, nearest
from varlen_lab.files.kept import as_written, end_with_digest
from varlen_lab.files.writing import DAY, remove_unfinished, written_whole
from varlen_lab.machine.processes import broken, refuse_unguarded
from varlen_lab.packing.columns import PADDING, fold_in, read_columns, wrong_length
from varlen_lab.packing.registry import IGNORE, LOSS_MASKS

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

    from varlen_lab.packing.strategies import Packs

COLUMNS = ("input_ids", "labels", "seq_lengths")
CHUNK_TOKENS = 1 << 18  # tokens in memory at a time: 2 MB of rows; more is slower, the processor's cache is small
BLOCK_TOKENS = 1 << 15  # tokens copied together at a time: still in the processor's cache when they are copied on
INT32 = np.iinfo(np.int32)
DIGEST_BYTES = 16  # of what a file was made from, in its name
LAYOUT_VERSION = "4"  # of the packed files; another number when rows of the same plan would come out differently


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
        # slices of a memoryview are made in C; slices of an array would each cost a Python object ten times as slow
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

    def gather(self, documents: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """``lengths[i]`` tokens of ``documents[i]`` from ``starts[i]`` on, for all ``i`` end to end, int32."""
        import pyarrow as pa

        ends = np.cumsum(lengths)
        # Arrow's allocator keeps its pages; malloc would give them back, and every chunk would fault them in again.
        tokens = np.frombuffer(pa.allocate_buffer(4 * int(ends[-1])), np.int32)
        cuts = [0, *(np.searchsorted(ends, np.arange(BLOCK_TOKENS, len(tokens), BLOCK_TOKENS)) + 1).tolist(), len(ends)]
        done = 0
        for begin, end in itertools.pairwise(cuts):
            block = self.copy_segments(documents[begin:end], starts[begin:end], lengths[begin:end])
            if self.dtype != np.int32 and len(block) and (block.max() > INT32.max or block.min() < INT32.min):
                raise InputError(f"{self.name} holds {block.max()}, a token is at most {INT32.max}; tokenise it again.")
            tokens[done : done + len(block)] = block
            done += len(block)
        return tokens

    def copy_segments(self, documents: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """The same tokens in the column's own type: one ``bytes.join`` of slices of memory, no loop over segments."""
        width = self.dtype.itemsize
        begins = (self.begins[documents] + starts) * width
        ends = begins + lengths * width
        views = map(self.views.__getitem__, self.chunk[documents].tolist())
        return np.frombuffer(b"".join(map(getitem, views, map(slice, begins.tolist(), ends.tolist()))), self.dtype)


def flat_tokens(chunk: object, name: str) -> np.ndarray:
    """The values below one Arrow list array, as numpy sees them without a copy; or an InputError."""
    import pyarrow as pa

    kind = chunk.type  # type: ignore[attr-defined]
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    truth = listed and name in (PADDING, *LOSS_MASKS) and pa.types.is_boolean(kind.value_type)
    if not listed or not (truth or pa.types.is_integer(kind.value_type)):
        held = "of 1 or 0 for each token" if name in (PADDING, *LOSS_MASKS) else "of token numbers"
        raise InputError(f"{name} is a column of {kind}, it must hold lists {held}; tokenise it first.")
    if chunk.null_count or chunk.values.null_count:  # type: ignore[attr-defined]
        raise InputError(f"{name} has missing values, every document needs all its tokens; drop those documents.")
    values = chunk.values.cast(pa.uint8()) if truth else chunk.values  # type: ignore[attr-defined]
    return values.to_numpy(zero_copy_only=True)


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
    dataset: Dataset, packs: Packs, chunk_tokens: int = CHUNK_TOKENS, rows: range | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows of a plan (or the range ``rows`` of them), about ``chunk_tokens`` tokens to a batch.

    Raises InputError when ``labels`` or a mask are not as long as ``input_ids``, and for what a mask cannot say.
    """
    import pyarrow as pa

    input_ids = ListColumn(dataset, "input_ids")
    labels = beside(input_ids, "labels", dataset) if "labels" in dataset.column_names else input_ids
    others = [beside(input_ids, name, dataset) for name in read_columns(dataset.column_names, warn=False)]
    ends = np.cumsum(packs.lengths)[packs.offsets[1:] - 1]  # tokens up to the end of each row
    rows = rows or range(len(packs))
    first = rows.start
    while first < rows.stop:
        begin = ends[first - 1] if first else 0
        last = min(max(int(np.searchsorted(ends, begin + chunk_tokens, side="right")), first + 1), rows.stop)
        part = slice(packs.offsets[first], packs.offsets[last])
        plan = packs.order[part], packs.starts[part], packs.lengths[part]
        row_edges = np.concatenate([[0], ends[first:last] - begin])
        seams = packs.offsets[first : last + 1] - packs.offsets[first]
        targets = labels.gather(*plan)
        for column in others:
            fold_in(column.name, column.gather(*plan), targets)
        targets[np.cumsum(plan[2]) - plan[2]] = IGNORE  # what follows a seam cannot be predicted from before it
        columns = [(row_edges, input_ids.gather(*plan)), (row_edges, targets), (seams, plan[2].astype(np.int32))]
        lists = [pa.ListArray.from_arrays(pa.array(at.astype(np.int32)), pa.array(flat)) for at, flat in columns]
        yield pa.record_batch(lists, schema=schema())
        first = last


def beside(input_ids: ListColumn, name: str, dataset: Dataset) -> ListColumn:
    """The column ``name``, as long as ``input_ids`` in every document; else an InputError."""
    column = ListColumn(dataset, name)
    if (column.lengths != input_ids.lengths).any():
        document = int(np.argmax(column.lengths != input_ids.lengths))
        raise wrong_length(document, name, column.lengths[document], input_ids.lengths[document])
    return column


def row_files(dataset: Dataset, packs: Packs, chosen: str | os.PathLike[str] | None, shards: int) -> list[Path]:
    """In the folder ``chosen``, else beside the dataset's own files, one for each process; none if it is in memory."""
    import datasets

    sources = dataset.cache_files if datasets.is_caching_enabled() else []
    if chosen is None and not sources:
        return []
    folder = Path(sources[0]["filename"]).parent if chosen is None else Path(chosen).expanduser()
    digest = hashlib.blake2b(f"{LAYOUT_VERSION} {dataset._fingerprint}".encode(), digest_size=DIGEST_BYTES)
    for column in (packs.order, packs.starts, packs.lengths, packs.offsets):
        digest.update(column.tobytes())
    name = f"packed-{digest.hexdigest()}"
    if shards == 1:
        return [folder / f"{name}.arrow"]
    return [folder / f"{name}-{shard:05d}-of-{shards:05d}.arrow" for shard in range(shards)]


def open_rows(files: Sequence[Path]) -> Dataset | None:
    """The rows in these files, memory-mapped; None when there are none, or one is missing, cut or damaged."""
    import pyarrow as pa
    from datasets import Dataset, concatenate_datasets

    if not files or not all(file.is_file() for file in files) or not all(map(as_written, files)):
        return None
    try:
        shares = [Dataset.from_file(str(file)) for file in files]
        for share in shares:
            if share.data.schema.remove_metadata() != schema():
                return None
            share.data.validate(full=True)  # or offsets that point nowhere would be followed
        return concatenate_datasets(shares)
    except (OSError, ValueError, KeyError, AttributeError, pa.ArrowException):  # a damaged head fails in many ways
        return None


def write_rows(dataset: Dataset, packs: Packs, files: Sequence[Path], chunk_tokens: int) -> None:
    """Write the rows of a plan, an equal share to each file, by a process each; OSError where that cannot be."""
    files[0].parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(files[0].parent, "packed-*", older_than=DAY)
    cuts = np.linspace(0, len(packs), len(files) + 1).astype(int).tolist()
    jobs = [(dataset, packs, file, chunk_tokens, range(*cut)) for file, cut in zip(files, itertools.pairwise(cuts))]
    if len(files) == 1:
        return write_share(*jobs[0])
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    refuse_unguarded("num_proc", len(files))
    # spawn, not fork: this process has threads (torch's, Arrow's) that a forked one would find half alive
    with ProcessPoolExecutor(len(files), mp_context=get_context("spawn")) as pool:
        try:
            for share in [pool.submit(write_share, *job) for job in jobs]:
                share.result()
        except BrokenProcessPool:
            raise broken("num_proc", len(files)) from None
    return None


def write_share(dataset: Dataset, packs: Packs, file: Path, chunk_tokens: int, rows: range) -> None:
    """Write a range of rows to ``file``: all of it appears, or nothing."""
    import pyarrow as pa

    with (
        written_whole(file, finish=end_with_digest) as opened,
        pa.ipc.new_stream(opened, schema()) as stream,
    ):
        for batch in row_batches(dataset, packs, chunk_tokens, rows):
            stream.write_batch(batch)
            del batch  # before the next is made: one chunk in memory, not two
