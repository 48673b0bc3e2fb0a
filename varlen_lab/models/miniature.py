"""A tiny model of any causal language model class of transformers, for measuring what its layers do with packed rows.

``miniature_config``   a config of a few thousand weights: as many layers as there are kinds of layer, four heads of 16
                       channels, windows and chunks of 16 tokens; from a ``model_type``, or from a config, whose
                       switches (kinds of layer, softcaps, sinks, rope types) it keeps
``miniature``          the model with random weights that matter
``scale_weights``      such weights for any model, in place

Sizes go by the words of a config's fields (``sizes``). No class is known by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import MISSING, fields, is_dataclass
from functools import partial
from importlib import import_module
from inspect import getsource
from typing import TYPE_CHECKING, Any

import torch

from varlen_lab.attention.huggingface import register
from varlen_lab.errors import InputError, first_line, nearest
from varlen_lab.models.building import NOISE_WORDS, native_model_types, noise_probabilities
from varlen_lab.models.seeding import seeded
from varlen_lab.models.sizes import (
    SPECIAL,
    Layers,
    kinds_of_layer,
    layer_numbers,
    tiny_list,
    tiny_number,
    tiny_rope,
    usual_size,
)

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


def miniature_config(kind: str | PretrainedConfig, **changes: Any) -> PretrainedConfig:
    """A tiny config of a ``model_type``, or of the class of a config with its switches; ``changes`` go over it.

    A change of ``rope_parameters`` is merged into the ones that are there. InputError when there is no such model type
    or transformers refuses the values.
    """
    named = isinstance(kind, str)
    kept = default_config(kind) if isinstance(kind, str) else kind
    changes = (causal_switches(kept) if named else {}) | changes
    first: BaseException | None = None
    for full in (True, False) if named else (False,):
        for repair in REPAIRS:
            try:
                config = repair(every_kind(kept) if full else kept, changes)
                with seeded(0), torch.device("cpu" if full else "meta"):
                    model = model_of(config)
                    if full:  # not all that is named in the code of a class can be had
                        model.eval()(input_ids=torch.tensor([[SPECIAL] * 3]), use_cache=False)
                return config
            except Exception as problem:  # each class checks its own values, in its own way
                first = first or problem
    assert first is not None
    raise cannot_build(kept.model_type, first) from None


def miniature(
    kind: str | PretrainedConfig, attn_implementation: str | None = "varlen", seed: int = 0, **changes: Any
) -> PreTrainedModel:
    """A tiny model in fp32 without dropout, its weights scaled; the same seed gives the same weights.

    ``changes``: as for ``miniature_config``. The caller's random state is left alone. InputError when transformers
    cannot build it.
    """
    register()
    config = miniature_config(kind, **changes)
    try:
        with seeded(seed):
            model = model_of(config, attn_implementation=attn_implementation)
    except InputError:
        raise
    except Exception as problem:  # every class has its own ways to refuse
        raise InputError(
            f"{config.model_type} cannot be built with attn_implementation={attn_implementation!r} "
            f"({type(problem).__name__}: {first_line(problem)}); use its own attention, one document a row."
        ) from None
    for module, name, _ in noise_probabilities(model):
        setattr(module, name, 0.0)
    scale_weights(model, seed)
    return model


def tiny_of(model_type: str, attn_implementation: str = "varlen", seed: int = 0) -> PreTrainedModel:
    """``miniature`` of any ``model_type`` of transformers, hybrids and state space models among them.

    Without the warnings of layers that compute slowly where a kernel is not installed.
    """
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        return miniature(model_type, attn_implementation, seed)
    finally:
        logging.set_verbosity(before)


def model_of(config: PretrainedConfig, **how: Any) -> PreTrainedModel:
    """The causal language model of a config in fp32; of a config of several, its text's if the class wants that."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    native = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    own = config if isinstance(config, native.config_class) else config.get_text_config(decoder=True)
    return native._from_config(own, dtype=torch.float32, **how)


def scale_weights(model: torch.nn.Module, seed: int = 0) -> None:
    """Random weights, in place, with which every layer matters in the logits; the same seed gives the same weights.

    A freshly built model has weights so small that attention hardly weighs: a leak would pass for rounding. Matrices
    and kernels are drawn with variance 1 / fan-in, embeddings with variance 1. What starts elsewhere than around 0
    (norms, decays, time steps) stays near where it starts, and so does every vector.
    """
    from transformers.pytorch_utils import Conv1D

    draw = torch.Generator().manual_seed(seed)
    tables = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    transposed = {id(m.weight) for m in model.modules() if isinstance(m, Conv1D)}  # (in, out)
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=draw).to(weight)
            spread = float(weight.std()) if weight.numel() > 1 else 0.0
            centre = abs(float(weight.mean()))
            elsewhere = centre > 4 * spread * weight.numel() ** -0.5
            if weight.ndim < 2 or elsewhere:
                weight.add_(noise, alpha=0.2 * min(1.0, centre) if elsewhere else 0.2)
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
            # what no rule knows and the class works out from other fields, it works out again
            if size is not None or declared.get(name, MISSING) is not None:
                new[name] = value if size is None else size
        elif value is None and (filled or name.endswith("experts_per_tok")):
            new[name] = usual_size(name)
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
    new |= {k: v for k, v in changes.items() if hasattr(config, k) or k in declared}
    built = type(config)(**new)
    own = small_layers(built, layers)
    return type(config)(**new, per_layer_config=own) if own else built


def small_layers(config: PretrainedConfig, layers: Layers) -> dict[int, dict[str, Any]]:
    """The sizes that layers of latent attention have for themselves, small; empty where all layers have the same."""
    if not getattr(config, "is_heterogeneous", False):
        return {}
    found: dict[int, dict[str, Any]] = {}
    for number, sizes in config.to_dict().get("per_layer_config", {}).items():
        if "qk_nope_head_dim" not in sizes:  # a head of another width is a kind of its own, and no great size
            return {}
        small = {k: tiny_number(k, v, sizes, layers) or v if type(v) is int else v for k, v in sizes.items()}
        if sizes.get("head_dim") == sizes["qk_nope_head_dim"] + sizes.get("qk_rope_head_dim", 0):
            small["head_dim"] = small["qk_nope_head_dim"] + small["qk_rope_head_dim"]
        found[int(number)] = small
    return found


def every_kind(config: PretrainedConfig) -> PretrainedConfig:
    """A default config with windows on, and each kind of layer the code of its class names if it has one kind only."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING
    from transformers.configuration_utils import ALLOWED_ATTN_LAYER_TYPES

    full = deepcopy(config)
    text = full.get_text_config(decoder=True)
    classes = (MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], type(text))
    code = "".join(getsource(import_module(of.__module__)) for of in classes)
    known = [kind for kind in ALLOWED_ATTN_LAYER_TYPES if f'"{kind}"' in code and kind != "moe"]
    if hasattr(text, "sliding_window"):
        text.sliding_window = text.sliding_window or 16
    if hasattr(text, "use_sliding_window"):
        text.use_sliding_window = True
    for name, value in vars(text).items():
        if name.endswith("layer_indices") and value is None:
            setattr(text, name, [1])
    if "layer_types" in vars(text) and len(set(text.layer_types or ())) < 2 <= len(known):
        text.layer_types = [known[number % len(known)] for number in range(text.num_hidden_layers)]
        for name, value in vars(text).items():
            if isinstance(value, list) and layer_numbers(name, value, text.num_hidden_layers):
                setattr(text, name, None)  # another way to say the same
    return full


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
