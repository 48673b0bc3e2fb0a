"""A tiny model of any causal language model class of transformers, for measuring what its layers do with packed rows.

``miniature_config``   a config of a few thousand weights: as many layers as there are kinds of layer, four heads of 16
                       channels, windows and chunks of 16 tokens; from a ``model_type``, or from a config, whose
                       switches (kinds of layer, softcaps, sinks, rope types) it keeps
``miniature``          the model with random weights that matter
``scale_weights``      such weights for any model, in place

Sizes go by the words of a config's fields. No class is known by its name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from varlen_lab.attention.huggingface import register
from varlen_lab.errors import InputError, first_line, nearest
from varlen_lab.models.building import NOISE_WORDS, native_model_types, noise_probabilities

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

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
    (r"mamba_d_ssm|attention_hidden_size", 2 * HIDDEN),
    (
        r".*(hidden_size|d_model|n_embd|emb_dim|embedding_dim|embed_dim|lru_width|embedding_size|proj_dim)|adapter_(in|out)\w+",
        HIDDEN,
    ),
]
# ... or at most.
AT_MOST = [
    (r".*vocab(_size.*)?|.*ngram_parts", VOCABULARY),
    (r".*budget", 16),
    (r".*(num|n)_(local_|routed_)?experts|moe_num_experts|zero_expert_num", 4),
    (r".*experts?_per_tok(en)?|moe_top_?k|moe_k|n_group|num_expert_group|.*ngroups|.*n_groups|o_groups", 2),
    (r"topk_group|.*shared_experts", 1),
    (r".*(period|interval|pattern|every_n_layers|group_size|sparse_step|layer_step|compress_ratio)", 2),
    (r"first_k_dense_replace|num_dense_layers|.*layer_offset|.*layer_start.*|max_window_layers|num_nextn.*", 1),
    (r".*(intermediate_size|ffn_dim|hidden_size|d_inner|n_inner|dff|dim_ff|intermediate_size_mlp|ffn_hidden_size)", 96),
    (r".*(window|window_size|chunk_size|chunk_length|block_size|floor_scale|n_floor|window_len)", 16),
    (r"local_attention|index_topk|index_topk_blocks", 16),
    (r".*(position_embeddings|_positions|n_ctx|max_seq_len|model_max_length|context_length)", 256),
]
LAYERS = re.compile(r".*(hidden_layers|n_layers?|num_layers|(en|de)coder_layers|num_blocks|depth)")
PART = re.compile(
    "n_[a-z]+_layers"
)  # such as n_input_layers: the stack is in several parts, in the order of the fields


def miniature_config(kind: str | PretrainedConfig, **changes: Any) -> PretrainedConfig:
    """A tiny config of a ``model_type``, or of the class of a config with its switches; ``changes`` go over it.

    A change of ``rope_parameters`` is merged into the ones that are there. InputError when there is no such model type
    or transformers refuses the values.
    """
    kept = kind if not isinstance(kind, str) else default_config(kind)
    more = {} if not isinstance(kind, str) else causal_switches(kept)
    first: BaseException | None = None
    for repair in REPAIRS:
        try:
            config = repair(kept, more | changes)
            with torch.random.fork_rng(devices=[]), torch.device("meta"):
                model_of(config)
            return config
        except Exception as problem:  # each class checks its own values, in its own way
            first = first or problem
    assert first is not None
    raise cannot_build(kept.model_type, first) from None


def miniature(
    kind: str | PretrainedConfig, attn_implementation: str = "varlen", seed: int = 0, **changes: Any
) -> PreTrainedModel:
    """A tiny model in fp32 without dropout, its weights scaled; the same seed gives the same weights.

    ``changes``: as for ``miniature_config``. The caller's random state is left alone. InputError when transformers
    cannot build it.
    """
    register()
    config = miniature_config(kind, **changes)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = model_of(config, attn_implementation=attn_implementation)
    except Exception as problem:  # a class that keeps a table of its own attentions does not know ours
        raise InputError(
            f"{config.model_type} cannot be built with attn_implementation={attn_implementation!r} "
            f"({type(problem).__name__}: {first_line(problem)}); use its own attention, one document a row."
        ) from None
    for module, name, _ in noise_probabilities(model):
        setattr(module, name, 0.0)
    scale_weights(model, seed)
    return model


def model_of(config: PretrainedConfig, **how: Any) -> PreTrainedModel:
    """The causal language model of a config in fp32; of a config of several, its text's if the class wants that."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM

    if not issubclass(type(config), MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].config_class):
        return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]._from_config(
            config.get_text_config(decoder=True), dtype=torch.float32, **how
        )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32, **how)


def scale_weights(model: torch.nn.Module, seed: int = 0) -> None:
    """Random weights, in place, with which every layer matters in the logits; the same seed gives the same weights.

    A freshly built model has weights so small that attention hardly weighs: a leak would pass for rounding. Matrices
    and kernels are drawn with variance 1 / fan-in, embeddings with variance 1. What starts elsewhere than around 0
    (norms, decays, time steps) stays near where it starts, and so does every vector.
    """
    draw = torch.Generator().manual_seed(seed)
    tables = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    transposed = {id(m.weight) for m in model.modules() if type(m).__name__ == "Conv1D"}  # GPT-2's: (in, out)
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=draw).to(weight)
            spread, centre = (weight.std(), weight.mean().abs()) if weight.numel() > 1 else (0.0, 1.0)
            if weight.ndim < 2 or centre > 4 * spread * weight.numel() ** -0.5:
                weight.add_(noise, alpha=0.2)
            elif id(weight) in tables:
                weight.copy_(noise)
            else:
                inputs = weight.shape[0] if id(weight) in transposed else weight[0].numel()
                if weight.ndim == 3 and weight.shape[-1] > 8:  # experts: a matrix each, not a kernel
                    inputs = weight.shape[-1]
                weight.copy_(noise * inputs**-0.5)


