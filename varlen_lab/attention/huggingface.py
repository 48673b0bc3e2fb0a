"""Our attention inside any transformers model: ``attn_implementation="varlen"`` after ``register()``.

Two ways to call such a model:

* with ``cu_seq_lens_q`` (what VarlenCollator emits): attention stays inside documents, whatever the position
  ids, the attention mask or the cache setting say. No mask of T x T cells is ever built;
* without: ordinary causal attention as transformers' own ``sdpa`` does it, so padding masks, KV caches and
  ``generate`` work. If ``position_ids`` restart inside a row the caller meant packed documents but did not
  say where they end, and the call raises instead of guessing.

Names: ``varlen`` lets ``attend`` choose; ``varlen_sdpa`` and its like (``hf_name`` in the registry) name a backend. No
name contains "flash": transformers takes such a name for a kernel of its own and looks for it on the hub.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch

from varlen_lab.attention.dispatch import attend
from varlen_lab.attention.guard import refuse_packed_positions, watch_models
from varlen_lab.attention.masks import DeferredMask, varlen_mask
from varlen_lab.attention.ordinary import ordinary_attention
from varlen_lab.attention.registry import BACKENDS
from varlen_lab.errors import InputError
from varlen_lab.packing.boundaries import Boundaries

AUTO = "varlen"


def names() -> dict[str, str]:
    """attn_implementation -> backend: "varlen" for the one ``attend`` chooses, and a name for each backend."""
    return {AUTO: "auto"} | {backend.hf_name: backend.name for backend in BACKENDS.values()}


def hf_name_of(backend: str) -> str:
    """The attn_implementation of a backend, or of "auto"."""
    return AUTO if backend == "auto" else BACKENDS[backend].hf_name


def register() -> list[str]:
    """Make our names known to transformers, attention and mask function both; returns the names.

    The mask function matters as much as the attention: without one, transformers hands no padding mask to a
    registered attention and every padded batch leaks in silence.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    ours = names()
    for name, backend in ours.items():
        AttentionInterface.register(name, attention_of(backend))
        AttentionMaskInterface.register(name, varlen_mask)
    watch_models(frozenset(ours))
    return list(ours)


@cache
def attention_of(backend: str) -> Callable[..., Any]:
    """``varlen_attention`` by a backend: one object, or to register once more would recompile a compiled model."""
    return partial(varlen_attention, backend=backend)


def varlen_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | DeferredMask | None,
    *,
    backend: str,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    is_causal: bool | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    position_ids: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention contract: query (B, H, T, D), key and value (B, K, T, ·) -> ((B, T, H, V), None)."""
    if cu_seq_lens_q is None:
        refuse_packed_positions(position_ids, query.shape[2])
        mask = attention_mask.build() if isinstance(attention_mask, DeferredMask) else attention_mask
        return ordinary_attention(
            module,
            query,
            key,
            value,
            mask,
            scaling=scaling,
            dropout=dropout,
            softcap=softcap,
            sinks=s_aux,
            causal=is_causal,
        )
    batch, _, length, _ = query.shape
    if key.shape[2] != length:
        raise InputError(
            f"cu_seq_lens came with {length} queries over {key.shape[2]} keys, packed rows have no past; "
            "drop cu_seq_lens when you generate."
        )
    if dropout:
        raise InputError(
            f"attention dropout is {dropout}, packed and unpacked runs could not be compared; "
            "set attention_dropout=0 in the model's config."
        )
    # Under autocast rotary embeddings leave q and k in fp32 while v is in bf16; a kernel takes one dtype. (autocast
    # itself casts only for torch's own attention.)
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    # rows of a batch are laid end to end: (B, H, T, D) -> (B * T, H, D)
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))
    # cu_seq_lens runs through all rows of the batch, as the collator made it
    boundaries = Boundaries(cu_seq_lens_q, None if max_length_q is None else int(max_length_q))
    out = attend(
        q,
        k,
        v,
        boundaries,
        backend=backend,
        scale=scaling,
        window=sliding_window,
        softcap=softcap,
        alibi_slopes=getattr(module, "alibi_slopes", None),  # models that need them keep them there
        sinks=s_aux,
    )
    return out.unflatten(0, (batch, length)), None
