"""How each fault of the registry is planted: in the arguments of a model's attention, in a layer, in the batch.

    model, batch = specimen(FAULTS["window missing"])       # right as it is
    batch = plant(FAULTS["window missing"], model, batch)   # and now wrong

A fault of attention is our own attention with one argument changed on its way there. It is registered with transformers
under a name of its own, so that nothing else that runs in the process is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pkgutil import resolve_name
from typing import Any

import torch
import torch.nn.functional as F

from varlen_lab.attention.huggingface import attention_of
from varlen_lab.attention.masks import varlen_mask
from varlen_lab.leaks.registry import Fault
from varlen_lab.models.miniature import miniature
from varlen_lab.packing.boundaries import Boundaries
from varlen_lab.packing.collators import VarlenCollator

LENGTHS = [5, 1, 17, 9, 12]  # tokens of a specimen's documents: a one-token one, one longer than a window
SEAMS = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")

Batch = dict[str, Any]
Options = dict[str, Any]


def specimen(fault: Fault) -> tuple[Any, Batch]:
    """A tiny model and a packed batch of documents of ``LENGTHS`` tokens, both right: where a fault is planted.

    The batch suits the attention: seams for ours, for transformers' own restarting positions and no cache.
    """
    model = miniature(fault.model, fault.attention, **fault.config)
    ids = list(range(10, 10 + sum(LENGTHS)))
    batch = VarlenCollator()([{"input_ids": ids, "labels": ids, "seq_lengths": LENGTHS}])
    if not fault.attention.startswith("varlen"):
        batch = without(batch, *SEAMS) | {"use_cache": False}
    return model, batch


def plant(fault: Fault, model: Any, batch: Mapping[str, Any]) -> Batch:
    """Plant ``fault`` in ``model``, in place, and return the batch to use with it."""
    planted: Batch = resolve_name(fault.plant)(model, dict(batch))
    return planted


def without(batch: Mapping[str, Any], *names: str) -> Batch:
    """The batch with some of its keys left out."""
    return {name: value for name, value in batch.items() if name not in names}


# ------------------------------------------------------------------------------------------------ in the batch


def default_cache(model: Any, batch: Batch) -> Batch:
    """``use_cache`` is left to the config."""
    return without(batch, "use_cache")


def all_ones_mask(model: Any, batch: Batch) -> Batch:
    """An attention mask that masks nothing."""
    return batch | {"attention_mask": torch.ones_like(batch["input_ids"])}


def positions_run_on(model: Any, batch: Batch) -> Batch:
    """Positions 0, 1, 2, ... to the end of the row."""
    return batch | {"position_ids": torch.arange(batch["input_ids"].shape[1])[None]}


def seams_for_another_attention(model: Any, batch: Batch) -> Batch:
    """Seams, and no positions that would say the same."""
    seams = Boundaries.from_lengths(LENGTHS).cu_seqlens
    return without(batch, "position_ids") | {"cu_seq_lens_q": seams, "cu_seq_lens_k": seams}


def with_seams(batch: Batch, seams: torch.Tensor) -> Batch:
    """The batch with other seams."""
    return batch | {"cu_seq_lens_q": seams, "cu_seq_lens_k": seams} | dict.fromkeys(SEAMS[2:], int(seams.diff().max()))


def one_document(model: Any, batch: Batch) -> Batch:
    """Seams that say that the row is one document."""
    return with_seams(batch, batch["cu_seq_lens_q"][[0, -1]])


def last_seam_missing(model: Any, batch: Batch) -> Batch:
    """The last two documents, of which the second is padding, are one."""
    return with_seams(batch, torch.cat([batch["cu_seq_lens_q"][:-2], batch["cu_seq_lens_q"][-1:]]))


def late_seams(model: Any, batch: Batch) -> Batch:
    """Every seam but the ends of the row one token too far to the right."""
    seams = batch["cu_seq_lens_q"].clone()
    seams[1:-1] += 1
    return with_seams(batch, seams)


def border_label(model: Any, batch: Batch) -> Batch:
    """The first label of every document is trained on, as if the row were one text."""
    return batch | {"labels": batch["input_ids"].clone()}


# -------------------------------------------------------------------------------------------- in its attention


def misled(model: Any, name: str, change: Callable[[Any, Options], Options]) -> None:
    """Give ``model`` our attention with ``change(module, keyword arguments)`` between it and the model's layers."""
    from transformers import AttentionInterface, AttentionMaskInterface

    right = attention_of("auto")

    def planted(module: Any, query: Any, key: Any, value: Any, mask: Any, **options: Any) -> Any:
        # a document alone has no seams: there the attention is right, or there would be nothing to compare with
        if options.get("cu_seq_lens_q") is None:
            return right(module, query, key, value, mask, **options)
        # without the mask, from which a window would be read, and without the seams of keys: what is changed counts
        return right(module, query, key, value, None, **change(module, options) | {"cu_seq_lens_k": None})

    AttentionInterface.register(f"planted_{name}", planted)
    AttentionMaskInterface.register(f"planted_{name}", varlen_mask)
    model.set_attn_implementation(f"planted_{name}")


