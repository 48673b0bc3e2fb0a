"""ChatGLM 2 and 3: native as GLM. Rotary positions on the first half of each head, two key/value heads.

ChatGLM 3 differs from 2 in its prompts, and in its long-context version in the base of the rotary frequencies
(``rope_ratio``). The prefix tokens ``[gMASK]sop`` are the tokenizer's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from varlen_lab.models.families.layout import (
    DOWN,
    EMBED,
    HEAD,
    KB,
    NORM,
    NORM_1,
    NORM_2,
    QB,
    VB,
    Config,
    K,
    Layout,
    O,
    Q,
    Rule,
    V,
)

GLM = {"model_type": "glm", "num_key_value_heads": 2, "head_dim": 16, "attention_bias": True, "rms_norm_eps": 1e-5}

VARIANTS: dict[str, dict[str, Any]] = {
    "chatglm2-6b": GLM | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    "chatglm3-6b-32k": GLM
    | {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5, "partial_rotary_factor": 0.5}},
}
TEMPLATE = "chatglm3"


def native(original: dict[str, Any]) -> dict[str, Any]:
    """ChatGLM's words in GLM's."""
    heads = original["num_attention_heads"]
    shared = original.get("multi_query_attention", False)
    return {
        "model_type": "glm",
        "vocab_size": original.get("padded_vocab_size", original.get("vocab_size")),
        "hidden_size": original["hidden_size"],
        "intermediate_size": original["ffn_hidden_size"],
        "num_hidden_layers": original["num_layers"],
        "num_attention_heads": heads,
        "num_key_value_heads": original["multi_query_group_num"] if shared else heads,
        "head_dim": original.get("kv_channels", original["hidden_size"] // heads),
        "attention_bias": bool(original.get("add_qkv_bias", False)),
        "rms_norm_eps": original.get("layernorm_epsilon", 1e-5),
        "max_position_embeddings": original.get("seq_length", 2048),
        "pad_token_id": original.get("pad_token_id", 0),
        "eos_token_id": original.get("eos_token_id", 2),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0 * original.get("rope_ratio", 1),
            "partial_rotary_factor": 0.5,
        },
    }


def heads_apart(tensor: torch.Tensor, config: Config) -> Sequence[torch.Tensor]:
    """q of all heads, then k and v of the shared ones."""
    q, kv = (config[name] * config["head_dim"] for name in ("num_attention_heads", "num_key_value_heads"))
    return tensor.split([q, kv, kv])


MLP = "model.layers.*.mlp."
ENCODER = "transformer.encoder.layers.*."
LAYOUTS = {
    "chatglm": Layout(
        native,
        (
            Rule(ENCODER + "self_attention.query_key_value.weight", (Q, K, V), heads_apart),
            Rule(ENCODER + "self_attention.query_key_value.bias", (QB, KB, VB), heads_apart),
            Rule(ENCODER + "self_attention.dense.weight", (O,)),
            Rule(ENCODER + "mlp.dense_h_to_4h.weight", (MLP + "gate_up_proj.weight",)),
            Rule(ENCODER + "mlp.dense_4h_to_h.weight", (DOWN,)),
            Rule(ENCODER + "input_layernorm.weight", (NORM_1,)),
            Rule(ENCODER + "post_attention_layernorm.weight", (NORM_2,)),
            Rule("transformer.embedding.word_embeddings.weight", (EMBED,)),
            Rule("transformer.encoder.final_layernorm.weight", (NORM,)),
            Rule("transformer.output_layer.weight", (HEAD,)),
        ),
        ignored=(r"rotary_pos_emb\.inv_freq$",),
    ),
}
