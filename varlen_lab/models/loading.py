"""A pretrained model with our attention, from wherever ``sources`` finds it, on transformers' native classes.

Checkpoints that came with their own code (``model_type: internlm``) are mapped to the native class by the rules in
``originals``; no code of a checkpoint is ever run.
"""

from __future__ import annotations

import os
import pickle
import re
import warnings
from collections.abc import Collection
from contextlib import suppress
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Literal

import torch

from varlen_lab.attention.huggingface import register
from varlen_lab.errors import InputError, first_line, of_kind, plural
from varlen_lab.files.checksums import check_listed
from varlen_lab.files.manifests import FILES, MANIFEST, read_manifest
from varlen_lab.files.reading import read_json, read_tensors
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
from varlen_lab.models.room import refuse_larger_than_its_files
from varlen_lab.models.seeding import BUILDING
from varlen_lab.models.sources import locate_model
from varlen_lab.models.stated import foreign, needs_code, stated_config, wants_code
from varlen_lab.models.weights import ANEW, Stored, stored_tensors, weight_files

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SAFETENSORS = ".safetensors"
# buffers that a class computes anew, and that older checkpoints hold or lack
COMPUTED = r"(inv_freq|position_ids|masked_bias|(attn|attention)\.bias)$"


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
    of_kind("path", path, (str, os.PathLike), "the name of a model", "name a folder, a .gguf file or one of the hub")
    model = open_model(os.fspath(path), attn_implementation, dtype, quantization_config, empty)
    return isolate_known(model) if isolate else model


def open_model(
    path: str, attn_implementation: str, dtype: torch.dtype | Literal["auto"], quantization_config: Any, empty: bool
) -> PreTrainedModel:
    """``load_model`` as transformers runs it."""
    source = locate_model(path)
    if source.gguf_file is not None:
        model = open_model(os.fspath(source.folder), attn_implementation, dtype, quantization_config, empty)
        # what adapters and notes call their base: the name that a person knows, not the folder in our cache
        model.name_or_path = model.config.name_or_path = path
        return model
    register()
    folder = Path(path)
    stated = checked_folder(folder, weights=not empty) if folder.is_dir() else {}
    layout = layout_of(stated)
    with BUILDING, foreign(lambda problem: cannot_open(path, stated, problem)):
        if layout is not None:
            return of_layout(layout, stated, folder, attn_implementation, dtype, quantization_config, empty)
        return of_native_class(path, stated, attn_implementation, dtype, quantization_config, empty)


def of_layout(
    layout: Layout,
    stated: dict[str, Any],
    folder: Path,
    attn_implementation: str,
    dtype: torch.dtype | Literal["auto"],
    quantization_config: Any,
    empty: bool,
) -> PreTrainedModel:
    """A folder in an original layout as a model of the native class."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    config = native_config(layout.native_config(stated))
    attention = resolve_attention(attn_implementation, config)
    if empty:
        return with_generation_config(empty_model(config, attention, dtype), str(folder))
    weights = layout.native_weights(read_weights(folder), config.to_dict())
    if dtype == "auto":  # transformers would ask the config, which knows nothing of these weights
        dtype = max(weights.values(), key=torch.Tensor.numel).dtype
    more = {} if quantization_config is None else {"quantization_config": quantization_config}
    model, told = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].from_pretrained(
        None,
        config=config,
        state_dict=weights,
        attn_implementation=attention,
        dtype=dtype,
        output_loading_info=True,
        trust_remote_code=False,
        **more,
    )
    check_weights(str(folder), model, told)
    return with_generation_config(model, str(folder))


def of_native_class(
    path: str,
    stated: dict[str, Any],
    attn_implementation: str,
    dtype: torch.dtype | Literal["auto"],
    quantization_config: Any,
    empty: bool,
) -> PreTrainedModel:
    """What transformers' own classes read, from a folder or from the hub."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM

    if not stated or stated.get("model_type") in OUR_MODEL_TYPES:  # what a hub name holds is not known yet
        from varlen_lab.models.architectures import register_architectures

        register_architectures()
    config = AutoConfig.from_pretrained(path, local_files_only=only_local(path), trust_remote_code=False)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise InputError(
            f"{path} holds a model of the type {config.model_type!r}, of which there is no causal language model; "
            "take a decoder, such as Llama, Qwen or Gemma."
        )
    attention = resolve_attention(attn_implementation, config)
    if empty:
        return with_generation_config(empty_model(config, attention, dtype), path)
    if stated:
        refuse_larger_than_its_files(config, path, weight_files(Path(path)))
    # that shapes differ is said below, where transformers points at its log
    more = {"ignore_mismatched_sizes": True}
    if quantization_config is not None:
        more = {"quantization_config": quantization_config}
    model, told = AutoModelForCausalLM.from_pretrained(
        path,
        local_files_only=only_local(path),
        attn_implementation=attention,
        dtype=dtype,
        output_loading_info=True,
        trust_remote_code=False,
        **more,
    )
    check_weights(path, model, told)
    return model


def checked_folder(folder: Path, weights: bool) -> dict[str, Any]:
    """The config.json of a model folder, after a look at the other files that a model is made of; else InputError.

    ``weights``: whether there must be some, each file with a header that holds.
    """
    stated = stated_config(folder)
    if (folder / "adapter_config.json").is_file():
        raise InputError(
            f"{folder} holds a model and an adapter (adapter_config.json); move the adapter into a folder of its own, "
            "varlen-lab convert merge adds it to the model."
        )
    if os.path.lexists(answering := folder / "generation_config.json"):
        read_json(answering, "fetch it anew, or take it away", words=True)
    if weights:
        files = weight_files(folder)
        if not files:
            raise InputError(f"{folder} has no *.safetensors and no pytorch_model*.bin; the weights are missing.")
        for file in files:
            if file.suffix == SAFETENSORS:
                refuse_whole_numbers(file, stored_tensors(file), stated)
        check_converted(folder, *(file.name for file in files))
    check_converted(folder, "config.json", answering.name)
    return stated


