"""GGUF files for tests: a tiny random Llama with the built-in tokenizer, as llama.cpp's converter writes one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from transformers import PreTrainedModel

from varlen_lab.documents import builtin_tokenizer
from varlen_lab.models import tiny

CONTROL, NORMAL = 3, 1  # kinds of tokens in a GGUF file
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers": "blk",
}


def write_gguf(
    path: Path,
    *,
    architecture: str = "llama",
    dtype: Any = np.float32,
    quantised: str | None = None,
    without: str = "nothing",
    extra: dict[str, np.ndarray] | None = None,
    tokens: int | None = None,
    tokenizer: bool = True,
    kind_of_tokenizer: str = "gpt2",
) -> PreTrainedModel:
    """Write the file and return the model it holds. ``without``: the tensors whose name begins so are left out.

    ``quantised``: a block format for the matrices; ``tokens``: how many the tokenizer has, where not the model's.
    """
    model = tiny("llama", seed=5, num_key_value_heads=2, intermediate_size=192, rms_norm_eps=1e-5).eval()
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("a tiny model")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    if tokenizer:
        add_tokenizer(writer, tokens or config.vocab_size, kind_of_tokenizer)
    for name, weight in model.state_dict().items():
        values = rotated_pairs(name, weight.numpy(), config)
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        if name.startswith(without):
            continue
        if quantised and values.ndim == 2:
            kind = gguf.GGMLQuantizationType[quantised]
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values.astype(dtype if values.ndim == 2 else np.float32))
    for name, values in (extra or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def rotated_pairs(name: str, values: np.ndarray, config: Any) -> np.ndarray:
    """llama.cpp turns neighbours of q and k, transformers the two halves of a head: the rows are in another order."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return values
    return values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)


def add_tokenizer(writer: Any, count: int, kind: str) -> None:
    """The built-in tokenizer as the fields of a GGUF file, with names made up for tokens that it does not have."""
    ours = builtin_tokenizer()
    facts = json.loads(ours.backend_tokenizer.to_str())
    special = {one["content"] for one in facts["added_tokens"]}
    tokens = ours.convert_ids_to_tokens(range(len(ours))) + [f"<more{n}>" for n in range(count - len(ours))]
    writer.add_tokenizer_model(kind)
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL if token in special else NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in facts["model"]["merges"]])
    writer.add_bos_token_id(ours.bos_token_id)
    writer.add_eos_token_id(ours.eos_token_id)
    writer.add_pad_token_id(ours.pad_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(ours.chat_template)
