"""The flash-attn packages: versions 2, 3 and 4 by import, and version 2 as the hub has it compiled.

All take ``cu_seqlens`` themselves, run in fp16 or bf16 only and never touch a cell outside a document. They are called
alike, and differ in small words: how an open window is written, who knows ALiBi, whether the log-sum-exp comes back
beside the output. Read in their sources: flash-attn 2.8, ``hopper/flash_attn_interface.py``, flash-attn-4 4.0.0b36.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pkgutil import resolve_name
from typing import Any

import torch
from torch.nn.functional import pad

from varlen_lab.attention.choosing import Job, job_of_call, refuse_unable
from varlen_lab.attention.reference import Options
from varlen_lab.attention.registry import BACKENDS
from varlen_lab.errors import InputError, first_line
from varlen_lab.packing.boundaries import Boundaries

ALIGNMENT = 8  # the kernels read a head in pieces of so many numbers
HUB_KERNEL, HUB_VERSION = "kernels-community/flash-attn2", 4  # where transformers has no table of its own: before 5.18


def call_flash(
    backend: str,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    boundaries: Boundaries,
    options: Options,
    open_end: int | None = -1,
) -> torch.Tensor:
    """``flash_attn_varlen_func`` of a backend's package: q (T, H, D), k (T, K, D), v (T, K, V) -> (T, H, V).

    ``open_end``: its word for a window without limit. InputError for tensors, options or a package that do not fit.
    """
    refuse_unable(backend, job_of_call(q, v, options))
    kernel = (downloaded if BACKENDS[backend].downloaded else installed)(backend)
    slopes = {} if options.alibi_slopes is None else {"alibi_slopes": options.alibi_slopes.float()}
    q, k, v_padded = same_head_dim(q, k, v, ALIGNMENT)
    out = kernel(
        q,
        k,
        v_padded,
        cu_seqlens_q=boundaries.cu_seqlens,
        cu_seqlens_k=boundaries.cu_seqlens,
        max_seqlen_q=boundaries.max_seqlen,
        max_seqlen_k=boundaries.max_seqlen,
        softmax_scale=options.scale,
        causal=options.causal,
        window_size=window_size(options, open_end),
        softcap=options.softcap or 0.0,  # 0: none
        deterministic=torch.are_deterministic_algorithms_enabled(),
        **slopes,
    )
    out = out[0] if isinstance(out, tuple) else out  # with the log-sum-exp: version 4, and older builds of 3
    return out[..., : v.shape[-1]]


attend_flash_attn = partial(call_flash, "flash_attn")
attend_flash_attn_3 = partial(call_flash, "flash_attn_3")
attend_flash_attn_4 = partial(call_flash, "flash_attn_4", open_end=None)
attend_flash_attn_hub = partial(call_flash, "flash_attn_hub")


def installed(backend: str) -> Callable[..., Any]:
    """``flash_attn_varlen_func`` of the package that a backend's record names."""
    kernel: Callable[..., Any] = importlib.import_module(BACKENDS[backend].modules[0]).flash_attn_varlen_func
    return kernel


@cache
def downloaded(backend: str) -> Callable[..., Any]:
    """The same function by the ``kernels`` package, which brings it from the hub or the hub's cache."""
    import kernels

    repo, version = hub_source()
    try:
        kernel: Callable[..., Any] = kernels.get_kernel(repo, version=version).flash_attn_varlen_func
    except Exception as problem:  # offline, no build for this torch or card, a hub that does not answer
        raise InputError(
            f"backend {backend!r} could not get {repo}, version {version}, from the hub ({first_line(problem)}); fetch "
            "it once where there is a network, or use backend='torch_varlen', which needs nothing."
        ) from None
    return kernel


def hub_source() -> tuple[str, int]:
    """Repository and version of flash-attn 2 on the hub: those that this transformers was tested with, if it says."""
    try:
        from transformers.modeling_flash_attention_utils import FLASH_ATTN_KERNEL_FALLBACK, FLASH_ATTN_KERNEL_VERSIONS
    except ImportError:
        return HUB_KERNEL, HUB_VERSION
    repo = FLASH_ATTN_KERNEL_FALLBACK.get("flash_attention_2", HUB_KERNEL)
    return repo, FLASH_ATTN_KERNEL_VERSIONS.get(repo, HUB_VERSION)


@cache
def failure(backend: str, job: Job) -> str | None:
    """Why the installed build of a backend cannot do a job, asked by computing one token forward and backward.

    None when it can. Builds differ, and say so only when they are called: one may be trimmed to two head dims, another
    was compiled without softcap.
    """
    # In a thread of its own: the first to ask may stand inside of a checkpoint, which counts the tensors that are
    # saved, under autocast, inference mode or fake tensors. All of these belong to a thread, and a new one has none;
    # nor has it the card that this one uses.
    card = torch.cuda.current_device() if job.device == "cuda" and torch.cuda.is_available() else -1  # -1: none
    with ThreadPoolExecutor(1, initializer=torch.cuda.set_device, initargs=(card,)) as own:
        problem = own.submit(compute_one_token, backend, job).exception()
    return None if problem is None else first_line(problem)


def compute_one_token(backend: str, job: Job) -> None:
    """One token forward and backward by a backend; whatever it raises."""
    one = torch.zeros(1, 1, job.head_dim, device=job.device, dtype=getattr(torch, job.dtype))
    q, k, v = (one.clone().requires_grad_() for _ in range(3))
    slopes = torch.ones(1, device=job.device) if job.alibi else None
    options = Options(scale=1.0, softcap=1.0 if job.softcap else None, alibi_slopes=slopes)
    attention = resolve_name(BACKENDS[backend].function)
    out = attention(q, k, v, Boundaries.from_lengths([1], job.device), options)
    torch.autograd.grad(out.sum(), (q, k, v))


def window_size(options: Options, open_end: int | None = -1) -> tuple[int | None, int | None]:
    """Our window (tokens seen, own one included) as flash-attn's (left, right): tokens beside it."""
    left = open_end if options.window is None else options.window - 1
    return left, 0 if options.causal else left


def same_head_dim(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, multiple: int = 1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q, k and v widened with zeros to one head dim, a ``multiple``; zeros change nothing.

    MLA has narrower values than keys and the kernels want one width. The scale of scores is the caller's, and that of
    the true width.
    """
    width = -(-max(q.shape[-1], v.shape[-1]) // multiple) * multiple
    widened = (pad(x, (0, width - x.shape[-1])) if x.shape[-1] < width else x for x in (q, k, v))
    return tuple(widened)  # type: ignore[return-value]
