"""The call of a model that is running: who was called, with how many tokens, and whether attention took its seams.

``guard`` writes the note, attention and masks read it for their sentences and say when seams were taken. It carries no
seams, and no layer computes with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from varlen_lab.errors import InputError


@dataclass
class Call:
    """The outermost call of a model that is running: its class, its rows and tokens, its seams, its config's class."""

    name: str
    shape: tuple[int, ...]
    seams: bool
    config: type
    told: bool  # it came with positions or with seams
    taken: bool = False  # by an attention, or by a layer that runs document by document
    attended: bool = False  # by an attention, which needs positions too
    kernels: dict[str, int] = field(default_factory=dict)  # backend -> how often ``attend`` called it


CALL: ContextVar[Call | None] = ContextVar("CALL", default=None)


def model_name() -> str:
    """The class whose call is running, for sentences."""
    call = CALL.get()
    return "this model" if call is None else call.name


def seams_taken(attention: bool = True) -> None:
    """An attention has taken the seams of the call that is running, or a layer that runs document by document."""
    call = CALL.get()
    if call is not None:
        call.taken = True
        call.attended |= attention


@contextmanager
def one_document() -> Iterator[None]:
    """Within the call that is running, a layer computes on one document, whose attention is to find no seams."""
    call = CALL.get()
    if call is None or not call.seams:
        yield
        return
    before = CALL.set(replace(call, seams=False))
    try:
        yield
    finally:
        CALL.reset(before)


def kernel_called(backend: str) -> None:
    """A backend of ``attend`` computes for the call that is running."""
    call = CALL.get()
    if call is not None:
        call.kernels[backend] = call.kernels.get(backend, 0) + 1


def sees_other_tokens(module: torch.nn.Module, mask: Any) -> bool:
    """Whether seams have strayed into a tower, whose rows are images or sounds and not the documents of the call.

    It is an attention that looks both ways without a mask, in a part of the model that has a config of its own.
    """
    call = CALL.get()
    if call is None or mask is not None or getattr(module, "is_causal", None) is not False:
        return False
    return type(getattr(module, "config", None)) not in (call.config, type(None))


def refuse_dropped_seams(query: torch.Tensor) -> None:
    """InputError for an attention over all tokens of a batch, query (B, H, T, D), whose seams did not reach it."""
    call = CALL.get()
    if call is not None and call.seams and call.shape == (query.shape[0], query.shape[2]):
        raise InputError(
            f"{call.name} was given cu_seq_lens_q and does not hand it on to its attention, which would not know the "
            "seams; train it unpacked, or pad its documents."
        )
