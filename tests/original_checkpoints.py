"""Stand-ins written as their original authors would have: the rules of a layout, backwards. Only tests need that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from varlen_lab.models.layouts import Layout, State, layer_of
from varlen_lab.models.originals import group_shape, ungroup
from varlen_lab.models.originals_moe import stack_experts


def original_weights(layout: Layout, native: State, config: dict[str, Any]) -> State:
    """The tensors of a native model under the names, and in the shapes, of its original checkpoint."""
    original: State = {}
    layers = sorted({layer_of(name)[0] for name in native}, key=lambda layer: int(layer or -1))
    for rule in layout.rules:
        for layer in layers if "*" in rule.original else [""]:
            parts = [native[name] for target in rule.native if (name := target.replace("*", layer)) in native]
            # a rule may find nothing: biases that this size does not have, a first layer without experts
            if len(parts) == len(rule.native):
                joined = group(parts, config) if rule.split is ungroup else torch.cat(parts)
                original[rule.original.replace("*", layer)] = joined
    return unstack_experts(original) if layout.prepare is stack_experts else original


def group(parts: Sequence[torch.Tensor], config: dict[str, Any]) -> torch.Tensor:
    """The inverse of ``ungroup``."""
    groups, _, dim = group_shape(config)
    q, k, v = (x.view(groups, -1, dim, x.shape[-1]) for x in parts)
    return torch.cat([q, k, v], dim=1).flatten(0, 2)


def unstack_experts(state: State) -> State:
    """The inverse of ``stack_experts``."""
    apart: State = {}
    for name, tensor in state.items():
        prefix, _, last = name.rpartition(".")
        if last == "gate_up_proj" and prefix.endswith(".experts"):
            for number, expert in enumerate(tensor):
                for kind, part in zip(("gate", "up"), expert.chunk(2), strict=True):
                    apart[f"{prefix}.{number}.{kind}_proj.weight"] = part.contiguous()
        elif last == "down_proj" and prefix.endswith(".experts"):
            for number, expert in enumerate(tensor):
                apart[f"{prefix}.{number}.down_proj.weight"] = expert.contiguous()
        else:
            apart[name] = tensor
    return apart
