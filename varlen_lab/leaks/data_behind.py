"""Which rows of a trainer's data a batch was made of: they say where documents end, and what is not to be trained.

A batch that lost its seams on the way says nothing of them. But its tokens are those of rows of the data, end to end,
and these rows, or their ``seq_lengths``, are the documents; their loss masks say which tokens are answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from varlen_lab.packing.registry import IGNORE, LOSS_MASKS

READ = 2000  # rows of data that is no Arrow table
MOST_ROWS = 512  # of the data in one batch
LENGTHS = "seq_lengths"


class Behind(NamedTuple):
    """``lengths``: tokens of the documents, row after row; ``told``: by seq_lengths, else each row of the data is one.

    Padding counts as one, ``documents`` are those without it. ``masks``: loss masks of all tokens, by name.
    """

    lengths: list[int]
    documents: int
    told: bool
    masks: dict[str, torch.Tensor]


class Part(NamedTuple):
    """Rows of the data: their tokens end to end, where each begins, the number of the first."""

    tokens: np.ndarray
    offsets: np.ndarray
    first: int


def rows_behind(dataset: Any, given: Mapping[str, Any]) -> Behind | None:
    """The rows of ``dataset`` that the batch ``given`` was made of; None where they are not found."""
    ids, labels, mask = (given.get(name) for name in ("input_ids", "labels", "attention_mask"))
    parts = list(parts_of(dataset))
    if not parts or not isinstance(ids, torch.Tensor) or ids.ndim != 2:
        return None
    rows: list[Mapping[str, Any] | int] = []  # of the data, or so many tokens of padding
    for number, row in enumerate(ids.cpu().numpy()):
        real = mask[number] if isinstance(mask, torch.Tensor) and mask.shape == ids.shape else None
        trained = labels[number] if isinstance(labels, torch.Tensor) and labels.shape == ids.shape else None
        end = len(row) if real is None else int(real.cpu().nonzero().max()) + 1 if bool(real.any()) else 0
        found = followed(parts, row[:end], None if trained is None else trained.cpu().numpy())
        if found is None or len(rows) + len(found) > MOST_ROWS:
            return None
        rows += [row_of(dataset, one) if one >= 0 else -one for one in found]
        rows += [len(row) - end] if end < len(row) else []
    return laid_end_to_end(rows)


def laid_end_to_end(rows: Sequence[Mapping[str, Any] | int]) -> Behind:
    """What rows of the data, and numbers of tokens of padding, say together."""
    data = [one for one in rows if not isinstance(one, int)]
    own = [one if isinstance(one, int) else one.get(LENGTHS) or [len(one["input_ids"])] for one in rows]
    masks = {
        name: torch.tensor([each for one in rows for each in ([0] * one if isinstance(one, int) else one[name])])
        for name in LOSS_MASKS
        if data and all(fits(one, name) for one in data)
    }
    return Behind(
        lengths=[int(each) for one in own for each in ([one] if isinstance(one, int) else one)],
        documents=sum(len(one) for one in own if not isinstance(one, int)),
        told=any(one.get(LENGTHS) is not None for one in data),
        masks=masks,
    )


def fits(row: Mapping[str, Any], name: str) -> bool:
    """Whether a row has a mask of this name, as long as its tokens."""
    return row.get(name) is not None and len(row[name]) == len(row["input_ids"])


def parts_of(dataset: Any) -> Iterator[Part]:
    """The ``input_ids`` of an Arrow table, or of the first rows in a list: reading these does nothing else.

    Data of a class of its own may draw random numbers for a row, and the run would be another one.
    """
    if "input_ids" in (getattr(dataset, "column_names", None) or ()) and hasattr(dataset, "data"):
        first = 0
        for chunk in dataset.data.column("input_ids").chunks:
            if not hasattr(chunk, "offsets"):
                return
            yield Part(chunk.values.to_numpy(zero_copy_only=False), chunk.offsets.to_numpy(), first)
            first += len(chunk)
    elif isinstance(dataset, list | tuple):
        rows = dataset[:READ]
        if rows and all(isinstance(row, Mapping) and "input_ids" in row for row in rows):
            ids = [np.asarray(row["input_ids"]).reshape(-1) for row in rows]
            yield Part(np.concatenate(ids), np.cumsum([0, *map(len, ids)]), 0)


def row_of(dataset: Any, number: int) -> Mapping[str, Any]:
    """A row of the data as it is kept, without what a format or a transform makes of it."""
    if isinstance(dataset, list | tuple):
        row: Mapping[str, Any] = dataset[number]
        return row
    return {name: values[0] for name, values in dataset.data.slice(number, 1).to_pydict().items()}


def followed(parts: Sequence[Part], row: np.ndarray, labels: np.ndarray | None) -> list[int] | None:
    """Numbers of the rows of the data that lie end to end in ``row``, and minus the tokens of padding behind them."""
    found: list[int] = []
    at = 0
    while at < len(row):
        number, length = longest_match(parts, row[at:])
        if not length:
            padding = found and labels is not None and bool((labels[at : len(row)] == IGNORE).all())
            return [*found, at - len(row)] if padding else None
        found.append(number)
        at += length
        if len(found) > MOST_ROWS:
            return None
    return found


def longest_match(parts: Sequence[Part], wanted: np.ndarray) -> tuple[int, int]:
    """Number and length of the longest row of the data that ``wanted`` begins with; length 0 where there is none."""
    best = (0, 0)
    for part in parts:
        lengths = np.diff(part.offsets)
        near = np.flatnonzero((lengths > 0) & (lengths <= len(wanted)))
        near = near[part.tokens[part.offsets[near]] == wanted[0]]
        for number in near[np.argsort(-lengths[near], kind="stable")]:
            length = int(lengths[number])
            if length <= best[1]:
                break
            start = int(part.offsets[number])
            if np.array_equal(part.tokens[start : start + length], wanted[:length]):
                best = (part.first + int(number), length)
    return best
