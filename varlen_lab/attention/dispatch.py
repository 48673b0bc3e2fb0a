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

A backend that is named is used, or refuses with a sentence; it never falls back. ``auto`` chooses by device and
dtype, says so once on stderr, and ``choose`` tells anybody what it would take.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import sys
from functools import cache

import torch

from varlen_lab.attention.flash import WIDEST_HEAD, attend_flash_attn, attend_torch_varlen, flash_attn_takes
from varlen_lab.attention.flex import attend_flex
from varlen_lab.attention.reference import attend_reference
from varlen_lab.attention.sdpa import attend_sdpa
from varlen_lab.errors import InputError, nearest
from varlen_lab.packing.boundaries import Boundaries

BACKENDS = {
    "reference": attend_reference,
    "sdpa": attend_sdpa,
    "flash_attn": attend_flash_attn,
    "torch_varlen": attend_torch_varlen,
    "flex": attend_flex,
}


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
) -> torch.Tensor:
    """Attention of every token over its own document: q (T, H, D), k (T, K, D), v (T, K, V) -> (T, H, V).

    T tokens of all documents end to end, H query heads, K key/value heads (H a multiple of K: GQA, MQA),
    V may differ from D (MLA). ``scale`` defaults to 1/sqrt(D). ``window``: a token sees itself and the
    ``window - 1`` before it. ``softcap``: scores become ``softcap * tanh(scores / softcap)`` (Gemma 2).
    ``alibi_slopes`` (H,): scores lose ``slope * distance`` (Baichuan-13B).
    Raises InputError when shapes, devices and boundaries disagree, or when the backend cannot do what is asked.
    """
    check_shapes(q, k, v, boundaries)
    if window is not None and window < 1:
        raise InputError(f"window is {window}, a token must see at least itself; use 1 or more, or None.")
    if alibi_slopes is not None and alibi_slopes.shape != (q.shape[1],):
        raise InputError(
            f"alibi_slopes has shape {tuple(alibi_slopes.shape)}, it needs one slope a head: ({q.shape[1]},)."
        )
    if backend == "auto":
        backend = choose(q.device.type, q.dtype, q.shape[-1], softcap=softcap, alibi=alibi_slopes is not None)
        announce(backend, q.device.type, str(q.dtype).removeprefix("torch."))
    if backend not in BACKENDS:
        raise InputError(
            f"backend {backend!r} is unknown, use auto or one of {', '.join(BACKENDS)}{nearest(backend, BACKENDS)}."
        )
    return BACKENDS[backend](
        q,
        k,
        v,
        boundaries,
        causal=causal,
        scale=1 / math.sqrt(q.shape[-1]) if scale is None else scale,
        window=window,
        softcap=softcap,
        alibi_slopes=alibi_slopes,
    )


def choose(
    device: str,
    dtype: torch.dtype,
    head_dim: int = 64,
    *,
    softcap: float | None = None,
    alibi: bool = False,
) -> str:
    """The backend ``auto`` takes for tensors like these: a CUDA kernel where one fits, else the exact CPU path."""
    if device == "cuda" and dtype in (torch.float16, torch.bfloat16) and head_dim <= WIDEST_HEAD:
        if importable("flash_attn") and flash_attn_takes(head_dim, softcap is not None, alibi):
            return "flash_attn"
        if softcap is None and not alibi and importable("torch.nn.attention.varlen"):
            return "torch_varlen"
    return "reference" if softcap is not None else "sdpa"


@cache
def importable(module: str) -> bool:
    """Whether the module really imports; its metadata can be there while its compiled part is broken."""
    try:
        if importlib.util.find_spec(module) is None:
            return False
        importlib.import_module(module)
    except Exception:  # a kernel built for another torch fails in many ways, all of them mean "not here"
        return False
    return True


@cache
def announce(backend: str, device: str, dtype: str) -> None:
    """Say once per process what ``auto`` chose."""
    if os.environ.get("RANK", "0") == "0":  # of several processes the first speaks
        print(f"varlen_lab: attention backend {backend} ({device}, {dtype})", file=sys.stderr)


def check_shapes(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, boundaries: Boundaries) -> None:
    """q, k, v and the boundaries must describe the same T tokens on the same device."""
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if not q.ndim == k.ndim == v.ndim == 3:
        raise InputError(f"attend got {shapes}, it takes (tokens, heads, head dim) each, without a batch axis.")
    if not len(q) == len(k) == len(v):
        raise InputError(f"attend got {shapes}, all three must have the same number of tokens.")
    if k.shape[1] != v.shape[1] or q.shape[1] % k.shape[1]:
        raise InputError(f"attend got {shapes}, query heads must be a multiple of the key/value heads.")
    if q.shape[2] != k.shape[2]:
        raise InputError(f"attend got {shapes}, q and k must have the same head dim.")
    if not q.dtype == k.dtype == v.dtype:
        raise InputError(f"attend got q {q.dtype}, k {k.dtype}, v {v.dtype}, they must have one dtype; cast them.")
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
