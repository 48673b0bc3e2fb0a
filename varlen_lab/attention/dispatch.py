"""``attend``: one signature, several kernels, one meaning. Attention never crosses a seam.

Worked example: documents of 2, 1 and 2 tokens, two heads, D = 1. Both heads have q = 1 everywhere and the values
v = [8, 4, 100, 0, 6]; the keys of head 0 are [0, ln 3, 5, 0, 0], those of head 1 [0, 0, 5, ln 2, 0].

    token   document   sees keys   weights, head 0   output        weights, head 1   output
    0       a          0           1                 8             1                 8
    1       a          0, 1        1/4, 3/4          2 + 3 = 5     1/2, 1/2          4 + 2 = 6
    2       b          2           1                 100           1                 100
    3       c          3           1                 0             1                 0
    4       c          3, 4        1/2, 1/2          0 + 3 = 3     2/3, 1/3          0 + 2 = 2

With full causal attention token 2 would mix in the 8 and the 4. The test of this module does the same sums.

A backend that is named is used, or refuses with a sentence; it never falls back. ``auto`` takes the first that can do
it (``choosing``) and says so once, in the log; a training run times them before (``timing``) and names one.
"""

from __future__ import annotations

import math
from functools import cache
from numbers import Real
from pkgutil import resolve_name
from typing import Any

import torch

