"""Faults in one layer of a model with our attention, and a stand-in whose scores are as large as a real model's."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from varlen_lab.attention.huggingface import attention_of
from varlen_lab.attention.masks import varlen_mask
from varlen_lab.models.miniature import miniature

ROUGH = {"q_proj.weight": 8.0, "k_proj.weight": 8.0}


def rough(kind: str = "llama", **config: Any) -> torch.nn.Module:
    """Six layers with scores 64 times as large as usual: what one kernel rounds otherwise than another shows.

    As in SmolLM2-135M, eager and sdpa differ by 20 times the limit of parity, and each from itself by a 25th of it.
    """
    model = miniature(kind, **{"num_hidden_layers": 6} | config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight *= next((by for end, by in ROUGH.items() if name.endswith(end)), 1.0)
    return model


def plant_in_layer(model: torch.nn.Module, number: int, fault: str) -> None:
    """One of ``FAULTS`` in layer ``number`` of a model with our attention, in place; documents alone stay right."""
    right, change = attention_of("auto"), FAULTS[fault]

    def attention(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> Any:
        if options.get("cu_seq_lens_q") is None or module.layer_idx != number:
            return right(module, query, key, value, mask, **options)
        return change(right, module, query, key, value, options | {"cu_seq_lens_k": None}), None

    AttentionInterface.register(f"planted_in_{number}", attention)
    AttentionMaskInterface.register(f"planted_in_{number}", varlen_mask)
    model.set_attn_implementation(f"planted_in_{number}")


def plant_in_precision(model: torch.nn.Module, dtype: torch.dtype, fault: str) -> None:
    """One of ``FAULTS`` in our attention wherever a packed row comes out of it in ``dtype``, and in no other."""
    right, change = attention_of("auto"), FAULTS[fault]

    def attention(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> Any:
        out = right(module, query, key, value, mask, **options)
        if options.get("cu_seq_lens_q") is None or out[0].dtype is not dtype:
            return out
        return change(right, module, query, key, value, options | {"cu_seq_lens_k": None}), None

    AttentionInterface.register("varlen_of_one_precision", attention)
    AttentionMaskInterface.register("varlen_of_one_precision", varlen_mask)
    model.set_attn_implementation("varlen_of_one_precision")


def merged(right: Any, module: Any, query: Any, key: Any, value: Any, options: dict[str, Any]) -> torch.Tensor:
    """The first seam is missing."""
    seams = options["cu_seq_lens_q"]
    lost = {"cu_seq_lens_q": torch.cat([seams[:1], seams[2:]]), "max_length_q": None}
    return right(module, query, key, value, None, **options | lost)[0]


def scaled(right: Any, module: Any, query: Any, key: Any, value: Any, options: dict[str, Any]) -> torch.Tensor:
    """Scores one percent too large."""
    return right(module, query * 1.01, key, value, None, **options)[0]


def heard(right: Any, module: Any, query: Any, key: Any, value: Any, options: dict[str, Any]) -> torch.Tensor:
    """A thousandth of the first head's output comes from the whole row."""
    out = right(module, query, key, value, None, **options)[0].clone()
    whole = {"cu_seq_lens_q": options["cu_seq_lens_q"][[0, -1]], "max_length_q": None}
    row = right(module, query, key, value, None, **options | whole)[0]
    out[:, :, 0] += 1e-3 * (row - out)[:, :, 0]
    return out


def wide(right: Any, module: Any, query: Any, key: Any, value: Any, options: dict[str, Any]) -> torch.Tensor:
    """The window is one token too wide."""
    return right(module, query, key, value, None, **options | {"sliding_window": options["sliding_window"] + 1})[0]


def heads_turned(right: Any, module: Any, query: Any, key: Any, value: Any, options: dict[str, Any]) -> torch.Tensor:
    """Query heads meet the keys and values of others."""
    return right(module, query, key.flip(1), value.flip(1), None, **options)[0]


def even(right: Any, module: Any, query: Any, key: Any, value: Any, options: dict[str, Any]) -> torch.Tensor:
    """All tokens of a document weigh alike."""
    return right(module, 0 * query, key, value, None, **options)[0]


FAULTS = {"seam": merged, "scale": scaled, "leak": heard, "window": wide, "heads": heads_turned, "even": even}
