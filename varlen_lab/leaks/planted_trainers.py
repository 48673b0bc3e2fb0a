"""Planting a fault in a training run of transformers' ``Trainer``, TRL's ``SFTTrainer``, or a subclass of them.

    plant_in_trainer(FAULTS["label at a border"], trainer)   # before trainer.train()

What is wrong with batches is planted behind the trainer's own collator, what is wrong with a model in the trainer's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

from varlen_lab.errors import InputError
from varlen_lab.leaks.planted_batches import Batch
from varlen_lab.leaks.planting import fitting, give_attention, refuse_unsuited
from varlen_lab.leaks.registry import Fault

LEAST_ACCUMULATED = 2  # batches of a step: of one the mean of means is the mean


@dataclass(frozen=True)
class Planted:
    """A collator with a fault behind it; picklable, for loaders with workers."""

    collate: Callable[[Sequence[Any]], Any]
    fault: Fault

    def __call__(self, features: Sequence[Any]) -> Batch:
        batch = fitting(self.fault, self.collate(features))
        if self.fault.site == "batches":
            batch = resolve_name(self.fault.plant)(None, batch)
        return dict(batch)


def plant_in_trainer(fault: Fault, trainer: Any) -> None:
    """Plant ``fault`` in a trainer that has not begun: in its model, behind its collator, or in how it adds up losses.

    InputError where the fault cannot be planted in its model, or where it is no trainer.
    """
    missing = [name for name in ("model", "data_collator", "args") if not hasattr(trainer, name)]
    if missing:
        raise InputError(
            f"a {type(trainer).__name__} has no {' and no '.join(missing)}, faults are planted in a transformers "
            "Trainer; in a loop of your own plant(fault, model, batch)."
        )
    refuse_unsuited(fault, trainer.model)
    if fault.site == "trainers":
        resolve_name(fault.plant)(trainer)
        return
    give_attention(fault, trainer.model)
    if fault.site != "batches":
        resolve_name(fault.plant)(trainer.model, {})
    elif fault.plant.endswith(":default_cache"):  # trainers switch the cache off in the call
        trainer.model.register_forward_pre_hook(cache_on, with_kwargs=True)
    trainer.data_collator = Planted(trainer.data_collator, fault)


def cache_on(model: Any, args: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    """The arguments of a training batch with ``use_cache=True``."""
    return (args, options | {"use_cache": True}) if "labels" in options else None


def mean_of_means(trainer: Any) -> None:
    """Every batch of a step is divided by its own count of tokens and the step by its batches, of which it has two."""
    trainer.model_accepts_loss_kwargs = False
    trainer.args.gradient_accumulation_steps = max(LEAST_ACCUMULATED, trainer.args.gradient_accumulation_steps)
