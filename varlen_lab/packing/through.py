"""Rows and their seams on the way through other people's trainers, with nothing set.

Two things happen there between a dataset and a model. HF Trainer drops the columns that ``model.forward`` does not name
(``remove_unused_columns``, on by default), and ``seq_lengths`` is one of them: a row is left whose documents nobody can
tell apart. So the tokens of a row know them too (``Tokens``), and a packed dataset keeps the column with the tokens
(``varlen_lab.packing.packed``).

And accelerate reads an iterable dataset in one process and deals its batches out (``dispatch_batches``, on by default
for those). It takes the batch size from the first tensor of a batch and cuts every tensor to so many entries of its
first dimension. One process gets the first of one share, that is all of it, as long as the first tensor is the longest:
so ``VarlenCollator`` puts ``cu_seq_lens_q``, of shape (documents + 1,), before ``input_ids``, of shape (1, T). Several
processes would share out one ``cu_seqlens`` of all their batches: that is refused (``refuse_dispatch``).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from varlen_lab.errors import InputError


class Tokens(np.ndarray):
    """The ``input_ids`` of a packed row, which know the lengths of its documents: ``seq_lengths``, int32.

    What is made of them (a cut, a copy, a sum) knows nothing.
    """

    seq_lengths: np.ndarray | None = None


def with_seams(row: Mapping[str, Any]) -> dict[str, Any]:
    """A packed row as it was, but that its ``input_ids``, shape (T,), are ``Tokens``."""
    tokens = np.asarray(row["input_ids"]).view(Tokens)
    tokens.seq_lengths = np.asarray(row["seq_lengths"])
    return {**row, "input_ids": tokens}


def refuse_dispatch() -> None:
    """InputError when accelerate is dealing batches of several processes out while this one is made.

    Where it is not imported it deals out nothing. Its own words for the loader that is being read are the only ones:
    a collator is not told who calls it.
    """
    accelerate = sys.modules.get("accelerate")
    if accelerate is None or not accelerate.state.PartialState._shared_state:
        return
    processes = accelerate.state.PartialState().num_processes
    loader = accelerate.state.GradientState().active_dataloader
    if processes > 1 and isinstance(loader, accelerate.data_loader.DataLoaderDispatcher):
        raise InputError(
            f"accelerate lays the batches of {processes} processes end to end and cuts them again (dispatch_batches, "
            "its default for an iterable dataset), which tears documents apart; set "
            "accelerator_config={'dispatch_batches': False} in TrainingArguments."
        )


def merged_rows(loader: Any, rows: int) -> InputError | None:
    """The error for predictions on batches of ``rows`` rows that ``loader`` lays end to end; None if they stay apart.

    Known after the fact alone: a collator is not told what a trainer wants of its batch, and a mean loss is right.
    """
    collate = getattr(loader, "collate_fn", None)
    collate = getattr(collate, "data_collator", collate)  # in the one that drops columns
    if rows == 1 or getattr(collate, "keep_rows", True):
        return None
    return InputError(
        f"predict laid {rows} rows of a batch end to end, so its predictions are a row a batch and no row an example; "
        "take VarlenCollator(keep_rows=True), or set per_device_eval_batch_size=1 in TrainingArguments."
    )
