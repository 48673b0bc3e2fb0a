"""What moves the weights: AdamW or SGD, and how fast: a line up, then half a cosine down."""

from __future__ import annotations

import math

import torch

from varlen_lab.config.schema import Config


def make_optimizer(model: torch.nn.Module, config: Config, fused: bool = True) -> torch.optim.Optimizer:
    """AdamW or SGD over the weights that are trained."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    if config.optim_type == "AdamW":
        return torch.optim.AdamW(
            trainable, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=fused
        )
    return torch.optim.SGD(trainable, lr=config.lr, momentum=config.betas[0], weight_decay=config.weight_decay)


def make_schedule(optimizer: torch.optim.Optimizer, config: Config, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    """A line up, then half a cosine down."""
    warmup = math.ceil(config.warmup_ratio * steps)
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: lr_factor(step, steps, warmup, config.start_factor)
    )


def lr_factor(step: int, steps: int, warmup: int, start: float) -> float:
    """Share of the peak lr at a step: a line from ``start`` up to 1, then half a cosine down to 0."""
    if step < warmup:
        return start + (1 - start) * step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
