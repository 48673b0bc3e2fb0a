"""Next-token loss without fp32 copies of the logits.

A row of 16k tokens over a vocabulary of 32k has half a billion logits: 1 GB in bf16. ``F.cross_entropy`` in fp32 keeps
a cast copy, their log-softmax and two gradients, 14 bytes more for every one of them. Here nothing is kept but the
logits themselves, and both passes cast a block of tokens at a time:

    loss      = sum of w * -log_softmax(x)[label]
    gradient  = w * (softmax(x) - onehot(label))

The sums are F.cross_entropy's, in fp32 (or float64 for float64 logits); the tests hold the two together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from varlen_lab.packing.registry import IGNORE

# Logits that are cast at once. On a CPU as many as its cache holds; on a GPU more, for every launch of a kernel costs.
LOGITS_AT_ONCE = {"cpu": 2**20, "cuda": 2**26}


def summed_loss(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Sum of the next-token losses, in nats: a scalar, fp32 or wider.

    ``logits`` (B, T, V) in any float type, ``labels`` (B, T) int64 with -100 where nothing is trained, ``weights``
    (B, T) or None for 1 everywhere. Token t is predicted from position t - 1; nothing predicts a row's first token.
    """
    target = shifted(labels, IGNORE).flatten()
    scale = (target != IGNORE).to(torch.float32)
    if weights is not None:
        scale = scale * shifted(weights, 0).flatten()
    # clamp: gather needs a class that exists; what it finds for an untrained token has the scale 0
    return BlockwiseLoss.apply(logits.flatten(0, 1), target.clamp(min=0), scale)  # type: ignore[no-any-return]


def shifted(values: torch.Tensor, end: float) -> torch.Tensor:
    """What position t is to predict: the value of t + 1; ``end`` at the last."""
    return torch.cat([values[:, 1:], values.new_full((len(values), 1), end)], dim=1)


def blocks(logits: torch.Tensor) -> Iterator[slice]:
    """Tokens that are cast at once, one slice after the other."""
    tokens = max(1, LOGITS_AT_ONCE["cpu" if logits.device.type == "cpu" else "cuda"] // logits.shape[1])
    return (slice(at, at + tokens) for at in range(0, len(logits), tokens))


class BlockwiseLoss(torch.autograd.Function):
    """logits (N, V), target (N,) of existing classes, scale (N,) fp32, 0 where nothing is trained -> scalar."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, target: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        wide = torch.promote_types(logits.dtype, torch.float32)
        scale = scale.to(wide)
        total = torch.zeros((), dtype=wide, device=logits.device)
        for part in blocks(logits):
            log_probs = torch.log_softmax(logits[part], -1, dtype=wide)
            losses = -log_probs.gather(1, target[part, None])[:, 0]
            # a token that is not trained must not spoil the sum, whatever its logits are
            total += torch.where(scale[part] == 0, 0, losses * scale[part]).sum()
        # the softmax is computed again in backward: to keep it would cost a second copy of the logits
        ctx.save_for_backward(logits, target, scale)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # type: ignore[override]
        logits, target, scale = ctx.saved_tensors
        out = torch.empty_like(logits)
        scale = (scale * gradient)[:, None]
        for part in blocks(logits):
            probs = torch.softmax(logits[part], -1, dtype=scale.dtype)
            probs.scatter_add_(1, target[part, None], probs.new_full((len(probs), 1), -1.0))
            torch.mul(probs, scale[part], out=out[part])
            out[part].masked_fill_(scale[part] == 0, 0)  # 0 times what is not finite would not be 0
        return out, None, None