from varlen_lab.attention.calls import kernel_called
from varlen_lab.attention.choosing import first_able, job_of_call
from varlen_lab.attention.reference import Options
from varlen_lab.attention.registry import BACKENDS
from varlen_lab.errors import InputError, quoted, unknown_choice
from varlen_lab.machine.console import tell
from varlen_lab.packing.boundaries import Boundaries

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WIDEST_WINDOW = 2**31 - 1  # kernels count in int32, and no row is longer
FLOAT32 = torch.finfo(torch.float32)  # most kernels reckon in it
MOST = 1e308  # of an option


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    boundaries: Boundaries,
    *,
    backend: str = "auto",
    causal: bool = True,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    alibi_slopes: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention of every token over its own document: q (T, H, D), k (T, K, D), v (T, K, V) -> (T, H, V).

    T tokens of all documents end to end, H query heads, K key/value heads (H a multiple of K: GQA, MQA),
    V may differ from D (MLA). ``scale`` defaults to 1/sqrt(D). ``window``: a token sees itself and the
    ``window - 1`` before it; with ``causal=False`` the ``window - 1`` after it too.
    ``softcap``: scores become ``softcap * tanh(scores / softcap)`` (Gemma 2).
    ``alibi_slopes`` (H,): scores lose ``slope * distance`` (Baichuan-13B).
    ``sinks`` (H,): the score of one more key a head, whose value is zero; it is not scaled (GPT-OSS).
    Raises InputError for what is no such tensor or number (a scale or softcap that is not above 0, no key at all), when
    shapes, devices and boundaries disagree, or when the backend cannot do what is asked.
    """
    # here, once for all kernels: they fail in C++, or read past the end without a word
    check_tensors(q, k, v)
    check_shapes(q, k, v)
    for name, each in (("alibi_slopes", alibi_slopes), ("sinks", sinks)):
        if each is not None:
            check_by_head(name, each, q)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    options = Options(scale, causal, window, softcap, alibi_slopes, sinks)
    if torch.compiler.is_compiling():  # numbers may be symbols: they are checked when the graph runs
        if window is not None and window < 1:  # but a kernel that stands in the graph itself checks nothing
            raise window_hides_all(window)
        from varlen_lab.attention.compiled import attend_in_graph  # which itself calls attend, when the graph runs

        return attend_in_graph(q, k, v, boundaries, backend, options)
    options = checked_numbers(options)
    check_seams(boundaries, q)
    if backend == "auto":
        job = job_of_call(q, v, options)
        backend = first_able(job)
        announce(backend, job.device, job.dtype)
    if not isinstance(backend, str) or backend not in BACKENDS:
        raise unknown_choice("backend", str(backend), ["auto", *BACKENDS])
    kernel_called(backend)
    out: torch.Tensor = resolve_name(BACKENDS[backend].function)(q, k, v, boundaries, options)
    return out


@cache
def announce(backend: str, device: str, dtype: str) -> None:
    """Say once per process what ``auto`` chose for a single call."""
    say_backend(backend, device, dtype)


def say_backend(backend: str, device: str, dtype: str, why: str = "") -> None:
    """What was chosen, told on the way."""
    tell(f"attention backend {backend} ({device}, {dtype})" + (f", {why}" if why else ""))


def check_tensors(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    """q, k and v must be dense tensors of floating point numbers on one device."""
    for name, each in (("q", q), ("k", k), ("v", v)):
        if not isinstance(each, torch.Tensor):
            raise InputError(f"attend got {type(each).__name__} as {name}, it takes tensors; use torch.as_tensor.")
        if each.is_nested or each.layout != torch.strided:
            raise InputError(f"{name} is no dense tensor, attend takes all tokens end to end; use {name}.to_dense().")
        if each.dtype not in DTYPES:
            raise InputError(
                f"{name} is {each.dtype}, attention takes {', '.join(str(one) for one in DTYPES)}; cast it."
            )
    if not q.device == k.device == v.device:
        raise InputError(f"attend got q on {q.device}, k on {k.device}, v on {v.device}; move them to one device.")


def checked_numbers(options: Options) -> Options:
    """The options as plain numbers, or an InputError that says which of them is none or out of its range."""
    for name, number in (("scale", options.scale), ("softcap", options.softcap)):
        if number is not None and not (is_number(number) and FLOAT32.tiny <= float(number) <= FLOAT32.max):
            raise InputError(
                f"{name} is {quoted(number)}, it must be a finite number above 0, also in float32; leave it out for "
                "the usual one."
            )
    if not isinstance(options.causal, bool):
        raise InputError(f"causal is {quoted(options.causal)}, it must be True or False.")
    window = options.window
    if window is not None:
        if not is_number(window) or window != window // 1:
            raise InputError(
                f"window is {quoted(window)}, it must be a whole number of tokens; use 1 or more, or None."
            )
        if window < 1:
            raise window_hides_all(window)
        window = int(min(window, WIDEST_WINDOW))
    softcap = None if options.softcap is None else float(options.softcap)
    return options._replace(scale=float(options.scale), softcap=softcap, window=window)


def window_hides_all(window: Any) -> InputError:
    """The error to raise for a window in which a token does not see itself."""
    return InputError(f"window is {quoted(window)}, a token must see at least itself; use 1 or more, or None.")


def is_number(value: Any) -> bool:
    """Whether it is a real number that fits into a float, or a tensor of one."""
    if isinstance(value, torch.Tensor):
        return value.numel() == 1 and not value.is_complex() and not value.requires_grad
    number: Any = value  # Real promises no comparison
    return isinstance(value, Real) and not isinstance(value, bool) and bool(-MOST <= number <= MOST)


def check_shapes(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    """q, k and v must describe the same T tokens."""
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if not q.ndim == k.ndim == v.ndim == 3:
        raise InputError(f"attend got {shapes}, it takes (tokens, heads, head dim) each, without a batch axis.")
    if not len(q) == len(k) == len(v):
        raise InputError(f"attend got {shapes}, all three must have the same number of tokens.")
    if not (q.shape[1] and k.shape[1] and q.shape[2]):
        raise InputError(
            f"attend got {shapes}, there must be at least one head of queries, of keys, and one number in it."
        )
    if k.shape[1] != v.shape[1] or q.shape[1] % k.shape[1]:
        raise InputError(f"attend got {shapes}, query heads must be a multiple of the key/value heads.")
    if q.shape[2] != k.shape[2]:
        raise InputError(f"attend got {shapes}, q and k must have the same head dim.")
    if not q.dtype == k.dtype == v.dtype:
        raise InputError(f"attend got q {q.dtype}, k {k.dtype}, v {v.dtype}, they must have one dtype; cast them.")


def check_by_head(name: str, numbers: torch.Tensor, q: torch.Tensor) -> None:
    """A tensor with a number for each query head must be (H,), floating point, and lie on q's device."""
    if not isinstance(numbers, torch.Tensor):
        raise InputError(f"{name} is {type(numbers).__name__}, it must be a tensor with one number a head.")
    if numbers.shape != (q.shape[1],):
        raise InputError(f"{name} has shape {tuple(numbers.shape)}, it needs one number a head: ({q.shape[1]},).")
    if not numbers.is_floating_point():
        raise InputError(f"{name} is {numbers.dtype}, it needs floating point numbers; use {name}.to({q.dtype}).")
    if numbers.device != q.device:
        raise InputError(f"{name} is on {numbers.device} and q on {q.device}; use {name}.to({str(q.device)!r}).")


def check_seams(boundaries: Boundaries, q: torch.Tensor) -> None:
    """The boundaries must be such, end with q's last token, and lie on its device."""
    if not isinstance(boundaries, Boundaries):
        raise InputError(
            f"boundaries is {type(boundaries).__name__}, it must be Boundaries; use Boundaries.from_lengths([2, 4, 3])."
        )
    if boundaries.total != len(q):
        raise InputError(
            f"the boundaries end at {boundaries.total} and q has {len(q)} tokens, they must agree; "
            "make them from this row's lengths."
        )
    if boundaries.cu_seqlens.device != q.device:
        raise InputError(
            f"cu_seqlens is on {boundaries.cu_seqlens.device} and q on {q.device}; "
            f"use boundaries.to({str(q.device)!r})."
        )
