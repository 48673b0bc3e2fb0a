"""Llama 2 and 3: the plain case, native in transformers as published."""

from __future__ import annotations

from typing import Any

LLAMA_3 = {"rope_type": "default", "rope_theta": 5e5}
LLAMA_31 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

VARIANTS: dict[str, dict[str, Any]] = {
    "llama2-7b": {"model_type": "llama"},
    "llama2-70b": {"model_type": "llama", "num_key_value_heads": 2},
    "llama3-8b": {"model_type": "llama", "num_key_value_heads": 1, "rope_parameters": LLAMA_3},
    "llama3.1-8b": {"model_type": "llama", "num_key_value_heads": 1, "rope_parameters": LLAMA_31},
    "llama3.2-1b": {
        "model_type": "llama",
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "rope_parameters": LLAMA_31,
    },
}
TEMPLATE = "llama2_chat"
