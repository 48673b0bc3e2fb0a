"""Liger's fused loss in the place of our chunks: on CUDA, where ``liger_kernel`` is there and gives the same.

It is asked once for each head, on the first tokens of the packed batch at hand: loss and gradients must be those of
``training/chunks.py``. What differs, or fails, is refused by name in one warning, and the chunks stay. Token weights,
and what a model does after its head, are beyond it.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch

from varlen_lab.errors import first_line
from varlen_lab.training.chunks import Head, summed_loss_of
from varlen_lab.training.head_proof import Unsuited, same_loss

FIRST = 64  # tokens that are computed both ways
SummedLoss = Callable[[Head, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

found: WeakKeyDictionary[torch.nn.Module, bool] = WeakKeyDictionary()


def best_loss(head: Head, hidden: torch.Tensor, target: torch.Tensor, weighted: bool) -> SummedLoss:
    """Which function sums the losses of this head: Liger's where it is proven, else ``summed_loss_of``.

    ``hidden`` (N, D) of the trained tokens, ``target`` (N,) their classes; ``weighted``: whether tokens have weights.
    """
    if hidden.device.type != "cuda" or importlib.util.find_spec("liger_kernel") is None:
        return summed_loss_of
    if weighted or head.tail is not None or type(head.module) is not torch.nn.Linear or not len(hidden):
        return summed_loss_of
    if head.module not in found:
        found[head.module] = is_proven(head, hidden, target, liger_loss)
    return liger_loss if found[head.module] else summed_loss_of


def is_proven(head: Head, hidden: torch.Tensor, target: torch.Tensor, candidate: SummedLoss) -> bool:
    """Whether ``candidate`` gives the loss and the gradients of our chunks; where not, one warning says why."""
    few, classes = hidden[:FIRST].detach().requires_grad_(), target[:FIRST]
    ones = torch.ones(len(classes), device=few.device)
    try:
        with torch.enable_grad():
            ways = [summed_loss_of(head, few, classes, ones), candidate(head, few, classes, ones)]
            logits = head.forward(few.detach()[None])
            same_loss(ways, [few, *head.trained], logits, "with Liger's kernel")
    except Unsuited as reason:
        warnings.warn(f"Liger's loss is not used: {reason}.", stacklevel=2)
        return False
    except Exception as error:  # a kernel that does not compile or launch raises anything
        warnings.warn(
            f"Liger's loss is not used, it fails here ({type(error).__name__}: {first_line(error)}).", stacklevel=2
        )
        return False
    return True


def liger_loss(head: Head, hidden: torch.Tensor, target: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """As ``summed_loss_of``, by Liger's kernel; every weight in ``scale`` is 1. Source: liger_kernel 0.8."""
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    linear = head.module
    return liger_fused_linear_cross_entropy(  # type: ignore[no-any-return]
        hidden, linear.weight, target, linear.bias, reduction="sum", accum_dtype=torch.float32
    )
