"""Activations that are computed again in the backward pass instead of being kept.

    all      of a layer only its input is kept: 2 bytes a token and channel in bf16, and a second forward pass
    cheap    results of matrix products and of attention are kept too, everything else is done again: about half of the
             activations stay, and next to no time is lost, for norms, rotations and gates are a few percent of the work

Both change no number: what is computed again is computed from the same values by the same kernels.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "linear", "_grouped_mm"}


def recompute(model: Any, what: str) -> None:
    """Let every layer of a transformers model do again ``all`` of its work, or what is ``cheap``."""
    options: dict[str, Any] = {"use_reentrant": False}
    if what == "cheap":
        from torch.utils.checkpoint import create_selective_checkpoint_contexts

        options["context_fn"] = partial(create_selective_checkpoint_contexts, keep_dear)
    name = "activation_checkpointing_enable"  # its name from transformers 5.20 on
    enable = getattr(model, name, None) or model.gradient_checkpointing_enable
    enable(options)


def keep_dear(context: Any, operation: Any, *args: Any, **more: Any) -> Any:
    """Keep what a matrix product or an attention kernel returned; the others are done again."""
    from torch.utils.checkpoint import CheckpointPolicy

    return CheckpointPolicy.MUST_SAVE if is_dear(operation) else CheckpointPolicy.PREFER_RECOMPUTE


def is_dear(operation: torch._ops.OpOverload) -> bool:
    """A matrix product, or a kernel of attention: torch's, flash-attn's, by the name it is registered under."""
    name = operation._schema.name.split("::")[-1]
    return name in PRODUCTS or "attn" in name or "attention" in name
