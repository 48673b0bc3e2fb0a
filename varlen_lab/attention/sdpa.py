"""The fast exact path of a CPU: PyTorch's own causal attention, called once for each document.

A dense block-diagonal mask makes the kernel look at T x T cells and throw most of them away; a padded batch
computes the padding. The loop does neither: its work is the sum of len^2, and no mask is built at all unless
a window or ALiBi asks for one (then one document's, never the row's).
"""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention

from varlen_lab.attention.reference import Options, visible
from varlen_lab.errors import InputError
from varlen_lab.packing.boundaries import Boundaries


def attend_sdpa(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, boundaries: Boundaries, options: Options
) -> torch.Tensor:
    """q (T, H, D), k (T, K, D), v (T, K, V) -> (T, H, V); see ``attend`` for the options."""
    if options.softcap is not None:
        raise InputError(
            f"softcap={options.softcap} is not something scaled_dot_product_attention can do; use backend='reference', "
            "or 'flash_attn' on a GPU."
        )
    lengths = [end - start for start, end in boundaries.spans]
    grouped = q.shape[1] != k.shape[1]
    outputs = []
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
    return torch.cat(outputs)


def document_mask(length: int, options: Options, like: torch.Tensor) -> torch.Tensor | None:
    """The mask one document needs beyond plain causality, or None: (L, L) bool, or (1, H, L, L) with ALiBi."""
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
