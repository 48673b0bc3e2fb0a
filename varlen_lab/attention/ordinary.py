"""Attention without seams: padded batches, caches, ``generate``; by transformers' own sdpa function where it can.

A mask says all there is to say: who sees whom, or what is added to a score. A query that sees no key, as padding does,
gets zeros: what a kernel makes of such a row differs (zeros, a mean of all values, NaN), and a NaN in the padding
reaches every weight by its gradient.

B = rows, H = query heads, K = key/value heads, Q = queries, L = keys, D = head dim, V = value dim.
"""

from __future__ import annotations

import torch

from varlen_lab.attention.dispatch import check_by_head
from varlen_lab.attention.reference import Options, visible, weights
from varlen_lab.errors import InputError


def ordinary_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
    causal: bool = True,
    window: int | None = None,
) -> tuple[torch.Tensor, None]:
    """query (B, H, Q, D), key (B, K, L, D), value (B, K, L, V) -> ((B, Q, H, V), None), transformers' contract.

    ``mask`` (1 or B, 1 or H, 1 or Q, L): bool, True where a query sees a key; or floating point, added to the scores,
    where -inf or the dtype's least number hides a key. Without one ``causal`` and ``window`` say who is seen, as in
    ``attend``. ``sinks`` (H,), ``softcap`` and the module's ``alibi_slopes``, where it has them: as in ``attend``.
    ``dropout`` of weights, in training only.
    InputError for a mask, sinks or slopes of another shape or dtype.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    queries, slopes = query.shape[2], getattr(module, "alibi_slopes", None)
    for name, numbers in (("alibi_slopes", slopes), ("sinks", sinks)):
        if numbers is not None:
            check_by_head(name, numbers, query)
    if mask is None and causal and 1 < queries < key.shape[2]:
        # transformers leaves out this mask only when it fills an empty static cache: the other keys are not there yet
        key, value = key[:, :, :queries], value[:, :, :queries]
    written_out = softcap is not None or slopes is not None or sinks is not None
    hides = window is not None and window < key.shape[2]
    if mask is None and (hides or (written_out and causal)):
        mask = visible(distances(query, key), Options(1.0, causal, window))[None, None]
    unseeing = None
    if mask is not None:
        check_mask(mask, query, key)
        mask, unseeing = opened(mask)
        if mask.dtype not in (torch.bool, query.dtype):
            mask = mask.float()  # what torch's kernel takes beside the dtype of the queries
    dropout = dropout if module.training else 0.0
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if written_out:
        out = formula(query, key, value, mask, scale, softcap, slopes, sinks, dropout)
    else:
        out, _ = sdpa_attention_forward(
            module, query, key, value, mask, dropout=dropout, scaling=scale, is_causal=causal
        )
    return out if unseeing is None else out.masked_fill(unseeing, 0.0), None


def check_mask(mask: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> None:
    """InputError for a mask that fits these only by chance, or that is no mask at all."""
    batch, heads, queries, _ = query.shape
    wanted = (batch, heads, queries, key.shape[2])
    fits = mask.ndim == 4 and mask.shape[3] == wanted[3]
    if not fits or any(has not in (1, asked) for has, asked in zip(mask.shape[:3], wanted[:3], strict=True)):
        raise InputError(
            f"attention got a mask of shape {tuple(mask.shape)}, it must be {wanted}, any but the last may be 1; pass "
            "the model a mask of (rows, tokens), or none."
        )
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise InputError(
            f"attention got a mask of {mask.dtype}, which may mean a number to add or a key to see; use a bool mask, "
            "True where a key is seen."
        )


def opened(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mask, open for queries that see nothing; and which do, (1 or B, 1 or Q, 1 or H, 1) as the output lies.

    A softmax over nothing is NaN or not finite in its gradient; over anything it is finite, and its output is not used.
    """
    none = ~seen_in(mask).any(dim=-1, keepdim=True)
    mask = mask | none if mask.dtype == torch.bool else mask.masked_fill(none, 0.0)
    return mask, none.transpose(1, 2)


def seen_in(mask: torch.Tensor) -> torch.Tensor:
    """Which keys a mask shows: of one that is added, those it does not hide."""
    # the sum of a bias and the least number may lie a little above it
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


def distances(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """(Q, L), or (1 or B, 1 or H, Q, L): how far behind a query a key lies.

    With a cache the queries are the last of the keys, but for a static one, whose last are not there yet: where there
    are fewer queries than keys, a query is the last key that its mask shows.
    """
    queries, keys = query.shape[2], key.shape[2]
    place = torch.arange(keys, device=key.device)
    own = place[-queries:] if mask is None or queries == keys else (seen_in(mask) * place).amax(dim=-1)
    return own[..., None] - place


def formula(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    softcap: float | None,
    slopes: torch.Tensor | None,
    sinks: torch.Tensor | None,
    dropout: float,
) -> torch.Tensor:
    """The formula of the reference for rows of a batch: (B, Q, H, V). Scores are summed up in fp32 or more."""
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
    scores = query @ key.transpose(2, 3) * scale
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if slopes is not None:
        scores = scores - slopes[:, None, None].to(scores.dtype) * distances(query, key, mask).abs()
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    share = torch.nn.functional.dropout(weights(scores, sinks).to(value.dtype), dropout)
    return (share @ value).transpose(1, 2)
