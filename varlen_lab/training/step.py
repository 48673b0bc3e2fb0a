"""Batches and the training loop, and the one rule that makes packed and unpacked runs comparable.

The loss of an optimizer step is the weighted sum over all trained tokens of the step, over every batch and every
process, divided by the sum of the weights (``weighting``; by default every token weighs 1). A mean of means would
weigh a token by how many neighbours its row happens to have, and no two ways of packing would agree.

Three modes, all explicit. They see the same documents and train on the same tokens; what differs is who can see
whom and how much is padding:

    unpacked   a document a line, padded          transformers' own sdpa with an attention mask
    packed     several documents a row, no seams  transformers' own sdpa, positions run through
    varlen     several documents a row, seams     our attention
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from varlen_lab.errors import InputError
from varlen_lab.machine.signals import deaf_worker, out_of_workers
from varlen_lab.packing.boundaries import Boundaries
from varlen_lab.packing.collators import PackedCollator, PaddedCollator, VarlenCollator, collate_weights, token_weights
from varlen_lab.packing.registry import IGNORE
from varlen_lab.training.engines import Engine
from varlen_lab.training.from_hidden import loss_from_hidden
from varlen_lab.training.lazily import Batches, Step
from varlen_lab.training.lm_head import large
from varlen_lab.training.loss import summed_loss

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset

# of the runs in one process, one is prepared, or takes a step with dropout, at a time
ALONE = threading.RLock()

MOST_SKIPPED = 5  # steps in a row without finite loss and gradient: then it is not a bad batch, it is the run
EMPTY_ROW = {"input_ids": [0, 0], "labels": [IGNORE, IGNORE], "seq_lengths": [2]}  # trains on nothing


class Batch(NamedTuple):
    """What one forward pass takes: the model's keyword arguments and the labels; and what the step counts."""

    inputs: dict[str, Any]
    labels: torch.Tensor
    tokens: int  # that are no padding
    weights: torch.Tensor | None = None  # of each label in the loss; None: all the same
    sum_squared_lengths: int = 0  # of the documents: the attention that is needed, whatever is computed

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device; copies from pinned memory do not wait.

        Its seams are checked here, where they were made: on a GPU the first layer would have to wait for them.
        """
        inputs = {
            name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
            for name, value in self.inputs.items()
        }
        for name in self.inputs.keys() & {"cu_seq_lens_q", "cu_seq_lens_k"}:
            inputs[name] = Boundaries(self.inputs[name]).to(device, non_blocking=True).cu_seqlens
        weights = None if self.weights is None else self.weights.to(device, non_blocking=True)
        return self._replace(inputs=inputs, labels=self.labels.to(device, non_blocking=True), weights=weights)

    @classmethod
    def of(
        cls,
        features: Sequence[Mapping[str, Any]],
        collate: Callable[[list[Any]], dict[str, Any]],
        weighting: str = "token",
    ) -> Batch:
        """Collate rows; without rows a batch that trains on nothing, for a process that is left over in a step.

        A feature that brings ``weights`` keeps them.
        """
        features = list(features) or [EMPTY_ROW]
        inputs = collate(features)
        labels = inputs.pop("labels")
        if features[0] is EMPTY_ROW:
            return cls(inputs, labels, 0, None if weighting == "token" else torch.zeros(labels.shape))
        weights = None
        if weighting != "token":
            given = [one["weights"] if "weights" in one else token_weights(one, weighting) for one in features]
            weights = collate_weights(collate, features, given)
        lengths = [
            np.asarray(one["seq_lengths"] if "seq_lengths" in one else [len(one["input_ids"])]) for one in features
        ]
        squared = sum(int((one.astype(np.int64) ** 2).sum()) for one in lengths)
        return cls(inputs, labels, sum(len(one["input_ids"]) for one in features), weights, squared)


def collator(mode: str, pad_token_id: int) -> Callable[[list[Any]], dict[str, Any]]:
    """The collator of a mode of ``MODES``: a list of packed rows in, the batch as a dict of tensors out.

    All three take the same rows. Only those of padded modes need ``pad_token_id``.
    """
    if mode == "varlen":
        return VarlenCollator()
    return PackedCollator(pad_token_id) if mode == "packed" else PaddedCollator(pad_token_id)


def batched(
    rows: Dataset,
    steps: Sequence[Step],
    collate: Callable[[list[Any]], dict[str, Any]],
    workers: int = 0,
    weighting: str = "token",
) -> Iterator[list[Batch]]:
    """The batches of each of ``steps``, whose numbers are those of ``rows``: CPU tensors, as ``collate`` makes them.

    ``workers`` processes make them ahead of time, if there are any. ``weighting``: a name of ``WEIGHTINGS``.
    """
    from torch.utils.data import DataLoader

    loading = DataLoader(
        rows,  # type: ignore[arg-type]
        # the plan decides what is in a batch; the loader only fetches, so workers change nothing
        batch_sampler=Batches(steps),
        collate_fn=partial(Batch.of, collate=collate, weighting=weighting),
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=deaf_worker,
        generator=torch.Generator(),  # its draw is not taken from the dropout of another thread's run
    )
    with out_of_workers() if workers else nullcontext():
        loader = iter(loading)
    for step in steps:
        yield [next(loader) for _ in step]


def optimize(
    engine: Engine,
    steps: Iterable[list[Batch]],
    done: int = 0,
    *,
    on_nonfinite: Callable[[int, list[Batch]], object] | None = None,
) -> Iterator[dict[str, Any]]:
    """Take one optimizer step per list of batches and yield its record; ``done`` steps were taken before.

    A step whose loss or gradient is not finite changes no weight and is marked ``skipped``. After ``MOST_SKIPPED`` in
    a row, not counting those by which fp16 finds its loss scale, the run ends with an InputError;
    ``on_nonfinite(step, batches)`` may keep the batches, and says where. A step without a trained token is not computed
    and is marked ``untrained``: its loss is NaN, it has no tokens, and only the schedule moves on.
    In several processes each brings its part of the step; losses and counts of a record are of all parts.
    """
    accelerator = engine.accelerator
    engine.model.train()
    wall, cpu = time.perf_counter(), time.process_time()
    skipped = 0
    for number, batches in enumerate(steps, start=done + 1):
        # before any backward pass: each loss is divided by what the whole step holds, in all processes
        counts = over_processes(accelerator, torch.stack([batch_counts(batch) for batch in batches]).sum(0))
        batches = [batch.to(accelerator.device) for batch in batches]
        # the CPU waits for the device here, which has only the last update left to do
        trained, *computed = map(int, counts[1:].tolist())
        # the one this step is taken with; update() moves the schedule on
        lr = engine.scheduler.get_last_lr()[0]
        if trained:
            with dropout_of(engine, number):
                loss = backward(engine, batches, counts[0])
            loss_value, norm, taken = engine.update(accelerator.reduce(loss, "sum"))
        else:  # not a gradient of 0: momentum and weight decay would move the weights
            loss_value, norm, taken, computed = math.nan, 0.0, False, [0, 0, 0]
            engine.advance_schedule()
        if taken:
            skipped = 0
        elif trained and not (math.isfinite(loss_value) and engine.lowers_scale()):  # fp16 looks for its scale
            skipped += 1
        if skipped == MOST_SKIPPED:
            raise run_lost(number, loss_value, norm, on_nonfinite and on_nonfinite(number, batches))
        tokens, padded_tokens, squared = computed
        yield {
            "step": number,
            "loss": loss_value,
            "lr": lr,
            "grad_norm": norm,
            "tokens": tokens,
            "trained_tokens": trained,
            **({} if taken else {"skipped": True} if trained else {"untrained": True}),
            "padded_tokens": padded_tokens,
            "sum_squared_lengths": squared,
            "seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
        }
        # the clock starts before the next batches are collated and after the caller is done with the record
        wall, cpu = time.perf_counter(), time.process_time()


@contextmanager
def dropout_of(engine: Engine, step: int) -> Iterator[None]:
    """Inside, dropout of LoRA is the same after a resume, another in every process, and no other thread's."""
    if engine.seed is None:
        yield
        return
    with ALONE:  # torch has one generator for all threads
        torch.manual_seed(hash((engine.seed, step, engine.accelerator.process_index)))
        yield


