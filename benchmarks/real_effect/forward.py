"""Before any training: what the answers cost a model that reads its documents apart, packed, or restarting in one row.

The same documents stand in rows of several lengths, so a difference is taken document by document and its standard
error is that over documents. Under varlen a document costs the same in every row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.real_effect.arms import MODES, collate_of
from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError
from varlen_lab.models.building import build_model
from varlen_lab.packing.registry import IGNORE
from varlen_lab.packing.rows import document_lengths
from varlen_lab.packing.strategies import Packs, pack_lengths, packed_rows
from varlen_lab.training.data import load_tokenizer, pad_id, tokenised_documents
from varlen_lab.training.loss import summed_loss

if TYPE_CHECKING:
    from datasets import Dataset

COMPARED = ("varlen", "packed", "restarting")  # the first is what the others are compared with
PACKED = "best_fit"


def forward_table(config: Config, row_lengths: Sequence[int], count: int) -> dict[str, Any]:
    """Losses of ``count`` drawn documents in rows of each length, and what was left out."""
    tokenizer = load_tokenizer(config)
    everything = tokenised_documents(config, tokenizer)
    fits = np.flatnonzero(document_lengths(everything) <= min(row_lengths))
    if not len(fits):
        raise InputError(
            f"no document of {config.data_path!r} has at most {min(row_lengths)} tokens; take longer rows."
        )
    chosen = np.sort(np.random.default_rng(1).permutation(fits)[:count])
    documents = everything.select(chosen)
    table: dict[str, Any] = {
        "documents": len(documents),
        "tokens": int(document_lengths(documents).sum()),
        "longer_left_out": len(everything) - len(fits),
        "rows": {},
    }
    plans = {length: pack_lengths(document_lengths(documents), length, PACKED) for length in row_lengths}
    losses: dict[int, dict[str, np.ndarray]] = {length: {} for length in row_lengths}
    for mode in COMPARED:
        model = build_model(config.with_mode(MODES[mode])).eval()
        for length, plan in plans.items():
            losses[length][mode] = document_losses(model, mode, documents, plan, pad_id(tokenizer))
    for length, plan in plans.items():
        sums = {mode: found[:, 0] for mode, found in losses[length].items()}
        trained = losses[length]["varlen"][:, 1]
        first = np.isin(np.arange(len(documents)), plan.order[plan.offsets[:-1]])  # nothing stands before these
        table["rows"][str(length)] = {"rows": len(plan), **summary(sums, trained), **first_of_row(sums, first)}
    return table


@torch.no_grad()
def document_losses(model: Any, mode: str, documents: Dataset, plan: Packs, pad: int) -> np.ndarray:
    """Summed loss and trained tokens of every document in the rows of a plan, float64 (documents, 2), in nats."""
    rows = packed_rows(documents, plan).with_format("numpy")
    found = np.zeros((len(documents), 2))
    for number in range(len(plan)):
        inputs = collate_of(mode, pad)([rows[number]])
        labels = inputs.pop("labels")
        logits = model(**inputs, use_cache=False).logits
        at = 0
        for document, length in zip(plan[number], plan.seq_lengths(number), strict=True):
            part = slice(at, at + length)
            loss, trained = summed_loss(logits[:, part], labels[:, part]), (labels[:, part] != IGNORE).sum()
            found[document] = float(loss), float(trained)
            at += length
    return found


def summary(sums: dict[str, np.ndarray], trained: np.ndarray) -> dict[str, Any]:
    """Mean loss a trained token under varlen, and what each other mode adds, with its standard error over documents."""
    base = COMPARED[0]
    table: dict[str, Any] = {base: float(sums[base].sum() / trained.sum())}
    for mode in COMPARED[1:]:
        mean, error = mean_and_error(sums[mode] - sums[base], trained)
        table[f"{mode} - {base}"] = {"mean": mean, "standard_error": error}
    return table


def mean_and_error(extra: np.ndarray, trained: np.ndarray) -> tuple[float, float]:
    """``sum(extra) / sum(trained)`` and its standard error where documents are what was drawn; nan for a single one."""
    mean = float(extra.sum() / trained.sum())
    if len(extra) < 2:
        return mean, float("nan")
    # of a ratio: what each document deviates from the mean times its tokens
    spread = ((extra - mean * trained) ** 2).sum() * len(extra) / (len(extra) - 1)
    return mean, float(np.sqrt(spread) / trained.sum())


def first_of_row(sums: dict[str, np.ndarray], first: np.ndarray) -> dict[str, float]:
    """The largest relative difference of any mode in documents that stand first in a row: rounding, or a mistake."""
    base = sums[COMPARED[0]][first]
    gaps = [np.abs(sums[mode][first] - base) / np.maximum(np.abs(base), 1e-9) for mode in COMPARED[1:]]
    return {"first_of_row": float(np.max(gaps)) if first.any() else 0.0}
