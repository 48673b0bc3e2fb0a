"""Whether a model can be at all: counted on torch's device "meta", before memory is asked for that nobody has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from varlen_lab.errors import InputError
from varlen_lab.models.seeding import BUILDING

if TYPE_CHECKING:
    from transformers import PretrainedConfig

WIDTHS = ("hidden_size", "n_embd", "d_model")
LAYERS = ("num_hidden_layers", "n_layer", "n_layers")
FEW = 2**28  # weights, a GB in float32: a model with fewer is built without being counted
PACKED = 4  # weights that a byte of a file may stand for, and something to spare


def refuse_too_large(config: PretrainedConfig) -> None:
    """InputError for a model from scratch that has more weights than this machine has memory for, in float32."""
    import psutil

    there = psutil.virtual_memory().total + psutil.swap_memory().total
    count = weights_of(config) if roughly(config) > FEW else 0
    if 4 * count > there:
        raise InputError(
            f"model_config describes a {config.model_type} of {count:.3g} weights, {4 * count / 1e9:,.0f} GB in "
            f"float32, and this machine has {there / 1e9:,.0f} GB; make it smaller."
        )


def refuse_larger_than_its_files(config: PretrainedConfig, path: str, files: list[Path]) -> None:
    """InputError for a config that describes a model whose weights cannot be in these files: they would be made up."""
    most = PACKED * sum(file.stat().st_size for file in files)
    if roughly(config) > most and (count := weights_of(config)) > most:
        raise InputError(
            f"{path} has a config.json of a model with {count:.3g} weights and files of {most / PACKED / 1e6:,.1f} MB; "
            "the two are of different models, take both from one."
        )


def roughly(config: PretrainedConfig) -> int:
    """More weights than any honest config of these sizes has in one of its parts, times layers: quick, and too many."""
    fields = dict(numbers(config.to_dict()))
    width, layers = (max([fields.get(name, 1) for name in names]) for names in (WIDTHS, LAYERS))
    return max(fields.values(), default=0) * width * layers


def numbers(fields: Mapping[Any, Any]) -> Iterator[tuple[str, int]]:
    """(name, value) of every whole number in nested fields that is no id of a token; the largest of a name is last."""
    found: list[tuple[str, int]] = []
    for name, value in fields.items():
        if isinstance(value, Mapping):
            found += numbers(value)
        elif type(value) is int and not str(name).endswith("token_id"):
            found.append((str(name), value))
    yield from sorted(found, key=lambda one: one[1])


def weights_of(config: PretrainedConfig) -> int:
    """Numbers in the parameters and buffers of a model; 0 for a class that cannot be counted without its memory."""
    from transformers import AutoModelForCausalLM

    try:
        with BUILDING, torch.device("meta"):
            model = AutoModelForCausalLM.from_config(deepcopy(config), dtype=torch.float32, trust_remote_code=False)
    except (OverflowError, MemoryError):
        return 2**63
    except Exception as problem:  # what is wrong with it is said where it is built
        return 2**63 if "overflow" in str(problem).lower() else 0
    return sum(one.numel() for one in (*model.parameters(), *model.buffers()))
