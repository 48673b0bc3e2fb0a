"""Qwen: the first generation maps to Qwen2; later ones are native.

1     all heads have their own keys and values; gate and up are called w2 and w1
1.5   Qwen2's class, biases on q, k and v          2     grouped-query attention
3     q and k normalised, no biases                MoE   experts chosen token by token, so no document matters

Qwen 1's dynamic NTK and logn scaling beyond the training length are not mapped: up to it the two are equal.
"""

from __future__ import annotations

from typing import Any

from varlen_lab.models.families.layout import (
    DOWN,
    EMBED,
    GATE,
    HEAD,
    KB,
    NORM,
    NORM_1,
    NORM_2,
    QB,
    UP,
    VB,
    K,
    Layout,
    O,
    Q,
    Rule,
    V,
    renamed,
    thirds,
)

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}

VARIANTS: dict[str, dict[str, Any]] = {
    "qwen-7b": {"model_type": "qwen2", "num_key_value_heads": 4},
    "qwen1.5-7b": {"model_type": "qwen2", "num_key_value_heads": 4, "rms_norm_eps": 1e-6},
    "qwen1.5-moe-a2.7b": {
        "model_type": "qwen2_moe",
        "num_key_value_heads": 4,
        "shared_expert_intermediate_size": 64,
        **EXPERTS,
    },
    "qwen2-7b": {"model_type": "qwen2", "num_key_value_heads": 2},
    "qwen2-1.5b": {"model_type": "qwen2", "num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen3-8b": {"model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 32},
    "qwen3-30b-a3b": {"model_type": "qwen3_moe", "num_key_value_heads": 2, "head_dim": 32, **EXPERTS},
}
TEMPLATE = "qwen_chat"

WORDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "layer_norm_epsilon": "rms_norm_eps",
    "initializer_range": "initializer_range",
    "seq_length": "max_position_embeddings",
    "tie_word_embeddings": "tie_word_embeddings",
}


def native(original: dict[str, Any]) -> dict[str, Any]:
    """Qwen 1's words in Qwen2's. Its ``intermediate_size`` counts gate and up together."""
    return renamed(original, WORDS) | {
        "model_type": "qwen2",
        "num_key_value_heads": original["num_attention_heads"],
        "intermediate_size": original["intermediate_size"] // 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": float(original.get("rotary_emb_base", 10000))},
    }


BLOCK = "transformer.h.*."
LAYOUTS = {
    "qwen": Layout(
        native,
        (
            Rule(BLOCK + "attn.c_attn.weight", (Q, K, V), thirds),
            Rule(BLOCK + "attn.c_attn.bias", (QB, KB, VB), thirds),
            Rule(BLOCK + "attn.c_proj.weight", (O,)),
            Rule(BLOCK + "mlp.w2.weight", (GATE,)),
            Rule(BLOCK + "mlp.w1.weight", (UP,)),
            Rule(BLOCK + "mlp.c_proj.weight", (DOWN,)),
            Rule(BLOCK + "ln_1.weight", (NORM_1,)),
            Rule(BLOCK + "ln_2.weight", (NORM_2,)),
            Rule("transformer.wte.weight", (EMBED,)),
            Rule("transformer.ln_f.weight", (NORM,)),
            Rule("lm_head.weight", (HEAD,)),
        ),
        ignored=(r"rotary_emb\.inv_freq$", r"logn_tensor$"),
    ),
}
