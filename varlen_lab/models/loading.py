"""A pretrained model with our attention, from wherever ``sources`` finds it, on transformers' native classes.

Checkpoints that came with their own code (``model_type: internlm``) are mapped to the native class by the rules in
``originals``; no code of a checkpoint is ever run.
"""

from __future__ import annotations

import json
import os
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Literal

import torch

from varlen_lab.attention.huggingface import register
from varlen_lab.errors import InputError, first_line
from varlen_lab.machine.ranks import is_first
from varlen_lab.models.building import (
    OUR_MODEL_TYPES,
    empty_model,
    native_config,
    native_model_types,
    resolve_attention,
)
from varlen_lab.models.isolation import isolate_known
from varlen_lab.models.layouts import Layout
from varlen_lab.models.registry import FAMILIES
from varlen_lab.models.sources import locate_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_model(
    path: str | os.PathLike[str],
    attn_implementation: str = "varlen",
    dtype: torch.dtype | Literal["auto"] = torch.float32,
    quantization_config: Any = None,
    *,
    empty: bool = False,
    isolate: bool = True,
) -> PreTrainedModel:
    """Open a pretrained causal language model with the given attention, quantised on the way if asked to.

    ``dtype``: of its weights, ``auto`` as they were saved. ``path``: a folder, a hub name, a GGUF file or
    ``pip:PACKAGE``. A folder in an original remote-code layout (``model_type: internlm``) is read into the native
    class. ``empty``: no weights are read, see ``empty_model``; then nobody knows how they were saved. ``isolate``:
    with our attention, layers that are known to carry a state along the row run document by document (``isolation``);
    without it such a model refuses packed rows. Raises InputError when there is no such model.
    """
    model = open_model(os.fspath(path), attn_implementation, dtype, quantization_config, empty)
    return isolate_known(model) if isolate else model


def open_model(
    path: str, attn_implementation: str, dtype: torch.dtype | Literal["auto"], quantization_config: Any, empty: bool
) -> PreTrainedModel:
    """``load_model`` as transformers runs it."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM

    source = locate_model(path)
    if source.gguf_file is not None:
        model = open_model(os.fspath(source.folder), attn_implementation, dtype, quantization_config, empty)
        # what adapters and notes call their base: the name that a person knows, not the folder in our cache
        model.name_or_path = model.config.name_or_path = path
        return model
    register()
    more = {} if quantization_config is None else {"quantization_config": quantization_config}
    folder = Path(path)
    try:
        stated = read_json(folder / "config.json") if folder.is_dir() else {}
        layout = layout_of(stated)
        if layout is not None:
            config = native_config(layout.native_config(stated))
            if empty:
                model = empty_model(config, resolve_attention(attn_implementation, config), dtype)
                return with_generation_config(model, path)
            weights = layout.native_weights(read_weights(folder), config.to_dict())
            if dtype == "auto":  # transformers would ask the config, which knows nothing of these weights
                dtype = max(weights.values(), key=torch.Tensor.numel).dtype
            native_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
            attention = resolve_attention(attn_implementation, config)
            model = native_class.from_pretrained(
                None, config=config, state_dict=weights, attn_implementation=attention, dtype=dtype, **more
            )
            return with_generation_config(model, path)
        if not folder.is_dir() or stated.get("model_type") in OUR_MODEL_TYPES:  # what a hub name holds is not known yet
            from varlen_lab.models.architectures import register_architectures

            register_architectures()
        config = AutoConfig.from_pretrained(path, local_files_only=only_local(path))
        if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise InputError(
                f"{path} holds a model of the type {config.model_type!r}, of which there is no causal language model; "
                "take a decoder, such as Llama, Qwen or Gemma."
            )
        attention = resolve_attention(attn_implementation, config)
        if empty:
            return with_generation_config(empty_model(config, attention, dtype), path)
        if quantization_config is None:  # that shapes differ is said below, where transformers points at its log
            more["ignore_mismatched_sizes"] = True
        model, told = AutoModelForCausalLM.from_pretrained(
            path,
            local_files_only=only_local(path),
            attn_implementation=attention,
            dtype=dtype,
            output_loading_info=True,
            **more,
        )
        check_weights(path, told)
        return model
    except InputError:
        raise
    except Exception as problem:  # as many kinds as there are libraries that read a folder
        if folder.is_dir():
            said = f"{type(problem).__name__}: {first_line(problem)}"
            raise InputError(
                f"{path} cannot be opened as a causal language model ({said}); check its config.json and its weights."
            ) from None
        raise InputError(
            f"there is no model at {path!r}: it is neither a folder with a config.json nor a hub name that can be "
            f"reached from here ({first_line(problem)}); check the path or the name, in a config "
            "pretrained_model_name_or_path."
        ) from None


def check_weights(path: str, told: dict[str, Any]) -> None:
    """What transformers tells of a checkpoint's weights: InputError for other shapes, a note where some are missing."""
    if wrong := sorted(told["mismatched_keys"]):
        name, has, wanted = wrong[0]
        raise InputError(
            f"{path} has weights of other shapes than its config.json says ({name}: {list(has)} in place of "
            f"{list(wanted)}, {len(wrong)} in all); the two are of different models, take both from one."
        )
    if (missing := sorted(told["missing_keys"])) and is_first():
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        warnings.warn(f"{path} lacks the weights {missing[0]}{others}, they begin at random", stacklevel=3)