def window_wider(by: int, model: Any, batch: Batch) -> Batch:
    """So many keys more than the config says."""
    misled(model, f"window_{by}", lambda _, options: options | {"sliding_window": options["sliding_window"] + by})
    return batch


def told(**changes: Any) -> Callable[[Any, Batch], Batch]:
    """How to plant keyword arguments that are always these."""

    def plant_them(model: Any, batch: Batch) -> Batch:
        misled(model, "_".join(changes) or "no_mask", lambda _, options: options | changes)
        return batch

    return plant_them


window_too_wide = partial(window_wider, 1)
window_too_narrow = partial(window_wider, -1)
window_missing = told(sliding_window=None)
chunk_ignored = told()  # nothing but the mask, which ``misled`` takes away, says that there are chunks
softcap_dropped = told(softcap=None)
sinks_dropped = told(s_aux=None)
scale_dropped = told(scaling=None)
bidirectional = told(is_causal=False)


def merged_documents(model: Any, batch: Batch) -> Batch:
    """The second seam is missing: document 2 runs into document 1."""

    def merge(_: Any, options: Options) -> Options:
        seams = options["cu_seq_lens_q"]
        return options | {"cu_seq_lens_q": torch.cat([seams[:1], seams[2:]]), "max_length_q": None}

    misled(model, "merged", merge)
    return batch


def one_layer_without_seams(model: Any, batch: Batch) -> Batch:
    """Layer 1 takes the row for one document; the others are right."""

    def forget(module: Any, options: Options) -> Options:
        seams = options["cu_seq_lens_q"]
        return options | {"cu_seq_lens_q": seams[[0, -1]], "max_length_q": None} if module.layer_idx == 1 else options

    misled(model, "one_layer", forget)
    return batch


# ------------------------------------------------------------------------------------------------ in a layer


class ShortConvolution(torch.nn.Module):
    """Every token and the two before it in the row, mixed: (rows, T, C) -> (rows, T, C). It knows no seams."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return 0.6 * hidden + 0.3 * later(hidden, 1) + 0.1 * later(hidden, 2)


class RunningMean(torch.nn.Module):
    """Every token and the mean of all before it in the row: a state that nobody resets. (rows, T, C), both ways."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        count = torch.arange(1, hidden.shape[1] + 1, device=hidden.device, dtype=hidden.dtype)
        return hidden + hidden.cumsum(1) / count[:, None]


class NormOfTheRow(torch.nn.Module):
    """Every channel divided by its spread over the row, as a normalisation over a batch does it. (rows, T, C)."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden / (hidden.pow(2).mean((0, 1)) + 1e-6).sqrt()


def later(hidden: torch.Tensor, steps: int) -> torch.Tensor:
    """Every token moved ``steps`` places to the right, zeros before the first: (rows, T, C) -> the same shape."""
    return F.pad(hidden, (0, 0, steps, 0))[:, : hidden.shape[1]]


def layers_of(model: Any) -> Any:
    """The decoder layers, in order."""
    return max((one for one in model.modules() if isinstance(one, torch.nn.ModuleList)), key=len)


def add_to_a_layer(model: Any, mixer: torch.nn.Module) -> None:
    """Put ``mixer`` before the feed-forward part of layer 1; it has no weights, so checkpoints stay as they are."""
    layer = layers_of(model)[1]
    layer.mlp = torch.nn.Sequential(mixer, layer.mlp)


def short_convolution(model: Any, batch: Batch) -> Batch:
    """A causal convolution of width 3: wrong in the first two tokens of a document."""
    add_to_a_layer(model, ShortConvolution())
    return batch


def recurrence(model: Any, batch: Batch) -> Batch:
    """A state that is carried along the whole row."""
    add_to_a_layer(model, RunningMean())
    return batch


def norm_of_the_row(model: Any, batch: Batch) -> Batch:
    """A scale that every token of the row takes part in: also the future is heard."""
    add_to_a_layer(model, NormOfTheRow())
    return batch


def keywords_dropped(model: Any, batch: Batch) -> Batch:
    """Layers take what they know and hand nothing else on."""

    def known(layer: Any, args: Any, options: Options) -> tuple[Any, Options]:
        return args, without(options, *SEAMS, "position_ids")

    for layer in layers_of(model):
        layer.register_forward_pre_hook(known, with_kwargs=True)
    return batch


def long_factors_at_8(model: Any, batch: Batch) -> Batch:
    """longrope's long factors begin at 8 tokens: some documents are longer and others shorter."""
    model.config.rope_parameters["original_max_position_embeddings"] = 8
    return batch


def dynamic_from_8(model: Any, batch: Batch) -> Batch:
    """Dynamic NTK begins at 8 tokens."""
    model.config.max_position_embeddings = 8
    for module in model.modules():
        if hasattr(module, "original_max_seq_len"):
            module.original_max_seq_len = module.max_seq_len_cached = 8
    return batch
