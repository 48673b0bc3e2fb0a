"""Our attention inside any transformers model: ``attn_implementation="varlen"`` after ``register()``.

Two ways to call such a model:

* with ``cu_seq_lens_q`` (what VarlenCollator emits): attention stays inside documents, whatever the cache setting
  says; a mask that says more than seams is refused. No mask of T x T cells is ever built;
* without: ordinary causal attention as transformers' own ``sdpa`` does it, so padding masks, KV caches and
  ``generate`` work. If ``position_ids`` restart inside a row the caller meant packed documents but did not
  say where they end, and the call raises instead of guessing.

Names: ``varlen`` lets ``attend`` choose; ``varlen_sdpa`` and its like (``hf_name`` in the registry) name a backend. No
name contains "flash": transformers takes such a name for a kernel of its own and looks for it on the hub.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import torch

from varlen_lab.attention.calls import model_name, refuse_dropped_seams, seams_taken, sees_other_tokens
from varlen_lab.attention.dispatch import attend
from varlen_lab.attention.guard import COLLATOR, watch_models
from varlen_lab.attention.masks import DeferredMask, open_mask, rule_with_seams, varlen_mask
from varlen_lab.attention.ordinary import ordinary_attention
from varlen_lab.attention.registry import BACKENDS
from varlen_lab.attention.rules import chunked_seams
from varlen_lab.errors import InputError
from varlen_lab.packing.boundaries import SEAMS, Boundaries

AUTO = "varlen"
# Models hand on every keyword they were given. These change nothing that attention computes:
NOT_OF_ATTENTION = (
    # what a forward pass returns and keeps
    *("use_cache", "cache_position", "return_dict", "output_hidden_states", "output_router_logits", "logits_to_keep"),
    # how a loss is summed up
    *("num_items_in_batch", "shift_labels", "ignore_index"),
    # what has done its work in positions and recurrences; the longest document once more; how a kernel adds up
    *("position_ids", "seq_idx", "max_length_k", "deterministic"),
)


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
    watch_models(list(ours))
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
    sinks: torch.Tensor | None = None,
    is_causal: bool | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    cu_seq_lens_k: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention contract: query (B, H, T, D), key and value (B, K, T, ·) -> ((B, T, H, V), None).

    InputError for any other keyword that is not None and may change what attention computes.
    """
    refuse_unknown(others)
    scores: dict[str, Any] = {"softcap": softcap, "sinks": s_aux if sinks is None else sinks}
    compiling = torch.compiler.is_compiling()
    if cu_seq_lens_q is None or (not compiling and sees_other_tokens(module, attention_mask)):
        if not compiling:
            refuse_dropped_seams(query)
        mask, causal = open_mask(attention_mask, module, is_causal, query.shape[2], key.shape[2])
        window = sliding_window if attention_mask is None else None  # a mask says it all
        more = {"scaling": scaling, "dropout": dropout, "causal": causal, "window": window} | scores
        return ordinary_attention(module, query, key, value, mask, **more)
    batch, _, length, _ = query.shape
    check_packed_call(module, key.shape[2], length, dropout)
    rule = rule_with_seams(attention_mask, module, is_causal, sliding_window)
    boundaries = boundaries_of(cu_seq_lens_q, cu_seq_lens_k, max_length_q, rule.chunk)
    q, k, v = end_to_end(query, key, value)
    out = attend(
        q,
        k,
        v,
        boundaries,
        backend=backend,
        causal=rule.causal,
        scale=scaling,
        window=rule.window,
        alibi_slopes=getattr(module, "alibi_slopes", None),  # models that need them keep them there
        **scores,
    )
    return out.unflatten(0, (batch, length)), None


def boundaries_of(
    cu_seq_lens_q: torch.Tensor, cu_seq_lens_k: torch.Tensor | None, longest: int | None, chunk: int | None
) -> Boundaries:
    """The seams a call of attention came with, through all rows of the batch as the collator made them; taken."""
    boundaries = Boundaries(cu_seq_lens_q, None if longest is None else int(longest))
    if not torch.compiler.is_compiling():
        seams_taken()
        if cu_seq_lens_k is not None and SEAMS(cu_seq_lens_k) != boundaries.seams:
            raise InputError(
                "cu_seq_lens_k differs from cu_seq_lens_q, documents of queries and of keys must be the same; "
                f"{COLLATOR}."
            )
    return boundaries if chunk is None else Boundaries(chunked_seams(cu_seq_lens_q, chunk), chunk)


def end_to_end(*given: torch.Tensor) -> list[torch.Tensor]:
    """Queries, keys and values with the rows of a batch laid end to end: (B, H, T, D) -> (B * T, H, D), of one dtype.

    Under autocast rotary embeddings leave q and k in fp32 while v is in bf16; a kernel takes one dtype. (autocast
    itself casts only for torch's own attention.)
    """
    kind = given[0].device.type
    if torch.is_autocast_enabled(kind):
        given = tuple(x.to(torch.get_autocast_dtype(kind)) for x in given)
    return [x.transpose(1, 2).flatten(0, 1) for x in given]


def refuse_unknown(others: Mapping[str, Any]) -> None:
    """InputError for a keyword that is none of ``NOT_OF_ATTENTION`` and not None, by its name."""
    for name, value in others.items():
        # False of what only adds something, as output_attentions, asks for nothing
        if value is not None and value is not False and name not in NOT_OF_ATTENTION:
            raise InputError(
                f"{model_name()} hands its attention {name}, which our attention does not know and would leave "
                "out; load the model with attn_implementation='eager' and train it unpacked."
            )


def check_packed_call(module: torch.nn.Module, keys: int, queries: int, dropout: float) -> None:
    """InputError for what no packed row can have."""
    if keys != queries:
        raise InputError(
            f"cu_seq_lens came with {queries} queries over {keys} keys, so seams do not tell whose keys they are; drop "
            "cu_seq_lens when you generate, and train a model that makes keys of its own unpacked."
        )
    if dropout:
        raise InputError(
            f"attention dropout is {dropout}, packed and unpacked runs could not be compared; "
            "set attention_dropout=0 in the model's config."
        )
    floor = getattr(module, "floor_scale", None) if getattr(module, "attn_temperature_tuning", False) else None
    if floor is not None and not getattr(module, "use_rope", False) and queries >= floor:
        raise InputError(
            f"{type(module).__name__} scales queries by their place in the row, not in the document, from "
            f"floor_scale={floor} tokens on, and the row has {queries}; pack shorter rows, or set "
            "attn_temperature_tuning=False."
        )