def with_generation_config(model: PreTrainedModel, path: str) -> PreTrainedModel:
    """The model, answering as the ``generation_config.json`` of ``path`` says, if it has one."""
    from transformers import GenerationConfig

    with suppress(OSError):  # there is none: that of the model's config stays, as in from_pretrained
        model.generation_config = GenerationConfig.from_pretrained(path, local_files_only=only_local(path))
    return model


def layout_of(config: dict[str, Any]) -> Layout | None:
    """How to read a checkpoint with this config.json when it came with remote code; None when transformers reads it.

    A native class may have the ``model_type`` of a layout; only a folder that brought code has an ``auto_map``.
    """
    places = {kind: place for family in FAMILIES.values() for kind, place in family.layouts.items()}
    kind = config.get("model_type")
    if kind not in places or ("auto_map" not in config and kind in native_model_types()):
        return None
    return resolve_name(places[kind])


def stated_dtype(name: str) -> str | None:
    """The dtype that the config.json of a model states, such as ``bfloat16``; None where it states none."""
    from transformers.utils import cached_file

    folder = Path(locate_model(name).folder)
    file: Any = folder / "config.json"
    if not folder.is_dir():  # on the hub: what was downloaded with the model
        file = cached_file(name, "config.json", local_files_only=True, _raise_exceptions_for_missing_entries=False)
    stated = read_json(Path(file)) if file else {}
    return stated.get("dtype") or stated.get("torch_dtype")


def read_json(path: Path) -> dict[str, Any]:
    """The config.json of a model folder; InputError when it has none."""
    folder = path.parent
    if not path.is_file() and (folder / "adapter_config.json").is_file():
        raise InputError(f"{folder} is an adapter; varlen-lab convert merge LLM {folder} OUT makes it a model.")
    if not path.is_file():
        raise InputError(f"{folder} has no config.json, it is not a model folder; check the path.")
    fields = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(fields, dict):
        raise InputError(f"{path} holds no fields, it is not the config of a model; check the path.")
    return fields


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
    """Whether ``from_pretrained(name)`` should look at this machine alone: a folder, or a hub that gives nothing.

    A hub that does not answer costs a minute: transformers asks six times for each file and waits in between. So one
    question is asked here. After a refusal only what was downloaded before can help, and that is found without asking.
    """
    if Path(name).is_dir():
        return True
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(name, timeout=10)
    except Exception:  # not there, gated, not a name at all, no network: as many kinds as there are layers
        return True
    return False
