"""A model with random weights from a config: the one of a training run, or a tiny stand-in of a family.

``build_model``   the model of a training run: its attention, its precision, no dropout, recomputed activations, layers
                  that carry a state isolated
``resolve_device``, ``resolve_dtype``   where and in which precision a run computes: as its config says, or as suits
``from_scratch``  random weights from a transformers config dict
``empty_model``   the same model without memory for its weights, which come from a checkpoint or another process
``tiny``          a small random model of a family's real architecture, for lessons and tests

Pretrained weights are opened by ``loading``.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal

import torch

from varlen_lab.attention.huggingface import AUTO, hf_name_of, register
from varlen_lab.config.schema import Config
from varlen_lab.errors import InputError, first_line, nearest, quoted, shortened
from varlen_lab.machine.gpu import (
    DTYPES,
    automatic_device,
    automatic_dtype,
    dtype_name,
    gpu_facts,
    why_no_mps,
    why_unusable,
)
from varlen_lab.machine.ranks import is_first
from varlen_lab.models.adapters import add_adapter, four_bit_settings
from varlen_lab.models.isolation import isolate_known
from varlen_lab.models.recomputing import recompute
from varlen_lab.models.registry import FAMILIES, Family
from varlen_lab.models.room import refuse_too_large
from varlen_lab.models.seeding import seeded
from varlen_lab.models.stated import foreign, refuse_counts

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

PLAIN = "plain"  # attention without seams, whichever of transformers' own is exact for an architecture

# Small enough for a laptop. Most variants have fewer key/value heads than these 4 query heads, and with equal numbers a
# kernel that mixes the two up would go unseen.
TINY = {
    "vocab_size": 2048,  # the built-in tokenizer's
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

# What ``architectures`` adds to transformers. To register it imports several models, so it waits until one is wanted.
OUR_MODEL_TYPES = {"varlen_baichuan", "varlen_deepseek_moe"}

TORCH_DTYPES = {word: getattr(torch, name) for word, name in DTYPES.items()}
# an attribute with one of these in its name is a probability of noise, or how much of it
NOISE_WORDS = ("dropout", "jitter", "noise_alpha")


def build_model(config: Config, *, empty: bool = False) -> PreTrainedModel:
    """The model of a training run, with the attention of its mode and every dropout of its own at 0.

    Weights are as ``weight_dtype`` says, those that LoRA freezes as ``frozen_dtype``. With dropout, packed and unpacked
    runs would draw different random numbers and could not be compared. Under LoRA and QLoRA what comes back is peft's
    wrapper. ``empty``: as ``empty_model`` gives it. InputError when there is no such model.
    """
    dtype, attention = weight_dtype(config), attention_name(config)
    if config.pretrained_model_name_or_path is None:
        model = from_scratch(config.model_config or {}, attention, seed=config.seed, empty=empty)
        for parameter in model.parameters():  # not the buffers: rotary frequencies in bf16 would turn far tokens wrong
            parameter.data = parameter.data.to(dtype)
    else:
        from varlen_lab.models.loading import load_model, stated_dtype  # which itself needs this file

        bits = four_bit_settings(resolve_device(config), resolve_dtype(config)) if config.method == "qlora" else None
        source, frozen = config.pretrained_model_name_or_path, frozen_dtype(config)
        model = load_model(source, attention, frozen, bits, empty=empty, isolate=False)  # below, as a whole
        stated = stated_dtype(source)
        opened = dtype_name(model.dtype)
        if bits is None and stated not in (None, opened) and is_first():
            kept = f"{source} keeps its weights in {stated}"
            warnings.warn(f"{kept}, this run opens them in {opened}", stacklevel=2)
        if frozen == "auto":
            for parameter in model.parameters():
                if parameter.dtype == torch.float16:  # its range is too narrow for what bf16 computes
                    parameter.data = parameter.data.to(torch.bfloat16)
    # before the adapter is added: lora_dropout is a setting and stays
    for module, name, _ in noise_probabilities(model):
        setattr(module, name, 0.0)
    if config.gradient_checkpointing:
        recompute(model, config.recompute)
    if config.torch_compile:
        model.compile(dynamic=True)  # rows differ in length
    if config.method != "full":
        model = add_adapter(model, config, dtype)
    # last: peft calls the model inside it past its hooks, so that seams have to be taken from peft's own call
    return isolate_known(model) if config.isolate else model


def attention_name(config: Config) -> str:
    """The ``attn_implementation`` for the mode of a run: one of our backends for varlen, ``PLAIN`` for the others."""
    return hf_name_of(config.attn_backend) if config.mode == "varlen" else PLAIN


def resolve_device(config: Config | str) -> str:
    """``cpu``, ``cuda`` or ``mps``, of a config or its word. InputError for a device that is not there."""
    device, facts = config if isinstance(config, str) else config.device, gpu_facts(ask_driver=False)
    if device == "auto":
        return automatic_device(facts)
    if device == "cuda" and (why := why_unusable(facts if facts.usable else gpu_facts())):
        raise InputError(f"device = 'cuda' cannot be had: {why}; or set device = 'auto'.")
    if device == "mps" and (why := why_no_mps(facts)):
        raise InputError(f"device = 'mps' cannot be had: {why}; set device = 'auto'.")
    if device not in ("cpu", "cuda", "mps"):
        raise InputError(f"device is {device!r}, it must be auto, cpu, cuda or mps.")
    return device


def resolve_dtype(config: Config) -> str:
    """``fp32``, ``bf16`` or ``fp16``: what the config says, or what suits the device.

    On a CPU that is fp32: without bf16 units bf16 is some 150 times slower. InputError for fp16 on a CPU, and for bf16
    on a card without it.
    """
    device, facts = resolve_device(config), gpu_facts(ask_driver=False)
    if config.dtype == "auto":
        return automatic_dtype(device, facts)
    if config.dtype == "fp16" and device == "cpu":
        raise InputError("dtype is 'fp16' and a CPU trains in fp32 or bf16; set dtype = 'auto'.")
    if config.dtype == "bf16" and device == "cuda" and not facts.has_bf16:
        raise InputError(
            f"dtype is 'bf16' and {facts.name} computes it in software, slower than fp32; set dtype = 'fp16' or 'auto'."
        )
    return config.dtype


def weight_dtype(config: Config) -> torch.dtype:
    """What weights that are trained are kept in: fp32, unless the run is in bf16 and wants no master weights."""
    return torch.bfloat16 if resolve_dtype(config) == "bf16" and not config.master_weights else torch.float32


def frozen_dtype(config: Config) -> torch.dtype | Literal["auto"]:
    """What the weights of a checkpoint are opened in: as they are ("auto") where a bf16 run freezes them.

    They are never updated, so fp32 copies would take twice the memory and be cast at every use. A run in fp32 computes
    in fp32, and one in fp16 needs fp32 between layers, where fp16 would overflow.
    """
    frozen = config.method != "full" and config.master_weights
    return "auto" if frozen and resolve_dtype(config) == "bf16" else weight_dtype(config)


def noise_probabilities(model: Any) -> list[tuple[Any, str, float]]:
    """``(module, attribute, probability)`` of every dropout and jitter of a model that is not 0."""
    noise = [
        (module, name, value)
        for module in model.modules()
        for name, value in vars(module).items()
        if type(value) in (int, float) and value and any(word in name for word in NOISE_WORDS)
    ]
    # torch's own dropout modules call their probability ``p``
    return noise + [
        (m, "p", m.p) for m in model.modules() if isinstance(m, torch.nn.modules.dropout._DropoutNd) and m.p
    ]


def from_scratch(
    config: dict[str, Any], attn_implementation: str, *, seed: int, empty: bool = False
) -> PreTrainedModel:
    """A model with random fp32 weights; the same seed gives the same weights, and the caller's RNG is left alone."""
    from transformers import AutoModelForCausalLM

    register()
    native = native_config(config)
    attention = resolve_attention(attn_implementation, native)

    def cannot_build(problem: BaseException) -> InputError:  # sizes that do not fit one another show in many ways
        return InputError(
            f"model_config describes a {native.model_type} that cannot be built ({type(problem).__name__}: "
            f"{first_line(problem)}); correct the values, or take another model_type."
        )

    with foreign(cannot_build), seeded(seed):
        if empty:
            return empty_model(native, attention, torch.float32)
        refuse_too_large(native)
        return AutoModelForCausalLM.from_config(
            native, attn_implementation=attention, dtype=torch.float32, trust_remote_code=False
        )


