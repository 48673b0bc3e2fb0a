"""The two measurements of an audit: who hears whom, and whether a packed document is computed as if it were alone.

The leak matrix needs no tolerance: where attention stays inside documents, the gradient of one document's outputs with
respect to another's inputs is not small but exactly 0. It takes one backward pass a document, and no T x T memory;
``apart`` asks first whether there is anything to measure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from operator import add  # sum() rounds otherwise from Python 3.12 on
from typing import Any

import torch

from varlen_lab.errors import InputError, first_line
from varlen_lab.leaks.head import LARGE, Outputs, added, outputs_of, plain_head
from varlen_lab.leaks.running import HALF, as_if_alone, inputs_of, run, run_alone
from varlen_lab.leaks.sampling import COLUMNS, sampled_gradients
from varlen_lab.packing.boundaries import Boundaries
from varlen_lab.packing.registry import IGNORE

WITHOUT_FLOAT64 = ("mps",)  # types of devices: Apple's GPU


@dataclass(frozen=True)
class Parity:
    """Largest differences between the packed run and every document alone."""

    logits: float
    loss: float
    gradients: float
    logit_scale: float
    gradient_scale: float
    dtype: torch.dtype  # the coarsest it was computed in
    alone: str = "unknown"  # the attention documents alone were run with
    sampled: int = 0  # weight matrices of which some columns of the gradient were compared, all else whole
    nan_packed: bool = False
    nan_alone: bool = False

    @property
    def has_nan(self) -> bool:
        """Whether either run gave NaN."""
        return self.nan_packed or self.nan_alone

    def notes(self) -> list[str]:
        """What is to be said of how it was measured."""
        some = f"gradients were compared in {COLUMNS} columns of each of {self.sampled} large weight matrices"
        return [f"documents alone were run with {self.alone} attention", *[some] * bool(self.sampled)]

    def within(self, limit: float) -> bool:
        """Whether all three are rounding, relative to the largest logit and gradient.

        Gradients may differ ten times as much: they are sums over all tokens, added up in another order.
        """
        return (
            self.logits <= limit * max(1.0, self.logit_scale)
            and self.loss <= limit * max(1.0, self.logit_scale)
            and self.gradients <= 10 * limit * max(1e-3, self.gradient_scale)
        )


def leak_matrix(logits: torch.Tensor, embedded: Sequence[torch.Tensor], documents: Boundaries) -> torch.Tensor:
    """(documents, documents) float64: max |d outputs of i / d inputs of j|, the diagonal set to 0."""
    leaks = torch.zeros(len(documents.spans), len(documents.spans), dtype=torch.float64)
    weights = random_weights(logits)
    for row, (start, end) in enumerate(documents.spans):
        strength = felt((logits[start:end] * weights[start:end]).sum(), embedded, len(logits))
        for column, (first, last) in enumerate(documents.spans):
            leaks[row, column] = 0.0 if row == column else float(strength[first:last].max())
    return leaks


def future_gradient(logits: torch.Tensor, embedded: Sequence[torch.Tensor], documents: Boundaries) -> float:
    """Max gradient from the first half of every document's outputs to the second half of its own inputs."""
    early = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    for start, end in documents.spans:
        early[start : (start + end) // 2] = True
    weights = random_weights(logits)
    strongest = 0.0
    for turn in (0, 1):  # every other document, so that a leak into a neighbour is not taken for the future
        mine = torch.zeros_like(early)
        for start, end in documents.spans[turn::2]:
            mine[start:end] = True
        if not (early & mine).any():
            continue
        strength = felt((logits[early & mine] * weights[early & mine]).sum(), embedded, len(logits))
        later = strength[~early & mine]
        strongest = max(strongest, float(later.max()) if len(later) else 0.0)
    return strongest


def felt(weighted_sum: torch.Tensor, embedded: Sequence[torch.Tensor], total: int) -> torch.Tensor:
    """The largest gradient of ``weighted_sum`` at each of the ``total`` tokens: (rows * T,).

    InputError when the model cannot be differentiated.
    """
    try:
        gradients = torch.autograd.grad(weighted_sum, embedded, retain_graph=True, allow_unused=True)
    except RuntimeError as problem:
        raise InputError(
            f"the model cannot be differentiated ({first_line(problem)}), and a leak is measured by gradients; "
            "try it with attn_implementation='eager'."
        ) from problem
    strength = weighted_sum.new_zeros(total)
    for gradient in gradients:
        if gradient is not None:  # a prompt of the model's own stands before the last tokens of a row
            mine = gradient[:, -(total // len(gradient)) :].flatten(0, 1).abs().amax(-1)
            strength = torch.maximum(strength, mine.to(strength))
    return strength


def unmeasured() -> Parity:
    """The parity of a batch that the model refuses."""
    nan = float("nan")
    return Parity(nan, nan, nan, nan, nan, torch.float32)


def parity(model: Any, batch: Mapping[str, Any], documents: Boundaries, *, gradients: bool = True) -> Parity:
    """Logits, loss and parameter gradients, packed against alone; without ``gradients`` these count as equal."""
    ids = flat(batch["input_ids"])
    labels = flat(batch.get("labels", batch["input_ids"])).clone()
    labels[documents.cu_seqlens[:-1].long()] = IGNORE  # alone, nothing stands before a first token to predict it
    count = max(1, int((labels != IGNORE).sum()))
    head = plain_head(model)
    if head is not None and len(ids) * head.out_features <= LARGE:
        head = None
    apart, parts, scales, nans, alone_nans = [], [], [], [], []  # on the device, which nobody waits for before the end

    with torch.set_grad_enabled(gradients), sampled_gradients(model) as (trained, sampled):
        trained, sampled = (trained, sampled) if gradients else ([], 0)
        row = outputs_of(head, lambda: run(model, inputs_of(batch)))
        loss, packed = row.loss(labels, count, trained)
        row = Outputs(row.hidden.detach(), row.head)  # without the graph

        # Every document by itself: no seams to get wrong, no cache. Gradients of the losses are summed document by
        # document, so that only one document's graph is alive at a time.
        summed: list[torch.Tensor | None] = [None] * len(packed)
        with as_if_alone(model) as alone_with:
            for start, end in documents.spans:
                one = outputs_of(row.head, partial(run_alone, model, ids[start:end]))
                for first, last in row.spans(start, end):
                    mine, its = row.logits(first, last), one.logits(first - start, last - start).detach()
                    nans.append(mine.isnan().any())
                    alone_nans.append(its.isnan().any())
                    scales.append(torch.stack(torch.aminmax(mine)).abs().max())
                    apart.append((its - mine).abs_().max())
                    del mine, its
                part, found = one.loss(labels[start:end], count, trained if packed else [])
                parts.append(part)
                if packed:
                    summed = added(summed, found)
                del one  # and its graph, before the next one's
    pairs = [(a, b) for a, b in zip(packed, summed, strict=True) if a is not None and b is not None]
    return Parity(
        logits=float(torch.tensor([0.0, *numbers(apart)], dtype=torch.float64).max()),  # NaN where one is
        loss=abs(float(loss) - reduce(add, numbers(parts), 0.0)),
        gradients=max(numbers([(a - b).abs().max() for a, b in pairs]), default=0.0),
        logit_scale=max(numbers(scales)),
        gradient_scale=max(numbers([b.abs().max() for _, b in pairs]), default=0.0),
        dtype=precision_of(model, row.hidden),
        alone=alone_with,
        sampled=sampled,
        nan_packed=any(numbers(nans)),
        nan_alone=any(numbers(alone_nans)),
    )


def numbers(values: Sequence[torch.Tensor]) -> list[float]:
    """Tensors of one number each as numbers, in their order; those of one device and dtype cost one wait."""
    if len({(x.device, x.dtype) for x in values}) == 1:
        return torch.stack(list(values)).tolist()  # type: ignore[no-any-return]
    return [float(x) for x in values]


def precision_of(model: Any, logits: torch.Tensor) -> torch.dtype:
    """What a model computes in: half precision where anything is, for some turn logits into float32 at the end."""
    kind, dtypes = logits.device.type, {logits.dtype, *(x.dtype for x in model.parameters())}
    if torch.is_autocast_enabled(kind):
        dtypes.add(torch.get_autocast_dtype(kind))
    return next((dtype for dtype in HALF if dtype in dtypes), logits.dtype)


def flat(x: torch.Tensor) -> torch.Tensor:
    """(rows, T, ...) -> (rows * T, ...)."""
    return x.flatten(0, 1)


def in_float64(x: torch.Tensor) -> torch.Tensor:
    """The same values in float64: on their device, or on the CPU where that has no float64."""
    return (x.cpu() if x.device.type in WITHOUT_FLOAT64 else x).double()


def random_weights(logits: torch.Tensor) -> torch.Tensor:
    """Fixed random weights of the logits' shape: in a plain sum the two signs of a leak could cancel out."""
    generator = torch.Generator(device="cpu").manual_seed(0)
    return torch.randn(logits.shape, generator=generator).to(logits)
