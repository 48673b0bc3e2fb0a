"""Layers that carry a state along the row, by their class: no attention keeps them apart, whatever seams it takes.

The table beside this file was found by measuring every class of transformers. A class that is not in it can carry a
state all the same: ``leaks.layers`` finds it on the model itself.
"""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import torch


@cache
def state_classes() -> dict[str, list[str]]:
    """``model_type`` -> the classes of its layers that carry a state along the row."""
    return tomllib.loads(Path(__file__).with_name("recurrent.toml").read_text(encoding="utf-8"))


def known_layers(model: Any) -> list[str]:
    """Paths of the layers that are known to carry a state along the row, in the order of the model."""
    table = state_classes()
    kinds = {str(getattr(getattr(module, "config", None), "model_type", "")) for module in model.modules()}
    names = {name for kind in kinds & set(table) for name in table[kind]}
    return [path for path, module in model.named_modules() if class_name(module) in names] if names else []


def carries_state(module: torch.nn.Module) -> bool:
    """Whether a layer's class is in the table."""
    return class_name(module) in all_classes()


@cache
def all_classes() -> frozenset[str]:
    """The classes of the table, whatever model they are of."""
    return frozenset(name for names in state_classes().values() for name in names)


def class_name(module: torch.nn.Module) -> str:
    """The class of a module as its file has it: FSDP2 puts a class of its own in front."""
    kind = type(module)
    return next((one for one in kind.__mro__ if not one.__name__.startswith("FSDP")), kind).__name__


def document_runner(module: torch.nn.Module) -> Any:
    """What stands in for a module's ``forward`` to run it document by document; None where nothing does."""
    forward = vars(module).get("forward")
    while forward is not None and not getattr(type(forward), "by_document", False):
        forward = getattr(forward, "__wrapped__", None)  # accelerate's hooks wrap what they find
    return forward
