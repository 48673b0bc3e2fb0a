"""The flash-attn packages: versions 2, 3 and 4 by import, and version 2 as the hub has it compiled.

All take ``cu_seqlens`` themselves, run in fp16 or bf16 only and never touch a cell outside a document. They are called
alike, and differ in small words: how an open window is written, who knows ALiBi, whether the log-sum-exp comes back
beside the output. Read in their sources: flash-attn 2.8, ``hopper/flash_attn_interface.py``, flash-attn-4 4.0.0b36.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.nn.functional import pad

from varlen_lab.attention.choosing import import_problem
from varlen_lab.attention.reference import Options
from varlen_lab.attention.registry import BACKENDS
from varlen_lab.errors import InputError, first_line
from varlen_lab.packing.boundaries import Boundaries

ALIGNMENT = 8  # the kernels read a head in pieces of so many numbers
HUB_KERNEL, HUB_VERSION = "kernels-community/flash-attn2", 4  # where transformers has no table of its own: before 5.18
FA3_WIDEST_REPEATABLE = 192  # its deterministic backward has no tile for more


def attend_flash_attn(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, boundaries: Boundaries, options: Options
) -> torch.Tensor:
    """flash-attn 2; q (T, H, D), k (T, K, D), v (T, K, V) -> (T, H, V)."""
    return call("flash_attn", packaged, q, k, v, boundaries, options)


def attend_flash_attn_3(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, boundaries: Boundaries, options: Options
) -> torch.Tensor:
    """flash-attn 3, for Hopper; q (T, H, D), k (T, K, D), v (T, K, V) -> (T, H, V)."""
    if torch.are_deterministic_algorithms_enabled() and max(q.shape[-1], v.shape[-1]) > FA3_WIDEST_REPEATABLE:
        raise InputError(
            f"flash-attn 3 has no deterministic backward for head dims above {FA3_WIDEST_REPEATABLE} and got "
            f"{max(q.shape[-1], v.shape[-1])}; use backend='torch_varlen'."
        )
    return call("flash_attn_3", packaged, q, k, v, boundaries, options)


def attend_flash_attn_4(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, boundaries: Boundaries, options: Options
) -> torch.Tensor:
    """flash-attn 4, compiled at its first call; q (T, H, D), k (T, K, D), v (T, K, V) -> (T, H, V)."""
    if torch.are_deterministic_algorithms_enabled() and torch.cuda.get_device_capability(q.device)[0] == 12:
        raise InputError(
            "flash-attn 4 has no deterministic backward for compute capability 12; use backend='torch_varlen'."
        )
    return call("flash_attn_4", packaged, q, k, v, boundaries, options, open_end=None)


def attend_flash_attn_hub(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, boundaries: Boundaries, options: Options
) -> torch.Tensor:
    """flash-attn 2 from the hub, downloaded when it is not there yet; q, k, v as for the others -> (T, H, V)."""
    return call("flash_attn_hub", from_hub, q, k, v, boundaries, options)


def call(
    backend: str,
    loaded: Callable[[str], Callable[..., Any]],
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    boundaries: Boundaries,
    options: Options,
    open_end: int | None = -1,
) -> torch.Tensor:
    """``flash_attn_varlen_func`` of one of them, as ``loaded(backend)`` finds it. ``open_end``: its word for no limit.

    InputError for tensors, options or a package that do not fit.
    """
    check_kernel_input(backend, q, v)
    check_options(backend, options)
    kernel = loaded(backend)
    words: dict[str, Any] = {"softcap": options.softcap or 0.0}  # 0: none
    if options.alibi_slopes is not None:
        words["alibi_slopes"] = options.alibi_slopes.float()
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
        deterministic=torch.are_deterministic_algorithms_enabled(),
        **words,
    )
    out = out[0] if isinstance(out, tuple) else out  # with the log-sum-exp: version 4, and older builds of 3
    return out[..., : v.shape[-1]]


def packaged(backend: str) -> Callable[..., Any]:
    """``flash_attn_varlen_func`` of the package a backend's record names; InputError with the fix if it is broken."""
    record = BACKENDS[backend]
    module = record.modules[0]
    if problem := import_problem(module):
        raise InputError(
            f"backend '{backend}' cannot be used, {problem}; {record.install} with a build that fits this torch and "
            "CUDA, or use backend='torch_varlen', which needs nothing."
        )
    kernel: Callable[..., Any] = importlib.import_module(module).flash_attn_varlen_func
    return kernel


