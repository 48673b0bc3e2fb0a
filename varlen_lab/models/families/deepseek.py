"""DeepSeek: a Llama (LLM), a Llama with stretched positions (Coder), mixtures of experts (MoE, V2-Lite).

DeepSeek-MoE 16B came with remote code: DeepSeek-V2's experts, shared ones and a first dense layer, under ordinary
attention. V2-Lite has multi-head latent attention, whose values are narrower than its queries and keys.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from varlen_lab.models.families.layout import LLAMA_REST, LLAMA_WORDS, K, Layout, Q, State, V, renamed, same

EXPERTS = {
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
}

VARIANTS: dict[str, dict[str, Any]] = {
    "deepseek-llm-7b": {"model_type": "llama"},
    "deepseek-llm-67b": {"model_type": "llama", "num_key_value_heads": 2},
    "deepseek-coder-6.7b": {
        "model_type": "llama",
        "rope_parameters": {"rope_type": "linear", "rope_theta": 1e5, "factor": 4.0},
    },
    "deepseek-moe-16b": {
        "model_type": "varlen_deepseek_moe",
        "num_key_value_heads": 4,
        "qk_rope_head_dim": 16,
        **EXPERTS,
    },
    "deepseek-v2-lite": {
        "model_type": "deepseek_v2",
        "num_key_value_heads": 4,
        "q_lora_rank": None,
        "kv_lora_rank": 32,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
        "head_dim": 8,
        "n_group": 1,
        "topk_group": 1,
        **EXPERTS,
    },
}
TEMPLATE = "deepseek_moe"

EXPERT_WORDS = {
    name: name
    for name in (
        *EXPERTS,
        "moe_layer_freq",
        "norm_topk_prob",
        "scoring_func",
        "routed_scaling_factor",
        "aux_loss_alpha",
    )
}


def native(original: dict[str, Any]) -> dict[str, Any]:
    """DeepSeek-MoE's words in those of DeepSeek-V2, whose experts it has."""
    heads = original["num_attention_heads"]
    return renamed(original, LLAMA_WORDS | EXPERT_WORDS) | {
        "model_type": "varlen_deepseek_moe",
        "num_key_value_heads": original.get("num_key_value_heads") or heads,
        "qk_rope_head_dim": original["hidden_size"] // heads,
        "rope_parameters": {"rope_type": "default", "rope_theta": float(original.get("rope_theta", 10000))},
    }


def fuse(state: State) -> State:
    """``experts.0.gate_proj``, ``experts.0.up_proj``, ... -> one stacked ``experts.gate_up_proj`` a layer."""
    stacks: dict[str, dict[int, dict[str, torch.Tensor]]] = {}
    fused: State = {}
    for name, tensor in state.items():
        if found := re.fullmatch(r"(.*\.experts)\.(\d+)\.(gate|up|down)_proj\.weight", name):
            stacks.setdefault(found[1], {}).setdefault(int(found[2]), {})[found[3]] = tensor
        else:
            fused[name] = tensor
    for prefix, experts in stacks.items():
        ordered = [experts[number] for number in sorted(experts)]
        fused[f"{prefix}.gate_up_proj"] = torch.stack([torch.cat([one["gate"], one["up"]]) for one in ordered])
        fused[f"{prefix}.down_proj"] = torch.stack([one["down"] for one in ordered])
    return fused


def unfuse(state: State) -> State:
    """The inverse of ``fuse``."""
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


SHARED = same(*(f"model.layers.*.mlp.shared_experts.{name}_proj.weight" for name in ("gate", "up", "down")))
ROUTED = same("model.layers.*.mlp.gate.weight", *(f"model.layers.*.mlp.experts.{n}_proj" for n in ("gate_up", "down")))
LAYOUTS = {
    "deepseek": Layout(native, (*same(Q, K, V), *LLAMA_REST, *SHARED, *ROUTED), before=fuse, after=unfuse),
}
