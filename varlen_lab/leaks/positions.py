"""Positions that run on through a row, where attention knows the seams: harmless under RoPE, and said so.

Rotary embeddings turn queries and keys by their positions, and a score knows the distance alone: documents come out as
they are alone, but for what a larger angle rounds. A learned table of positions is another matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch

from varlen_lab.errors import InputError
from varlen_lab.leaks.measure import Parity, parity
from varlen_lab.leaks.precision import MOVED, is_rounding
from varlen_lab.leaks.running import CannotRun
from varlen_lab.packing.boundaries import Boundaries

BY_LENGTH = ("dynamic", "longrope")  # their frequencies depend on how far positions go


def harmless_positions(model: Any, batch: Mapping[str, Any], documents: Boundaries, measured: Parity) -> str | None:
    """A note where rotary positions that run on are all that is different from documents alone; else None.

    ``measured``: the parity of ``batch``, of which no gradient crosses a seam.
    """
    ids, own = batch["input_ids"], batch.get("position_ids")
    restarting = documents.position_ids().view(ids.shape)
    if own is not None and own.ndim == 3:  # those of images do not shift as one
        if bool((own != own[:1]).any()):
            return None
        restarting = restarting.expand(own.shape[0], *ids.shape)
    rotary = [module for module in model.modules() if hasattr(module, "inv_freq") or hasattr(module, "rope_type")]
    if not rotary or any(getattr(module, "rope_type", None) in BY_LENGTH for module in rotary):
        return None
    if not measured.within(MOVED) or (
        own is not None and (own.shape != restarting.shape or torch.equal(own, restarting))
    ):
        return None
    with suppress(CannotRun, InputError):
        if is_rounding(parity(model, {**batch, "position_ids": restarting}, documents)):
            return (
                f"position_ids run on through the row: harmless with {type(rotary[0]).__name__}, for attention knows "
                f"the seams and a score the distance alone; logits differ by {measured.logits:.1e}, and by rounding "
                "only where they start again at 0 in every document"
            )
    return None
