"""A layer whose class takes seams may run a packed row in one call, where that was seen to be its documents alone.

Kernels of mamba-ssm, flash-linear-attention and causal-conv1d reset their state at seams, and are then many times as
fast as a call for each document. Whether they are there, and whether the class hands them the seams, no signature
tells: so the first row is run in both ways.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import _disable_current_modes

from varlen_lab.attention.masks import DeferredMask
from varlen_lab.models.documentwise import by_document, is_left_out, places_of, positional, tensors_in
from varlen_lab.packing.boundaries import Boundaries

WORDS = ("seq_idx", "cu_seq_lens_q")  # by which a class of transformers takes seams
KERNELS = ("mamba_ssm", "fla", "causal_conv1d")
LEAST = 3  # documents, or a row shows too little
ROUNDING = {torch.float64: 1e-10, torch.float32: 1e-5}  # of the largest number; else LOW
LOW = 3e-2  # bf16, fp16

Given = tuple[list[Any], dict[str, Any]]


def may_take_seams(run: Callable[..., Any], device: torch.device) -> bool:
    """Whether a class has a word of seams among its arguments, or hands any word on to kernels that are there."""
    parameters = inspect.signature(run).parameters
    if any(word in parameters for word in WORDS):
        return True
    passes_on = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    return passes_on and device.type == "cuda" and any(map(find_spec, KERNELS))


def with_seams(
    run: Callable[..., Any], name: str, documents: Boundaries, args: Sequence[Any], options: Mapping[str, Any]
) -> Given:
    """The arguments of one call for the whole row: no state, no padding, and the seams in every word there is."""
    parameters = inspect.signature(run).parameters
    place = places_of(name, documents, [*args, *options.values()])[0]
    words: dict[str, Any] = {
        "seq_idx": documents.document_ids().to(torch.int32).view(place.rows, place.width),
        "cu_seq_lens_q": documents.cu_seqlens,
        "cu_seq_lens_k": documents.cu_seqlens,
        "max_length_q": documents.max_seqlen,
        "max_length_k": documents.max_seqlen,
    }
    if not any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        words = {word: value for word, value in words.items() if word in parameters}
    keys = positional(parameters, len(args))
    given = [
        words.pop(key) if key in words else None if is_left_out(key, value) else value for key, value in zip(keys, args)
    ]
    kept = {key: value for key, value in options.items() if not is_left_out(key, value)}
    if "use_cache" in kept:
        kept["use_cache"] = False
    return given, kept | words


def keeps_apart(
    run: Callable[..., Any], name: str, documents: Boundaries, args: Sequence[Any], options: Mapping[str, Any]
) -> bool:
    """Whether one call with seams gives what a call for each document gives: outputs, input gradients, no leak.

    Nothing of it is left behind: no gradient of a weight, no random number, nothing saved for another backward pass.
    """
    if any(isinstance(value, DeferredMask) for value in (*args, *options.values())):
        return False
    place = places_of(name, documents, [*args, *options.values()])[0]
    shape = (place.rows, place.width)
    leaves: list[torch.Tensor] = []

    def leaf(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            value = value.detach().clone()
            if value.shape[:2] == shape:
                leaves.append(value.requires_grad_())
        return value

    devices = list({x.device for x in tensors_in([*args, *options.values()]) if x.device.type == "cuda"})
    try:
        with (
            torch.random.fork_rng(devices),
            torch.enable_grad(),
            # a checkpoint around it counts what is saved, and one that keeps some results takes these for its own
            saved_tensors_hooks(lambda saved: saved, lambda saved: saved),
            _disable_current_modes(),
        ):
            fresh, more = list(map(leaf, args)), {key: leaf(value) for key, value in options.items()}
            given, words = with_seams(run, name, documents, fresh, more)
            whole = rows_in(run(*given, **words), shape)
            alone = rows_in(by_document(run, name, documents, tuple(fresh), more), shape)
            return same(whole, alone, leaves, documents, shape)
    except Exception:  # a kernel that does not take it says so in its own way
        return False


def rows_in(output: Any, shape: tuple[int, int]) -> list[torch.Tensor]:
    """The tensors of an output with a place for each token."""
    return [x for x in tensors_in(output) if x.ndim > 2 and x.shape[:2] == shape]


def same(
    whole: list[torch.Tensor],
    alone: list[torch.Tensor],
    inputs: list[torch.Tensor],
    documents: Boundaries,
    shape: tuple[int, int],
) -> bool:
    """Whether outputs and their gradients agree, and no gradient crosses a seam in the call for the whole row."""
    if not whole or len(whole) != len(alone) or not all(map(close, whole, alone)):
        return False
    odd = (documents.document_ids() % 2 == 1).view(shape)
    draw = torch.Generator().manual_seed(0)  # its own: other threads draw from the global one meanwhile
    for mine in (odd, ~odd):
        weights = [torch.randn(x.shape, generator=draw).to(x) * mine.view(*shape, *[1] * (x.ndim - 2)) for x in whole]
        one = torch.autograd.grad(whole, inputs, weights, retain_graph=True, allow_unused=True)
        its = torch.autograd.grad(alone, inputs, weights, retain_graph=True, allow_unused=True)
        for a, b in zip(one, its):
            if (a is None) != (b is None) or (a is not None and b is not None and not close(a, b)):
                return False
            if a is not None and bool(a[~mine].any()):
                return False
    return True


def close(mine: torch.Tensor, its: torch.Tensor) -> bool:
    """Whether two tensors differ by rounding."""
    if mine.shape != its.shape or mine.dtype != its.dtype:
        return False
    apart = (mine.detach().float() - its.detach().float()).abs().max()
    return bool(apart <= ROUNDING.get(mine.dtype, LOW) * its.detach().float().abs().max())
