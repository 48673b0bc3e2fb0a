"""Faults of a batch: a mask too much, positions that run on, seams in wrong places, labels that should not be trained.

Every function takes a model and a batch that is right, and returns another batch. Seams and rows are those of the
batch: several rows, one-token documents and rows of one document are left as right as the fault allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from varlen_lab.leaks.traps import documents_of
from varlen_lab.packing.registry import IGNORE, SEAM_KEYWORDS

PLANES = 3  # time, height, width

Batch = dict[str, Any]


def without(batch: Mapping[str, Any], *names: str) -> Batch:
    """The batch with some of its keys left out."""
    return {name: value for name, value in batch.items() if name not in names}


def with_seams(batch: Batch, seams: torch.Tensor) -> Batch:
    """The batch with other seams, int32 (documents + 1,)."""
    seams = seams.to(torch.int32)
    longest = int(seams.diff().max())
    return batch | {"cu_seq_lens_q": seams, "cu_seq_lens_k": seams, "max_length_q": longest, "max_length_k": longest}


def for_our_attention(batch: Mapping[str, Any]) -> Batch:
    """The batch with seams and positions that restart: what our attention is given."""
    documents, _ = documents_of(batch, None)
    placed = {"position_ids": documents.position_ids().view(batch["input_ids"].shape), **batch}
    return placed if "cu_seq_lens_q" in batch else with_seams(placed, documents.cu_seqlens)


def for_stock_attention(batch: Mapping[str, Any]) -> Batch:
    """The batch without seams and cache, with positions that restart: what transformers' own attention is given."""
    return without(for_our_attention(batch), *SEAM_KEYWORDS) | {"use_cache": False}


def inner_seams(seams: torch.Tensor, width: int) -> torch.Tensor:
    """The seams between two documents of one row of ``width`` tokens: those that can be got wrong."""
    return seams[seams % width != 0]


def seams_without(seams: torch.Tensor, *lost: int) -> torch.Tensor:
    """The seams but for some."""
    return seams[~torch.isin(seams, torch.tensor(lost, dtype=seams.dtype, device=seams.device))]


# -------------------------------------------------------------------------------------- for transformers' attention


def default_cache(model: Any, batch: Batch) -> Batch:
    """``use_cache`` is left to the config, or passed where the config has it off."""
    config = getattr(model, "config", None)
    return without(batch, "use_cache") if getattr(config, "use_cache", False) else batch | {"use_cache": True}


def all_ones_mask(model: Any, batch: Batch) -> Batch:
    """An attention mask that masks nothing."""
    return batch | {"attention_mask": torch.ones_like(batch["input_ids"])}


def positions_run_on(model: Any, batch: Batch) -> Batch:
    """Positions 0, 1, 2, ... to the end of each row."""
    ids = batch["input_ids"]
    return batch | {"position_ids": torch.arange(ids.shape[1], device=ids.device).repeat(len(ids), 1)}


def seams_for_another_attention(model: Any, batch: Batch) -> Batch:
    """Seams, and positions that do not say the same."""
    return with_seams(positions_run_on(model, batch), documents_of(batch, None)[0].cu_seqlens)


def planes_restart(model: Any, batch: Batch) -> Batch:
    """Positions of text in planes of time, height and width (3, rows, T): alike, and each restarts."""
    return batch | {"position_ids": batch["position_ids"].expand(PLANES, *batch["input_ids"].shape).contiguous()}


def planes_run_on(model: Any, batch: Batch) -> Batch:
    """Planes that count through the row, and seams beside them."""
    return planes_restart(model, seams_for_another_attention(model, batch))


# ------------------------------------------------------------------------------------------------- for our attention


def one_document(model: Any, batch: Batch) -> Batch:
    """Seams that say that every row is one document."""
    ids = batch["input_ids"]
    return with_seams(batch, torch.arange(0, ids.numel() + 1, ids.shape[1], device=ids.device))


def last_seam_missing(model: Any, batch: Batch) -> Batch:
    """The last two documents of a row, of which the second is padding, are one."""
    seams = batch["cu_seq_lens_q"]
    inner = inner_seams(seams, batch["input_ids"].shape[1])
    return with_seams(batch, seams_without(seams, int(inner[-1]))) if len(inner) else batch  # a row of one document


def late_seams(model: Any, batch: Batch) -> Batch:
    """Every seam inside of a row one token too far to the right; none where that is the end of the row."""
    seams = batch["cu_seq_lens_q"]
    return with_seams(batch, torch.where(seams % batch["input_ids"].shape[1] != 0, seams + 1, seams).unique())


# --------------------------------------------------------------------------------------------------------- in labels


def labels_of(batch: Batch) -> torch.Tensor:
    """The labels of a batch; without them all tokens are trained."""
    labels: torch.Tensor = batch["labels" if "labels" in batch else "input_ids"]
    return labels


def border_label(model: Any, batch: Batch) -> Batch:
    """The first label of every document is trained on, as if the row were one text."""
    starts = documents_of(batch, None)[0].cu_seqlens[:-1].long()
    ids = batch["input_ids"]
    labels = labels_of(batch).clone()
    labels.view(-1)[starts] = ids.reshape(-1)[starts]
    return batch | {"labels": labels}


def prompts_trained(model: Any, batch: Batch) -> Batch:
    """A mask of the answers, and labels that train all tokens.

    Answers are what the labels train, or, where they train every document whole, the second half of each.
    """
    documents, ids = documents_of(batch, None)[0], batch["input_ids"]
    starts = documents.cu_seqlens[:-1].long()
    answers = labels_of(batch).reshape(-1) != IGNORE
    answers[starts] = True  # no first token is trained, which says nothing
    if bool(answers.all()):
        halves = torch.div(documents.lengths, 2, rounding_mode="floor").clamp(min=2)
        answers = documents.position_ids() >= halves[documents.document_ids().long()]
    answers[starts] = False
    labels = ids.reshape(-1).clone()
    labels[starts] = IGNORE
    return batch | {"labels": labels.view(ids.shape), "completion_mask": answers.long().view(ids.shape)}
