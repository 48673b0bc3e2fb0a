"""The two measurements of an audit: who hears whom, and whether a packed document is computed as if it were alone.

The leak matrix needs no tolerance: where attention stays inside documents, the gradient of one document's outputs with
respect to another's inputs is not small but exactly 0. It takes one backward pass a document, and no T x T memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from varlen_lab.models.building import noise_of
from varlen_lab.packing.boundaries import Boundaries

IGNORE = -100


@dataclass(frozen=True)
class Parity:
    """Largest differences between the packed run and every document alone."""

    logits: float
    loss: float
    gradients: float
    logit_scale: float
    gradient_scale: float
    dtype: torch.dtype
    nan_packed: bool = False
    nan_alone: bool = False

    @property
    def has_nan(self) -> bool:
        """Whether either run gave NaN."""
        return self.nan_packed or self.nan_alone

    def within(self, limit: float) -> bool:
        """Whether all three are rounding, relative to the largest logit and gradient."""
        return (
            self.logits <= limit * max(1.0, self.logit_scale)
            and self.loss <= limit * max(1.0, self.logit_scale)
            and self.gradients <= 10 * limit * max(1e-3, self.gradient_scale)
        )


@contextmanager
def undisturbed(model: Any) -> Iterator[list[str]]:
    """Noise off, gradients out of the way, and all of it back afterwards, with the random state."""
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    noise = noise_of(model)
    implementation = getattr(model.config, "_attn_implementation", None)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            for parameter, _ in gradients:
                parameter.grad = None
            for module, name, _ in noise:
                setattr(module, name, 0.0)
            yield sorted({f"{type(module).__name__}.{name} {value}" for module, name, value in noise})
        finally:
            for module, name, value in noise:
                setattr(module, name, value)
            for parameter, gradient in gradients:
                parameter.grad = gradient
            if implementation is not None and model.config._attn_implementation != implementation:
                model.set_attn_implementation(implementation)


def inputs_of(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch without its labels: the loss is ours, so that both runs weigh every token alike."""
    return {name: value for name, value in batch.items() if name != "labels"}


