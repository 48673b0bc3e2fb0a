"""StarCoder: native. 1 is GPT-BigCode: one key/value head, learned positions. 2 is rotary, grouped, with a window."""

from __future__ import annotations

from typing import Any

VARIANTS: dict[str, dict[str, Any]] = {
    "starcoder-15b": {"model_type": "gpt_bigcode", "multi_query": True, "n_inner": 176},
    "starcoder2-15b": {
        "model_type": "starcoder2",
        "num_key_value_heads": 2,
        "sliding_window": 8,
        "use_bias": True,
    },
}
TEMPLATE = "starcoder_chat"
