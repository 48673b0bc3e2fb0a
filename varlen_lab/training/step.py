"""The training loop, and the one rule that makes packed and unpacked runs comparable.

The loss of an optimizer step is the weighted sum over all trained tokens of the step, over every batch and every
process, divided by the sum of the weights (``weighting``; by default every token weighs 1). A mean of means would
weigh a token by how many neighbours its row happens to have, and no two ways of packing would agree.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from varlen_lab.errors import InputError
from varlen_lab.packing.rows import IGNORE
from varlen_lab.training.data import Batch
from varlen_lab.training.engines import Engine
from varlen_lab.training.loss import summed_loss

MOST_SKIPPED = 5  # steps in a row without a finite loss: then it is not a bad batch, it is the run


def optimize(
    engine: Engine,
    steps: Iterable[list[Batch]],
    done: int = 0,
    *,
    on_nonfinite: Callable[[int, list[Batch]], object] | None = None,
) -> Iterator[dict[str, Any]]:
    """Take one optimizer step per list of batches and yield its record; ``done`` steps were taken before.

    A step whose loss or gradient is not finite changes no weight and is marked ``skipped``. After ``MOST_SKIPPED`` in
    a row the run ends with an InputError; ``on_nonfinite(step, batches)`` may keep the batches, and says where.
    In several processes each brings its part of the step; losses and counts of a record are of all parts.
    """
    accelerator, model = engine.accelerator, engine.model
    model.train()
    wall, cpu = time.perf_counter(), time.process_time()
    skipped = 0
    for number, batches in enumerate(steps, start=done + 1):
        if engine.seed is not None:  # dropout of LoRA: the same dice after a resume, others in every process
            torch.manual_seed(hash((engine.seed, number, accelerator.process_index)))
        batches = [batch.to(accelerator.device) for batch in batches]
        counts = accelerator.reduce(torch.stack([count(batch) for batch in batches]).sum(0), "sum")
        divisor = counts[0].clamp(min=1e-9).float()  # a step may hold nothing to train on
        loss = torch.zeros((), device=accelerator.device)
        for index, batch in enumerate(batches):
            part = token_loss_sum(model, batch) / divisor
            engine.backward(part, last=index == len(batches) - 1)
            loss += part.detach()
        lr = engine.scheduler.get_last_lr()[0]
        loss_value, norm, taken = engine.update(accelerator.reduce(loss, "sum"))
        skipped = 0 if taken else skipped + 1
        if skipped == MOST_SKIPPED:
            kept = f"; its batches are in {on_nonfinite(number, batches)}" if on_nonfinite else ""
            raise InputError(
                f"the loss is {loss_value} at step {number}, the {skipped}th step in a row that is not finite{kept}; "
                "lower lr, or look at the data."
            )
        _, trained, tokens, slots, squares = counts.tolist()
        yield {
            "step": number,
            "loss": loss_value,
            "lr": lr,
            "grad_norm": norm,
            "tokens": int(tokens),
            "trained_tokens": int(trained),
            **({} if taken else {"skipped": True}),
            "slots": int(slots),
            "squares": int(squares),
            "seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
        }
        # the clock starts before the next batches are collated and after the caller is done with the record
        wall, cpu = time.perf_counter(), time.process_time()


def count(batch: Batch) -> torch.Tensor:
    """What a step adds up over its batches: weight, trained tokens, tokens, slots, squared lengths; float64."""
    trained = (batch.labels != IGNORE).sum().double()
    weight = trained if batch.weights is None else batch.weights.sum(dtype=torch.float64)
    known = torch.tensor([batch.tokens, batch.labels.numel(), batch.squares], dtype=torch.float64)
    known = known.to(trained.device, non_blocking=True)
    if not batch.tokens:  # the empty batch of a process that is left over
        known = torch.zeros_like(known)
    return torch.cat([torch.stack([weight, trained]), known])


def token_loss_sum(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Weighted sum of the next-token losses of a batch, in nats.

    Seams are masked in the labels, so one shift serves all.
    """
    # use_cache=False: a cache would hide restarting positions from transformers' own mask detection
    return summed_loss(model(**batch.inputs, use_cache=False).logits, batch.labels, batch.weights)
