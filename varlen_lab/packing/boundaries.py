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

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch

from varlen_lab.errors import InputError

INT32_LIMIT = 2**31


@dataclass(frozen=True, eq=False)
class Boundaries:
    """Validated document boundaries of one packed row of T tokens.

    ``cu_seqlens``: int32 tensor of shape (documents + 1,), on the device the attention runs on.
    Raises InputError (a ValueError) when it is not int32, not 1-D, does not start at 0 or does not increase.
    """

    cu_seqlens: torch.Tensor

    def __post_init__(self) -> None:
        cu = self.cu_seqlens
        if not isinstance(cu, torch.Tensor) or cu.dtype != torch.int32:
            kind = cu.dtype if isinstance(cu, torch.Tensor) else type(cu).__name__
            raise InputError(
                f"cu_seqlens is {kind}, it must be an int32 tensor; use Boundaries.from_lengths([2, 4, 3])."
            )
        if cu.ndim != 1 or len(cu) < 2:
            raise InputError(
                f"cu_seqlens has shape {tuple(cu.shape)}, it must be 1-D with at least one document: [0, ..., T]."
            )
        edges = cu.tolist()
        if edges[0] != 0:
            raise InputError(f"cu_seqlens starts at {edges[0]}, it must start at 0; put the leading 0 in front.")
        for left, right in pairwise(edges):
            if right <= left:
                raise InputError(
                    f"cu_seqlens goes from {left} to {right}, it must strictly increase; drop empty documents."
                )

    @classmethod
    def from_lengths(cls, lengths: Iterable[int], device: torch.device | str | None = None) -> Boundaries:
        """Boundaries of documents with these lengths, in row order: ``[2, 4, 3] -> cu_seqlens [0, 2, 6, 9]``."""
        sizes = [as_length(length) for length in lengths]
        if not sizes:
            raise InputError("there are no lengths, a row needs at least one document; pass e.g. [2, 4, 3].")
        edges = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        if edges[-1] >= INT32_LIMIT:
            raise InputError(
                f"the row has {edges[-1]:,} tokens, cu_seqlens is int32 and ends below {INT32_LIMIT:,}; "
                "split it into several rows."
            )
        return cls(torch.from_numpy(edges.astype(np.int32)).to(device))

    @classmethod
    def trusted(cls, cu_seqlens: torch.Tensor, max_seqlen: int, total: int) -> Boundaries:
        """Boundaries that a collator has validated already, without reading them back from a GPU."""
        boundaries = object.__new__(cls)
        boundaries.__dict__.update(cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, total=total)
        return boundaries

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        """``(start, end)`` of each document as Python ints. On a GPU the first call copies once to the host."""
        edges = self.cu_seqlens.tolist()
        return list(pairwise(edges))

    @property
    def lengths(self) -> torch.Tensor:
        """Length of each document in tokens, int32, shape (documents,)."""
        return self.cu_seqlens.diff()

    @cached_property
    def max_seqlen(self) -> int:
        """Length of the longest document."""
        return max(end - start for start, end in self.spans)

    @cached_property
    def total(self) -> int:
        """Number of tokens T in the row."""
        return self.spans[-1][1]

    def __len__(self) -> int:
        return len(self.cu_seqlens) - 1

    def document_ids(self) -> torch.Tensor:
        """Index of the document each token belongs to, int64, shape (T,)."""
        documents = torch.arange(len(self), device=self.cu_seqlens.device)
        return torch.repeat_interleave(documents, self.lengths, output_size=self.total)

    def position_ids(self) -> torch.Tensor:
        """Position of each token within its own document, int64, shape (T,): restarts at 0 at every seam."""
        starts = self.cu_seqlens[:-1].long()
        return torch.arange(self.total, device=starts.device) - starts[self.document_ids()]

    def to(self, device: torch.device | str) -> Boundaries:
        """The same boundaries on another device."""
        return Boundaries(self.cu_seqlens.to(device))

    def __repr__(self) -> str:
        return f"Boundaries({len(self)} documents, {self.total} tokens, longest {self.max_seqlen})"


def as_length(length: object) -> int:
    """A document length as a positive Python int, or an InputError that says what it was."""
    try:
        size = int(length)  # type: ignore[call-overload]
        whole = size == length
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole or isinstance(length, bool):
        raise InputError(f"a document length is {length!r}, it must be a whole number of tokens.")
    if size < 1:
        raise InputError(f"a document length is {size}, it must be at least 1 token; drop empty documents.")
    return size
