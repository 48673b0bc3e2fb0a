"""What is rounding, and what is a fault? The limits, and a finer precision where the one of the model cannot tell.

The leak matrix needs none of this: a gradient across a seam is exactly 0 in any precision. Parity does. Measured on
SmolLM2-135M (``parity``, as shares of the largest logit), documents alone on sdpa:

                        right     another kernel   the smallest planted fault
    float64             9e-8      5e-6 (eager)     5e-5      (eager with its softmax in float32; see WideSoftmax)
    float32             1e-6      5e-5             5e-5      (in one row of 36 tokens, 8e-6 without a fault)
    bfloat16            6e-1      6e-1             as without a fault

So half precision cannot certify parity at all: it is measured on a copy of the weights in float32. And what is beyond
the limit in float32, with no attention call and no gradient to blame, is measured once more in float64: rounding, also
of another kernel, is gone there, a fault is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode

from varlen_lab.attention.huggingface import AUTO
from varlen_lab.errors import InputError
from varlen_lab.leaks.measure import WITHOUT_FLOAT64, Parity, parity
from varlen_lab.leaks.running import EAGER, HALF, CannotRun, attention_name, host_of
from varlen_lab.machine.gpu import dtype_name
from varlen_lab.packing.boundaries import Boundaries

# Largest difference that is rounding, of packed and alone, as a share of the largest logit. Norms and rotary
# embeddings compute in float32 in models of float64, too: now and then one of their results falls on the other side,
# which on SmolLM2 makes 9e-8 of it.
PARITY = {torch.float64: 1e-6, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 5e-3}
# And of one attention call, computed again with eager attention from its own queries, keys and values.
CALL = {torch.float64: 1e-6, torch.float32: 1e-4, torch.bfloat16: 1.5e-2, torch.float16: 2e-3}  # right: a fourth
MOVED = 1e-3  # what rotary embeddings round at other positions of a row of some thousand tokens: the most in float32
SOFTMAX = (torch.softmax, torch.Tensor.softmax, torch.nn.functional.softmax)
FINER = {torch.bfloat16: torch.float32, torch.float16: torch.float32, torch.float32: torch.float64}


def limit_of(measured: Parity) -> float:
    """The largest relative difference of a parity that is rounding."""
    return PARITY.get(measured.dtype, PARITY[torch.float32])


def is_rounding(measured: Parity) -> bool:
    """Whether a parity is within the limit of the precision it was measured in."""
    return measured.within(limit_of(measured))


class WideSoftmax(TorchFunctionMode):
    """transformers' eager attention sums its softmax up in float32, in models of float64, too: here in float64.

    How far float32 is off there depends on how many terms a processor adds at once.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in SOFTMAX and kwargs.get("dtype") is torch.float32 and args and args[0].dtype is torch.float64:
            kwargs = kwargs | {"dtype": torch.float64}
        return func(*args, **kwargs)


def softmax_in(dtype: torch.dtype, model: Any) -> AbstractContextManager[Any]:
    """``WideSoftmax`` for a float64 run of a model that torch.compile does not have: its tracer knows no such mode."""
    compiled = any(getattr(one, "_compiled_call_impl", None) or hasattr(one, "_orig_mod") for one in model.modules())
    return WideSoftmax() if dtype is torch.float64 and not compiled else nullcontext()


class Certified(NamedTuple):
    """A parity that can tell rounding from a fault, as far as there is one; what half precision gave before it."""

    parity: Parity
    half: Parity | None = None

    @property
    def can_tell(self) -> bool:
        """Whether a difference beyond the limit is one: half precision by itself certifies nothing."""
        return self.parity.dtype not in HALF

    @property
    def in_half(self) -> bool:
        """Whether the model computes in half precision, so that its own calls are not those of the copy."""
        return self.half is not None or self.parity.dtype in HALF

    @property
    def agrees(self) -> bool:
        """Whether all that was measured is within its limit."""
        return is_rounding(self.parity) and (self.half is None or is_rounding(self.half))

    def note(self) -> str | None:
        """What is to be said of the precision; None of one that certifies by itself."""
        if self.half is not None:
            moved = self.half.logits / max(1.0, self.half.logit_scale)
            word = dtype_name(self.half.dtype)
            return (
                f"parity was measured on a copy in float32, for {word} cannot certify it: there logits differ by "
                f"{moved:.1e} of the largest"
            )
        if self.parity.dtype in HALF and not self.parity.has_nan:
            word = dtype_name(self.parity.dtype)
            return (
                f"{word} cannot certify parity, and there is no float32 copy to measure it on; the leak matrix is exact"
            )
        return None


