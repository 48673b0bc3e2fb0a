"""Random weights from a seed alone: not from the global random state, which is left as it was, nor from other threads.

``seeded(seed)``   inside, everything this thread draws from torch comes from generators of its own
``BUILDING``       held while a model is made: transformers, accelerate and peft switch classes over for that time

A generator with a seed gives the numbers that the global one gives after ``manual_seed``, so weights are those that
anybody gets who seeds and builds alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

BUILDING = threading.RLock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from ``seed`` inside, alone: who else builds a model waits."""
    with BUILDING, OwnGenerators(seed):
        yield


class OwnGenerators(TorchDispatchMode):
    """Gives every operation that draws random numbers a generator, one for each device. A mode is of one thread."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.generators: dict[torch.device, torch.Generator] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called by torch for each operation."""
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        device = torch.device(kwargs.get("device") or "cpu")
        if args and isinstance(args[0], torch.Tensor):
            device = args[0].device
        with_generator = taking_generator(func)
        if device.type == "meta" or with_generator is None:  # draws nothing; or cannot be told what to draw from
            return func(*args, **kwargs)
        if device not in self.generators:
            self.generators[device] = torch.Generator(device).manual_seed(self.seed)
        return with_generator(*args, **kwargs, generator=self.generators[device])


def taking_generator(func: Any) -> Any:
    """The overload of an operation that takes a generator (``normal_``: itself, ``randn``: another), or None."""
    if any(argument.name == "generator" for argument in func._schema.arguments):
        return func
    name = func._schema.overload_name
    return getattr(func.overloadpacket, f"{name}_generator" if name else "generator", None)
