"""Planting the faults of the registry in a model and its batch, for a while or for good.

    model, batch = specimen(FAULTS["window missing"])       # right as it is
    with planted(FAULTS["window missing"], model, batch) as wrong:
        print(audit(model, wrong))                          # and now not; afterwards the model is as it was

``applies`` says where a fault can be planted, ``plant_in_trainer`` plants it in a training run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pkgutil import resolve_name
from typing import Any

from varlen_lab.attention.huggingface import AUTO, register
from varlen_lab.errors import InputError
from varlen_lab.leaks.planted_batches import Batch, for_our_attention, for_stock_attention
from varlen_lab.leaks.registry import ANY, Fault
from varlen_lab.leaks.running import EAGER, NATIVE, attention_name, host_of
from varlen_lab.leaks.suited import applies
from varlen_lab.models.miniature import miniature
from varlen_lab.packing.collators import VarlenCollator

LENGTHS = [5, 1, 17, 9, 12]  # tokens of a specimen's documents: a one-token one, one longer than a window


def specimen(fault: Fault) -> tuple[Any, Batch]:
    """A tiny model and a packed batch of documents of ``LENGTHS`` tokens, both right: where a fault is planted.

    The batch suits the attention: seams for ours, for transformers' own restarting positions and no cache.
    """
    model = miniature(fault.model, AUTO if fault.attention == ANY else fault.attention, **fault.config)
    ids = list(range(10, 10 + sum(LENGTHS)))
    batch = VarlenCollator()([{"input_ids": ids, "labels": ids, "seq_lengths": LENGTHS}])
    return model, batch if fault.attention not in NATIVE else for_stock_attention(batch)


def plant(fault: Fault, model: Any, batch: Mapping[str, Any]) -> Batch:
    """Plant ``fault`` in ``model``, in place, and return the batch to use with it.

    ``batch``: as it goes into ``model(**batch)``, right as it is; empty where only the model is to be wrong. A fault of
    transformers' own attention gives the model that attention, one of ours gives it ours. InputError where the fault
    cannot be planted, or would change nothing.
    """
    refuse_unsuited(fault, model, batch)
    if fault.site == "trainers":
        raise InputError(
            f"{fault.name!r} is a fault of a training loop, model and batch do not show it; use plant_in_trainer."
        )
    give_attention(fault, model)
    result: Batch = resolve_name(fault.plant)(model, fitting(fault, batch))
    return result


@contextmanager
def planted(fault: Fault, model: Any, batch: Mapping[str, Any]) -> Iterator[Batch]:
    """The batch with ``fault`` planted in it and in ``model``, which is as it was when the context ends.

    What is trained meanwhile stays trained: weights are not copied. Errors: as of ``plant``.
    """
    with left_as_found(model):
        yield plant(fault, model, batch)


def refuse_unsuited(fault: Fault, model: Any, batch: Mapping[str, Any] | None = None) -> None:
    """InputError where a fault cannot be planted in a model, and in a batch."""
    if reason := applies(fault, model, batch):
        raise InputError(
            f"{fault.name!r} cannot be planted in {type(host_of(model)).__name__}: {reason}; choose a fault for which "
            "leaks.applies(fault, model, batch) is None, or take leaks.specimen(fault)."
        )


def give_attention(fault: Fault, model: Any) -> None:
    """The attention that a fault is one of, where the model has not one like it."""
    own, host = attention_name(model), host_of(model)
    if fault.attention in NATIVE and own not in NATIVE:
        try:
            host.set_attn_implementation(fault.attention)
        except ValueError:  # a class that has no sdpa
            host.set_attn_implementation(EAGER)
    elif fault.attention == AUTO and not own.startswith(AUTO):
        register()
        host.set_attn_implementation(AUTO)


def fitting(fault: Fault, batch: Mapping[str, Any]) -> Batch:
    """A batch as the attention of a fault is given it."""
    if not batch or fault.attention == ANY:
        return dict(batch)
    return for_stock_attention(batch) if fault.attention in NATIVE else for_our_attention(batch)


@contextmanager
def left_as_found(model: Any) -> Iterator[None]:
    """Afterwards modules, hooks and configs of a model are what they were before."""
    modules = [(module, dict(vars(module))) for module in model.modules()]
    tables = [(one, dict(one)) for _, found in modules for one in found.values() if isinstance(one, dict)]
    configs = [(config, {name: kept(value) for name, value in vars(config).items()}) for config in configs_of(model)]
    try:
        yield
    finally:
        for one, before in [*((vars(module), found) for module, found in modules), *tables]:
            one.clear()
            one.update(before)
        for config, before in configs:
            vars(config).clear()
            vars(config).update(before)


def configs_of(model: Any) -> list[Any]:
    """The configs of a model's modules and the configs in them, each once."""
    from transformers import PretrainedConfig

    waiting, found = [getattr(module, "config", None) for module in model.modules()], dict[int, Any]()
    while waiting:
        one = waiting.pop()
        if isinstance(one, PretrainedConfig) and id(one) not in found:
            found[id(one)] = one
            waiting += vars(one).values()
    return list(found.values())


def kept(value: Any) -> Any:
    """A copy of a value of a config; a config in it stays itself."""
    from transformers import PretrainedConfig

    return value if isinstance(value, PretrainedConfig) else deepcopy(value)
