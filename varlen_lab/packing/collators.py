"""Packed rows become batches, in three ways, and every token gets its weight in the loss.

The same rows go into all three collators, so the documents are the same:

``VarlenCollator``   all rows end to end, seams in ``cu_seq_lens``; attention stays inside documents
``PackedCollator``   rows as they are, positions run through, no seams: every token sees the whole row
``PaddedCollator``   a row for each document, filled up to the longest: what packing replaces

A feature is a dict with ``input_ids``, ``labels`` and ``seq_lengths`` (a row of ``pack_dataset``). The first
label of every document is -100 in all three, so all three average over exactly the same tokens.

The loss is always ``sum(w * nll) / sum(w)`` over the whole step: all its rows, accumulated batches and processes.
``token_weights`` gives ``w``, by one of four weightings (``WEIGHTINGS``):

    token       w = 1                                  every trained token counts the same
    sample      w = 1 / trained tokens of its document every document counts the same, long or short
    pack        w = 1 / trained tokens of its row      every row counts the same: a mean per row, then over rows
    longalign   w = rows / (documents * trained tokens of its document), which is sample

Two rows, one with documents of 3 and 1 trained tokens, one with 2:

    token  1 1 1  1 | 1 1      sample  1/3 1/3 1/3  1 | 1/2 1/2      pack  1/4 1/4 1/4  1/4 | 1/2 1/2

``pack`` is what a loop gets that takes the mean over each batch by itself, as XTuner's loss does, when a batch is one
row: a token's weight depends on its neighbours. (HF Trainer divides by one count over the accumulated batches: that is
``token``.) ``longalign`` (Bai et al. 2024, arXiv:2401.18058, section 3.2) scales each document of a pack so that the
mean over packs becomes the mean over documents. Over a whole step the constants cancel and it is ``sample``; their
code takes that mean for each accumulated batch by itself and averages those, which depends on the accumulation. The
name is kept because people look for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import varlen_lab.machine.repeatable  # noqa: F401  its import is the work: before anything here computes
from varlen_lab.errors import InputError, of_kind, unknown_choice
from varlen_lab.packing.checks import INT32_LIMIT
from varlen_lab.packing.registry import IGNORE, WEIGHTINGS
from varlen_lab.packing.through import refuse_dispatch

Feature = Mapping[str, Any]
Row = tuple[np.ndarray, np.ndarray, np.ndarray]  # input_ids, labels and the lengths of documents


@dataclass(frozen=True)
class VarlenCollator:
    """Flatten rows into one of T tokens and say where its documents are.

    Returns ``cu_seq_lens_q/k`` int32 of shape (documents + 1,), ``input_ids, labels, position_ids`` of shape (1, T),
    and ``max_length_q/k`` as Python ints: the keyword arguments transformers hands on to an attention function. Two
    rows of 2k tokens give the same batch as one row of 4k with the same documents. One row goes into the model and one
    comes out: where each example must come back by itself, as from ``Trainer.predict``, take ``keep_rows=True``, or
    batches of one row (``per_device_eval_batch_size=1``).
    ``keep_rows``: shape (rows, longest row) instead of (1, T); seams still run through all rows end to end, and a
    shorter row ends in one inert segment.
    ``pad_to_multiple_of`` appends one inert segment (labels -100), never a document per pad token.
    ``return_seq_idx`` adds ``seq_idx``, int32 of the shape of the tokens: the number of each token's document, as
    kernels of state space models take it.
    """

    pad_to_multiple_of: int | None = None
    pad_token_id: int = 0
    keep_rows: bool = False
    return_seq_idx: bool = False

    def __call__(self, features: Sequence[Feature]) -> dict[str, Any]:
        refuse_dispatch()
        rows = [checked_row(feature) for feature in some(features)]
        if self.keep_rows:
            width = max(len(ids) for ids, _, _ in rows)
            width += -width % (self.pad_to_multiple_of or 1)
            rows = [filled_up(row, width, self.pad_token_id) for row in rows]
        tokens = sum(len(ids) for ids, _, _ in rows)
        if tokens >= INT32_LIMIT:
            raise InputError(
                f"the batch has {tokens:,} tokens, cu_seq_lens is int32 and ends below {INT32_LIMIT:,}; "
                "take fewer rows."
            )
        lengths = end_to_end([lengths for _, _, lengths in rows], np.int32)
        cu_seqlens = np.zeros(len(lengths) + 1, dtype=np.int32)
        lengths.cumsum(dtype=np.int32, out=cu_seqlens[1:])
        input_ids = end_to_end([ids for ids, _, _ in rows], np.int64)
        labels = end_to_end([targets for _, targets, _ in rows], np.int64)
        short = -tokens % (self.pad_to_multiple_of or 1)
        if short:  # one segment more
            input_ids = np.append(input_ids, np.full(short, self.pad_token_id))
            labels = np.append(labels, np.full(short, IGNORE))
            lengths = np.append(lengths, np.int32(short))
            cu_seqlens = np.append(cu_seqlens, np.int32(tokens + short))
        starts = cu_seqlens[:-1]
        labels[starts] = IGNORE
        positions = np.arange(tokens + short)
        positions -= starts.repeat(lengths)
        longest, seams = int(lengths.max()), torch.from_numpy(cu_seqlens)
        shape = len(rows) if self.keep_rows else 1, -1
        numbers = np.arange(len(lengths), dtype=np.int32).repeat(lengths) if self.return_seq_idx else None
        return {
            "cu_seq_lens_q": seams,  # first: accelerate cuts all tensors to the length of the first (see ``through``)
            "cu_seq_lens_k": seams,
            "input_ids": torch.from_numpy(input_ids).view(shape),
            "labels": torch.from_numpy(labels).view(shape),
            "position_ids": torch.from_numpy(positions).view(shape),
            "max_length_q": longest,
            "max_length_k": longest,
            **({} if numbers is None else {"seq_idx": torch.from_numpy(numbers).view(shape)}),
        }


@dataclass(frozen=True)
class PackedCollator:
    """Rows as they are, without seams: the naive packing that varlen attention puts right.

    Returns ``input_ids, labels, position_ids`` of shape (rows, longest row); positions run 0, 1, 2, ... through
    the whole row. Right padding needs no mask under causal attention: its labels are -100 and nobody before it
    can see it.
    """

    pad_token_id: int = 0

    def __call__(self, features: Sequence[Feature]) -> dict[str, Any]:
        rows = [tuple(map(np.concatenate, zip(*split_documents(feature), strict=True))) for feature in some(features)]
        return padded_batch(rows, self.pad_token_id)


@dataclass(frozen=True)
class PaddedCollator:
    """A row for each document, filled up to the longest: the unpacked baseline.

    Returns ``input_ids, labels, attention_mask, position_ids`` of shape (documents, longest document). A
    feature may also be a single document without ``seq_lengths``.
    """

    pad_token_id: int = 0

    def __call__(self, features: Sequence[Feature]) -> dict[str, Any]:
        documents = [
            document
            for feature in some(features)
            for document in split_documents(
                {**feature, "seq_lengths": [len(feature["input_ids"])]} if lengths_of(feature) is None else feature
            )
        ]
        batch = padded_batch(documents, self.pad_token_id)
        mask = padded([np.ones(len(ids)) for ids, _ in documents], batch["input_ids"].shape[1], 0)
        return batch | {"attention_mask": mask}


def end_to_end(parts: list[np.ndarray], dtype: type) -> np.ndarray:
    """Arrays end to end, as a new array of ``dtype``."""
    # astype copies: a row may be a read-only view of a memory-mapped file, and labels are written to
    return parts[0].astype(dtype) if len(parts) == 1 else np.concatenate(parts, dtype=dtype)


def some(features: Sequence[Feature]) -> Sequence[Feature]:
    """The same features; InputError when there are none."""
    if not isinstance(features, Collection):  # asked here: a batch is carried through few files
        of_kind("the batch", features, Collection, "a list of packed rows", "take them from what pack_dataset gives")
    if not len(features):
        raise InputError(
            "the batch has no rows, a collator needs at least one; check the batch size and the sampler of the loader."
        )
    return features


def lengths_of(feature: Feature) -> Any:
    """The lengths of the documents of a row, from its own column or its tokens; None where neither tells."""
    if "seq_lengths" in feature:
        return feature["seq_lengths"]
    return getattr(feature.get("input_ids"), "seq_lengths", None)


def filled_up(row: Row, width: int, pad_token_id: int) -> Row:
    """The row with ``width`` tokens: what is missing is one segment more, that nobody trains on."""
    ids, labels, lengths = row
    short = width - len(ids)
    if not short:
        return row
    return (
        np.append(ids, np.full(short, pad_token_id)),
        np.append(labels, np.full(short, IGNORE)),
        np.append(lengths, short),
    )


def checked_row(feature: Feature) -> Row:
    """``input_ids``, ``labels`` and document lengths of a packed row, as arrays that must not be written to.

    Raises InputError when the row does not carry its seams, or when something has cut it since.
    """
    if not isinstance(feature, Mapping):
        of_kind(
            "a row", feature, Mapping, "a dict with input_ids and seq_lengths", "take it from what pack_dataset gives"
        )
    told = lengths_of(feature)
    if told is None or "input_ids" not in feature:
        missing = "seq_lengths" if "input_ids" in feature else "input_ids"
        raise InputError(
            f"a row has {', '.join(feature)} but no {missing}, the collator needs to know its documents; "
            "pack with pack_dataset, and in HF Trainer set remove_unused_columns=False so the column survives."
        )
    ids, lengths = np.asarray(feature["input_ids"]), np.asarray(told)
    if lengths.sum() != len(ids):
        raise InputError(
            f"a row has {len(ids)} input_ids but its seq_lengths add up to {lengths.sum()}, something cut it after "
            "packing; in TRL set SFTConfig(max_length=None), whose default is 1024."
        )
    if not len(lengths) or lengths.min() < 1:
        raise InputError(
            f"a row has seq_lengths {lengths.tolist()}, it needs documents of at least 1 token each; pack it again."
        )
    labels = np.asarray(feature["labels"]) if "labels" in feature else ids
    if len(labels) != len(ids):
        raise InputError(
            f"a row has {len(ids)} input_ids and {len(labels)} labels, they must be equally long; pack it again."
        )
    return ids, labels, lengths


def split_documents(feature: Feature) -> list[tuple[np.ndarray, np.ndarray]]:
    """The documents of a packed row as ``(input_ids, labels)``, the first label of each set to -100.

    Raises InputError when the row does not carry its seams, or when something has cut it since.
    """
    ids, labels, lengths = checked_row(feature)
    ids, labels = ids.astype(np.int64), labels.astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    labels[starts] = IGNORE
    return [(ids[s : s + n], labels[s : s + n]) for s, n in zip(starts, lengths, strict=True)]


def padded_batch(rows: Sequence[tuple[np.ndarray, ...]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """``(input_ids, labels)`` of each row as a batch, with positions that count through the whole row."""
    width = max(len(ids) for ids, _ in rows)
    return {
        "input_ids": padded([ids for ids, _ in rows], width, pad_token_id),
        "labels": padded([labels for _, labels in rows], width, IGNORE),
        "position_ids": torch.arange(width).expand(len(rows), width).contiguous(),
    }


def padded(rows: list[np.ndarray], width: int, value: int) -> torch.Tensor:
    """Rows of different lengths as one int64 tensor (rows, width), the right end filled with ``value``."""
    block = np.full((len(rows), width), value, dtype=np.int64)
    for line, row in zip(block, rows, strict=True):
        line[: len(row)] = row
    return torch.from_numpy(block)


def token_weights(feature: Feature, weighting: str) -> np.ndarray:
    """The weight of every token of a packed row, float64 of shape (tokens,); 0 where nothing is trained.

    ``weighting``: a name of ``WEIGHTINGS``. The weights of one of its units (token, document or row) add up to 1.
    The first token of a document is never trained, whatever its label says. InputError for an unknown name.
    """
    if weighting not in WEIGHTINGS:
        raise unknown_choice("loss_weighting", weighting, WEIGHTINGS)
    ids, labels, lengths = checked_row(feature)
    starts = np.cumsum(lengths) - lengths
    trained = labels != IGNORE
    trained[starts] = False
    unit = WEIGHTINGS[weighting].unit
    if unit == "token":
        return trained.astype(np.float64)
    if unit == "row":
        counts = np.full(len(ids), trained.sum())
    else:
        counts = np.repeat(np.add.reduceat(trained, starts, dtype=np.int64), lengths)
    return np.where(trained, 1 / np.maximum(counts, 1), 0.0)


def collate_weights(
    collate: Callable[[list[Any]], dict[str, Any]], features: Sequence[Feature], weights: list[np.ndarray]
) -> torch.Tensor:
    """Per-token weights laid out as ``collate`` lays out labels, float32 with 0 for padding.

    The collator is run on token numbers in place of labels; where they land, the weights go.
    """
    ends = np.cumsum([len(one) for one in weights])
    numbers = [np.arange(end - len(one), end) for end, one in zip(ends, weights)]
    places = collate([{**feature, "labels": number} for feature, number in zip(features, numbers)])["labels"]
    flat = torch.from_numpy(np.concatenate(weights)).float()
    return torch.where(places == IGNORE, 0.0, flat[places.clamp(min=0)])
