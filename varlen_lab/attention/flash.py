"""The CUDA kernels that take ``cu_seqlens`` themselves: flash-attn, and the one inside PyTorch.

Both run in fp16 or bf16 only and never touch a cell outside a document. They differ in their words: flash-attn
says ``causal=True`` and ``window_size=(left, right)``; ``torch.nn.attention.varlen.varlen_attn`` (torch >= 2.11)
has no causal argument at all, its default window (-1, -1) is *bidirectional*, and (-1, 0) is causal.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any

import torch
from torch.nn.functional import pad

from varlen_lab.attention.reference import Options
from varlen_lab.attention.registry import BACKENDS
from varlen_lab.errors import InputError
from varlen_lab.packing.boundaries import Boundaries


def attend_flash_attn(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, boundaries: Boundaries, options: Options
) -> torch.Tensor:
    """``flash_attn_varlen_func``; q (T, H, D), k (T, K, D), v (T, K, V) -> (T, H, V)."""
    check_kernel_input("flash_attn", q)
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError as problem:
        raise InputError(
            f"backend 'flash_attn' cannot be imported ({problem}); install a wheel that fits this torch and CUDA, "
            "or use backend='torch_varlen', which needs nothing."
        ) from None
    q, k, v_padded = same_head_dim(q, k, v)
    out = flash_attn_varlen_func(
        q,
        k,
        v_padded,
        boundaries.cu_seqlens,
        boundaries.cu_seqlens,
        boundaries.max_seqlen,
        boundaries.max_seqlen,
        softmax_scale=options.scale,
        causal=options.causal,
        window_size=window_size(options),
        softcap=options.softcap or 0.0,  # its word for none
        alibi_slopes=None if options.alibi_slopes is None else options.alibi_slopes.float(),
    )
    return out[..., : v.shape[-1]]


@cache
def flash_attn_takes(head_dim: int, softcap: bool, alibi: bool) -> bool:
    """Whether the flash-attn that is installed computes this, asked by computing it for one token.

    Builds differ: one may be trimmed to two head dims, another was compiled without softcap. They say so only when
    they are called.
    """
    try:
        with torch.inference_mode(False), torch.enable_grad():  # the answer is kept, wherever it is asked first
            one = torch.zeros(1, 1, head_dim, device="cuda", dtype=torch.bfloat16)
            q, k, v = (one.clone().requires_grad_() for _ in range(3))
            slopes = torch.ones(1, device="cuda") if alibi else None
            options = Options(scale=1.0, softcap=1.0 if softcap else None, alibi_slopes=slopes)
            out = attend_flash_attn(q, k, v, Boundaries.from_lengths([1], "cuda"), options)
            torch.autograd.grad(out.sum(), (q, k, v))
    except Exception:  # no GPU, another architecture, a head dim left out: all of them mean "not this"
        return False
    return True


def attend_torch_varlen(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, boundaries: Boundaries, options: Options
) -> torch.Tensor:
    """``torch.nn.attention.varlen.varlen_attn``; q (T, H, D), k (T, K, D), v (T, K, V) -> (T, H, V)."""
    check_kernel_input("torch_varlen", q)
    if options.softcap is not None or options.alibi_slopes is not None:
        what = "softcap" if options.softcap is not None else "ALiBi"
        raise InputError(f"varlen_attn cannot do {what}; use backend='flash_attn', or 'reference' anywhere.")
    from torch.nn.attention.varlen import varlen_attn

    words: dict[str, Any] = {"scale": options.scale, "window_size": window_size(options)}
    if q.shape[1] != k.shape[1] and "enable_gqa" in varlen_parameters():  # torch 2.11 took them untold
        words["enable_gqa"] = True
    q, k, v_padded = same_head_dim(q, k, v)
    # the same object twice: from torch 2.15 on, cuDNN's kernel on Hopper is taken only then
    cu, longest = boundaries.cu_seqlens, boundaries.max_seqlen
    out: torch.Tensor = varlen_attn(q, k, v_padded, cu, cu, longest, longest, **words)  # type: ignore[assignment]
    return out[..., : v.shape[-1]]


@cache
def varlen_parameters() -> frozenset[str]:
    """Names of the arguments this torch's ``varlen_attn`` takes; 2.11 has no ``enable_gqa``."""
    from torch.nn.attention.varlen import varlen_attn

    return frozenset(inspect.signature(varlen_attn).parameters)


def window_size(options: Options) -> tuple[int, int]:
    """Our window (tokens seen, own one included) as flash-attn's (left, right): tokens beside it; -1: no limit."""
    left = -1 if options.window is None else options.window - 1
    return left, 0 if options.causal else left


def same_head_dim(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """MLA has narrower values than keys; the kernels want one width, and zeros change nothing."""
    width = max(q.shape[-1], v.shape[-1])
    widened = (pad(x, (0, width - x.shape[-1])) if x.shape[-1] < width else x for x in (q, k, v))
    return tuple(widened)  # type: ignore[return-value]


def check_kernel_input(backend: str, q: torch.Tensor) -> None:
    """Refuse in words what the kernel would refuse in C++."""
    if q.device.type != "cuda":
        raise InputError(f"backend '{backend}' needs CUDA tensors and got {q.device.type}; use backend='sdpa'.")
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise InputError(f"backend '{backend}' runs in fp16 or bf16 and got {q.dtype}; cast, or use backend='sdpa'.")
    widest = BACKENDS[backend].widest_head
    if widest is not None and q.shape[-1] > widest:
        raise InputError(
            f"backend '{backend}' takes head dims up to {widest} and got {q.shape[-1]}; use backend='sdpa'."
        )
