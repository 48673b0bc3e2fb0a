"""Does any document hear another? Answered for all pairs at once, in a few backward passes that cost little each.

A pass starts at the outputs of a group of documents; at the inputs of all others the gradient must be exactly 0. Every
document is in half of the groups, no two in the same ones, so for every i and j there is a group with i and without j:
eight documents need five groups, sixteen six, where a pass a document took eight and sixteen.

Nearly all work of a backward pass is in the transposes of weight matrices, and for a zero their numbers do not matter.
So ``F.linear`` is given another backward pass, through two thin random matrices: a row of zeros stays one, and a
row that is not makes all its inputs not zero, whatever the weights are. What is zero so is zero in the true gradient
too. What is not zero is measured again, with the true weights and document by document.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from itertools import combinations, count, islice
from math import comb
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from varlen_lab.errors import InputError
from varlen_lab.leaks.head import is_last, narrow, plain_head
from varlen_lab.leaks.measure import felt, future_gradient, leak_matrix, random_weights
from varlen_lab.leaks.running import CannotRun, logits_of, weights_frozen
from varlen_lab.packing.boundaries import Boundaries

RANK = 4  # of the random matrices: of 1, all gradients of a token would be one vector but for its length


class Heard(NamedTuple):
    """The leak matrix, the future gradient, and the tokens that the model itself puts before every row."""

    leaks: torch.Tensor
    future: float
    prefix: int


def who_hears_whom(model: Any, batch: Mapping[str, Any], documents: Boundaries, *, future: bool = True) -> Heard:
    """The leak matrix and the future gradient of a batch, the numbers where they are not 0 from true gradients.

    Without ``future`` that is NaN. CannotRun and InputError as ``logits_of`` and ``leak_matrix``.
    """
    none = torch.zeros(len(documents), len(documents), dtype=torch.float64)
    with weights_frozen(model):  # the graph holds activations alone
        apart, causal, prefix = in_groups(model, batch, documents, future)
        if apart and causal:
            return Heard(none, 0.0 if future else torch.nan, prefix)
        logits, embedded = logits_of(model, batch)
    leaks = none if apart else leak_matrix(logits, embedded, documents)
    ahead = future_gradient(logits, embedded, documents) if future else torch.nan
    return Heard(leaks, ahead, prefix_of(embedded, batch))


def in_groups(model: Any, batch: Mapping[str, Any], documents: Boundaries, future: bool) -> tuple[bool, bool, int]:
    """Whether no document hears another, whether none hears its own later tokens, and the prefix.

    A no may be wrong, a yes is not. A model that does not bear to be run so is a no.
    """
    head = plain_head(model)
    with suppress(CannotRun, InputError), ThinTransposes():
        if head is not None:
            with narrow(head) as calls, suppress(CannotRun, InputError):
                logits, embedded = logits_of(model, batch)
                if is_last(calls, logits):
                    return told_apart(logits, embedded, batch, documents, future)
        return told_apart(*logits_of(model, batch), batch, documents, future)
    return False, False, 0


def told_apart(
    logits: torch.Tensor,
    embedded: list[torch.Tensor],
    batch: Mapping[str, Any],
    documents: Boundaries,
    future: bool,
) -> tuple[bool, bool, int]:
    """``in_groups`` for the logits that a model gave."""
    prefix = prefix_of(embedded, batch)
    total, owner = len(logits), documents.document_ids().to(logits.device)
    weights = random_weights(logits)

    def is_silent(speaking: torch.Tensor, silent: torch.Tensor) -> bool:  # bool (rows * T,)
        felt_there = felt((logits[speaking] * weights[speaking]).sum(), embedded, total)[silent]
        return not bool((felt_there != 0).any())  # NaN is not 0 either

    for group in groups(len(documents)):
        mine = torch.isin(owner, torch.tensor(group, device=owner.device))
        if not is_silent(mine, ~mine):
            return False, False, prefix
    early = torch.zeros_like(owner, dtype=torch.bool)
    for start, end in documents.spans:
        early[start : (start + end) // 2] = True
    # no document hears another, so all can be asked at once
    return True, not future or not bool(early.any()) or is_silent(early, ~early), prefix


def groups(documents: int) -> list[list[int]]:
    """Groups of document numbers: for every i and j one that has i and not j, as few as there can be (Sperner).

    >>> groups(3)
    [[0], [1], [2]]
    >>> len(groups(8)), len(groups(16))
    (5, 6)
    """
    size = next(size for size in count() if comb(size, size // 2) >= documents)
    memberships = list(islice(combinations(range(size), size // 2), documents))
    return [[number for number, mine in enumerate(memberships) if group in mine] for group in range(size)]


def prefix_of(embedded: list[torch.Tensor], batch: Mapping[str, Any]) -> int:
    """Tokens that the model itself puts before every row."""
    return int(embedded[0].shape[1] - batch["input_ids"].shape[1])


class ThinTransposes(TorchFunctionMode):
    """While it lasts ``F.linear`` with a frozen weight computes as ever and goes back through thin random matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.linear or not torch.is_grad_enabled():
            return func(*args, **(kwargs or {}))
        x, weight, bias = with_bias(*args, **(kwargs or {}))
        if not x.requires_grad or weight.requires_grad or getattr(bias, "requires_grad", False) or weight.ndim != 2:
            return func(x, weight, bias)  # a weight that comes from tokens is an input like another
        outputs, inputs = weight.shape
        into = torch.randn(outputs, RANK, generator=self.generator) / outputs**0.5
        out = torch.randn(RANK, inputs, generator=self.generator) / RANK**0.5
        return ThinLinear.apply(x, weight, bias, into, out)


class ThinLinear(torch.autograd.Function):
    """``F.linear`` whose gradient takes the way through two thin matrices, (out, rank) and (rank, in)."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, into: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        ctx.thin, ctx.dtype = (into, out), x.dtype  # an autocast makes another dtype of x
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        into, out = (one.to(gradient) for one in ctx.thin)
        return (gradient @ into @ out).to(ctx.dtype), None, None, None, None


def with_bias(input: Any, weight: Any, bias: Any = None) -> tuple[Any, Any, Any]:
    """The arguments of ``F.linear`` in their order."""
    return input, weight, bias
