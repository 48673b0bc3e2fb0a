"""Which documents share a row: ``pack_lengths`` plans it, ``pack_dataset`` also writes the rows.

``pack_lengths`` looks at nothing but the lengths. The result is in CSR form: pack ``p`` holds the segments
``order[offsets[p]:offsets[p + 1]]``, and segment ``s`` is ``lengths[s]`` tokens of document ``order[s]`` from
token ``starts[s]`` on. Lengths 4, 4, 7, 3, 3 in rows of 10:

    best_fit     [7 3] [4 4] [3]            whole documents, the longest first
    tightest     [7 3] [4 4] [3]            the same or fewer rows; slower, for lengths that are much alike
    sequential   [4 4] [7 3] [3]            whole documents, nearly in their order, as a stream is packed
    concat       [4 4 2] [5 3 2] [1]        cut anywhere, as XTuner's packer, but the tail is kept
    unpacked     [4] [4] [7] [3] [3]        the baseline

Whatever is cut, truncated or dropped is counted in ``Packs.report()``. Same input, same packs, always.

``pack_dataset`` takes a tokenised dataset and gives a packed one:

    Dataset in memory       packed in memory
    Dataset on disk         packed beside its files, a chunk at a time; the second time planned, opened and checked
    IterableDataset         a ``PackedStream``, packed as it is read

The plan is made once for the whole dataset. Chunks and processes only copy, so their number changes no row.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING

import numpy as np

from varlen_lab.errors import InputError, of_kind, plural, quoted, unknown_choice
from varlen_lab.packing.checks import checked_count, checked_lengths
from varlen_lab.packing.columns import read_columns
from varlen_lab.packing.registry import OVERLONG, STRATEGIES
from varlen_lab.packing.rows import CHUNK_TOKENS, document_lengths, open_rows, row_files, rows_from_plan, write_rows
from varlen_lab.packing.sequential import LOOKAHEAD
from varlen_lab.packing.whole import lower_bound, whole_segments

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    from varlen_lab.packing.readers import PackedStream


@dataclass(frozen=True, eq=False)
class Packs:
    """A plan: which segment of which document goes into which row (all arrays int64)."""

    order: np.ndarray  # document index of each segment, row after row
    starts: np.ndarray  # first token of the segment within its document
    lengths: np.ndarray  # tokens of the segment
    offsets: np.ndarray  # CSR: pack p holds segments offsets[p] .. offsets[p + 1]
    max_length: int
    strategy: str
    document_lengths: np.ndarray  # the input, for the report

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, pack: int) -> np.ndarray:
        """Document indices of one pack."""
        if not -len(self) <= pack < len(self):
            raise IndexError(f"pack {pack} of {len(self)}")
        pack %= len(self)
        return self.order[self.offsets[pack] : self.offsets[pack + 1]]

    def seq_lengths(self, pack: int) -> list[int]:
        """Segment lengths of one pack, in row order."""
        return self.lengths[self.offsets[pack] : self.offsets[pack + 1]].tolist()

    def report(self, trained: np.ndarray | None = None) -> PackReport:
        """What this plan does to the documents: fill, cost, and everything that was cut or lost.

        ``trained``: the trained tokens of every segment, where labels are known (``trained.trained_in_plan``).
        """
        return PackReport.of(self, trained)


def pack_lengths(
    lengths: Sequence[int] | np.ndarray,
    max_length: int,
    strategy: str = "best_fit",
    overlong: str = "truncate",
    *,
    seed: int | None = None,
    lookahead: int = LOOKAHEAD,
) -> Packs:
    """Plan rows of at most ``max_length`` tokens for documents of these lengths.

    ``strategy``: ``best_fit``, ``tightest`` and ``sequential`` keep documents whole, ``concat`` cuts them wherever
    a row ends, ``unpacked`` gives every document a row of its own.
    ``overlong``: what happens to a document longer than a row: ``truncate`` its tail, ``split`` it into
    pieces, ``drop`` it, or ``error``. (``concat`` never needs it: it cuts anyway.)
    ``seed`` only breaks ties: which of several equally long documents goes where (``best_fit``, ``tightest``).
    ``lookahead``: how many documents ``sequential`` may hold back.
    Raises InputError for lengths that are not positive whole numbers and for unknown names.
    """
    documents = checked_lengths(lengths)
    max_length = checked_count("max_length", max_length, "try 2048")
    for what, value, known in (("strategy", strategy, STRATEGIES), ("overlong", overlong, OVERLONG)):
        if not isinstance(value, str) or value not in known:
            raise unknown_choice(what, value if isinstance(value, str) else quoted(value), known)
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0):
        raise InputError(f"seed is {quoted(seed)}, it must be a whole number of at least 0; leave it out if unsure.")
    place = resolve_name(STRATEGIES[strategy].function)
    if STRATEGIES[strategy].keeps_whole:
        segments = whole_segments(documents, max_length, overlong)
        placement = place(segments.lengths, max_length, seed, lookahead)
    else:
        placement = place(documents, max_length, seed, lookahead)
        segments = placement.segments
    order, starts, sizes = (column[placement.order] for column in segments)
    return Packs(order, starts, sizes, placement.offsets, max_length, strategy, documents)


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
    chunk_tokens: int = CHUNK_TOKENS,
) -> Dataset | PackedStream:
    """Pack a dataset of documents (columns ``input_ids`` and, optionally, ``labels``) into rows.

    The result has ``input_ids``, ``labels`` and ``seq_lengths``. Without ``labels`` every token is trained on, as in
    pretraining. Where a loss mask (``assistant_masks``, ``completion_mask``, ``loss_mask``) is 0, the label becomes
    -100. The first label of every document is -100: it cannot be predicted from before the seam. A warning names the
    columns that stay behind.

    ``strategy`` (default ``best_fit``), ``overlong``, ``seed``, ``lookahead``: as in ``pack_lengths``.
    ``cache_dir``: where the packed file goes; by default beside the dataset's own files, if it has any.
    ``num_proc``: processes that write it. ``chunk_tokens``: about so many tokens are in memory at a time.

    An ``IterableDataset`` becomes a ``PackedStream`` (strategy ``sequential``); nothing is cached.
    Raises InputError for an empty dataset, columns that do not fit, and a ``cache_dir`` that cannot be written.
    Where the dataset's own folder cannot be written, there is a warning and the rows are packed in memory.
    """
    from datasets import Dataset, IterableDataset

    num_proc = checked_count("num_proc", num_proc, "leave it out if unsure")
    chunk_tokens = checked_count("chunk_tokens", chunk_tokens, "leave it out if unsure")
    if isinstance(dataset, IterableDataset):
        if strategy not in (None, "sequential"):
            raise InputError(f"strategy {strategy!r} needs all lengths at once, a stream is packed by 'sequential'.")
        from varlen_lab.packing.readers import PackedStream

        return PackedStream(dataset, max_length, overlong, lookahead)
    of_kind("dataset", dataset, Dataset, "a Dataset of datasets", "Dataset.from_list makes one of a list of records")
    lengths = document_lengths(dataset)
    read_columns(dataset.column_names)
    packs = pack_lengths(lengths, max_length, strategy or "best_fit", overlong, seed=seed, lookahead=lookahead)
    return packed_rows(dataset, packs, cache_dir, num_proc, chunk_tokens)


def packed_rows(
    dataset: Dataset,
    packs: Packs,
    cache_dir: str | os.PathLike[str] | None = None,
    num_proc: int = 1,
    chunk_tokens: int = CHUNK_TOKENS,
) -> Dataset:
    """The rows of a plan, opened if they were written before; the arguments are ``pack_dataset``'s."""
    from varlen_lab.packing.packed import PackedRows

    files = row_files(dataset, packs, cache_dir, num_proc)
    if (rows := open_rows(files)) is not None:
        return PackedRows.of(rows)
    try:
        if files:
            write_rows(dataset, packs, files, chunk_tokens)
    except OSError as problem:
        reason = f"{files[0].parent} cannot be written ({problem.strerror})"
        if cache_dir is not None:
            raise InputError(f"{reason}; choose another cache_dir.") from None
        warnings.warn(f"{reason}: the rows are packed in memory, in every run anew; pass a cache_dir.", stacklevel=3)
    return PackedRows.of(open_rows(files) or rows_from_plan(dataset, packs))


