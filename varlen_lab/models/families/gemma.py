"""Gemma: native. Heads wider than hidden size / heads; from 2 on every other layer slides a window.

1   2B: one key/value head for all (MQA); 7B: one each      2   scores capped at 50, logits at 30
3   q and k normalised instead, five windows to one full layer, two rotary bases
"""

from __future__ import annotations

from typing import Any

VARIANTS: dict[str, dict[str, Any]] = {
    "gemma-2b": {"model_type": "gemma", "num_key_value_heads": 1, "head_dim": 32},
    "gemma-7b": {"model_type": "gemma", "num_key_value_heads": 4, "head_dim": 32},
    "gemma2-9b": {
        "model_type": "gemma2",
        "num_key_value_heads": 2,
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "sliding_window": 8,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    "gemma3-1b": {
        "model_type": "gemma3_text",
        "num_hidden_layers": 6,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "sliding_window": 8,
    },
}
TEMPLATE = "gemma"
