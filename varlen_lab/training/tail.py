"""What a model does with its logits after the head: read from one forward pass, repeated on any others.

Families differ: Gemma 2 caps logits, Cohere and Granite scale them, others leave classes out. Nothing of that is
guessed from names in a config: ``Watch`` writes down every torch function through which the head's output goes, and
``Tail`` calls the same functions again.

A function that knows a token by its place, or a number that was read from the logits or their shape, would be right
for the few tokens that were watched and for no others: only what ``EACH`` names is repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

# Functions that do the same to each logit, or something with a token's logits; those along the row the proof finds.
EACH = """
    add iadd radd sub isub rsub mul imul rmul div rdiv idiv truediv itruediv rtruediv neg pow tanh sigmoid exp log abs
    clamp gt lt ge le where masked_fill softmax log_softmax mean sum amax logsumexp to type float double bfloat16 half
    contiguous clone detach
"""
# No tensor comes of these, and it is the same for all logits.
KINDS = {"dtype", "device", "requires_grad", "grad_fn", "layout", "is_cuda", "dim", "is_floating_point", "is_complex"}


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
    dtype: torch.dtype  # of what came in

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
        self.by_place = False  # or by value: something was done that is not in EACH

    def number_of(self, tensor: Any) -> int | None:
        """Which of the values a tensor is; the newest, for one that was changed in place. None for any other."""
        return next((n for n in reversed(range(len(self.made))) if self.made[n] is tensor), None)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, torch.Tensor)]
        numbers = [self.number_of(one) for one in tensors]
        if any(number is not None for number in numbers) and not for_each_token(func, args, out):
            self.by_place = True
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
        return None if last is None else Tail(tuple(self.calls), last, self.made[0].dtype)


def for_each_token(func: Any, args: Any, out: Any) -> bool:
    """Whether what a torch function did with its argument (B, T, V) is the same for whatever tokens."""
    name = func.__name__.strip("_")
    if not isinstance(out, torch.Tensor):
        return (func.__self__.__name__ if name == "get" else name) in KINDS
    if name == "getitem":
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        return index[:-1] in ((...,), (slice(None), slice(None)))
    return name in EACH.split()