def default_config(kind: str) -> PretrainedConfig:
    """The config transformers gives a ``model_type`` when nothing is said; InputError when it knows no such type."""
    from transformers import AutoConfig

    known = native_model_types()
    if kind not in known:
        raise InputError(f"transformers knows no model_type {kind!r}{nearest(kind, known)}; for example 'llama'.")
    try:
        return AutoConfig.for_model(kind)
    except Exception as problem:  # there are types that have no valid default
        raise cannot_build(kind, problem) from None


def causal_switches(config: PretrainedConfig) -> dict[str, bool]:
    """What an encoder's config must say for its language model to be causal."""
    return {name: True for name in ("is_decoder", "causal") if getattr(config, name, None) is False}


def cannot_build(kind: str, problem: BaseException) -> InputError:
    """The sentence for a class that transformers does not build from a tiny config."""
    return InputError(
        f"transformers builds no tiny {kind} ({type(problem).__name__}: {first_line(problem)}); "
        "name a config it builds, or the values that this class needs."
    )


def shrunk(
    config: PretrainedConfig, changes: Mapping[str, Any], each: int = 1, filled: bool = False
) -> PretrainedConfig:
    """A config of the same class with every size small, then ``changes``; ``each``: layers of every kind.

    ``filled``: a size that is None gets a number.
    """
    from transformers import PretrainedConfig

    declared = {f.name: f.default for f in fields(config)} if is_dataclass(config) else {}
    aside = ("transformers_version", "ignore_keys_at_rope_validation")
    old = {name: value for name, value in vars(config).items() if name[0] != "_" and name not in aside}
    layers = kinds_of_layer(old, each)
    new: dict[str, Any] = {}
    for name, value in old.items():
        if isinstance(value, PretrainedConfig):
            inner = {k: v for k, v in changes.items() if hasattr(value, k) and not hasattr(config, k)}
            new[name] = shrunk(value, inner, each, filled)
        elif type(value) is int:
            size = tiny_number(name, value, old, layers)
            # what the class works out from other fields it works out again
            if size != value or declared.get(name, MISSING) is not None:
                new[name] = size
        elif value is None and (filled or re.fullmatch(r".*experts?_per_tok", name)):
            new[name] = next((size for pattern, size in EXACTLY + AT_MOST[:6] if re.fullmatch(pattern, name)), None)
        elif isinstance(value, float) and any(word in name for word in (*NOISE_WORDS, "drop")):
            new[name] = 0.0
        elif isinstance(value, (list, tuple)):
            new[name] = type(value)(tiny_list(name, list(value), layers, old.get("hidden_size")))
        elif name == "rope_parameters" and isinstance(value, dict):
            new[name] = tiny_rope(value)
        else:
            new[name] = value
    rope = changes.get("rope_parameters")
    if isinstance(rope, dict) and isinstance(new.get("rope_parameters"), dict):
        changes = {**changes, "rope_parameters": new["rope_parameters"] | rope}
    return type(config)(**(new | {k: v for k, v in changes.items() if hasattr(config, k) or k in declared}))


def rope_by_kind(config: PretrainedConfig, changes: Mapping[str, Any]) -> PretrainedConfig:
    """Rope parameters for each kind of layer and each part, which some classes want and do not set."""
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    kinds = dict.fromkeys(getattr(config, "layer_types", None) or ("full_attention",), rope)
    new = shrunk(config, {"rope_parameters": kinds, **changes} if hasattr(config, "layer_types") else changes)
    for part in vars(new).values():
        if hasattr(part, "model_type") and not hasattr(part, "rope_theta"):
            part.rope_theta = rope["rope_theta"]
            if getattr(part, "clip_qkv", 0) is None:
                part.clip_qkv = 8.0
    return new


def both_kinds(config: PretrainedConfig, changes: Mapping[str, Any]) -> PretrainedConfig:
    """A convolution and an attention, for a class that wants to be told its kinds of layer."""
    return shrunk(config, {"layer_types": ["conv", "full_attention"], **changes})


# Tried in turn until transformers builds the model.
REPAIRS: tuple[Callable[[PretrainedConfig, Mapping[str, Any]], PretrainedConfig], ...] = (
    shrunk,
    partial(shrunk, filled=True),
    partial(shrunk, each=2),
    rope_by_kind,
    both_kinds,
)


def kinds_of_layer(old: Mapping[str, Any], each: int = 1) -> tuple[list[int], int]:
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


def tiny_number(name: str, value: int, old: Mapping[str, Any], layers: tuple[list[int], int]) -> int:
    """What becomes of a whole number: a size by the name of its field, an id below ``SPECIAL``, or itself."""
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
    if "expand" in old and name == "num_heads":
        return old["expand"] * HIDDEN // HEAD_DIM
    exact = next((size for pattern, size in EXACTLY if re.fullmatch(pattern, name)), None)
    if exact is not None and value:
        return exact
    return next((min(value, size) for pattern, size in AT_MOST if re.fullmatch(pattern, name)), value)


def tiny_list(name: str, values: list[Any], layers: tuple[list[int], int], hidden: Any) -> list[Any]:
    """What becomes of a list: one entry for each layer kept, the new numbers of layers, small sizes."""
    kept, total = layers
    if values and layer_numbers(name, values, total):
        return [new for new, number in enumerate(kept) if number in values]
    if len(values) == total:
        values = [values[number] for number in kept]
    if len(values) > 1 and all(type(v) is int for v in values) and sum(values) == hidden:
        return [v * HIDDEN // hidden for v in values]
    return [tiny_number(name, v, {}, layers) if type(v) is int and v > 1 else v for v in values]


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
