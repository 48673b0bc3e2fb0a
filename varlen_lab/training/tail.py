"""What a model does with its logits after the head: read from one forward pass, repeated on any others.

Families differ: Gemma 2 caps logits, Cohere and Granite scale them, others leave classes out. Nothing of that is
guessed from names in a config: ``Watch`` writes down every torch function through which the head's output goes, and
``Tail`` calls the same functions again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map


class Value(NamedTuple):
    """The place of an earlier result among the arguments of a call."""

    number: int


class Call(NamedTuple):
    """One torch function; results of earlier calls stand in its arguments as ``Value``."""

    function: Callable[..., Any]
    arguments: tuple[Any, dict[str, Any]]


class Tail(NamedTuple):
    """Logits of the head in, logits of the model out: the calls in their order."""

    calls: tuple[Call, ...]
    last: int  # the value that is the model's logits; 0: what came in

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        values = [logits]
        for call in self.calls[: self.last]:
            args, kwargs = tree_map(
                lambda one: values[one.number] if isinstance(one, Value) else one,
                call.arguments,
                is_leaf=lambda one: isinstance(one, Value),
            )
            values.append(call.function(*args, **kwargs))
        return values[self.last]


class Watch(TorchFunctionMode):
    """While it is entered: what is made of the tensor ``logits``, and of nothing but it and numbers."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.made = [logits]  # kept, or another tensor could get the same id
        self.calls: list[Call] = []

    def number_of(self, tensor: Any) -> int | None:
        """Which of the values a tensor is; the newest, for one that was changed in place. None for any other."""
        return next((n for n in reversed(range(len(self.made))) if self.made[n] is tensor), None)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, torch.Tensor)]
        numbers = [self.number_of(one) for one in tensors]
        if isinstance(out, torch.Tensor) and tensors and None not in numbers:
            as_values = tree_map(
                lambda one: Value(self.number_of(one) or 0) if isinstance(one, torch.Tensor) else one,
                (args, kwargs or {}),
            )
            self.calls.append(Call(func, as_values))
            self.made.append(out)
        return out

    def tail(self, logits: torch.Tensor) -> Tail | None:
        """How ``logits`` came about; None where more went into them than the head's output."""
        last = self.number_of(logits)
        return None if last is None else Tail(tuple(self.calls), last)
