"""The original layouts of Baichuan, ChatGLM, InternLM and Qwen 1: what their own code called which tensor.

Each has a function that says its config in the words of the native class, and a ``Layout``. What the families are is
told in ``registry``; the mixture of experts of DeepSeek is in ``originals_moe``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from varlen_lab.models.layouts import (
    DOWN,
    EMBED,
    GATE,
    HEAD,
    K_BIAS,
    LLAMA_REST,
    LLAMA_SETTINGS,
    NORM,
    NORM_1,
    NORM_2,
    O_BIAS,
    Q_BIAS,
    UP,
    V_BIAS,
    K,
    Layout,
    NativeConfig,
    O,
    Q,
    Rule,
    V,
    renamed,
    thirds,
    unchanged,
)
from varlen_lab.models.registry import rope

# ------------------------------------------------------------------------------------------------- Baichuan


def baichuan_config(original: dict[str, Any]) -> dict[str, Any]:
    """Llama's words for Baichuan 1, ours for the others. The original config does not say which of the four it is.

    Only the 13B models have no ``max_position_embeddings`` (ALiBi needs none), only Baichuan 2 has a z-loss.
    """
    alibi, norm_head = "max_position_embeddings" not in original, "z_loss_weight" in original
    config = renamed(original, LLAMA_SETTINGS | {"model_max_length": "max_position_embeddings"})
    if alibi or norm_head:
        return config | {"model_type": "varlen_baichuan", "alibi": alibi, "norm_head": norm_head}
    return config | {"model_type": "llama"}


BAICHUAN = Layout(baichuan_config, (Rule("model.layers.*.self_attn.W_pack.weight", (Q, K, V), thirds), *LLAMA_REST))

# ------------------------------------------------------------------------------------------------- ChatGLM


def chatglm_config(original: dict[str, Any]) -> dict[str, Any]:
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
        "rope_parameters": rope(1e4 * original.get("rope_ratio", 1), partial_rotary_factor=0.5),
    }


def by_head_counts(tensor: torch.Tensor, config: NativeConfig) -> Sequence[torch.Tensor]:
    """q of all heads, then k and v of the key/value heads, which are fewer."""
    q, kv = (config[name] * config["head_dim"] for name in ("num_attention_heads", "num_key_value_heads"))
    return tensor.split([q, kv, kv])


CHATGLM_LAYER = "transformer.encoder.layers.*."
CHATGLM = Layout(
    chatglm_config,
    (
        Rule(CHATGLM_LAYER + "self_attention.query_key_value.weight", (Q, K, V), by_head_counts),
        Rule(CHATGLM_LAYER + "self_attention.query_key_value.bias", (Q_BIAS, K_BIAS, V_BIAS), by_head_counts),
        Rule(CHATGLM_LAYER + "self_attention.dense.weight", (O,)),
        Rule(CHATGLM_LAYER + "mlp.dense_h_to_4h.weight", ("model.layers.*.mlp.gate_up_proj.weight",)),
        Rule(CHATGLM_LAYER + "mlp.dense_4h_to_h.weight", (DOWN,)),
        Rule(CHATGLM_LAYER + "input_layernorm.weight", (NORM_1,)),
        Rule(CHATGLM_LAYER + "post_attention_layernorm.weight", (NORM_2,)),
        Rule("transformer.embedding.word_embeddings.weight", (EMBED,)),
        Rule("transformer.encoder.final_layernorm.weight", (NORM,)),
        Rule("transformer.output_layer.weight", (HEAD,)),
    ),
    ignored=(r"rotary_pos_emb\.inv_freq$",),
)

# ------------------------------------------------------------------------------------------------- InternLM


def internlm_config(original: dict[str, Any]) -> dict[str, Any]:
    """InternLM 1, 2, 2.5 and 3 in Llama's words. 1 has biases unless it says no, the later ones only if they say so."""
    bias = original.get("qkv_bias", original.get("bias", original["model_type"] == "internlm"))
    return renamed(original, LLAMA_SETTINGS) | {
        "model_type": "llama",
        "attention_bias": bool(bias),
        "rope_parameters": internlm_rope(original),
    }


