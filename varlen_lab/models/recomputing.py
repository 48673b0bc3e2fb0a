"""Less memory for more time: activations of a model are computed again in the backward pass instead of being kept."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

MATRIX_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "linear", "_grouped_mm"}  # as torch calls these operations


def recompute(model: Any, what: str) -> None:
    """Compute activations of a transformers model again in the backward pass instead of keeping them.

    ``"all"``    of a layer only its input is kept: 2 bytes a token and channel in bf16, and a second forward pass
    ``"cheap"``  results of matrix products and of attention are kept too: about half of the activations stay, and next
                 to no time is lost, for norms, rotations and gates are a few percent of the work

    Neither changes a number: what is computed again is computed from the same values by the same kernels.
    """
    options: dict[str, Any] = {"use_reentrant": False}
    if what == "cheap":
        from torch.utils.checkpoint import create_selective_checkpoint_contexts

        options["context_fn"] = partial(create_selective_checkpoint_contexts, save_expensive)
    name = "activation_checkpointing_enable"  # its name from transformers 5.20 on
    enable = getattr(model, name, None) or model.gradient_checkpointing_enable
    enable(options)


def save_expensive(context: Any, operation: Any, *args: Any, **more: Any) -> Any:
    """torch's policy for one operation: keep what a matrix product or an attention kernel returned, nothing else."""
    from torch.utils.checkpoint import CheckpointPolicy

    return CheckpointPolicy.MUST_SAVE if is_expensive(operation) else CheckpointPolicy.PREFER_RECOMPUTE


def is_expensive(operation: torch._ops.OpOverload) -> bool:
    """A matrix product, or a kernel of attention: torch's, flash-attn's, by the name it is registered under."""
    name = operation._schema.name.split("::")[-1]
    return name in MATRIX_PRODUCTS or "attn" in name or "attention" in name
