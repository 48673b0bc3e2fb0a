"""One row, a tiny model, one mistake or none: who hears whom, what is trained, what it costs, what the audit says.

One specimen serves all twelve switches, so that pictures can be laid side by side: a Mistral of two layers with a
window of six tokens. A window shows only where a document is longer than the layers together reach, and of four
documents one is: in all others a token hears its document back to the first token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from varlen_lab.attention.huggingface import AUTO
from varlen_lab.course.lab.record import USUAL, WINDOW
from varlen_lab.course.lab.switches import Switch
from varlen_lab.leaks.checking import audit
from varlen_lab.leaks.measure import felt, random_weights
from varlen_lab.leaks.planted_batches import Batch, for_stock_attention
from varlen_lab.leaks.planting import planted
from varlen_lab.leaks.registry import ANY
from varlen_lab.leaks.report import Finding
from varlen_lab.leaks.running import NATIVE, as_if_alone, logits_of, noise_off, run_alone
from varlen_lab.models.miniature import miniature
from varlen_lab.packing.collators import VarlenCollator
from varlen_lab.packing.registry import IGNORE

FIRST_ID = 10
LEVELS = (0.1, 0.3)  # shares of the strongest in its row of the picture between one level and the next
TELLING = ("position_ids", "attention_mask", "use_cache", "cu_seq_lens_q", "labels", "completion_mask")
SHOWN = 9  # first values of a key that are shown: past two seams


@dataclass(frozen=True, eq=False)
class Run:
    """What one run of the specimen showed.

    ``heard``: int8 (T, T), how strongly the output of token q depends on token k: 0 not at all, 1 to 3. ``trained``:
    bool (T,), whether the prediction of the token after this one is trained. ``loss``: over all that is trained, and
    ``losses`` of each document, None where nothing is. ``batch``: what arrived, in words, by key.
    """

    heard: np.ndarray
    trained: np.ndarray
    loss: float
    losses: tuple[float | None, ...]
    batch: dict[str, str]
    findings: tuple[Finding, ...]


@contextmanager
def settled() -> Iterator[None]:
    """Inside the block torch is as it was for the record, whatever a notebook has set: single precision, gradients."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.set_default_dtype(before)


def prompts_of(lengths: Sequence[int]) -> list[int]:
    """Tokens at the beginning of each document that are a prompt and not trained."""
    return [0 if length < 3 else max(1, 2 * length // 5) for length in lengths]


def specimen(attention: str, lengths: Sequence[int], seed: int = 0) -> tuple[Any, Batch]:
    """A tiny model and a packed row, both right, for faults of this attention of the registry."""
    model = miniature("mistral", AUTO if attention == ANY else attention, seed, sliding_window=WINDOW).eval()
    ids = list(range(FIRST_ID, FIRST_ID + sum(lengths)))
    labels: list[int] = []
    for length, prompt in zip(lengths, prompts_of(lengths), strict=True):
        labels += [IGNORE] * prompt + ids[len(labels) + prompt : len(labels) + length]
    batch = VarlenCollator()([{"input_ids": ids, "labels": labels, "seq_lengths": list(lengths)}])
    return model, for_stock_attention(batch) if attention in NATIVE else batch


@settled()
def measure(switch: Switch | None, lengths: Sequence[int] = USUAL, seed: int = 0) -> tuple[Run, Run]:
    """The right run and the run with a switch on, or the right one twice; both of the attention of the fault."""
    model, batch = specimen(attention := switch.fault.attention if switch else ANY, lengths, seed)
    right = run_of(model, batch, lengths, attention)
    if switch is None:
        return right, right
    with planted(switch.fault, model, batch) as wrong:
        return right, run_of(model, wrong, lengths, attention)


def run_of(model: Any, batch: Batch, lengths: Sequence[int], attention: str) -> Run:
    """Everything that is to be seen of one batch in one model."""
    with noise_off(model):
        logits, embedded = logits_of(model, batch)
        weights = random_weights(logits)
        rows = [felt((logits[at] * weights[at]).sum(), embedded, len(logits)) for at in range(len(logits))]
    labels = batch["labels"].reshape(-1)
    loss, losses = losses_of(logits.detach(), labels, lengths)
    trained = torch.zeros(len(labels), dtype=torch.bool)
    trained[:-1] = labels[1:] != IGNORE
    arrived = {"attention": AUTO if attention == ANY else attention}
    arrived |= {name: in_words(batch[name]) for name in TELLING if name in batch}
    return Run(
        heard=levels(torch.stack(rows).numpy()),
        trained=trained.numpy(),
        loss=loss,
        losses=losses,
        batch=arrived,
        findings=audit(model, batch, boundaries=list(lengths)).findings,
    )


@settled()
def alone(lengths: Sequence[int] = USUAL, seed: int = 0) -> tuple[float, tuple[float | None, ...]]:
    """The truth: the loss of all documents, and of each, every one run by itself with nothing but its tokens."""
    model, batch = specimen(ANY, lengths, seed)
    parts = batch["input_ids"].reshape(-1).split(list(lengths))
    with torch.no_grad(), as_if_alone(model):
        logits = torch.cat([run_alone(model, part) for part in parts])
    return losses_of(logits, batch["labels"].reshape(-1), lengths)


def losses_of(
    logits: torch.Tensor, labels: torch.Tensor, lengths: Sequence[int]
) -> tuple[float, tuple[float | None, ...]]:
    """Mean next-token loss of all that is trained, and of what the tokens of each document must predict."""
    each = F.cross_entropy(logits[:-1], labels[1:], ignore_index=IGNORE, reduction="none")
    each, trained = F.pad(each, (0, 1)), F.pad(labels[1:] != IGNORE, (0, 1))
    documents = zip(each.split(list(lengths)), trained.split(list(lengths)), strict=True)
    means = [float(loss[mine].mean()) if bool(mine.any()) else None for loss, mine in documents]
    return float(each[trained].mean()), tuple(means)


def levels(strength: np.ndarray) -> np.ndarray:
    """Gradients (T, T) as few levels, int8: 0 is exactly none, else by the share of the strongest of its row."""
    share = strength / strength.max(axis=1, keepdims=True)
    return ((strength > 0) * (1 + np.digitize(share, LEVELS))).astype(np.int8)


def in_words(value: Any) -> str:
    """The first values of what a batch holds."""
    if not isinstance(value, torch.Tensor):
        return str(value)
    values = value.reshape(-1).tolist()
    return " ".join(map(str, values[:SHOWN])) + (" …" if len(values) > SHOWN else "")
