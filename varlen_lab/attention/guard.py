"""What is refused before attention is computed: packed documents whose seams nobody passed on."""

from __future__ import annotations

import torch

from varlen_lab.errors import InputError
from varlen_lab.packing.boundaries import OncePerTensor


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
