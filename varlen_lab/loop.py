"""The training loop, and the one rule that makes packed and unpacked runs comparable.

The loss of an optimizer step is the sum over all trained tokens of the step, over every batch and every process,
divided by their count. A mean of means would weigh a token by how many neighbours its row happens to have, and no
two ways of packing would agree.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from varlen_lab.batches import Batch
from varlen_lab.config import Config
from varlen_lab.errors import InputError
from varlen_lab.packing.rows import IGNORE

if TYPE_CHECKING:
    from accelerate import Accelerator

MOST_SKIPPED = 5  # steps in a row without a finite loss: then it is not a bad batch, it is the run


@dataclass
class Engine:
    """A model ready to take steps."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    accelerator: Accelerator
    max_norm: float


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
    """
    accelerator, model, optimizer = engine.accelerator, engine.model, engine.optimizer
    model.train()
    wall, cpu = time.perf_counter(), time.process_time()
    skipped = 0
    for number, batches in enumerate(steps, start=done + 1):
        batches = [batch.to(accelerator.device) for batch in batches]
        trained = torch.stack([(batch.labels != IGNORE).sum() for batch in batches]).sum()
        trained = accelerator.reduce(trained, "sum")
        divisor = trained.clamp(min=1)  # a step may hold nothing to train on
        loss = torch.zeros((), device=accelerator.device)
        for index, batch in enumerate(batches):
            last = index == len(batches) - 1
            with nullcontext() if last else accelerator.no_sync(model):
                part = token_loss_sum(model, batch) / divisor
                # DDP averages gradients over processes; the count above is already of all of them
                accelerator.backward(part * accelerator.num_processes)
            loss += part.detach()
        norm = accelerator.clip_grad_norm_(model.parameters(), engine.max_norm or math.inf)
        lr = engine.scheduler.get_last_lr()[0]
        loss_value, finite = float(accelerator.reduce(loss, "sum")), math.isfinite(float(norm))
        finite = finite and math.isfinite(loss_value)
        skipped = 0 if finite else skipped + 1
        if finite:
            optimizer.step()
        engine.scheduler.step()
        optimizer.zero_grad()
        if skipped == MOST_SKIPPED:
            kept = f"; its batches are in {on_nonfinite(number, batches)}" if on_nonfinite else ""
            raise InputError(
                f"the loss is {loss_value} at step {number}, the {skipped}th step in a row that is not finite{kept}; "
                "lower lr, or look at the data."
            )
        yield {
            "step": number,
            "loss": loss_value,
            "lr": lr,
            "grad_norm": float(norm),
            "tokens": sum(batch.tokens for batch in batches),
            "trained_tokens": int(trained),
            **({} if finite else {"skipped": True}),
            "slots": sum(batch.labels.numel() for batch in batches),
            "seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
        }
        # the clock starts before the next batches are collated and after the caller is done with the record
        wall, cpu = time.perf_counter(), time.process_time()


def token_loss_sum(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Sum of the next-token losses of a batch, in nats. Seams are masked in the labels, so one shift serves all."""
    # use_cache=False: a cache would hide restarting positions from transformers' own mask detection
    logits = model(**batch.inputs, use_cache=False).logits
    return F.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(),
        batch.labels[:, 1:].flatten(),
        ignore_index=IGNORE,
        reduction="sum",
    )


def make_engine(model: torch.nn.Module, config: Config, steps: int, accelerator: Accelerator) -> Engine:
    """Optimizer, schedule and accelerator around a model."""
    if config.optim_type == "AdamW":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            model.parameters(), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=True
        )
    else:
        optimizer = torch.optim.SGD(
            model.parameters(), lr=config.lr, momentum=config.betas[0], weight_decay=config.weight_decay
        )
    warmup = math.ceil(config.warmup_ratio * steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: lr_factor(step, steps, warmup, config.start_factor)
    )
    model, optimizer = accelerator.prepare(model, optimizer)
    return Engine(model, optimizer, schedule, accelerator, config.max_norm)


def lr_factor(step: int, steps: int, warmup: int, start: float) -> float:
    """Share of the peak lr at a step: a line from ``start`` up to 1, then half a cosine down to 0."""
    if step < warmup:
        return start + (1 - start) * step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