def check_converted(folder: Path, *patterns: str) -> None:
    """InputError where files in a conversion of ours, of such names, are not as they were written.

    Who saved others there on purpose is told what to do: a model with a bit turned over in its config.json or in its
    tokenizer opens like any other, and computes something else.
    """
    instead = f"convert again, or remove {MANIFEST} where it was changed on purpose"
    digests = read_manifest(folder, instead).get(FILES, {})
    asked = {name: digests[name] for name in digests if any(fnmatchcase(name, pattern) for pattern in patterns)}
    check_listed(folder, asked, instead)


def refuse_whole_numbers(file: Path, tensors: dict[str, Stored], stated: dict[str, Any]) -> None:
    """InputError for weights that are whole numbers in a model that says nothing of being quantised."""
    odd = [name for name, (dtype, *_) in tensors.items() if name.endswith("weight") and re.match("[IUB]", dtype)]
    if odd := [name for name in odd if tensors[name].dtype != "BF16" and "quantization_config" not in stated]:
        raise InputError(f"{file} has weights that are whole numbers ({in_short(odd)}); {ANEW}.")


def cannot_open(path: str, stated: dict[str, Any], problem: BaseException) -> InputError:
    """The sentence for what no library opens as a model."""
    kind = stated.get("model_type")
    known = isinstance(kind, str) and kind in native_model_types()
    if wants_code(problem) or (stated.get("auto_map") and not known):
        return needs_code(path, stated.get("auto_map"), "take a model that transformers has a class for")
    if isinstance(problem, pickle.UnpicklingError):
        return InputError(f"the weights of {path} hold more than numbers, and what they hold is not run; {ANEW}.")
    if Path(path).is_dir():
        said = f"{type(problem).__name__}: {first_line(problem)}"
        return InputError(
            f"{path} cannot be opened as a causal language model ({said}); check its config.json and its weights."
        )
    return InputError(
        f"there is no model at {path!r}: it is neither a folder with a config.json nor a hub name that can be "
        f"reached from here ({first_line(problem)}); check the path or the name, in a config "
        "pretrained_model_name_or_path."
    )


def check_weights(path: str, model: PreTrainedModel, told: dict[str, Any]) -> None:
    """What transformers tells of a checkpoint's weights: InputError where some are missing or have other shapes.

    A note where it has more than the model has a place for.
    """
    if wrong := sorted(told["mismatched_keys"]):
        name, has, wanted = wrong[0]
        raise InputError(
            f"{path} has weights of other shapes than its config.json says ({name}: {list(has)} in place of "
            f"{list(wanted)}, {len(wrong)} in all); the two are of different models, take both from one."
        )
    buffers = {name for name, _ in model.named_buffers()}
    missing = [one for one in told["missing_keys"] if one not in buffers or not re.search(COMPUTED, one)]
    if missing:
        raise InputError(
            f"{path} lacks {len(missing)} of the model's weights ({in_short(missing)}), which would begin at random; "
            f"{ANEW}, or correct its config.json."
        )
    if (more := told["unexpected_keys"]) and is_first():
        what = f"{plural(len(more), 'weight')} that a {type(model).__name__} has no place for"
        warnings.warn(f"{path} has {what} ({in_short(more)}), left out", stacklevel=3)


def in_short(names: Collection[str]) -> str:
    """``a, b and 3 more``."""
    first, *others = sorted(names)
    return f"{first} and {len(others)} more" if len(others) > 1 else ", ".join([first, *others])


def with_generation_config(model: PreTrainedModel, path: str) -> PreTrainedModel:
    """The model, answering as the ``generation_config.json`` of ``path`` says, if it has one."""
    from transformers import GenerationConfig

    with suppress(OSError):  # there is none: that of the model's config stays, as in from_pretrained
        model.generation_config = GenerationConfig.from_pretrained(
            path, local_files_only=only_local(path), trust_remote_code=False
        )
    return model


def layout_of(config: dict[str, Any]) -> Layout | None:
    """How to read a checkpoint with this config.json when it came with remote code; None when transformers reads it.

    A native class may have the ``model_type`` of a layout; only a folder that brought code has an ``auto_map``.
    """
    places = {kind: place for family in FAMILIES.values() for kind, place in family.layouts.items()}
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in places or ("auto_map" not in config and kind in native_model_types()):
        return None
    return resolve_name(places[kind])


def stated_dtype(name: str) -> str | None:
    """The dtype that the config.json of a model states, such as ``bfloat16``; None where it states none."""
    from transformers.utils import cached_file

    folder = Path(locate_model(name).folder)
    file: Any = folder / "config.json"
    if not folder.is_dir():  # on the hub: what was downloaded with the model
        file = cached_file(name, "config.json", local_files_only=True, _raise_exceptions_for_missing_entries=False)
    stated = stated_config(Path(file).parent) if file else {}
    dtype = stated.get("dtype") or stated.get("torch_dtype")
    return dtype if isinstance(dtype, str) else None


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint folder, from safetensors shards or, as the originals have them, ``.bin`` files."""
    from safetensors.torch import load_file

    state: dict[str, torch.Tensor] = {}
    for shard in weight_files(folder):
        found = load_file(shard) if shard.suffix == SAFETENSORS else read_tensors(shard, ANEW)
        if not isinstance(found, dict) or not all(isinstance(one, torch.Tensor) for one in found.values()):
            raise InputError(f"{shard} holds something else than weights; {ANEW}.")
        state |= found
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
