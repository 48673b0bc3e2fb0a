"""The exact path of a CPU, of Apple's GPU and of old cards: PyTorch's own causal attention, once for each document.

A dense block-diagonal mask makes the kernel look at T x T cells and throw most of them away; a padded batch
computes the padding. The loop does neither: its work is the sum of len^2, and no mask is built at all unless
a window or ALiBi asks for one (then one document's, never the row's).

Which kernel runs is torch's choice, but not cuDNN's: that plans anew for every length it meets, 60 ms forward and as
much backward on an H200, and documents of a training run hardly ever have the same. It is also the one of torch's CUDA
kernels that has no repeatable backward.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

from varlen_lab.attention.choosing import Job, job_of_call, refuse_unable
from varlen_lab.attention.flash import ALIGNMENT
from varlen_lab.attention.reference import Options, visible
from varlen_lab.attention.registry import AMPERE, HALF_PRECISION
from varlen_lab.packing.boundaries import Boundaries

WIDTHS = {"cpu": 1}  # what a head dim must be a multiple of, or a GPU's kernels leave it to torch's slow way


def attend_sdpa(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, boundaries: Boundaries, options: Options
) -> torch.Tensor:
    """q (T, H, D), k (T, K, D), v (T, K, V) -> (T, H, V); see ``attend`` for the options."""
    job = job_of_call(q, v, options)
    refuse_unable("sdpa", job)
    lengths = [end - start for start, end in boundaries.spans]
    group = q.shape[1] // k.shape[1]
    grouped = group > 1
    masked = options.window is not None or options.alibi_slopes is not None
    width, places = v.shape[-1], None
    if options.sinks is not None:
        q, k, v, places = with_sinks(q, k, v, boundaries, options.sinks.to(q) / options.scale)
        lengths, job = [length + 1 for length in lengths], job._replace(head_dim=max(q.shape[-1], v.shape[-1]))
    if grouped and not takes_groups(job, q.shape[-1] == v.shape[-1], masked):
        k, v, grouped = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1), False
    outputs = []
    with without_plans(q.device.type):
        # split, not slicing: the backward of a slice fills a zero tensor of the whole row for every document
        for q_LHD, k_LKD, v_LKV in zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True):
            mask = document_mask(len(q_LHD), options, q)
            out_HLV = scaled_dot_product_attention(
                q_LHD.transpose(0, 1)[None],
                k_LKD.transpose(0, 1)[None],
                v_LKV.transpose(0, 1)[None],
                attn_mask=mask,
                is_causal=options.causal and mask is None,
                scale=options.scale,
                enable_gqa=grouped,
            )[0]
            outputs.append(out_HLV.transpose(0, 1))
    out = torch.cat(outputs)
    return out if places is None else out.index_select(0, places)[..., :width]


@contextmanager
def without_plans(device: str) -> Iterator[None]:
    """On CUDA torch's choice without cuDNN's kernel while it lasts, unless that is the only one it may take."""
    cuda = torch.backends.cuda
    planned = device == "cuda" and cuda.cudnn_sdp_enabled()
    if not planned or not (cuda.flash_sdp_enabled() or cuda.mem_efficient_sdp_enabled() or cuda.math_sdp_enabled()):
        yield
        return
    cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        cuda.enable_cudnn_sdp(True)


def with_sinks(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, boundaries: Boundaries, unscaled: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """q, k and v with one more token before each document, their sink; and where the others are now: int64 (T,).

    It scores ``unscaled`` (H,) times the scale, and its value is zero. For this heads are one number wider, or a few:
    queries hold the score there, the sink holds 1 and other keys 0. Every token comes after its document's sink, so
    causality lets it be seen.
    """
    first = torch.arange(len(boundaries.lengths), device=q.device) + boundaries.cu_seqlens[:-1]
    places = torch.arange(len(q), device=q.device) + boundaries.document_ids() + 1
    unscaled = unscaled.clamp(min=torch.finfo(q.dtype).min / 2)  # -inf, which is no sink, times 0 would be NaN
    score = unscaled[None, :, None].expand(len(q), -1, 1)
    multiple, at = WIDTHS.get(q.device.type, ALIGNMENT), q.shape[-1]
    wide = [
        pad(x, (0, -(-(width + 1) // multiple) * multiple - x.shape[-1]))
        for x, width in ((torch.cat([q, score], dim=-1), at), (k, at), (v, v.shape[-1]))
    ]
    rooms = [x.new_zeros(len(q) + len(first), *x.shape[1:]) for x in wide]
    rooms[1][first, :, at] = 1
    q, k, v = (room.index_copy(0, places, x) for room, x in zip(rooms, wide, strict=True))
    return q, k, v, places


def takes_groups(job: Job, equal_widths: bool, masked: bool) -> bool:
    """Whether a fast kernel of the device takes fewer heads of keys than of queries; elsewhere they are repeated.

    On CUDA only FlashAttention is sure to: torch's other way is to write out all L x L scores. It wants half precision,
    a compute capability of 8.0, no mask and one width; in training on some cards not above 192. The memory-efficient
    kernel, which does the rest, takes repeated heads; so does Apple's GPU, where groups are not known to be right.
    """
    if job.device != "cuda":
        return job.device == "cpu"
    flash = job.dtype in HALF_PRECISION and (job.capability or (0, 0)) >= AMPERE
    return flash and not masked and equal_widths and job.head_dim <= 192


def document_mask(length: int, options: Options, like: torch.Tensor) -> torch.Tensor | None:
    """The mask one document needs beyond plain causality, or None: (L, L) bool, or (1, H, L, L) with ALiBi.

    ``length``: L, with its sink where there is one. Everybody sees a sink, however far away.
    """
    if options.sinks is not None:
        mask = document_mask(length - 1, options._replace(sinks=None), like)
        return None if mask is None else pad(mask, (1, 0, 1, 0), value=mask.dtype == torch.bool)
    # a window at least as long as the document hides nothing: is_causal alone, and the fast kernel
    if (options.window is None or options.window >= length) and options.alibi_slopes is None:
        return None
    position = torch.arange(length, device=like.device)
    back = position[:, None] - position[None, :]
    seen = visible(back, options)
    if options.alibi_slopes is None:
        return seen
    bias = -options.alibi_slopes[:, None, None].to(like) * back.abs()
    return bias.masked_fill(~seen, float("-inf"))[None]
