"""What is refused before anything is computed: packed documents whose seams nobody passed on.

Most of it is seen by attention only where a model hands its attention the positions; at the model itself it is seen
always. So ``watch_models`` gives ``transformers.PreTrainedModel`` a ``__call__`` that looks at what goes in.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

from varlen_lab.errors import InputError
from varlen_lab.packing.boundaries import OncePerTensor

LIFTED: ContextVar[bool] = ContextVar("LIFTED", default=False)


@contextmanager
def lifted() -> Iterator[None]:
    """No check at any model meanwhile, in this thread: for those who measure what a model does with what they give."""
    before = LIFTED.set(True)
    try:
        yield
    finally:
        LIFTED.reset(before)


def watch_models(names: frozenset[str]) -> None:
    """Check what goes into every transformers model whose attention has one of these ``names``."""
    from transformers import PreTrainedModel

    def __call__(self: Any, *inputs: Any, **options: Any) -> Any:
        # the compiler is shown no checks: those of a compiled model are made outside of its graph
        if not torch.compiler.is_compiling() and not LIFTED.get() and attention_name(self) in names:
            check_call(self, options)
        return torch.nn.Module.__call__(self, *inputs, **options)

    PreTrainedModel.__call__ = __call__


def attention_name(model: Any) -> str | None:
    """The attn_implementation a model has now."""
    return getattr(getattr(model, "config", None), "_attn_implementation", None)


def check_call(model: Any, options: dict[str, Any]) -> None:
    """InputError for what our attention cannot do whatever the model does with it."""
    if options.get("output_attentions"):
        raise InputError(
            f"output_attentions=True asks {type(model).__name__} for weights that {attention_name(model)!r} never "
            "makes; load it with attn_implementation='eager', or look with varlen_lab.leaks.attention_seen."
        )


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