def run_lost(step: int, loss: float, norm: float, batches: object) -> InputError:
    """The error after ``MOST_SKIPPED`` steps; ``batches``: where those of the last one are kept, or None."""
    what = f"gradient's norm is {norm}" if math.isfinite(loss) else f"loss is {loss}"
    kept = f"; its batches are in {batches}" if batches else ""
    return InputError(
        f"the {what} at step {step}, the {MOST_SKIPPED}th step in a row that is not finite{kept}; lower lr, or look "
        "at the data."
    )


def backward(engine: Engine, batches: list[Batch], weight: torch.Tensor) -> torch.Tensor:
    """Add up the gradients of a step's batches; their loss, each token's divided by the step's whole ``weight``.

    The weight is not 0: who has no trained token takes no step.
    """
    loss = torch.zeros((), device=engine.accelerator.device)
    divisor = weight.float().to(loss.device, non_blocking=True)
    for index, batch in enumerate(batches):
        with engine.accumulating(last=index == len(batches) - 1):
            part = token_loss_sum(engine.model, batch) / divisor
            engine.backward(part)
        loss += part.detach()
    return loss


def batch_counts(batch: Batch) -> torch.Tensor:
    """What a step adds up over its batches, float64 (5,): of a batch that is still on the CPU, where it was made.

    Weight, trained tokens, tokens, tokens with padding, squared lengths.
    """
    # float64 counts exactly to 2**53; fp32 would stop at 16.7 million tokens, and Apple's GPU has nothing wider
    trained = (batch.labels != IGNORE).sum().double()
    weight = trained if batch.weights is None else batch.weights.sum(dtype=torch.float64)
    known = torch.tensor([batch.tokens, batch.labels.numel(), batch.sum_squared_lengths], dtype=torch.float64)
    if not batch.tokens:  # the empty batch of a process that is left over
        known = torch.zeros_like(known)
    return torch.cat([torch.stack([weight, trained]), known])


def over_processes(accelerator: Accelerator, counts: torch.Tensor) -> torch.Tensor:
    """Counts added up over all processes: on their device, or, where there is only one, on the CPU as they came."""
    if accelerator.num_processes == 1:
        return counts
    return accelerator.reduce(counts.to(accelerator.device, non_blocking=True), "sum")


def token_loss_sum(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Weighted sum of the next-token losses of a batch, in nats.

    Seams are masked in the labels, so one shift serves all. Logits that would not fit are never built.
    """
    if large(model, batch.labels.numel()):
        loss = loss_from_hidden(model, batch.inputs, batch.labels, batch.weights)
        if loss is not None:
            return loss
    # use_cache=False: a cache would hide restarting positions from transformers' own mask detection
    return summed_loss(model(**batch.inputs, use_cache=False).logits, batch.labels, batch.weights)
