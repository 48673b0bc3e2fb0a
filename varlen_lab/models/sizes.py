"""What becomes of the numbers and lists of a model's config when the model is made tiny: rules on the names of fields.

Layers are kept by kind: ``(numbers, total)`` says which of how many. No class is known by its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

HIDDEN, HEADS, HEAD_DIM, VOCABULARY, SPECIAL = 64, 4, 16, 128, 10  # ids below SPECIAL are no words of a document

# The first pattern that fits a field's whole name says how large its number is: exactly, where sizes must agree ...
EXACTLY = [
    (r".*n_mamba_heads|mamba_n(um)?_heads", 8),
    (r"indexer_kv_heads", 1),
    (r".*(linear_num_key|num_k)_heads", HEADS // 2),
    (r".*(n_heads?|num_heads|attention_heads|value_heads|query_groups)", HEADS),
    (r"qk_head_dim", 2 * HEAD_DIM),
    (r"rotary_dim|.*_rank|.*state(_size)?", 8),
    (r".*(head_?dim|head_size|dim_head|d_head|kv_channels)", HEAD_DIM),
    (r"mamba_d_ssm", 2 * HIDDEN),
    (r".*(hidden_size(_global)?|d_model|n_embd|emb_dim|embedding_dim|embed_dim|embedding_size|proj_dim)", HIDDEN),
    (r"lru_width|adapter_(in|out)\w+", HIDDEN),
]
# ... or at most.
AT_MOST = [
    (r".*vocab(_size.*)?|.*ngram_parts", VOCABULARY),
    (r".*budget", 16),
    (r".*(num|n)_(local_|routed_)?experts|moe_num_experts|zero_expert_num", 4),
    (r".*experts?_per_tok(en)?|moe_top_?k|moe_k|n_group|num_expert_group|.*ngroups|.*n_groups|o_groups", 2),
    (r"topk_group|.*shared_experts|index_topk_blocks", 1),
    (r".*(period|interval|pattern|every_n_layers|group_size|sparse_step|layer_step|compress_ratio)", 2),
    (r"first_k_dense_replace|num_dense_layers|.*layer_offset|.*layer_start.*|max_window_layers|num_nextn.*", 1),
    (r".*(intermediate_size|ffn_dim|hidden_size|d_inner|n_inner|dff|dim_ff|intermediate_size_mlp|ffn_hidden_size)", 96),
    (r".*(window|window_size|chunk_size|chunk_length|block_size|floor_scale|n_floor|window_len)", 16),
    (r"local_attention|index_topk", 16),
    (r".*(position_embeddings|_positions|n_ctx|max_seq_len|model_max_length|context_length)", 256),
]
Layers = tuple[list[int], int]
LAYERS = re.compile(r".*(hidden_layers|n_layers?|num_layers|(en|de)coder_layers|num_blocks|depth)")
PART = re.compile("n_[a-z]+_layers")  # a stack in several parts, in the order of the fields: n_input_layers, ...


def kinds_of_layer(old: Mapping[str, Any], each: int = 1) -> Layers:
    """The numbers of the layers to keep, the first of every kind and at least two; and how many there were.

    ``each``: how many to keep of a kind. A kind is what all lists with an entry a layer, and all lists of layer
    numbers, say about a layer.
    """
    counts = [v for name, v in old.items() if type(v) is int and LAYERS.fullmatch(name)]
    total = max(counts, default=1)
    shared = total - next((v for name, v in old.items() if re.fullmatch("num_.*shared_layers", name) and v), 0)
    marks: list[list[Any]] = [[number >= shared for number in range(total)]]
    for name, value in old.items():
        if isinstance(value, (list, tuple)) and value:
            if layer_numbers(name, list(value), total):
                marks.append([number in value for number in range(total)])
            elif len(value) == total:
                marks.append([repr(each) for each in value])
            elif name.endswith("_types") and len(value) < total:  # a pattern that repeats
                marks.append([repr(value[number % len(value)]) for number in range(total)])
    parts = [v for name, v in old.items() if PART.fullmatch(name) and type(v) is int]
    if sum(parts) == total:  # a stack in several parts
        marks.append([part for part, count in enumerate(parts) for _ in range(count)])
    seen: dict[Any, list[int]] = {}
    for number, kind in enumerate(zip(*marks)):
        seen.setdefault(kind, []).append(number)
    kept = sorted(number for numbers in seen.values() for number in numbers[:each])
    return sorted({*kept, *[n for n in range(total) if n not in kept][: max(0, 2 - len(kept))]}), total


def layer_numbers(name: str, values: list[Any], total: int) -> bool:
    """Whether a list says which layers are meant: their numbers, in order."""
    return (
        ("layer" in name or "idx" in name)
        and all(type(v) is int and 0 <= v < total for v in values)
        and all(a < b for a, b in pairwise(values))
        and (len(values) > 2 or total > 2 or name.endswith("idxs"))
    )


def tiny_number(name: str, value: int, old: Mapping[str, Any], layers: Layers) -> int | None:
    """What becomes of a whole number: a size by the name of its field, an id below ``SPECIAL``; None: no rule."""
    kept, total = layers
    if PART.fullmatch(name):
        before = sum(v for other, v in [*old.items()][: [*old].index(name)] if PART.fullmatch(other))
        return sum(before <= number < before + value for number in kept)
    if LAYERS.fullmatch(name):
        return len(kept) if value == total else min(value, 2)
    if re.fullmatch("num_.*shared_layers", name):
        return sum(number >= total - value for number in kept) if value else 0
    if name.endswith(("_token_id", "_token_index", "_id", "_index")):
        return value if value < SPECIAL else value % SPECIAL
    if re.fullmatch(r".*(kv_heads|key_value_heads|kv_n_heads)", name):
        if re.fullmatch("indexer_.*", name):
            return value
        heads = next((v for k, v in old.items() if re.fullmatch("num_attention_heads|n_heads?|num_heads", k)), None)
        return HEADS if value == heads else min(value, HEADS // 2)
    width, heads = (old.get(field) or 1 for field in ("hidden_size", "num_attention_heads"))
    if name == "attention_hidden_size":
        return value * HIDDEN // width
    if name == "attention_head_dim":
        return HEAD_DIM * max(1, value * heads // width)
    if "expand" in old and name == "num_heads":
        return old["expand"] * HIDDEN // HEAD_DIM
    exact = next((size for pattern, size in EXACTLY if re.fullmatch(pattern, name)), None)
    if exact is not None and value:
        return exact
    return next((min(value, size) for pattern, size in AT_MOST if re.fullmatch(pattern, name)), None)


def usual_size(name: str) -> int | None:
    """A size for a field that has none; None where None is an answer too, such as no window."""
    return next((size for pattern, size in EXACTLY + AT_MOST[:6] if re.fullmatch(pattern, name)), None)


def tiny_list(name: str, values: list[Any], layers: Layers, hidden: Any) -> list[Any]:
    """What becomes of a list: one entry for each layer kept, the new numbers of layers, small sizes."""
    kept, total = layers
    if values and layer_numbers(name, values, total):
        return [new for new, number in enumerate(kept) if number in values]
    if len(values) == total or (name.endswith("_types") and 0 < len(values) < total):
        values = [values[number % len(values)] for number in kept]
    if len(values) > 1 and all(type(v) is int for v in values) and sum(values) == hidden:
        return [v * HIDDEN // hidden for v in values]
    return [tiny_number(name, v, {}, layers) or v if type(v) is int else v for v in values]


def tiny_rope(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Rope parameters for heads of 16 channels: factors and sections of as many frequencies as there are."""
    if any(isinstance(v, dict) for v in parameters.values()):
        return {key: tiny_rope(v) if isinstance(v, dict) else v for key, v in parameters.items()}
    new = dict(parameters)
    frequencies = int(HEAD_DIM * (new.get("partial_rotary_factor") or 1.0)) // 2
    for key, value in new.items():
        if isinstance(value, (list, tuple)) and key.endswith("_factor"):
            new[key] = list(value)[:frequencies]
        elif isinstance(value, (list, tuple)) and key.endswith("section"):
            parts = [max(1, v * frequencies // sum(value)) for v in value]
            new[key] = [frequencies - sum(parts[1:]), *parts[1:]]
        elif key == "original_max_position_embeddings" and value:
            new[key] = min(value, 32)
    return new
