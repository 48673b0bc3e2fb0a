"""Whether the state in a checkpoint fits the model, the optimizer and the schedule that it is put into.

torch takes an optimizer's state of any shape and fails steps later, and lets a schedule's state write over its methods.
So what it will be asked for is held against what the run has of its own, value by value, before any of it is loaded.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from varlen_lab.errors import InputError, quoted
from varlen_lab.training.checkpoint import refused
from varlen_lab.training.contents import described

MOMENTS = {torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"}}  # what it has of a weight, if it has anything
NEEDED_OF_SCHEDULE = {"base_lrs", "last_epoch", "_step_count", "_last_lr", "lr_lambdas"}


def misfit(path: Path, what: str, value: Any) -> InputError:
    """The error to raise for a value that this run cannot go on with."""
    said = described(value) if isinstance(value, torch.Tensor) else quoted(value)
    return refused(path, f"{path} has {what} = {said}, which does not fit the run")


def check_weights(path: Path, weights: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> None:
    """InputError where weights have other names or shapes than the run's ``own``, or are no numbers."""
    if different := sorted(weights.keys() ^ own.keys()):
        raise refused(
            path,
            f"{path} {'lacks' if different[0] in own else 'has'} the weight {quoted(different[0])}, "
            "its model is another than the config gives",
        )
    for name, value in weights.items():
        if value.shape != own[name].shape:
            raise misfit(path, f"the shape of {name}", f"{list(value.shape)}, not {list(own[name].shape)}")
        if value.is_floating_point() != own[name].is_floating_point() or not finite(value):
            raise misfit(path, name, value)


def finite(value: torch.Tensor) -> bool:
    """Whether no number of a tensor, or of this process's piece of it, is NaN or infinite."""
    piece = value.to_local() if hasattr(value, "to_local") else value
    return bool(piece.isfinite().all())


def check_optimizer(path: Path, state: dict[str, Any], optimizer: Any) -> None:
    """InputError where an optimizer cannot go on from a state: other groups, other shapes, no numbers."""
    own = optimizer.state_dict()["param_groups"]
    groups, entries = state.get("param_groups"), state.get("state")
    if not isinstance(groups, list) or len(groups) != len(own) or not isinstance(entries, dict):
        raise misfit(path, "the optimizer's groups", groups)
    for mine, group in zip(own, groups, strict=True):
        if not isinstance(group, dict) or group.get("params") != mine["params"]:
            raise misfit(path, "a group of the optimizer", group)
        for name, value in mine.items():
            if not alike(group.get(name, None if name not in ("lr", "initial_lr") else math.nan), value):
                raise misfit(path, f"the optimizer's {name}", group.get(name))
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    needed = MOMENTS.get(type(getattr(optimizer, "optimizer", optimizer)), set())
    for number, values in entries.items():
        if type(number) is not int or not 0 <= number < len(weights) or not isinstance(values, dict):
            raise misfit(path, "a weight of the optimizer", number)
        if values and not needed <= values.keys():
            raise misfit(path, f"the optimizer's state of weight {number}", sorted(map(str, values)))
        for name, value in values.items():
            if value is None and name == "momentum_buffer":  # of SGD, before its first step
                continue
            if not fits(value, weights[number].shape, once=name == "step"):
                raise misfit(path, f"the optimizer's {name} of weight {number}", value)


def fits(value: Any, shape: torch.Size, once: bool) -> bool:
    """Whether a value of an optimizer's state is a number, or, unless there is one of it only, a tensor of a shape."""
    if isinstance(value, torch.Tensor):
        return value.shape == (torch.Size([]) if once else shape) and value.is_floating_point() and finite(value)
    return alike(value, 0.0)


def check_schedule(path: Path, state: dict[str, Any], schedule: Any) -> None:
    """InputError where a schedule cannot go on from a state, or would lose a method to it."""
    own = schedule.state_dict()
    if missing := NEEDED_OF_SCHEDULE - state.keys():
        raise misfit(path, "a schedule without", min(missing))
    for name, value in state.items():
        known = alike(value, own[name]) if name in own else not hasattr(schedule, str(name))
        if not known or (name in ("last_epoch", "_step_count") and not 0 <= value < 2**53):
            raise misfit(path, f"the schedule's {name}", value)


def alike(value: Any, own: Any) -> bool:
    """Whether a value is of the kind of the run's own: a finite number, a switch, or as many of them."""
    if isinstance(own, list | tuple):
        return isinstance(value, list | tuple) and len(value) == len(own) and all(map(alike, value, own))
    if own is None or isinstance(own, bool):
        return value is None or isinstance(value, bool)
    return type(value) in (int, float) and math.isfinite(value) and (type(own) is float or type(value) is int)