def certified(model: Any, batch: Mapping[str, Any], documents: Boundaries) -> Certified:
    """The parity of a model in its own precision, or in float32 where it computes in half. Call it under ``noise_off``.

    A model that does not run in float32 here (its memory, a kernel) is measured as it is.
    """
    with softmax_in(next(model.parameters()).dtype, model):
        own = parity(model, batch, documents, gradients=False) if in_half(model) else parity(model, batch, documents)
    if own.dtype not in HALF or own.has_nan:
        return Certified(own)
    closer = parity_in(torch.float32, model, batch, documents)
    return Certified(parity(model, batch, documents)) if closer is None else Certified(closer, own)


def parity_in(dtype: torch.dtype, model: Any, batch: Mapping[str, Any], documents: Boundaries) -> Parity | None:
    """The parity of a copy in a finer precision; None where the model does not run in it."""
    if dtype is torch.float64 and next(model.parameters()).device.type in WITHOUT_FLOAT64:
        return None
    refused = suppress(CannotRun, InputError, torch.OutOfMemoryError)
    with refused, in_precision(model, dtype), softmax_in(dtype, model):
        found = parity(model, batch, documents)
        return found if found.dtype is dtype and not found.has_nan else None
    return None


def gone_in_float64(measured: Parity, model: Any, batch: Mapping[str, Any], documents: Boundaries) -> Parity | None:
    """The parity in float64 where that shows that a difference in float32 was rounding; else None."""
    if measured.dtype is not torch.float32:
        return None
    closer = parity_in(torch.float64, model, batch, documents)
    return closer if closer is not None and is_rounding(closer) else None


def in_half(model: Any) -> bool:
    """Whether any weight is in half precision, or an autocast to it is on."""
    kinds = {x.device.type for x in model.parameters()}
    return any(x.dtype in HALF for x in model.parameters()) or any(map(torch.is_autocast_enabled, kinds))


@contextmanager
def in_precision(model: Any, dtype: torch.dtype) -> Iterator[None]:
    """Weights and buffers in a finer precision while it lasts, and no autocast; afterwards the same bits.

    Our attention is ``auto`` then where it was in half precision, for a named kernel may take nothing else; experts
    of a mixture are computed one by one, for the grouped product takes no float64. An autocast that
    a trainer has put around its forward is off as well.
    """
    host, mine = host_of(model), attention_name(model)
    other = mine.startswith(AUTO) and in_half(model)
    kept = [(x, x.data) for x in model.buffers() if dtype in finer_than(x.dtype)]
    # other Parameters, for DDP and its like hang hooks on these, which are lost when their data change type
    weights = [
        (module, name, x)
        for module in model.modules()
        for name, x in module._parameters.items()
        if x is not None and dtype in finer_than(x.dtype)
    ]
    finer = {id(x): torch.nn.Parameter(x.data.to(dtype), x.requires_grad) for _, _, x in weights}  # tied ones once
    device = next((x.device.type for x in model.parameters()), "cpu")
    try:
        for x, data in kept:
            x.data = data.to(dtype)
        for module, name, x in weights:
            setattr(module, name, finer[id(x)])
        if other:
            host.set_attn_implementation(AUTO)
        with torch.autocast(device, enabled=False), experts_one_by_one(host), as_built(model):
            yield
    finally:
        for module, name, x in weights:
            setattr(module, name, x)
        for x, data in kept:
            x.data = data
        if other:
            host.set_attn_implementation(mine)


@contextmanager
def as_built(model: Any) -> Iterator[None]:
    """Without the autocast that a trainer has put around a forward: inside of it, it would be on again."""
    found = [(module, vars(module).get("forward")) for module in model.modules()]
    prepared = [(module, forward, inner) for module, forward in found if (inner := without_autocast(module, forward))]
    try:
        for module, _, inner in prepared:
            module.forward = inner
        yield
    finally:
        for module, forward, _ in prepared:
            module.forward = forward


def without_autocast(module: Any, forward: Any) -> Any:
    """What is inside of a module's ``forward`` that accelerate, or torch's decorator, has wrapped; None for another."""
    if "accelerate" in getattr(forward, "__module__", ""):
        return vars(module).get("_original_forward")
    code = getattr(forward, "__code__", None)
    return forward.__wrapped__ if code is not None and code.co_name == "decorate_autocast" else None


@contextmanager
def experts_one_by_one(host: Any) -> Iterator[None]:
    """The experts of a mixture of transformers on their plain implementation while it lasts."""
    if not getattr(host, "_can_set_experts_implementation", bool)():
        yield
        return
    mine = host.get_experts_implementation()
    try:
        host.set_experts_implementation(EAGER)
        yield
    finally:
        host.set_experts_implementation(mine)


def finer_than(dtype: torch.dtype) -> list[torch.dtype]:
    """The precisions above one, the next first."""
    above = FINER.get(dtype)
    return [] if above is None else [above, *finer_than(above)]
