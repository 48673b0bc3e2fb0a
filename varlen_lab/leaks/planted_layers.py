"""Faults of layers: a state that nobody resets, keywords that are not handed on, frequencies of the longest document.

What is put into a layer has no weights and stands beside the layer's own parts, so that checkpoints stay as they are.
"""

from __future__ import annotations

import re
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F

from varlen_lab.attention.masks import DeferredMask
from varlen_lab.leaks.planted_batches import Batch, without
from varlen_lab.leaks.traps import documents_of
from varlen_lab.packing.registry import SEAM_KEYWORDS

FEED_FORWARD = "mlp|feed_?forward|ffn?|.*moe|.*experts"  # names of what comes behind attention in a layer
FEW = 8  # tokens


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
    """The decoder layers, in order: the longest list of modules that lies in no other (experts lie in a layer)."""
    lists = {path: one for path, one in model.named_modules() if isinstance(one, torch.nn.ModuleList)}
    outermost = [one for path, one in lists.items() if not any(path.startswith(f"{other}.") for other in lists)]
    return max(outermost, key=len)


def part_of_rows(layer: torch.nn.Module) -> torch.nn.Module:
    """The feed-forward part of a layer; where it has none, its first norm: later ones may be given rows end to end."""
    parts = [(name, part) for name, part in layer.named_children() if isinstance(part, torch.nn.Module)]
    found = [part for name, part in parts if re.fullmatch(FEED_FORWARD, name)]
    norms = [part for name, part in parts if "norm" in type(part).__name__.lower() or re.match("norm|ln", name)]
    return (found[-1:] or norms[:1] or [part for _, part in parts])[0]


def add_to_a_layer(model: Any, mixer: torch.nn.Module) -> None:
    """Let layer 1, or the only one, run ``mixer`` before its feed-forward part."""
    part = part_of_rows(layers_of(model)[:2][-1])
    part.planted = mixer
    part.forward = MethodType(forward_of_mixed, part)


def forward_of_mixed(self: Any, hidden: torch.Tensor, *more: Any, **options: Any) -> Any:
    """The forward of a module with something planted in it: a method of each module, so that a copy calls its own."""
    return type(self).forward(self, self.planted(hidden), *more, **options)


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
    """Layers take what they know and hand nothing else on, and their mask knows no documents."""
    for layer in layers_of(model):
        layer.register_forward_pre_hook(known_keywords, with_kwargs=True)
    return batch


def known_keywords(layer: Any, args: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    """A layer's arguments without seams, and without the mask, in which positions that restart would tell the same."""
    if options.get("cu_seq_lens_q") is None:  # a document alone
        return None
    known = without(options, *SEAM_KEYWORDS, "position_ids")
    args = tuple(None if isinstance(one, DeferredMask) else one for one in args)
    return args, known | ({"attention_mask": None} if "attention_mask" in known else {})


def long_factors_at_8(model: Any, batch: Batch) -> Batch:
    """longrope's long factors begin at a length that some documents have and others have not, by default 8 tokens."""
    model.config.rope_parameters["original_max_position_embeddings"] = between_lengths(batch)
    return batch


def dynamic_from_8(model: Any, batch: Batch) -> Batch:
    """Dynamic NTK begins at a length that some documents have, by default 8 tokens."""
    model.config.max_position_embeddings = length = between_lengths(batch)
    for module in model.modules():
        if hasattr(module, "original_max_seq_len"):
            module.original_max_seq_len = module.max_seq_len_cached = length
    return batch


def between_lengths(batch: Batch) -> int:
    """Half of the tokens of the longest document of a batch; without one ``FEW``."""
    return max(1, documents_of(batch, None)[0].max_seqlen // 2) if "input_ids" in batch else FEW
