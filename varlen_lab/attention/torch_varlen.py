"""The kernel inside PyTorch: ``torch.nn.attention.varlen.varlen_attn`` (torch >= 2.11), with nothing to install.

It has no argument for causality: its default window (-1, -1) is *bidirectional*, and (-1, 0) is causal. Which kernel
runs behind it is torch's: FlashAttention-2 by itself; version 3 or 4 where ``activate_flash_attention_impl`` was
called; cuDNN on Hopper from torch 2.15 on. Its backward follows torch's own flag for deterministic algorithms.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.nn.attention import varlen

from varlen_lab.attention.choosing import job_of_call, refuse_unable
from varlen_lab.attention.flash import ALIGNMENT, same_head_dim, window_size
from varlen_lab.attention.reference import Options
from varlen_lab.packing.boundaries import Boundaries

ANNOUNCES_GROUPS = "enable_gqa" in inspect.signature(varlen.varlen_attn).parameters  # torch 2.11 takes them untold


def attend_torch_varlen(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, boundaries: Boundaries, options: Options
) -> torch.Tensor:
    """``varlen_attn``; q (T, H, D), k (T, K, D), v (T, K, V) -> (T, H, V)."""
    refuse_unable("torch_varlen", job_of_call(q, v, options))
    return torch_kernel(q, k, v, boundaries.cu_seqlens, boundaries.max_seqlen, options)


def torch_kernel(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu: torch.Tensor, longest: int, options: Options
) -> torch.Tensor:
    """The same with the seams as a kernel takes them, already checked; torch.compile looks into it."""
    more: dict[str, Any] = {"scale": options.scale, "window_size": window_size(options)}
    if q.shape[1] != k.shape[1] and ANNOUNCES_GROUPS:
        more["enable_gqa"] = True
    q, k, v_padded = same_head_dim(q, k, v, ALIGNMENT)
    # the same object twice: from torch 2.15 on, cuDNN's kernel on Hopper is taken only then
    out: torch.Tensor = varlen.varlen_attn(q, k, v_padded, cu, cu, longest, longest, **more)  # type: ignore[assignment]
    return out[..., : v.shape[-1]]
