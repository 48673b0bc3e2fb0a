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
from varlen_lab.attention.registry import BACKENDS
from varlen_lab.errors import InputError
from varlen_lab.packing.boundaries import Boundaries, OncePerTensor

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
    return list(ours)


@cache
def attention_of(backend: str) -> Callable[..., Any]:
    """``varlen_attention`` by a backend: one object, or to register once more would recompile a compiled model."""
    return partial(varlen_attention, backend=backend)


class DeferredMask:
    """A mask that is built only if a layer asks.

    transformers builds masks before the layers run, when it cannot know yet that ``cu_seq_lens`` will make
    them superfluous; for restarting position ids that would be a T x T tensor per forward pass.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options

    def build(self) -> torch.Tensor | None:
        """The mask as transformers' sdpa path would have made it: bool, True where a query sees a key; None: causal.

        All options go on by name: their number and their defaults differ between the versions of transformers.
        """
        from transformers.masking_utils import sdpa_mask

        return sdpa_mask(**self.options)


def varlen_mask(**options: Any) -> torch.Tensor | DeferredMask | None:
    """The mask function of our names: sdpa's, deferred where it would be dense although nothing is padded."""
    mask = DeferredMask(options)
    # One query, or more keys than queries, is generation with a cache: those masks are small, and are needed.
    training_shape = options.get("q_length") == options.get("kv_length") and options.get("q_length") != 1
    return mask if options.get("attention_mask") is None and training_shape else mask.build()


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
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    position_ids: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention contract: query (B, H, T, D), key and value (B, K, T, ·) -> ((B, T, H, V), None)."""
    if cu_seq_lens_q is None:
        refuse_packed_positions(position_ids, query.shape[2])
        return ordinary_attention(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, softcap=softcap, **others
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
    )
    return out.unflatten(0, (batch, length)), None


def ordinary_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | DeferredMask | None,
    *,
    softcap: float | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention without seams, by transformers' sdpa function (its eager formula where scores are capped)."""
    from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

    slopes = getattr(module, "alibi_slopes", None)
    if isinstance(mask, DeferredMask):
        if softcap is not None or slopes is not None:  # the formula below needs windows written out, not a hint
            mask.options["allow_is_causal_skip"] = False
        mask = mask.build()
    if softcap is None and slopes is None:
        return sdpa_attention_forward(module, query, key, value, mask, **options)
    group = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, group), repeat_kv(value, group)
    scores = query @ key.transpose(2, 3) * (options.get("scaling") or query.shape[-1] ** -0.5)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    # with a cache the queries are the last of the keys
    key_position = torch.arange(key.shape[2], device=key.device)
    query_position = key_position[-query.shape[2] :]
    back = query_position[:, None] - key_position[None, :]
    if slopes is not None:
        scores = scores - slopes[:, None, None].to(scores.dtype) * back.abs()
    seen = (back >= 0) if mask is None else mask
    return (scores.masked_fill(~seen, float("-inf")).softmax(-1) @ value).transpose(1, 2), None


def refuse_packed_positions(position_ids: torch.Tensor | None, length: int) -> None:
    """Raise when position ids go back inside a row: packed documents whose seams nobody passed on."""
    if position_ids is None or position_ids.ndim != 2 or length < 2 or position_ids.shape[-1] != length:
        return
    # the compiler follows no weak reference
    found = first_restart(position_ids) if torch.compiler.is_compiling() else RESTARTS(position_ids)
    if found is not None:
        row, at = found
        raise InputError(
            f"position_ids go back to 0 at token {at} of row {row} but cu_seq_lens_q is missing, so attention "
            "would not know the seams; build the batch with varlen_lab.packing.VarlenCollator."
        )


def first_restart(position_ids: torch.Tensor) -> list[int] | None:
    """Row and token where the positions of a row first go back to 0; None where they never do."""
    steps = position_ids.diff(dim=-1)
    # left padding repeats a position (0 or 1), only a new document goes back to 0 from somewhere above it
    back = (steps < 0) & (position_ids[:, 1:] == 0)
    if not bool(back.any()):
        return None
    row, before = back.nonzero()[0].tolist()
    return [row, before + 1]


RESTARTS = OncePerTensor(first_restart)  # all layers get the same positions, and a GPU is waited for once
