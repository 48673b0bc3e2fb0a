"""Next-token loss from what goes into the language model head: never more than a chunk of logits at a time.

2,048 tokens over a vocabulary of 49k have 0.4 GB of fp32 logits, and their gradient is as large. Here a chunk of
tokens goes through the head, its logits become their own gradient, and that goes back through the head at once, all in
the forward pass; what is kept for the backward pass has the shape of the hidden states and of the head's weights.

    plain nn.Linear   three matrix products a chunk, the weight's gradient added up in place
    any other head    (NormHead, LoRA, a bias of its own kind) autograd through the module itself, chunk by chunk

Tokens that are not trained never reach the head.

torch's own F.linear_cross_entropy (from 2.13) has no weights per token, and takes more time and memory on a CPU:
`python -m benchmarks.loss` measures both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from varlen_lab.training.loss import blocks
from varlen_lab.training.tail import Tail

# Logits that exist at once. On a CPU few enough to cost no memory, enough for quick products; on a GPU more.
LOGITS_IN_A_CHUNK = {"cpu": 2**23, "cuda": 2**27}


class Head(NamedTuple):
    """A head as the loss calls it."""

    module: torch.nn.Module
    forward: Callable[[torch.Tensor], torch.Tensor]  # hidden states (1, N, D) -> (1, N, V): as it was before we took it
    tail: Tail | None  # what the model does with the logits; None: nothing
    classes: int
    tokens: int = 0  # in a chunk; 0: as many as LOGITS_IN_A_CHUNK has room for

    @property
    def trained(self) -> list[torch.nn.Parameter]:
        return [p for p in self.module.parameters() if p.requires_grad]

    def chunks(self, hidden: torch.Tensor) -> list[slice]:
        room = LOGITS_IN_A_CHUNK["cpu" if hidden.device.type == "cpu" else "cuda"]
        size = self.tokens or max(1, room // self.classes)
        return [slice(at, at + size) for at in range(0, len(hidden), size)]


def summed_loss_of(head: Head, hidden: torch.Tensor, target: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Sum of ``scale`` times the loss of each token, in nats: a scalar, fp32 or wider.

    ``hidden`` (N, D) of the trained tokens, ``target`` (N,) their classes, ``scale`` (N,) their weights.
    """
    return ChunkedLoss.apply(head, torch.is_grad_enabled(), hidden, target, scale, *head.trained)  # type: ignore[no-any-return]


