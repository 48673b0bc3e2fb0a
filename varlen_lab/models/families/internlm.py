"""InternLM: Llamas in three layouts.

1     biases on all four attention projections, Llama's names
2     no biases, grouped-query attention, q, k and v of each group in one matrix ``wqkv``
2.5   as 2, with positions stretched beyond the training length (dynamic NTK)
3     as Llama 3, head dim given explicitly

Dynamic NTK changes nothing up to the training length; beyond it transformers recomputes the frequencies from the
longest position it sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from varlen_lab.models.families.layout import (
    DOWN,
    EMBED,
    GATE,
    HEAD,
    KB,
    LLAMA_REST,
    LLAMA_WORDS,
    NORM,
    NORM_1,
    NORM_2,
    QB,
    UP,
    VB,
    Config,
    K,
    Layout,
    O,
    Q,
    Rule,
    V,
    renamed,
    same,
)

VARIANTS: dict[str, dict[str, Any]] = {
    "internlm-7b": {"model_type": "llama", "attention_bias": True},
    "internlm2-7b": {
        "model_type": "llama",
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    },
    "internlm2.5-7b": {
        "model_type": "llama",
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e6, "factor": 2.0},
    },
    "internlm3-8b": {"model_type": "llama", "num_key_value_heads": 1, "head_dim": 32},
}
TEMPLATE = "internlm_chat"


def rope(original: dict[str, Any]) -> dict[str, Any]:
    """``rope_parameters`` from ``rotary`` (InternLM 1) or ``rope_theta`` and ``rope_scaling`` (2 and 3)."""
    rotary = original.get("rotary") or {}
    scaling = original.get("rope_scaling") or {"type": rotary.get("type", "default")}
    kind = scaling.get("rope_type") or scaling.get("type")
    theta = float(rotary.get("base", original.get("rope_theta", 10000.0)))
    # InternLM 1 calls its own extension "dynamic" without a factor; up to the training length it is the default
    if kind != "dynamic" or "factor" not in scaling:
        kind = "default"
    extra = {"factor": float(scaling["factor"])} if kind == "dynamic" else {}
    return {"rope_type": kind, "rope_theta": theta, **extra}


def first(original: dict[str, Any]) -> dict[str, Any]:
    """InternLM 1 in Llama's words."""
    bias = bool(original.get("bias", True))
    return renamed(original, LLAMA_WORDS) | {
        "model_type": "llama",
        "attention_bias": bias,
        "rope_parameters": rope(original),
    }


def later(original: dict[str, Any]) -> dict[str, Any]:
    """InternLM 2, 2.5 and 3 in Llama's words."""
    bias = bool(original.get("qkv_bias", original.get("bias", False)))
    return renamed(original, LLAMA_WORDS) | {
        "model_type": "llama",
        "attention_bias": bias,
        "rope_parameters": rope(original),
    }


def shape(config: Config) -> tuple[int, int, int]:
    """Key/value heads, query heads in the group of each, head dim."""
    heads, groups = config["num_attention_heads"], config.get("num_key_value_heads") or config["num_attention_heads"]
    return groups, heads // groups, config.get("head_dim") or config["hidden_size"] // heads


def ungroup(wqkv: torch.Tensor, config: Config) -> Sequence[torch.Tensor]:
    """``wqkv`` holds, group after group, the queries of the group, its key and its value."""
    groups, queries, dim = shape(config)
    block = wqkv.view(groups, queries + 2, dim, -1)
    return block[:, :-2].reshape(-1, wqkv.shape[-1]), block[:, -2].flatten(0, 1), block[:, -1].flatten(0, 1)


def group(parts: Sequence[torch.Tensor], config: Config) -> torch.Tensor:
    """The inverse of ``ungroup``."""
    groups, _, dim = shape(config)
    q, k, v = (x.view(groups, -1, dim, x.shape[-1]) for x in parts)
    return torch.cat([q, k, v], dim=1).flatten(0, 2)


QKVO_BIAS = (QB, KB, VB, "model.layers.*.self_attn.o_proj.bias")
LAYOUTS = {
    "internlm": Layout(first, (*same(Q, K, V, *QKVO_BIAS), *LLAMA_REST)),
    "internlm2": Layout(
        later,
        (
            Rule("model.layers.*.attention.wqkv.weight", (Q, K, V), ungroup, group),
            Rule("model.layers.*.attention.wo.weight", (O,)),
            Rule("model.layers.*.feed_forward.w1.weight", (GATE,)),
            Rule("model.layers.*.feed_forward.w3.weight", (UP,)),
            Rule("model.layers.*.feed_forward.w2.weight", (DOWN,)),
            Rule("model.layers.*.attention_norm.weight", (NORM_1,)),
            Rule("model.layers.*.ffn_norm.weight", (NORM_2,)),
            Rule("model.tok_embeddings.weight", (EMBED,)),
            Rule("model.norm.weight", (NORM,)),
            Rule("output.weight", (HEAD,)),
        ),
    ),
    "internlm3": Layout(later, (*same(Q, K, V, QB, KB, VB), *LLAMA_REST)),
}
