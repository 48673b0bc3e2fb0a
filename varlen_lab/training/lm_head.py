"""The head of a model, which makes T x V logits of hidden states: how much that is, and another in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from varlen_lab.leaks.head import head_of

LOGITS_BUDGET = 256 * 2**20  # bytes of logits and their gradient: below it they are built


def large(model: torch.nn.Module, tokens: int) -> bool:
    """Whether the logits of ``tokens`` and their gradient are over the budget."""
    head = head_of(unwrapped(model))
    if head is None:
        return False
    weight = next((p for p in head.parameters() if p.is_floating_point()), None)
    size = 4 if weight is None else weight.element_size()
    copies = 2 if torch.is_grad_enabled() else 1
    return tokens * classes_of(model, head) * size * copies > LOGITS_BUDGET


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """The model inside DDP or DeepSpeed."""
    inside = getattr(model, "module", None)
    return unwrapped(inside) if isinstance(inside, torch.nn.Module) else model


def classes_of(model: torch.nn.Module, head: torch.nn.Module) -> int:
    """V."""
    known = getattr(head, "out_features", None)
    return int(known or unwrapped(model).config.get_text_config().vocab_size)  # type: ignore[union-attr, operator]


@contextmanager
def head_replaced(
    head: torch.nn.Module, instead: Callable[[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]], torch.Tensor]
) -> Iterator[None]:
    """While it lasts, the head computes ``instead(hidden states, its own forward)``; hooks on it run as always."""
    own = vars(head).get("forward")  # others may have replaced it before
    forward = head.forward
    head.forward = lambda hidden: instead(hidden, forward)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        if own is None:
            del head.forward
        else:
            head.forward = own  # type: ignore[method-assign]