@dataclass(frozen=True)
class PackReport:
    """Counts of one packing plan. ``tokens`` is what went in, ``packed_tokens`` what lies in rows."""

    strategy: str
    max_length: int
    documents: int
    tokens: int
    packs: int
    packed_tokens: int
    fill: float  # packed tokens / (packs * max_length)
    lower_bound: int  # no plan that keeps these segments whole needs fewer packs
    documents_per_pack: float
    truncated_documents: int
    truncated_tokens: int
    split_documents: int
    dropped_documents: int
    dropped_tokens: int
    attention_share: float  # sum of len^2 over sum of T^2: the attention work that varlen still does
    trained_tokens: int | None = None  # this one and the next two: None where labels are not known
    untrained_documents: int | None = None  # in rows, without a trained token: their answers were cut away
    untrained_packs: int | None = None  # rows without a trained token

    @classmethod
    def of(cls, packs: Packs, trained: np.ndarray | None = None) -> PackReport:
        """Count a plan; ``trained``: as for ``Packs.report``."""
        documents = packs.document_lengths
        packed = np.bincount(packs.order, weights=packs.lengths, minlength=len(documents)).astype(np.int64)
        segments = np.bincount(packs.order, minlength=len(documents))
        missing = documents - packed
        row_tokens = np.add.reduceat(packs.lengths, packs.offsets[:-1])
        total = int(packed.sum())
        known: dict[str, int] = {}
        if trained is not None:
            answers = np.bincount(packs.order, weights=trained, minlength=len(documents))
            known["trained_tokens"] = int(trained.sum())
            known["untrained_documents"] = int(((segments > 0) & (answers == 0)).sum())
            known["untrained_packs"] = int((np.add.reduceat(trained, packs.offsets[:-1]) == 0).sum())
        return cls(
            strategy=packs.strategy,
            max_length=packs.max_length,
            documents=len(documents),
            tokens=int(documents.sum()),
            packs=len(packs),
            packed_tokens=total,
            fill=total / (len(packs) * packs.max_length),
            lower_bound=lower_bound(packs.lengths, packs.max_length),
            documents_per_pack=len(packs.order) / len(packs),
            truncated_documents=int(((segments > 0) & (missing > 0)).sum()),
            truncated_tokens=int(missing[segments > 0].sum()),
            split_documents=int((segments > 1).sum()),
            dropped_documents=int((segments == 0).sum()),
            dropped_tokens=int(missing[segments == 0].sum()),
            attention_share=float((packs.lengths.astype(float) ** 2).sum() / (row_tokens.astype(float) ** 2).sum()),
            **known,
        )

    def to_dict(self) -> dict[str, object]:
        """The fields as a plain dict, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        lost = []
        if self.truncated_documents:
            documents = plural(self.truncated_documents, "document")
            lost.append(f"{plural(self.truncated_tokens, 'token')} truncated from {documents}")
        if self.split_documents:
            lost.append(f"{plural(self.split_documents, 'document')} cut across rows")
        if self.dropped_documents:
            lost.append(
                f"{plural(self.dropped_documents, 'document')} dropped ({plural(self.dropped_tokens, 'token')})"
            )
        if few := self.untrained_documents:
            lost.append(f"{plural(few, 'document')} {'has' if few == 1 else 'have'} no trained token left")
        if few := self.untrained_packs:
            lost.append(f"{plural(few, 'row')} {'trains' if few == 1 else 'train'} nothing")
        return (
            f"{plural(self.documents, 'document')}, {self.packed_tokens:,} of {plural(self.tokens, 'token')} in "
            f"{plural(self.packs, 'row')} of {self.max_length:,} ({self.strategy}): fill {self.fill:.1%}, "
            f"{self.documents_per_pack:.1f} documents a row, at least {plural(self.lower_bound, 'row')} needed, "
            f"varlen attention does {self.attention_share:.1%} of "
            f"the full work; " + ("; ".join(lost) or "nothing cut, nothing lost")
        )
