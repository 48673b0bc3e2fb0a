"""The oracle: attention inside documents, written out so that it can be checked with a pencil.

T = tokens in the row, L = tokens in one document, H = query heads, K = key/value heads, D = head dim, V = value dim.
Works in any dtype and on any device; in float64 it is what every fast path is measured against. Slow on purpose.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from varlen_lab.packing.boundaries import Boundaries


class Options(NamedTuple):
    """What a backend is asked for beside q, k, v and the boundaries: the arguments of ``attend``, checked."""

    scale: float
    causal: bool = True
    window: int | None = None  # tokens a query sees, itself included
    softcap: float | None = None
    alibi_slopes: torch.Tensor | None = None  # (H,)
    sinks: torch.Tensor | None = None  # (H,)


def attend_reference(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, boundaries: Boundaries, options: Options
) -> torch.Tensor:
    """q (T, H, D), k (T, K, D), v (T, K, V) -> (T, H, V); see ``attend`` for the options."""
    group = q.shape[1] // k.shape[1]  # how many query heads share one key/value head
    outputs = []
    for start, end in boundaries.spans:
        q_LHD = q[start:end]
        k_LHD = k[start:end].repeat_interleave(group, dim=1)
        v_LHV = v[start:end].repeat_interleave(group, dim=1)
        scores_HLL = torch.einsum("ihd,jhd->hij", q_LHD, k_LHD) * options.scale
        if options.softcap is not None:
            scores_HLL = options.softcap * torch.tanh(scores_HLL / options.softcap)
        position = torch.arange(end - start, device=q.device)
        back = position[:, None] - position[None, :]  # how far key j lies behind query i
        if options.alibi_slopes is not None:
            scores_HLL = scores_HLL - options.alibi_slopes[:, None, None].to(scores_HLL.dtype) * back.abs()
        scores_HLL = scores_HLL.masked_fill(~visible(back, options), float("-inf"))
        outputs.append(torch.einsum("hij,jhv->ihv", weights(scores_HLL, options.sinks), v_LHV))
    return torch.cat(outputs)


def weights(scores: torch.Tensor, sinks: torch.Tensor | None) -> torch.Tensor:
    """Softmax over keys: scores (..., H, Q, K), sinks (H,) -> (..., H, Q, K), with sinks less than 1 in sum.

    A sink is the score of one more key, whose value is zero: neither scaled, capped nor biased (GPT-OSS).
    """
    if sinks is None:
        return scores.softmax(dim=-1)
    sink = sinks.to(scores.dtype)[:, None, None].expand(*scores.shape[:-1], 1)
    return torch.cat([scores, sink], dim=-1).softmax(dim=-1)[..., :-1]


def visible(back: torch.Tensor, options: Options) -> torch.Tensor:
    """Which keys a query may see, given how far back they lie: not the future, and at most ``window`` tokens.

    Without ``causal`` the window reaches as far ahead as back: ``window - 1`` tokens on each side of the query's own.
    So flash-attn means it, and the ``sliding_window`` that layers of transformers pass to attention. Its bidirectional
    *mask* of n shows tokens that lie n away too: to us ``window = n + 1``.
    """
    seen = back >= 0 if options.causal else torch.ones_like(back, dtype=torch.bool)
    return seen if options.window is None else seen & (back.abs() < options.window)
