"""The loss of a batch from the hidden states that go into the model's head, where its logits would not fit.

The head of the model is replaced for one forward pass: it adds up the losses of the batch chunk by chunk
(``training/chunks.py``), inside the forward pass of whatever wraps the model, and gives a few zeros back in the place
of T x V logits.

Before a model's first such batch both ways are computed on a few of its tokens (``training/head_proof.py``). A model
where they do not agree keeps its logits, and one warning says why. What the model does after its head is watched in
every batch: where it is not what was proven, the batch is computed again, with logits.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from weakref import WeakKeyDictionary

import torch

from varlen_lab.leaks.head import head_of
from varlen_lab.packing.registry import IGNORE
from varlen_lab.training import lm_head
from varlen_lab.training.chunks import Head
from varlen_lab.training.head_proof import Unsuited, prove
from varlen_lab.training.liger import best_loss
from varlen_lab.training.lm_head import classes_of, head_replaced, unwrapped
from varlen_lab.training.loss import shifted
from varlen_lab.training.tail import Tail, Watch

FEW = 8  # tokens on which both ways must agree

found: WeakKeyDictionary[torch.nn.Module, dict[tuple[Any, ...], Tail | str]] = WeakKeyDictionary()


def loss_from_hidden(
    model: torch.nn.Module, inputs: dict[str, Any], labels: torch.Tensor, weights: torch.Tensor | None
) -> torch.Tensor | None:
    """What ``summed_loss`` is of the model's logits, without them; None where the model must keep them."""
    plain = unwrapped(model)
    tail = proven(model, plain, inputs)
    if tail is None:
        return None
    head = head_of(plain)
    assert head is not None
    target, scale = shifted(labels, IGNORE).flatten(), torch.ones((), device=labels.device)
    scale = scale.expand(target.shape) if weights is None else shifted(weights, 0).flatten()
    # before the forward pass is queued: on a GPU the CPU waits for the count
    rows = ((target != IGNORE) & (scale != 0)).nonzero()[:, 0]
    target, scale = target[rows], scale[rows]
    losses, watches, logits = [], [], []  # of the one call of the head, and what the model gives back

    def summing(hidden: torch.Tensor, forward: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        if hidden.shape[:-1] != labels.shape:
            raise RuntimeError(
                f"hidden states {tuple(hidden.shape)} went into the head for labels {tuple(labels.shape)}"
            )
        one = Head(head, forward, tail if tail.last else None, classes_of(model, head))
        states = hidden.flatten(0, 1)[rows]
        losses.append(best_loss(one, states, target, weights is not None)(one, states, target, scale))
        zeros = Placeholder.apply(losses[0], one.classes, tail.dtype)
        watches.append(until_after.enter_context(Watch(zeros)))
        return zeros  # type: ignore[no-any-return]

    # of the model itself: DDP may give back other tensors
    seen = plain.register_forward_hook(lambda *call: logits.append(call[-1].logits))
    try:
        with ExitStack() as until_after, head_replaced(head, summing):
            model(**inputs, use_cache=False)
    finally:
        seen.remove()
    if len(losses) != 1 or watches[0].by_place or watches[0].tail(logits[-1]) != tail:
        keep_logits(plain, "what it does with the output of its head is not the same in every batch")
        return None
    return losses[0]


class Placeholder(torch.autograd.Function):
    """A loss in, (1, 1, V) zeros out: DDP looks from a model's outputs for the weights that were used."""

    @staticmethod
    def forward(ctx: Any, loss: torch.Tensor, classes: int, dtype: torch.dtype) -> torch.Tensor:
        return loss.new_zeros((1, 1, classes), dtype=dtype)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # type: ignore[override]
        return gradient.new_zeros(()), None, None


def proven(model: torch.nn.Module, plain: torch.nn.Module, inputs: dict[str, Any]) -> Tail | None:
    """The tail of a model for which both ways agree, found once; None, and once a warning, for any other."""
    known, key = found.setdefault(plain, {}), way_of(plain)
    if key not in known:
        try:
            known[key] = prove(model, plain, inputs["input_ids"][:1, :FEW])
        except Unsuited as reason:
            keep_logits(plain, str(reason))
    answer = known[key]
    return None if isinstance(answer, str) else answer


def way_of(plain: torch.nn.Module) -> tuple[Any, ...]:
    """The ways in which one model may compute its logits: each is proven by itself."""
    return plain.training, torch.is_autocast_enabled(next(plain.parameters()).device.type)


def keep_logits(plain: torch.nn.Module, reason: str) -> None:
    """From now on this model builds its logits, computed as now; said once."""
    known = found[plain]
    if reason not in known.values():
        size = f"over {lm_head.LOGITS_BUDGET >> 20} MB of them"
        warnings.warn(f"the logits of {type(plain).__name__} are built whole, {size}: {reason}.", stacklevel=5)
    known[way_of(plain)] = reason