def internlm_rope(original: dict[str, Any]) -> dict[str, Any]:
    """``rope_parameters`` from ``rotary`` (InternLM 1) or ``rope_theta`` and ``rope_scaling`` (2 and 3)."""
    rotary = original.get("rotary") or {}
    scaling = original.get("rope_scaling") or {"type": rotary.get("type", "default")}
    theta = float(rotary.get("base", original.get("rope_theta", 10000)))
    kind = scaling.get("rope_type") or scaling.get("type")
    # InternLM 1 calls its own extension "dynamic" without a factor; up to the training length it is the default
    if kind == "dynamic" and "factor" in scaling:
        return rope(theta, "dynamic", factor=float(scaling["factor"]))
    return rope(theta)


def group_shape(config: NativeConfig) -> tuple[int, int, int]:
    """Key/value heads, query heads in the group of each, head dim."""
    heads, groups = config["num_attention_heads"], config.get("num_key_value_heads") or config["num_attention_heads"]
    return groups, heads // groups, config.get("head_dim") or config["hidden_size"] // heads


def ungroup(wqkv: torch.Tensor, config: NativeConfig) -> Sequence[torch.Tensor]:
    """``wqkv`` holds, group after group, the queries of the group, its key and its value."""
    groups, queries, dim = group_shape(config)
    block = wqkv.view(groups, queries + 2, dim, -1)
    return block[:, :-2].reshape(-1, wqkv.shape[-1]), block[:, -2].flatten(0, 1), block[:, -1].flatten(0, 1)


INTERNLM = Layout(internlm_config, (*unchanged(Q, K, V, Q_BIAS, K_BIAS, V_BIAS, O_BIAS), *LLAMA_REST))
INTERNLM2 = Layout(
    internlm_config,
    (
        Rule("model.layers.*.attention.wqkv.weight", (Q, K, V), ungroup),
        Rule("model.layers.*.attention.wo.weight", (O,)),
        Rule("model.layers.*.feed_forward.w1.weight", (GATE,)),
        Rule("model.layers.*.feed_forward.w3.weight", (UP,)),
        Rule("model.layers.*.feed_forward.w2.weight", (DOWN,)),
        Rule("model.layers.*.attention_norm.weight", (NORM_1,)),
        Rule("model.layers.*.ffn_norm.weight", (NORM_2,)),
        Rule("model.tok_embeddings.weight", (EMBED,)),
        Rule("model.norm.weight", (NORM,)),
        Rule("output.weight", (HEAD,)),
    ),
)
INTERNLM3 = Layout(internlm_config, (*unchanged(Q, K, V, Q_BIAS, K_BIAS, V_BIAS), *LLAMA_REST))

# ------------------------------------------------------------------------------------------------- Qwen

QWEN_SETTINGS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "layer_norm_epsilon": "rms_norm_eps",
    "initializer_range": "initializer_range",
    "seq_length": "max_position_embeddings",
    "tie_word_embeddings": "tie_word_embeddings",
}


def qwen_config(original: dict[str, Any]) -> dict[str, Any]:
    """Qwen 1's words in Qwen2's. Its ``intermediate_size`` counts gate and up together."""
    return renamed(original, QWEN_SETTINGS) | {
        "model_type": "qwen2",
        "num_key_value_heads": original["num_attention_heads"],
        "intermediate_size": original["intermediate_size"] // 2,
        "rope_parameters": rope(float(original.get("rotary_emb_base", 10000))),
    }


QWEN_LAYER = "transformer.h.*."
QWEN = Layout(
    qwen_config,
    (
        Rule(QWEN_LAYER + "attn.c_attn.weight", (Q, K, V), thirds),
        Rule(QWEN_LAYER + "attn.c_attn.bias", (Q_BIAS, K_BIAS, V_BIAS), thirds),
        Rule(QWEN_LAYER + "attn.c_proj.weight", (O,)),
        Rule(QWEN_LAYER + "mlp.w2.weight", (GATE,)),
        Rule(QWEN_LAYER + "mlp.w1.weight", (UP,)),
        Rule(QWEN_LAYER + "mlp.c_proj.weight", (DOWN,)),
        Rule(QWEN_LAYER + "ln_1.weight", (NORM_1,)),
        Rule(QWEN_LAYER + "ln_2.weight", (NORM_2,)),
        Rule("transformer.wte.weight", (EMBED,)),
        Rule("transformer.ln_f.weight", (NORM,)),
        Rule("lm_head.weight", (HEAD,)),
    ),
    ignored=(r"rotary_emb\.inv_freq$", r"logn_tensor$"),
)