class ChunkedLoss(torch.autograd.Function):
    """Gradients are made in the forward pass, where a chunk's logits are at hand; the backward pass scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        head: Head,
        backward: bool,
        hidden: torch.Tensor,
        target: torch.Tensor,
        scale: torch.Tensor,
        *weights: torch.Tensor,
    ) -> torch.Tensor:
        wanted: list[torch.Tensor] = [hidden, *weights] if backward else []
        grads: list[torch.Tensor | None] = [
            torch.zeros_like(one, dtype=torch.promote_types(one.dtype, torch.float32)) if backward and needed else None
            for one, needed in zip(wanted, ctx.needs_input_grad[2:3] + ctx.needs_input_grad[5:], strict=False)
        ]
        through = by_products if type(head.module) is torch.nn.Linear else by_autograd
        total = through(head, hidden.detach(), target, scale, grads)
        ctx.grads, ctx.dtypes = grads, [one.dtype for one in wanted]
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:  # type: ignore[override]
        if ctx.grads is None:
            raise RuntimeError("the gradients of this loss were used up by an earlier backward pass")
        scaled = [None if made is None else made.mul_(gradient) for made in ctx.grads]
        ctx.grads = None
        hidden, *weights = [
            None if made is None else made.to(dtype) for made, dtype in zip(scaled, ctx.dtypes, strict=True)
        ]
        return None, None, hidden, None, None, *weights


def by_products(
    head: Head,
    hidden: torch.Tensor,
    target: torch.Tensor,
    scale: torch.Tensor,
    grads: list[torch.Tensor | None],
) -> torch.Tensor:
    """The loss through a plain Linear; gradients of hidden states and weights are added to those of ``grads``."""
    linear: Any = head.module
    weight, bias = linear.weight.detach(), linear.bias
    order = [id(p) for p in head.trained]
    into, *rest = grads or [None]
    of = dict(zip(order, rest, strict=False))
    into_weight, into_bias = of.get(id(linear.weight)), of.get(id(bias))
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind):  # cast once, not in each chunk
        hidden, weight = (one.to(torch.get_autocast_dtype(kind)) for one in (hidden, weight))
        bias = bias if bias is None else bias.to(weight.dtype)
    total = torch.zeros((), dtype=torch.promote_types(weight.dtype, torch.float32), device=hidden.device)
    with torch.autocast(kind, enabled=False):
        for part in head.chunks(hidden):
            logits = F.linear(hidden[part], weight, bias)
            total += become_gradient(logits, logits, target[part], scale[part], head.tail, bool(grads))
            if into is not None:
                into[part] = logits @ weight
            if into_weight is not None:
                if into_weight.dtype == logits.dtype:
                    into_weight.addmm_(logits.T, hidden[part])
                else:  # half precision is added up in float32
                    into_weight += logits.T @ hidden[part]
            if into_bias is not None:
                into_bias += logits.sum(0, dtype=into_bias.dtype)
    return total


def by_autograd(
    head: Head,
    hidden: torch.Tensor,
    target: torch.Tensor,
    scale: torch.Tensor,
    grads: list[torch.Tensor | None],
) -> torch.Tensor:
    """The same through any head that works token by token."""
    into, *rest = grads or [None]
    total = torch.zeros((), device=hidden.device)
    sources = [(p, made) for p, made in zip(head.trained, rest, strict=False) if made is not None]
    for part in head.chunks(hidden):
        with torch.set_grad_enabled(bool(grads)):
            leaf = hidden[part].requires_grad_(bool(grads))
            logits = head.forward(leaf[None])[0]
        # not over the logits: a head of another kind may have kept them for its backward pass
        gradient = torch.empty_like(logits) if grads else None
        total = total + become_gradient(logits.detach(), gradient, target[part], scale[part], head.tail, bool(grads))
        if gradient is None:
            continue
        with torch.autocast(hidden.device.type, enabled=False):
            made = torch.autograd.grad(logits, [leaf, *(p for p, _ in sources)], gradient, allow_unused=True)
        if into is not None and made[0] is not None:
            into[part] = made[0]
        for (_, sum_of), one in zip(sources, made[1:], strict=True):
            if one is not None:
                sum_of += one
    return total


def become_gradient(
    logits: torch.Tensor,
    out: torch.Tensor | None,
    target: torch.Tensor,
    scale: torch.Tensor,
    tail: Tail | None,
    backward: bool,
) -> torch.Tensor:
    """The summed loss of ``logits`` (N, V); its gradient goes into ``out``, which may be the logits themselves."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    total = torch.zeros((), dtype=wide, device=logits.device)
    for part in blocks(logits):
        with torch.set_grad_enabled(backward and tail is not None):
            leaf = logits[part].detach().requires_grad_(backward and tail is not None)
            seen = leaf if tail is None else tail(leaf[None])[0]
        log_probs = torch.log_softmax(seen.detach(), -1, dtype=wide)
        found, weight = target[part, None], scale[part, None].to(wide)
        total -= (log_probs.gather(1, found) * weight).sum()
        if out is None or not backward:
            continue
        probs = log_probs.exp_()
        probs.scatter_add_(1, found, probs.new_full(found.shape, -1.0))
        probs *= weight
        out[part] = probs if tail is None else torch.autograd.grad(seen, leaf, probs.to(seen.dtype))[0]
    return total
