"""Models on native transformers classes, with our attention: pretrained, from scratch, or a tiny stand-in.

``load_model``  a folder or hub name; original remote-code layouts are mapped to the native class, no code is run
``from_scratch``  random weights from a config dict
``tiny``        a small random model of a family's real architecture, for lessons and tests

One question to the hub before anything is asked of it in earnest.

A silent hub costs: transformers asks six times for each file and waits in between, a minute in all, before it says
so. After one refusal only what was downloaded before can help, and that is found without asking.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from varlen_lab.attention.dispatch import choose
from varlen_lab.attention.huggingface import register
from varlen_lab.errors import InputError, nearest
from varlen_lab.models.families import FAMILIES, LAYOUTS

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


from functools import cache

PLAIN = "plain"  # attention without seams, whichever of transformers' own is exact for an architecture

# Small enough for a laptop, uneven enough to catch mistakes: 2 key/value heads would hide in H == K.
TINY = {
    "vocab_size": 2048,
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def families() -> list[str]:
    """Names of the model families, in the order of XTuner's page."""
    return list(FAMILIES)


def variants(family: str) -> list[str]:
    """Sizes or generations of a family whose architecture differs."""
    return list(family_table(family).VARIANTS)


def tiny(family: str, variant: str | None = None, *, seed: int = 0, **config: Any) -> PreTrainedModel:
    """A tiny random model of a family's real architecture, with varlen attention, in fp32.

    ``config`` overrides any key of its config. Saved with ``save_pretrained`` it is an ordinary HF folder; its
    vocabulary has the size of the built-in tokenizer's.
    """
    table = family_table(family).VARIANTS
    variant = variant or next(iter(table))
    if variant not in table:
        raise InputError(f"{family} has no variant {variant!r}, it has {', '.join(table)}{nearest(variant, table)}.")
    return from_scratch(TINY | table[variant] | config, "varlen", seed=seed)


def family_table(family: str) -> Any:
    if family not in FAMILIES:
        raise InputError(
            f"there is no family {family!r}, the families are {', '.join(FAMILIES)}{nearest(family, FAMILIES)}."
        )
    return FAMILIES[family]


def from_scratch(config: dict[str, Any], attn_implementation: str, *, seed: int) -> PreTrainedModel:
    """A model with random fp32 weights; the same seed gives the same weights, and the caller's RNG is left alone."""
    from transformers import AutoModelForCausalLM

    register()
    native = native_config(config)
    attention = resolved(attn_implementation, native)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(native, attn_implementation=attention, dtype=torch.float32)


def resolved(attn_implementation: str, config: PretrainedConfig) -> str:
    """``PLAIN`` is the attention without seams that is exact for this architecture; any other name is itself."""
    if attn_implementation != PLAIN:
        return attn_implementation
    if getattr(config, "alibi", False):
        return "varlen"  # transformers' own would not see the slopes
    return "eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"


def native_config(config: dict[str, Any]) -> PretrainedConfig:
    """A transformers config from a dict with ``model_type``."""
    from transformers import AutoConfig

    options = dict(config)
    kind = options.pop("model_type", None)
    known = native_model_types()
    if kind not in known:
        raise InputError(
            f"model_config has model_type {kind!r}, transformers does not know it"
            f"{nearest(str(kind), known)}; for example 'llama'."
        )
    try:
        return AutoConfig.for_model(kind, **options)
    except Exception as problem:  # each model type checks its own values, in its own way
        reason = " ".join(str(problem.__cause__ or problem).split()).rstrip(".")
        raise InputError(f"model_config does not describe a {kind}: {reason}; correct the value.") from None


def automatic_backend(model: PreTrainedModel, device: str, dtype: torch.dtype) -> str:
    """The backend ``auto`` takes for the attention layers of this model."""
    return choose(
        device,
        dtype,
        getattr(model.config, "head_dim", None) or 64,
        softcap=getattr(model.config, "attn_logit_softcapping", None),
        alibi=any(hasattr(module, "alibi_slopes") for module in model.modules()),
    )


def load_model(
    path: str, attn_implementation: str, dtype: torch.dtype = torch.float32, quantization_config: Any = None
) -> PreTrainedModel:
    """Open a pretrained causal language model with the given attention, quantised on the way if asked to.

    ``path``: a folder or a hub name. A folder in an original remote-code layout (``model_type: internlm``) is
    read into the native class. Raises InputError when there is no such model.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM

    register()
    native_model_types()  # registers what we add
    more = {} if quantization_config is None else {"quantization_config": quantization_config}
    folder = Path(path)
    try:
        if folder.is_dir():
            original = read_json(folder / "config.json")
            if is_original(original):
                layout = LAYOUTS[original["model_type"]]
                config = native_config(layout.native_config(original))
                weights = layout.native_weights(read_weights(folder), config.to_dict())
                native_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
                attention = resolved(attn_implementation, config)
                return native_class.from_pretrained(
                    None, config=config, state_dict=weights, attn_implementation=attention, dtype=dtype, **more
                )
        config = AutoConfig.from_pretrained(path, local_files_only=only_local(path))
        attention = resolved(attn_implementation, config)
        return AutoModelForCausalLM.from_pretrained(
            path, local_files_only=only_local(path), attn_implementation=attention, dtype=dtype, **more
        )
    except InputError:
        raise
    except (OSError, ValueError) as problem:
        reason = str(problem).strip().splitlines()[0]
        raise InputError(
            f"there is no model at {path!r}: it is neither a folder with a config.json nor a hub name that can be "
            f"reached from here ({reason}); check pretrained_model_name_or_path."
        ) from None


def is_original(config: dict[str, Any]) -> bool:
    """Whether a config.json is of a remote-code layout that we map (and not of a native class of the same name)."""
    return config.get("model_type") in LAYOUTS and (
        "auto_map" in config or config["model_type"] not in native_model_types()
    )


def native_model_types() -> set[str]:
    """The ``model_type`` words transformers, and what we add to it, understand."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from varlen_lab.models.families.architectures import register_architectures

    register_architectures()
    return set(CONFIG_MAPPING.keys())


def read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path.parent} has no config.json, it is not a model folder; check the path.")
    return json.loads(path.read_text(encoding="utf-8"))


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint folder, from safetensors shards or, as the originals have them, ``.bin`` files."""
    from safetensors.torch import load_file

    shards = sorted(folder.glob("*.safetensors"))
    state: dict[str, torch.Tensor] = {}
    for shard in shards:
        state |= load_file(shard)
    if not shards:
        shards = sorted(folder.glob("pytorch_model*.bin"))
        for shard in shards:
            state |= torch.load(shard, map_location="cpu", weights_only=True)
    if not shards:
        raise InputError(f"{folder} has no *.safetensors and no pytorch_model*.bin; the weights are missing.")
    return state


@cache
def only_local(name: str) -> bool:
    """Whether ``from_pretrained(name)`` should look at this machine alone: a folder, or a hub that gives nothing."""
    if Path(name).is_dir():
        return True
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(name, timeout=10)
    except Exception:  # not there, gated, not a name at all, no network: as many kinds as there are layers
        return True
    return False
