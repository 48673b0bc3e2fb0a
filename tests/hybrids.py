"""Small models with layers that carry a state or a convolution along the row, as the ``model_config`` of a run."""

from __future__ import annotations

from typing import Any

SIZES: dict[str, Any] = {
    "vocab_size": 2048,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
DELTA = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
# model_type -> its config
HYBRIDS: dict[str, dict[str, Any]] = {
    "lfm2": SIZES | {"layer_types": ["conv", "full_attention"], "block_multiple_of": 32},
    "jamba": SIZES
    | {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "mamba_d_state": 4, "mamba_dt_rank": 4},
    "mamba": SIZES | {"state_size": 4, "time_step_rank": 4},
    "mamba2": SIZES | {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1, "chunk_size": 32},
    "qwen3_next": SIZES | {"layer_types": ["linear_attention", "full_attention"], "head_dim": 8} | DELTA | EXPERTS,
    "recurrent_gemma": SIZES | {"num_hidden_layers": 3, "lru_width": 32, "num_key_value_heads": 1},
}
# model_type -> the layers of it that leak, and how many of all are isolated
LAYERS = {
    "lfm2": ("Lfm2ShortConv", "1 of 2"),
    "jamba": ("JambaMambaMixer", "1 of 2"),
    "mamba": ("MambaMixer", "2 of 2"),
    "mamba2": ("Mamba2Mixer", "2 of 2"),
    "qwen3_next": ("Qwen3NextGatedDeltaNet", "1 of 2"),
    "recurrent_gemma": ("RecurrentGemmaRecurrentBlock", "2 of 3"),
}


def hybrid(kind: str) -> dict[str, Any]:
    """The ``model_config`` of a hybrid."""
    return {"model_type": kind, **HYBRIDS[kind]}
