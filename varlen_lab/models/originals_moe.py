"""The original layout of DeepSeek-MoE 16B. Its checkpoint stores experts one by one, the native class stacked."""

from __future__ import annotations

import re
from typing import Any

import torch

from varlen_lab.models.layouts import LLAMA_REST, LLAMA_SETTINGS, K, Layout, Q, State, V, renamed, unchanged
from varlen_lab.models.registry import rope

EXPERT_SETTINGS = {
    name: name
    for name in (
        "n_routed_experts",
        "n_shared_experts",
        "num_experts_per_tok",
        "moe_intermediate_size",
        "first_k_dense_replace",
        "moe_layer_freq",
        "norm_topk_prob",
        "scoring_func",
        "routed_scaling_factor",
        "aux_loss_alpha",
    )
}


def deepseek_config(original: dict[str, Any]) -> dict[str, Any]:
    """DeepSeek-MoE's words in those of DeepSeek-V2, whose experts it has."""
    heads = original["num_attention_heads"]
    return renamed(original, LLAMA_SETTINGS | EXPERT_SETTINGS) | {
        "model_type": "varlen_deepseek_moe",
        "num_key_value_heads": original.get("num_key_value_heads") or heads,
        "qk_rope_head_dim": original["hidden_size"] // heads,
        "rope_parameters": rope(float(original.get("rope_theta", 10000))),
    }


def stack_experts(state: State) -> State:
    """``experts.0.gate_proj``, ``experts.0.up_proj``, ... -> one stacked ``experts.gate_up_proj`` a layer."""
    stacks: dict[str, dict[int, dict[str, torch.Tensor]]] = {}
    stacked: State = {}
    for name, tensor in state.items():
        if found := re.fullmatch(r"(.*\.experts)\.(\d+)\.(gate|up|down)_proj\.weight", name):
            stacks.setdefault(found[1], {}).setdefault(int(found[2]), {})[found[3]] = tensor
        else:
            stacked[name] = tensor
    for prefix, experts in stacks.items():
        ordered = [experts[number] for number in sorted(experts)]
        stacked[f"{prefix}.gate_up_proj"] = torch.stack([torch.cat([one["gate"], one["up"]]) for one in ordered])
        stacked[f"{prefix}.down_proj"] = torch.stack([one["down"] for one in ordered])
    return stacked


SHARED = unchanged(*(f"model.layers.*.mlp.shared_experts.{name}_proj.weight" for name in ("gate", "up", "down")))
ROUTED = unchanged(
    "model.layers.*.mlp.gate.weight", *(f"model.layers.*.mlp.experts.{n}_proj" for n in ("gate_up", "down"))
)
DEEPSEEK = Layout(deepseek_config, (*unchanged(Q, K, V), *LLAMA_REST, *SHARED, *ROUTED), prepare=stack_experts)
