"""Faults of attention: our own with one argument changed on its way there.

It is registered with transformers under a name of its own, so that nothing else that runs in the process is changed.
What a mask says (causal, window, chunk) is read first and handed on in arguments, so that only the fault is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from varlen_lab.attention.huggingface import attention_of
from varlen_lab.attention.masks import rule_with_seams, varlen_mask
from varlen_lab.attention.rules import chunked_seams
from varlen_lab.leaks.planted_batches import Batch, inner_seams, seams_without

Options = dict[str, Any]
Seams = Callable[[torch.Tensor, int], torch.Tensor]  # (cu_seqlens, tokens of a row) -> others


def misled(model: Any, name: str, change: Callable[[Any, Options], Options]) -> None:
    """Give ``model`` our attention with ``change(module, keyword arguments)`` between it and the model's layers.

    Beside transformers' own keywords there is ``chunk``, the tokens of a chunk or None.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    right = attention_of("auto")

    def planted(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> Any:
        # a document alone has no seams: there the attention is right, or there would be nothing to compare with
        if options.get("cu_seq_lens_q") is None:
            return right(module, query, key, value, mask, **options)
        rule = rule_with_seams(mask, module, options.get("is_causal"), options.get("sliding_window"))
        told = {"is_causal": rule.causal, "sliding_window": rule.window, "chunk": rule.chunk, "row": query.shape[2]}
        options = change(module, options | told)
        chunk, _ = options.pop("chunk"), options.pop("row")
        if chunk is not None:
            options["cu_seq_lens_q"] = chunked_seams(options["cu_seq_lens_q"], chunk)
        # without the mask, from which a window would be read, and without the seams of keys: what is changed counts
        options |= {"cu_seq_lens_k": None, "max_length_q": None}
        return right(module, query, key, value, None, **options)

    AttentionInterface.register(f"planted_{name}", planted)
    AttentionMaskInterface.register(f"planted_{name}", varlen_mask)
    model.set_attn_implementation(f"planted_{name}")


def window_wider(by: int, model: Any, batch: Batch) -> Batch:
    """So many keys more than the config says, in the layers that have a window."""

    def widen(_: Any, options: Options) -> Options:
        window = options["sliding_window"]
        return options | {"sliding_window": None if window is None else window + by}

    misled(model, f"window_{by}", widen)
    return batch


def told(**changes: Any) -> Callable[[Any, Batch], Batch]:
    """How to plant keyword arguments that are always these."""

    def plant_them(model: Any, batch: Batch) -> Batch:
        misled(model, "_".join(changes), lambda _, options: options | changes)
        return batch

    return plant_them


window_too_wide = partial(window_wider, 1)
window_too_narrow = partial(window_wider, -1)
window_missing = told(sliding_window=None)
chunk_ignored = told(chunk=None)
softcap_dropped = told(softcap=None)
sinks_dropped = told(s_aux=None, sinks=None)
scale_dropped = told(scaling=None)
bidirectional = told(is_causal=False)


def merged_documents(model: Any, batch: Batch) -> Batch:
    """A seam is missing in every row of attention: that before a one-token document where there is one."""

    def merge(_: Any, options: Options) -> Options:
        seams, row = options["cu_seq_lens_q"], options["row"]
        inner = inner_seams(seams, row).tolist()
        short = [
            start for start, length in zip(seams.tolist(), seams.diff().tolist()) if length == 1 and start in inner
        ]
        return options | {"cu_seq_lens_q": seams_without(seams, *(short or inner)[:1])}

    misled(model, "merged", merge)
    return batch


def one_layer_without_seams(model: Any, batch: Batch) -> Batch:
    """The second layer with attention takes every row for one document; the others are right."""
    number = attending_layers(model)[:2][-1]

    def forget(module: Any, options: Options) -> Options:
        if module.layer_idx != number:
            return options
        seams = options["cu_seq_lens_q"]
        whole = torch.arange(0, int(seams[-1]) + 1, options["row"], dtype=seams.dtype, device=seams.device)
        return options | {"cu_seq_lens_q": whole}

    misled(model, f"layer_{number}", forget)
    return batch


def attending_layers(model: Any) -> list[int]:
    """The numbers of the layers whose attention knows its own."""
    modules = [one for one in model.modules() if re.search("attention", type(one).__name__, re.IGNORECASE)]
    return sorted({one.layer_idx for one in modules if isinstance(getattr(one, "layer_idx", None), int)})