@contextmanager
def embeddings(model: Any, kept: list[torch.Tensor]) -> Iterator[None]:
    """Cut the graph behind the embedding and keep its output as a leaf, so gradients per token can be asked for."""

    def cut(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        leaf = output.detach().requires_grad_()
        kept.append(leaf)
        return leaf

    handle = model.get_input_embeddings().register_forward_hook(cut)
    try:
        yield
    finally:
        handle.remove()


def leak_matrix(model: Any, batch: Mapping[str, Any], documents: Boundaries) -> torch.Tensor:
    """(documents, documents) float64: max |d outputs of i / d inputs of j|, the diagonal set to 0."""
    kept: list[torch.Tensor] = []
    with embeddings(model, kept):
        logits = flat(model(**inputs_of(batch)).logits)
    leaks = torch.zeros(len(documents.spans), len(documents.spans), dtype=torch.float64)
    weights = probe(logits)
    for row, (start, end) in enumerate(documents.spans):
        (gradient,) = torch.autograd.grad((logits[start:end] * weights[start:end]).sum(), kept[0], retain_graph=True)
        for column, strength in enumerate(by_document(gradient, documents)):
            leaks[row, column] = 0.0 if row == column else strength
    return leaks


def sees_the_future(model: Any, batch: Mapping[str, Any], documents: Boundaries) -> float:
    """Max gradient from the first half of every document's outputs to the second half of its own inputs."""
    kept: list[torch.Tensor] = []
    with embeddings(model, kept):
        logits = flat(model(**inputs_of(batch)).logits)
    early = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    for start, end in documents.spans:
        early[start : (start + end) // 2] = True
    strongest = 0.0
    for parity in (0, 1):  # every other document, so that a leak into a neighbour is not taken for the future
        mine = torch.zeros_like(early)
        for start, end in documents.spans[parity::2]:
            mine[start:end] = True
        if not (early & mine).any():
            continue
        part = (logits[early & mine] * probe(logits)[early & mine]).sum()
        (gradient,) = torch.autograd.grad(part, kept[0], retain_graph=True)
        later = flat(gradient)[~early & mine]
        strongest = max(strongest, float(later.abs().max()) if len(later) else 0.0)
    return strongest


def parity(model: Any, batch: Mapping[str, Any], documents: Boundaries) -> tuple[Parity, str]:
    """Logits, loss and parameter gradients, packed against alone; and the attention the documents alone ran with."""
    ids = flat(batch["input_ids"])
    labels = flat(batch.get("labels", batch["input_ids"])).clone()
    labels[documents.cu_seqlens[:-1].long()] = IGNORE
    count = max(1, int((labels != IGNORE).sum()))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    logits = flat(model(**inputs_of(batch)).logits)
    loss = token_losses(logits, labels, documents) / count
    gradients = torch.autograd.grad(loss, trained, allow_unused=True) if trained and loss.requires_grad else []

    alone_with = trusted_attention(model)
    worst, alone_loss, nan_alone = 0.0, 0.0, False
    summed: list[torch.Tensor | None] = [None] * len(gradients)
    for start, end in documents.spans:
        one = model(input_ids=ids[None, start:end], use_cache=False).logits[0]
        nan_alone |= bool(one.isnan().any())
        worst = max(worst, float((one - logits[start:end]).detach().abs().max()))
        part = token_losses(one, labels[start:end], Boundaries.from_lengths([end - start])) / count
        alone_loss += float(part.detach())
        if gradients:
            for index, gradient in enumerate(torch.autograd.grad(part, trained, allow_unused=True)):
                if gradient is not None:
                    known = summed[index]
                    summed[index] = gradient if known is None else known + gradient
    pairs = [(a, b) for a, b in zip(gradients, summed, strict=True) if a is not None and b is not None]
    measured = Parity(
        logits=worst,
        loss=abs(float(loss.detach()) - alone_loss),
        gradients=max((float((a - b).abs().max()) for a, b in pairs), default=0.0),
        logit_scale=float(logits.detach().abs().max()),
        gradient_scale=max((float(b.abs().max()) for _, b in pairs), default=0.0),
        dtype=logits.dtype,
        nan_packed=bool(logits.isnan().any()),
        nan_alone=nan_alone,
    )
    return measured, alone_with


def trusted_attention(model: Any) -> str:
    """Switch to transformers' eager attention, the plain formula, unless the layers know more than it does."""
    mine = str(getattr(model.config, "_attn_implementation", "its own"))
    if any(hasattr(module, "alibi_slopes") for module in model.modules()):
        return mine  # eager would not see the slopes
    try:
        model.set_attn_implementation("eager")
    except (ValueError, AttributeError, KeyError):
        return mine
    return str(model.config._attn_implementation)


def token_losses(logits: torch.Tensor, labels: torch.Tensor, documents: Boundaries) -> torch.Tensor:
    """Sum of next-token losses inside documents; logits (T, V), labels (T,) with seams masked."""
    return F.cross_entropy(logits[:-1].float(), labels[1:], ignore_index=IGNORE, reduction="sum")


def flat(x: torch.Tensor) -> torch.Tensor:
    """(rows, T, ...) -> (rows * T, ...)."""
    return x.flatten(0, 1)


def probe(logits: torch.Tensor) -> torch.Tensor:
    """Fixed random weights, so that no leak cancels out in a sum."""
    dice = torch.Generator(device="cpu").manual_seed(0)
    return torch.randn(logits.shape, generator=dice).to(logits)


def by_document(gradient: torch.Tensor, documents: Boundaries) -> list[float]:
    """Largest |gradient| on the inputs of each document."""
    strength = flat(gradient).abs().amax(-1)
    return [float(strength[start:end].max()) for start, end in documents.spans]