def empty_model(
    config: PretrainedConfig, attention: str, dtype: torch.dtype | Literal["auto"] = "auto"
) -> PreTrainedModel:
    """A model whose weights have names, shapes and a dtype and no memory: they lie on torch's device "meta".

    Buffers are real: rotary frequencies, for example, are stored nowhere and computed. The RNG is left alone.
    """
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with seeded(0), init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(
            config,
            attn_implementation=attention,
            dtype=None if dtype == "auto" else dtype,
            trust_remote_code=False,
        )
    # not before: every weight that is assigned inside the block becomes one of its own
    model.tie_weights()
    return model


def native_config(config: dict[str, Any]) -> PretrainedConfig:
    """A transformers config from a dict with ``model_type``; InputError when it does not describe a model."""
    from transformers import AutoConfig

    options = dict(config)
    kind = options.pop("model_type", None)
    known = native_model_types()
    if not isinstance(kind, str) or kind not in known:
        raise InputError(
            f"model_config has model_type {quoted(kind)}, transformers does not know it"
            f"{nearest(str(kind), known)}; for example 'llama'."
        )
    refuse_counts(options, "model_config")
    if kind in OUR_MODEL_TYPES:
        from varlen_lab.models.architectures import register_architectures

        register_architectures()

    def refused(problem: BaseException) -> InputError:  # each model type checks its own values, in its own way
        reason = " ".join(str(problem.__cause__ or problem).split()).rstrip(".")
        return InputError(f"model_config does not describe a {kind}: {shortened(reason)}; correct the value.")

    with foreign(refused):
        return AutoConfig.for_model(kind, **options)


