"""InternLM 1: a Llama whose four attention projections carry a bias.

The original checkpoints came with remote code (``model_type: internlm``). Tensor names and shapes are Llama's, so
the layout is mapped by dropping what Llama computes by itself. Dynamic NTK scaling beyond the training length,
which the remote code applied, is not mapped: up to ``max_position_embeddings`` the two are equal.
"""

from __future__ import annotations

from typing import Any

import torch

VARIANTS: dict[str, dict[str, Any]] = {
    "internlm1": {"model_type": "llama", "attention_bias": True},
}
ORIGINAL_MODEL_TYPE = "internlm"
TEMPLATE = "internlm_chat"


def native_config(original: dict[str, Any]) -> dict[str, Any]:
    """The original ``config.json`` as one of a native Llama."""
    keep = [
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "max_position_embeddings", "rms_norm_eps", "initializer_range", "hidden_act", "pad_token_id",
        "bos_token_id", "eos_token_id", "tie_word_embeddings",
    ]  # fmt: skip
    config = {key: original[key] for key in keep if key in original}
    rotary = original.get("rotary") or {}
    return config | {
        "model_type": "llama",
        "attention_bias": bool(original.get("bias", True)),
        "rope_theta": float(rotary.get("base", original.get("rope_theta", 10000.0))),
    }


def native_weights(original: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of the original checkpoint under Llama's names."""
    return {name: tensor for name, tensor in original.items() if not name.endswith("rotary_emb.inv_freq")}
