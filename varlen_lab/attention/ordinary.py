"""Attention without seams, as transformers' own ``sdpa`` computes it: padded batches, caches, ``generate``."""

from __future__ import annotations

from typing import Any

import torch

from varlen_lab.attention.masks import DeferredMask


def ordinary_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | DeferredMask | None,
    *,
    softcap: float | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention without seams, by transformers' sdpa function (its eager formula where scores are capped)."""
    from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

    slopes = getattr(module, "alibi_slopes", None)
    if isinstance(mask, DeferredMask):
        if softcap is not None or slopes is not None:  # the formula below needs windows written out, not a hint
            mask.options["allow_is_causal_skip"] = False
        mask = mask.build()
    if softcap is None and slopes is None:
        return sdpa_attention_forward(module, query, key, value, mask, **options)
    group = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, group), repeat_kv(value, group)
    scores = query @ key.transpose(2, 3) * (options.get("scaling") or query.shape[-1] ** -0.5)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    # with a cache the queries are the last of the keys
    key_position = torch.arange(key.shape[2], device=key.device)
    query_position = key_position[-query.shape[2] :]
    back = query_position[:, None] - key_position[None, :]
    if slopes is not None:
        scores = scores - slopes[:, None, None].to(scores.dtype) * back.abs()
    seen = (back >= 0) if mask is None else mask
    return (scores.masked_fill(~seen, float("-inf")).softmax(-1) @ value).transpose(1, 2), None
