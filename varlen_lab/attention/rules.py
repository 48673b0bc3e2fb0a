"""What a mask of transformers means, read from the functions it is made of: causal or not, its window, its chunks.

transformers puts masks together from closures of ``masking_utils`` (``sliding_window_overlay``, ``chunked_overlay``,
joined by ``and_masks``). A window or chunk that a model hands its attention nowhere else is found there, and applied
inside each document; what is not known to keep inside documents is named, so that it can be refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch

from varlen_lab.packing.boundaries import SEAMS, OncePerTensor

# closures of transformers.masking_utils: what is held there, under its name in the closure
JOINED, EITHER, REMAPPED = "and_masks", "or_masks", "remap_positions_for_packed_sequence"
HELD = {"sliding_window_overlay": "sliding_window", "chunked_overlay": "chunk_size"}
# what says nothing that seams do not say better: documents guessed from position ids. Padding is looked at by itself.
KNOWN_OTHERWISE = ("packed_sequence_mask_function", "padding_mask_function")


class Rule(NamedTuple):
    """Which keys a query sees in its document; ``unknown``: the part of the mask that cannot be told, by its name."""

    causal: bool = True
    window: int | None = None  # itself and the window - 1 tokens before it
    chunk: int | None = None  # only keys of the same chunk, counted from the document's first token
    unknown: str | None = None

    @property
    def plain(self) -> bool:
        """Nothing but causal, or not."""
        return self.window is None and self.chunk is None and self.unknown is None


def rule_of(options: dict[str, Any]) -> Rule:
    """The rule of the mask that transformers' mask functions make of these ``options``."""
    if torch.compiler.is_compiling():
        return traced_rule(options)
    parts = list(parts_of(options["mask_function"]))
    held: dict[str, list[int]] = {name: [value for part, value in parts if part == name] for name in HELD}
    unknown = next((part for part, value in parts if value < 0), None)
    chunks = set(held["chunked_overlay"])
    return Rule(
        causal=any(part == "causal_mask_function" for part, _ in parts),
        window=min(held["sliding_window_overlay"], default=None),
        chunk=min(chunks, default=None),
        unknown=unknown or ("chunks of several sizes" if len(chunks) > 1 else None),
    )


def parts_of(function: Callable[..., Any]) -> Iterator[tuple[str, int]]:
    """(name, size held or 0; -1: not known) of every function that a mask function is the conjunction of."""
    name = getattr(function, "__qualname__", type(function).__name__).split(".")[0]
    if getattr(function, "__module__", None) != "transformers.masking_utils":
        yield name, -1
        return
    if name == JOINED:
        for each in held_by(function, "mask_functions"):
            yield from parts_of(each)
    elif name == EITHER and len(shown := [f for f in held_by(function, "mask_functions") if not is_empty(f)]) == 1:
        yield from parts_of(shown[0])
    elif name == REMAPPED:
        yield from parts_of(held_by(function, "mask_function"))
    elif name in HELD:
        yield name, int(held_by(function, HELD[name]))
    else:
        yield name, 0 if name in ("causal_mask_function", "bidirectional_mask_function", *KNOWN_OTHERWISE) else -1


def held_by(function: Callable[..., Any], name: str) -> Any:
    """What a closure holds under a name."""
    cells = function.__closure__ or ()
    return cells[function.__code__.co_freevars.index(name)].cell_contents


def is_empty(function: Callable[..., Any]) -> bool:
    """Whether it is the overlay of the blocks of images, and there is no image: a text of a model that also sees."""
    name = getattr(function, "__qualname__", "").split(".")[0]
    return name == "blockwise_overlay" and bool(NO_BLOCK(held_by(function, "block_sequence_ids")))


NO_BLOCK = OncePerTensor(lambda ids: bool((ids < 0).all()))


def traced_rule(options: dict[str, Any]) -> Rule:
    """The rule as far as the compiler can see it: it looks into no closure, but sizes stand beside the function."""
    size, chunk = options.get("local_size"), getattr(options.get("config"), "attention_chunk_size", None)
    chunked, causal = size is not None and size == chunk, "allow_is_bidirectional_skip" not in options
    own = options.get("use_vmap") or (size is not None and not causal)
    return Rule(
        causal=causal,
        window=None if chunked else size,
        chunk=size if chunked else None,
        unknown="a mask function of its own" if own else None,
    )


@torch.compiler.disable
def chunked_seams(cu_seqlens: torch.Tensor, size: int) -> torch.Tensor:
    """Seams of the chunks inside each document: int32 (chunks + 1,), the same tensor for all layers of a batch."""
    found: torch.Tensor | None = chunker(size)(cu_seqlens)
    return cu_seqlens if found is None else found


@cache
def chunker(size: int) -> OncePerTensor:
    """``chunked_seams`` for one size, once for each batch; None where no document is longer than a chunk."""

    def cut(cu_seqlens: torch.Tensor) -> torch.Tensor | None:
        spans = SEAMS(cu_seqlens).spans
        edges = [edge for start, end in spans for edge in range(start, end, size)] + [spans[-1][1]]
        if len(edges) == len(cu_seqlens):
            return None
        cut_seams = torch.tensor(edges, dtype=torch.int32)
        longest = max(right - left for left, right in pairwise(edges))
        refined = cut_seams.to(cu_seqlens.device)
        SEAMS.remember(refined, type(SEAMS(cu_seqlens))(list(pairwise(edges)), longest))
        return refined

    return OncePerTensor(cut)
