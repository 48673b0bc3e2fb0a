"""What does each trained token weigh in the loss of a step? By the number of a loss, or by the gradients of its logits.

A step's loss is ``sum(nll) / N`` with one N, the trained tokens of all its batches. The mean of each batch, averaged
over accumulated batches or processes, is another number, wherever batches have unlike counts:

    two batches of 3 and 1 trained tokens     one N: every token weighs 1/4     mean of means: 1/6, 1/6, 1/6 and 1/2

The gradient of a cross-entropy at the logits of one token is ``weight * (softmax(logits) - one_hot(label))``, so
weights can be read there, whoever computes the loss: the model, a ``compute_loss_func``, a trainer of one's own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from varlen_lab.leaks.report import Finding
from varlen_lab.packing.registry import IGNORE

MEAN_OF_MEANS = "mean of means"
NORMALISATION = "loss normalisation"
SAMPLED = 256  # tokens of a batch whose weights are read
CHUNK = 4096  # tokens whose losses are computed at once
EXACT, COARSE = 2e-3, 2e-2  # relative differences that are rounding: in float32, in half precision
UNLIKE = 0.1  # a gradient that is so far from a cross-entropy's is not one
MEANS_FIX = (
    "divide the sum of the losses by one token count, that of all batches of the step: hand num_items_in_batch on to "
    "the model, as HF Trainer does where compute_loss is its own"
)


class Weights(NamedTuple):
    """Of one batch: trained tokens, tokens in all, what a trained one weighs in the loss; None where it cannot be read.

    ``spread``: the largest weight over the smallest. ``rounding``: the relative difference that is. ``plain``: whether
    the gradient is a cross-entropy's to rounding, without smoothing or what else is near to it.
    """

    trained: int
    tokens: int
    weight: float | None
    spread: float = 1.0
    rounding: float = EXACT
    plain: bool = True


class Weighed(NamedTuple):
    """What the normalisation is: a finding where it is wrong, a note where it cannot be told, numbers for a receipt."""

    finding: Finding | None
    note: str | None
    record: dict[str, Any]


def losses_of(logits: torch.Tensor, labels: torch.Tensor) -> tuple[float, int]:
    """The sum of next-token losses and how many there are; logits (rows * T, V), labels (rows, T)."""
    targets = F.pad(labels[:, 1:], (0, 1), value=IGNORE).reshape(-1)  # the last token of a row predicts nothing
    total = 0.0
    for at in range(0, len(logits), CHUNK):
        part, wanted = logits[at : at + CHUNK], targets[at : at + CHUNK]
        part = part.to(torch.promote_types(part.dtype, torch.float32))
        total += float(F.cross_entropy(part, wanted, ignore_index=IGNORE, reduction="sum"))
    return total, int((targets != IGNORE).sum())


def weighed_by_number(
    loss: float, total: float, trained: int, tokens: int, *, items: int | None = None, accumulated: int = 1
) -> Weighed:
    """How a ``loss`` divides the sum ``total`` of the losses of its ``trained`` tokens, of ``tokens``.

    ``items``: trained tokens of the whole step; ``accumulated``: of how many batches it consists.
    """
    if not loss or not math.isfinite(loss):
        return Weighed(None, f"the loss was not checked: it is {loss}", {"sum": total, "trained": trained})
    divisor = total / loss
    right = items or trained

    def is_close(to: float) -> bool:
        return abs(divisor / to - 1) < EXACT

    record = {"loss": loss, "sum": total, "trained": trained, "divided_by": divisor, "num_items_in_batch": items}
    if accumulated > 1 and not items and (is_close(trained) or is_close(trained * accumulated)):
        return Weighed(means([trained], accumulated), None, record)
    if is_close(right) and (accumulated == 1 or items):
        return Weighed(None, None, record)
    if items and (is_close(trained) or is_close(trained * accumulated)):
        return Weighed(means([trained], max(2, accumulated)), None, record)
    return Weighed(*amiss(divisor, right, tokens, accumulated), record)


def amiss(divisor: float, right: float, tokens: int, accumulated: int) -> tuple[Finding | None, str | None]:
    """The finding for a ``divisor`` that a known mistake makes of the ``right`` one, else a note."""
    said = f"the sum of the losses is divided by {divisor:.6g} and not by the {right:.6g} trained tokens"
    for wrong, why, fix in (
        (right * accumulated, f"once more by the {accumulated} batches of a step", "divide it once"),
        (tokens, "all tokens, those with label -100 among them", "count the labels that are not -100"),
    ):
        if abs(divisor / wrong - 1) < EXACT and abs(wrong / right - 1) > EXACT:
            return Finding(NORMALISATION, "the loss", f"{said}: {why}", fix), None
    return None, f"{said}, which is no known mistake (weights, smoothing or another loss may be meant)"


def means(trained: Sequence[int], batches: int) -> Finding:
    """The finding for batches that are averaged each by itself."""
    counts = f" of {', '.join(map(str, trained[:8]))} trained tokens" if len(trained) > 1 else ""
    what = (
        f"the loss is the mean over each of {batches} batches{counts} by itself, so that a token of a batch with few "
        "trained ones weighs more"
    )
    return Finding(MEAN_OF_MEANS, "the loss", what, MEANS_FIX)


def read_weights(gradient: torch.Tensor, logits: torch.Tensor) -> Weights:
    """Weights from the gradient of the loss at ``logits``, both (rows, T, V)."""
    flat, made = gradient.flatten(0, -2), logits.flatten(0, -2)
    trained = (flat != 0).any(-1).nonzero().flatten()
    count, tokens = len(trained), len(flat)
    if not count:
        return Weights(0, tokens, None)
    chosen = trained[torch.linspace(0, count - 1, min(count, SAMPLED)).long().to(trained.device)]
    slope, share = flat[chosen].float(), made[chosen].detach().float().softmax(-1)
    label = slope.argmin(-1, keepdim=True)  # the one entry below zero
    rest = 1 - share.gather(-1, label)
    sure = (rest > 0.05).flatten()
    if not bool(sure.any()):
        return Weights(count, tokens, None)
    slope, share, label, rest = slope[sure], share[sure], label[sure], rest[sure]
    weight = -slope.gather(-1, label) / rest
    expected = weight * (share - torch.zeros_like(share).scatter_(-1, label, 1.0))
    unlike = float(((slope - expected).norm(dim=-1) / slope.norm(dim=-1)).max())
    if not unlike <= UNLIKE:
        return Weights(count, tokens, None)
    half = torch.finfo(gradient.dtype).eps > 1e-4 or torch.finfo(logits.dtype).eps > 1e-4
    rounding = COARSE if half else EXACT
    return summed(weight.flatten(), count, tokens, rounding)._replace(plain=unlike <= rounding)


def read_log_probs(gradient: torch.Tensor, log_probs: torch.Tensor) -> Weights:
    """Weights from the gradient of the loss at the log-probabilities of the labels, both (rows, T); 0 of no label."""
    felt = gradient[log_probs != 0]
    if not len(felt):
        return Weights(0, gradient.numel(), None)
    half = torch.finfo(gradient.dtype).eps > 1e-4
    return summed(-felt.float(), len(felt), gradient.numel(), COARSE if half else EXACT)


def read_loss(gradient: torch.Tensor, loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> Weights:
    """The weight from a loss and its gradient, both scalars: what it makes of the sum over labels (rows, T)."""
    total, trained = losses_of(logits.flatten(0, 1), labels)
    if not trained or not total:
        return Weights(trained, labels.numel(), None)
    weight = float(gradient) * float(loss) / total
    return Weights(trained, labels.numel(), weight if weight > 0 else None)


def summed(weights: torch.Tensor, trained: int, tokens: int, rounding: float) -> Weights:
    """``Weights`` of the weights of single tokens; none where a weight is not positive."""
    least, most = float(weights.min()), float(weights.max())
    if not least > 0:
        return Weights(trained, tokens, None, rounding=rounding)
    return Weights(trained, tokens, float(weights.mean()), most / least, rounding)


def weighed_by_gradient(parts: Sequence[Weights], *, accumulated: int, processes: int = 1) -> Weighed | None:
    """How the loss of a step divides, from the ``parts`` of all its batches and processes.

    None where its batches have equal counts, so that the mean of means is the mean.
    """
    some = [part for part in parts if part.trained]
    record: dict[str, Any] = {"batches": len(parts), "trained": [part.trained for part in parts][:64]}
    if not some:
        return Weighed(None, "no token of the step was trained, so the loss was not checked", record)
    if any(part.weight is None for part in some):
        said = "the loss was not checked: its gradient is not that of a cross-entropy"
        return Weighed(None, said, record)
    weights = [part.weight or 0.0 for part in some]
    rounding = max(part.rounding for part in some)
    record |= {"weights": weights[:64], "trained_in_all": sum(part.trained for part in some)}
    if max(part.spread for part in some) > 1 + 10 * rounding:
        return Weighed(
            None, "tokens of one batch weigh differently in the loss, so its division was not checked", record
        )
    if max(weights) > min(weights) * (1 + rounding):
        shares = [weight * part.trained for weight, part in zip(weights, some, strict=True)]
        if max(shares) < min(shares) * (1 + rounding):
            return Weighed(means([part.trained for part in some], len(some)), None, record)
        what = f"a trained token weighs {min(weights):.3g} in one batch of the step and {max(weights):.3g} in another"
        return Weighed(Finding(NORMALISATION, "the loss", what, MEANS_FIX), None, record)
    in_all = sum(part.trained for part in some)
    divisor = processes / weights[0]
    if divisor < 0.9:  # a scaler of float16 multiplies the loss before its backward pass
        return Weighed(None, None, record)
    finding: Finding | None = None
    note: str | None = None
    if abs(divisor / in_all - 1) > rounding:
        finding, note = amiss(divisor, in_all, sum(part.tokens for part in some), accumulated)
        if not all(part.plain for part in some):
            finding, note = None, "the loss is near to a cross-entropy and is none, so its division was not checked"
    record["divided_by"] = divisor
    alike = len({part.trained for part in some}) == 1 and len(some) > 1
    return None if alike and finding is None and note is None else Weighed(finding, note, record)