@cache
def from_hub(backend: str) -> Callable[..., Any]:
    """The same function out of the ``kernels`` package, which brings it from the hub or the hub's cache."""
    if missing := import_problem("kernels"):
        raise InputError(f"backend '{backend}' cannot be used, {missing}; {BACKENDS[backend].install}.")
    import kernels

    repo, version = hub_kernel()
    try:
        kernel: Callable[..., Any] = kernels.get_kernel(repo, version=version).flash_attn_varlen_func
    except Exception as problem:  # offline, no build for this torch or card, a hub that does not answer
        raise InputError(
            f"backend '{backend}' could not get {repo}, version {version}, from the hub ({first_line(problem)}); fetch "
            "it once where there is a network, or use backend='torch_varlen', which needs nothing."
        ) from None
    return kernel


def hub_kernel() -> tuple[str, int]:
    """Repository and version of flash-attn 2 on the hub: those that this transformers was tested with, if it says."""
    try:
        from transformers.modeling_flash_attention_utils import FLASH_ATTN_KERNEL_FALLBACK, FLASH_ATTN_KERNEL_VERSIONS
    except ImportError:
        return HUB_KERNEL, HUB_VERSION
    repo = FLASH_ATTN_KERNEL_FALLBACK.get("flash_attention_2", HUB_KERNEL)
    return repo, FLASH_ATTN_KERNEL_VERSIONS.get(repo, HUB_VERSION)


def flash_attn_takes(head_dim: int, dtype: str, softcap: bool, alibi: bool) -> bool:
    """Whether the flash-attn 2 that is installed computes this, forward and backward."""
    return computes("flash_attn", head_dim, dtype, softcap, alibi, torch.are_deterministic_algorithms_enabled())


def flash_attn_3_takes(head_dim: int, dtype: str, softcap: bool, alibi: bool) -> bool:
    """Whether the flash-attn 3 that is installed computes this, forward and backward."""
    return computes("flash_attn_3", head_dim, dtype, softcap, alibi, torch.are_deterministic_algorithms_enabled())


@cache
def computes(backend: str, head_dim: int, dtype: str, softcap: bool, alibi: bool, deterministic: bool) -> bool:
    """Ask a build by computing one token: they differ, and say so only when they are called.

    One may be trimmed to two head dims, another was compiled without softcap. ``deterministic`` is torch's flag, here
    so that the answer is kept for each of its states.
    """
    function = {"flash_attn": attend_flash_attn, "flash_attn_3": attend_flash_attn_3}[backend]
    try:
        with torch.inference_mode(False), torch.enable_grad():  # the answer is kept, wherever it is asked first
            one = torch.zeros(1, 1, head_dim, device="cuda", dtype=getattr(torch, dtype))
            q, k, v = (one.clone().requires_grad_() for _ in range(3))
            slopes = torch.ones(1, device="cuda") if alibi else None
            options = Options(scale=1.0, softcap=1.0 if softcap else None, alibi_slopes=slopes)
            out = function(q, k, v, Boundaries.from_lengths([1], "cuda"), options)
            torch.autograd.grad(out.sum(), (q, k, v))
    except Exception:  # no GPU, another architecture, a head dim left out: all of them mean "not this"
        return False
    return True


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


def check_kernel_input(backend: str, q: torch.Tensor, v: torch.Tensor) -> None:
    """Refuse in words what the kernel would refuse in C++: another device, another dtype, a wider head."""
    if q.device.type != "cuda":
        raise InputError(f"backend '{backend}' needs CUDA tensors and got {q.device.type}; use backend='sdpa'.")
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise InputError(f"backend '{backend}' runs in fp16 or bf16 and got {q.dtype}; cast, or use backend='sdpa'.")
    width, widest = max(q.shape[-1], v.shape[-1]), BACKENDS[backend].widest_head
    if widest is not None and width > widest:
        raise InputError(f"backend '{backend}' takes head dims up to {widest} and got {width}; use backend='sdpa'.")


def check_options(backend: str, options: Options) -> None:
    """Refuse what a backend's record says it cannot do."""
    record = BACKENDS[backend]
    if options.softcap is not None and not record.softcap:
        raise InputError(f"backend '{backend}' cannot do softcap; use backend='flex', or 'reference' anywhere.")
    if options.alibi_slopes is not None and not record.alibi:
        raise InputError(f"backend '{backend}' cannot do ALiBi; use backend='flex', or 'sdpa' anywhere.")
