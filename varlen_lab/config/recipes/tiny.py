"""The CPU templates: one for each family, training its architecture from scratch on the built-in corpus in seconds.

What makes an architecture is what ``models.tiny`` has for the family's first variant (a test compares them; here is no
torch to ask); the sizes are larger than there, so that a loss curve falls as one expects.
"""

from __future__ import annotations

from typing import Any

# One hidden layer more or less changes nothing in a lesson; this is small enough for 5 steps a second on a laptop.
SIZES: dict[str, Any] = {
    "vocab_size": 2048,
    "hidden_size": 128,
    "intermediate_size": 344,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}
# The built-in tokenizer's, for architectures whose own defaults lie elsewhere.
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
WINDOW = {"model_type": "mistral", "num_key_value_heads": 2, "head_dim": 32, "sliding_window": 256}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "baichuan": {"model_type": "llama"},
    "chatglm": {
        "model_type": "glm",
        "num_key_value_heads": 2,
        "head_dim": 32,
        "attention_bias": True,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
        **TOKENS,
    },
    "deepseek": {"model_type": "llama"},
    "gemma": {"model_type": "gemma", "num_key_value_heads": 1, "head_dim": 32, **TOKENS},
    "internlm": {"model_type": "llama", "attention_bias": True},
    "llama": {"model_type": "llama", "num_key_value_heads": 2},
    "mistral": WINDOW,
    "qwen": {"model_type": "qwen2", "num_key_value_heads": 4, **TOKENS},
    "starcoder": {"model_type": "gpt_bigcode", "multi_query": True, "n_inner": 344, **TOKENS},
    "yi": {
        "model_type": "llama",
        "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e6},
    },
    "zephyr": WINDOW,
}


def settings(family: str) -> dict[str, Any]:
    """What a template decides: two rows of 1,024 tokens in two batches a step, asked about ``json.dumps``."""
    return {
        "model_config": ARCHITECTURES[family] | SIZES,
        "data_path": "builtin:docstrings",
        "max_length": 1024,
        "accumulative_counts": 2,
        "max_epochs": 1,
        "lr": 2e-3,
        "evaluation_freq": 200,
        "evaluation_inputs": ["What does `json.dumps` do?"],
    }


TEMPLATES = {f"tiny_{family}_full_docstrings_e1": family for family in ARCHITECTURES}