def native_model_types() -> set[str]:
    """The ``model_type`` words that transformers, and what we add to it, understand."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return {*CONFIG_MAPPING.keys(), *OUR_MODEL_TYPES}


def resolve_attention(attn_implementation: str, config: PretrainedConfig) -> str:
    """``PLAIN`` is the attention without seams that is exact for this architecture; any other name is itself.

    But for a class without ``sdpa``: transformers takes each name that holds this word for it, also our kernel's.
    """
    if attn_implementation != PLAIN:
        taken = attn_implementation.startswith(AUTO) and "sdpa" in attn_implementation and not knows_sdpa(config)
        return AUTO if taken else attn_implementation
    if getattr(config, "alibi", False):
        return AUTO  # transformers' own would not see the slopes
    return "eager" if getattr(config, "attn_logit_softcapping", None) or not knows_sdpa(config) else "sdpa"


def knows_sdpa(config: PretrainedConfig) -> bool:
    """Whether the class of a config takes transformers' ``sdpa``."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    native = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return bool(getattr(native, "_supports_sdpa", True))


def families() -> list[str]:
    """Names of the model families, in the order of XTuner's page."""
    return list(FAMILIES)


def variants(family: str) -> list[str]:
    """Sizes or generations of a family whose architecture differs; InputError when there is no such family."""
    return list(family_named(family).variants)


def tiny(family: str, variant: str | None = None, *, seed: int = 0, **config: Any) -> PreTrainedModel:
    """A tiny random model of a family's real architecture, with varlen attention, in fp32.

    ``config`` overrides any key of its config. Saved with ``save_pretrained`` it is an ordinary HF folder; its
    vocabulary has the size of the built-in tokenizer's. InputError for a family or variant that there is not.
    """
    known = family_named(family).variants
    variant = variant or next(iter(known))
    if variant not in known:
        raise InputError(f"{family} has no variant {variant!r}, it has {', '.join(known)}{nearest(variant, known)}.")
    return from_scratch(TINY | known[variant] | config, "varlen", seed=seed)


def family_named(name: str) -> Family:
    """The record of a family; InputError when there is no such family."""
    if name not in FAMILIES:
        raise InputError(
            f"there is no family {name!r}, the families are {', '.join(FAMILIES)}{nearest(name, FAMILIES)}."
        )
    return FAMILIES[name]
