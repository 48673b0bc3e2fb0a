"""Where the documents of a packed row begin and end: the one carrier of seams.

A row that holds documents of 2, 4 and 3 tokens has ``cu_seqlens = [0, 2, 6, 9]``: the cumulative lengths,
int32, starting at 0, strictly increasing, ending at the number of tokens T. Everything else is derived:

    tokens         a a b b b b c c c
    position_ids   0 1 0 1 2 3 0 1 2      where a token stands in its own document
    document_ids   0 0 1 1 1 1 2 2 2      whose token it is

Boundaries are always an explicit argument. They are never read back from position ids, because two
neighbours can merge there: a document of 2 followed by a piece that starts at position 2 looks like one of 6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.weak import WeakTensorKeyDictionary

import varlen_lab.machine.repeatable  # noqa: F401  its import is the work: before anything here computes
from varlen_lab.errors import InputError, plural
from varlen_lab.packing.checks import checked_lengths


class OncePerTensor:
    """A function of a tensor that is called once for each, and again only after it was changed in place.

    All layers of a model are handed the same tensors, and to read one on a GPU is to wait for it. What was found goes
    with its tensor, so it must not hold the tensor itself.
    """

    def __init__(self, read: Callable[[torch.Tensor], Any]) -> None:
        self.read = read
        self.known: Any = WeakTensorKeyDictionary()

    def __call__(self, tensor: torch.Tensor) -> Any:
        if tensor.is_inference():  # torch counts no changes of these
            return self.read(tensor)
        version, found = self.known.get(tensor, (None, None))
        if version != tensor._version:
            found = self.read(tensor)
            self.remember(tensor, found)
        return found

    def remember(self, tensor: torch.Tensor, found: Any) -> None:
        """What the function would find, where the caller knows it from elsewhere."""
        if not tensor.is_inference():
            self.known[tensor] = tensor._version, found


class Seams(NamedTuple):
    """What a ``cu_seqlens`` holds, as Python numbers."""

    spans: list[tuple[int, int]]  # (start, end) of each document
    longest: int


def checked_seams(cu_seqlens: Any) -> Seams:
    """The documents that ``cu_seqlens`` tells of; the first reading of a GPU's tensor waits for it.

    InputError when it is not int32, not 1-D, does not start at 0 or does not increase.
    """
    cu = cu_seqlens
    if not isinstance(cu, torch.Tensor) or cu.dtype != torch.int32:
        kind = cu.dtype if isinstance(cu, torch.Tensor) else type(cu).__name__
        raise InputError(f"cu_seqlens is {kind}, it must be an int32 tensor; use Boundaries.from_lengths([2, 4, 3]).")
    if cu.ndim != 1 or len(cu) < 2:
        raise InputError(
            f"cu_seqlens has shape {tuple(cu.shape)}, it must be 1-D with at least one document: [0, ..., T]."
        )
    edges = cu.tolist()
    if edges[0] != 0:
        raise InputError(f"cu_seqlens starts at {edges[0]}, it must start at 0; put the leading 0 in front.")
    spans = list(pairwise(edges))
    for left, right in spans:
        if right <= left:
            raise InputError(
                f"cu_seqlens goes from {left} to {right}, it must strictly increase; drop empty documents."
            )
    return Seams(spans, max(end - start for start, end in spans))


SEAMS = OncePerTensor(checked_seams)


@dataclass(frozen=True, eq=False)
class Boundaries:
    """Validated document boundaries of one packed row of T tokens.

    ``cu_seqlens``: int32 tensor of shape (documents + 1,), on the device the attention runs on. ``longest``: the length
    of the longest document as a batch states it (``max_length_q``), or more; needed by nobody but torch.compile, which
    reads no tensors.
    Raises InputError (a ValueError) when ``cu_seqlens`` is not int32, not 1-D, does not start at 0 or does not
    increase, and when a document is longer than ``longest``. A tensor is read once, however many boundaries are made
    of it, and once more after it was changed in place.
    """

    cu_seqlens: torch.Tensor
    longest: int | None = None

    def __post_init__(self) -> None:
        if torch.compiler.is_compiling():  # no numbers yet; they are checked when the graph runs
            return
        if not isinstance(self.cu_seqlens, torch.Tensor):
            checked_seams(self.cu_seqlens)  # says what it is
        longest = self.max_seqlen
        if self.longest is not None and self.longest < longest:
            raise InputError(
                f"max_length_q is {self.longest} and cu_seq_lens_q holds a document of {longest} tokens; "
                "give the length of the longest, or leave max_length_q out."
            )

    @property
    def seams(self) -> Seams:
        """The documents as Python numbers, as ``cu_seqlens`` is now."""
        return self.found if self.cu_seqlens.is_inference() else SEAMS(self.cu_seqlens)

    @cached_property
    def found(self) -> Seams:
        """The documents when they were first asked for: all that can be known of a tensor that counts no changes."""
        return SEAMS(self.cu_seqlens)

    @classmethod
    def from_lengths(cls, lengths: Any, device: torch.device | str | None = None) -> Boundaries:
        """Boundaries of documents with these lengths, in row order: ``[2, 4, 3] -> cu_seqlens [0, 2, 6, 9]``."""
        edges = np.concatenate([[0], np.cumsum(checked_lengths(lengths, one_row=True))])
        return cls(torch.from_numpy(edges.astype(np.int32)).to(device))

    @property
    def spans(self) -> list[tuple[int, int]]:
        """``(start, end)`` of each document as Python ints."""
        return self.seams.spans

    @property
    def lengths(self) -> torch.Tensor:
        """Length of each document in tokens, int32, shape (documents,)."""
        return self.cu_seqlens.diff()

    @property
    def max_seqlen(self) -> int:
        """Length of the longest document."""
        return self.seams.longest

    @property
    def total(self) -> int:
        """Number of tokens T in the row."""
        return self.seams.spans[-1][1]

    def __len__(self) -> int:
        return len(self.cu_seqlens) - 1

    def document_ids(self) -> torch.Tensor:
        """Index of the document each token belongs to, int64, shape (T,)."""
        documents = torch.arange(len(self), device=self.cu_seqlens.device)
        # output_size is known here; without it torch asks the GPU and the CPU waits
        return torch.repeat_interleave(documents, self.lengths, output_size=self.total)

    def position_ids(self) -> torch.Tensor:
        """Position of each token within its own document, int64, shape (T,): restarts at 0 at every seam."""
        starts = self.cu_seqlens[:-1].long()
        return torch.arange(self.total, device=starts.device) - starts[self.document_ids()]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Boundaries:
        """The same boundaries on another device, which is not asked for what is known."""
        moved = self.cu_seqlens.to(device, non_blocking=non_blocking)
        SEAMS.remember(moved, self.seams)
        return Boundaries(moved, self.longest)

    def __repr__(self) -> str:
        return f"Boundaries({plural(len(self), 'document')}, {plural(self.total, 'token')}, longest {self.max_seqlen})"
