"""FlexAttention with a document mask: the one CUDA kernel for scores that are capped or biased.

``mask_mod`` says who sees whom, ``score_mod`` what happens to a score; torch.compile makes a kernel of both. Without a
GPU it only runs forward, uncompiled and without saving any work, which is enough to test the two functions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from varlen_lab.attention.flash import same_head_dim
from varlen_lab.errors import InputError
from varlen_lab.packing.boundaries import Boundaries


def attend_flex(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    boundaries: Boundaries,
    *,
    causal: bool,
    scale: float,
    window: int | None,
    softcap: float | None,
    alibi_slopes: torch.Tensor | None,
) -> torch.Tensor:
    """q (T, H, D), k (T, K, D), v (T, K, V) -> (T, H, V); see ``attend`` for the arguments."""
    from torch.nn.attention.flex_attention import create_block_mask

    if q.device.type != "cuda" and torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        raise InputError(
            f"backend 'flex' has no backward on {q.device.type}; use backend='sdpa', or 'reference' for a softcap."
        )
    total = len(q)
    mask = create_block_mask(
        mask_mod(boundaries.document_ids(), causal, window), None, None, total, total, device=q.device
    )
    q_, k_, v_ = same_head_dim(q, k, v)
    out = kernel(q.device.type)(
        *(x.transpose(0, 1)[None] for x in (q_, k_, v_)),
        score_mod=score_mod(softcap, alibi_slopes),
        block_mask=mask,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return out[0].transpose(0, 1)[..., : v.shape[-1]]


def mask_mod(document: torch.Tensor, causal: bool, window: int | None) -> Callable[..., torch.Tensor]:
    """Query i sees key j: the same document, not later, not farther back than the window."""

    def visible(batch: Any, head: Any, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        seen = document[i] == document[j]
        if causal:
            seen = seen & (i >= j)
        if window is not None:
            seen = seen & ((i - j).abs() < window)
        return seen

    return visible


def score_mod(softcap: float | None, alibi_slopes: torch.Tensor | None) -> Callable[..., torch.Tensor] | None:
    """Capped first, then biased, as the reference does; None where a score stays as it is."""
    if softcap is None and alibi_slopes is None:
        return None

    def changed(score: torch.Tensor, batch: Any, head: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        if softcap is not None:
            score = softcap * torch.tanh(score / softcap)
        if alibi_slopes is not None:
            score = score - alibi_slopes[head] * (i - j).abs()
        return score

    return changed


@cache
def kernel(device: str) -> Callable[..., torch.Tensor]:
    """``flex_attention``, compiled where there is a compiler for it; rows of any length share one kernel."""
    from torch.nn.attention.flex_attention import flex_attention

    compiled: Any = torch.compile(flex_attention, dynamic=True) if device == "cuda" else flex_attention
    return compiled
