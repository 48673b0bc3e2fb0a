"""Baichuan 1 and 2: Llamas with q, k and v in one matrix; the 13B ones have ALiBi instead of rotary positions.

Baichuan 2 normalises the rows of its output matrix in every forward pass (NormHead). The published weights are the
unnormalised ones, and so they stay here: normalising them once would be the same model only until the first update.
"""

from __future__ import annotations

from typing import Any

from varlen_lab.models.families.layout import LLAMA_REST, LLAMA_WORDS, K, Layout, Q, Rule, V, renamed, thirds

VARIANTS: dict[str, dict[str, Any]] = {
    "baichuan-7b": {"model_type": "llama"},
    "baichuan-13b": {"model_type": "varlen_baichuan", "alibi": True},
    "baichuan2-7b": {"model_type": "varlen_baichuan", "norm_head": True},
    "baichuan2-13b": {"model_type": "varlen_baichuan", "alibi": True, "norm_head": True},
}
TEMPLATE = "baichuan_chat"


def native(original: dict[str, Any]) -> dict[str, Any]:
    """Which of the four it is stands between the lines of the original config.

    Only the 13B models have no ``max_position_embeddings`` (ALiBi needs none), only Baichuan 2 has a z-loss.
    """
    alibi, norm_head = "max_position_embeddings" not in original, "z_loss_weight" in original
    config = renamed(original, LLAMA_WORDS | {"model_max_length": "max_position_embeddings"})
    if alibi or norm_head:
        return config | {"model_type": "varlen_baichuan", "alibi": alibi, "norm_head": norm_head}
    return config | {"model_type": "llama"}


LAYOUTS = {
    "baichuan": Layout(native, (Rule("model.layers.*.self_attn.W_pack.weight", (Q, K, V), thirds), *LLAMA_REST)),
}
