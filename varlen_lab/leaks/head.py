"""What a model gives without T x V logits: its head's input, and the logits of a few tokens at a time.

Of a vocabulary of 49 thousand the logits of 608 tokens are 120 MB, and a loss and its gradient hold three times that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from varlen_lab.errors import InputError
from varlen_lab.leaks.running import CannotRun, host_of
from varlen_lab.packing.registry import IGNORE

LARGE = 2**24  # logits; fewer are held whole
AT_ONCE = 2**21  # logits that are made at a time
SUMS = 16  # random sums of the logits, in place of all of them


class Outputs(NamedTuple):
    """What one run of a model gave: ``hidden`` (T, C) and the ``head`` that makes logits of it, or these and None."""

    hidden: torch.Tensor
    head: torch.nn.Linear | None = None

    def spans(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Tokens from ``start`` to ``end`` in parts, of which the logits are made at once."""
        rows = max(1, end - start) if self.head is None else max(1, AT_ONCE // self.head.out_features)
        return ((first, min(end, first + rows)) for first in range(start, end, rows))

    def logits(self, start: int, end: int) -> torch.Tensor:
        """Logits (tokens, V) of some tokens, without a graph."""
        with torch.no_grad():
            part = self.hidden[start:end]
            return part if self.head is None else self.head(part)

    def loss(
        self, labels: torch.Tensor, count: int, trained: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        """The sum of next-token losses over ``count``, and its gradients at what is ``trained``; the graph is used up.

        ``labels`` (T,), the first of each document ignored.
        """
        if self.head is None:
            loss = loss_of(self.hidden, labels) / count
            asked = trained and loss.requires_grad
            return loss.detach(), list(torch.autograd.grad(loss, trained, allow_unused=True)) if asked else []
        targets = F.pad(labels[1:], (0, 1), value=IGNORE)
        given = self.hidden.detach().requires_grad_(bool(trained) and self.hidden.requires_grad)
        parts = []
        summed: list[torch.Tensor | None] = [None] * (1 + len(trained))
        for start, end in self.spans(0, len(targets)):
            logits = finer(self.head(given[start:end]))
            part = F.cross_entropy(logits, targets[start:end], ignore_index=IGNORE, reduction="sum") / count
            parts.append(part.detach())
            if given.requires_grad:
                summed = added(summed, torch.autograd.grad(part, [given, *trained], allow_unused=True))
        loss = torch.stack(parts).sum()
        if not given.requires_grad:
            return loss, []
        slope, at_head = summed[0], summed[1:]
        return loss, added(at_head, torch.autograd.grad(self.hidden, trained, slope, allow_unused=True))


def outputs_of(head: torch.nn.Linear | None, go: Callable[[], torch.Tensor]) -> Outputs:
    """What ``go()``, which returns the logits (T, V) of a model, gives; from before the head if what that gives is it.

    Where a model does something else to its logits (a cap, a scale, another dtype), they are held whole.
    """
    if head is not None:
        with narrow(head) as calls, suppress(CannotRun, InputError):  # who needs all the logits is given them
            logits = go()
            if is_last(calls, logits):
                x, made = calls[0]
                if x.dtype is made.dtype is head.weight.dtype:
                    return Outputs(x.flatten(0, -2), head)
    return Outputs(go())


Calls = list[tuple[torch.Tensor, torch.Tensor]]  # of a head: what it was given, what it made


@contextmanager
def narrow(head: torch.nn.Linear) -> Iterator[Calls]:
    """A head gives a few random sums of its logits while it lasts, in place of them; yields its calls."""
    own, calls = dict(head._parameters), Calls()
    mix = torch.randn(SUMS, head.weight.shape[0], generator=torch.Generator().manual_seed(1)).to(head.weight)
    mix /= mix.shape[1] ** 0.5
    handle = head.register_forward_hook(lambda _, given, made: calls.extend((x, made) for x in given[:1]))
    try:
        for name, x in own.items():
            if x is not None:
                head._parameters[name] = torch.nn.Parameter(mix @ x.detach(), requires_grad=False)
        yield calls
    finally:
        handle.remove()
        head._parameters.update(own)


def is_last(calls: Calls, logits: torch.Tensor) -> bool:
    """Whether a model's logits are what its head made in its only call: sums do not show what befalls some of them."""
    made = calls[0][1] if len(calls) == 1 else None
    return (
        made is not None
        and (made.data_ptr(), made.numel()) == (logits.data_ptr(), logits.numel())
        and made._version == 0
    )


def head_of(model: Any) -> torch.nn.Module | None:
    """The module that makes the logits of a model, where it says which."""
    try:
        head = model.get_output_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    return head if isinstance(head, torch.nn.Module) else None


def plain_head(model: Any) -> torch.nn.Linear | None:
    """The head of a model, if it is torch's Linear, nobody has hung anything on it, and its weight is whole."""
    head = head_of(host_of(model))
    if type(head) is not torch.nn.Linear or "forward" in vars(head):
        return None
    if head._forward_hooks or head._forward_pre_hooks or head._backward_hooks or head._backward_pre_hooks:
        return None
    weights = [x for x in head._parameters.values() if x is not None]
    whole = all(type(x) is torch.nn.Parameter and x.is_floating_point() and not x.is_meta for x in weights)
    whole = whole and "weight" in head._parameters and head.weight.shape == (head.out_features, head.in_features)
    return head if whole else None


def loss_of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum of next-token losses; logits (T, V), labels (T,) with the first of each document ignored."""
    return F.cross_entropy(finer(logits[:-1]), labels[1:], ignore_index=IGNORE, reduction="sum")


def finer(logits: torch.Tensor) -> torch.Tensor:
    """Logits in float32 at least."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def added(known: Sequence[torch.Tensor | None], more: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
    """Gradients and more of them; None stands for a parameter that takes no part, such as an expert without tokens."""
    return [b if a is None else a if b is None else a + b for a, b in zip(known, more, strict=True)]
