"""What one token counts for in the loss of a step. The loss is always ``sum(w * nll) / sum(w)`` over the whole step:
all its rows, accumulated batches and processes. Four choices of ``w``, each a line:

    token       w = 1                                  every trained token counts the same
    sample      w = 1 / trained tokens of its document every document counts the same, long or short
    pack        w = 1 / trained tokens of its row      every row counts the same: a mean per row, then over rows
    longalign   w = rows / (documents * trained tokens of its document), which is sample

Two rows, one with documents of 3 and 1 trained tokens, one with 2:

    token  1 1 1  1 | 1 1      sample  1/3 1/3 1/3  1 | 1/2 1/2      pack  1/4 1/4 1/4  1/4 | 1/2 1/2

``pack`` is what a loop gets that takes the mean over each batch by itself, as XTuner's loss does, when a batch is one
row: a token's weight depends on its neighbours. (HF Trainer divides by one count over the accumulated batches: that is
``token``.) ``longalign`` (Bai et al. 2024, arXiv:2401.18058, section 3.2) scales each document of a pack so that the
mean over packs becomes the mean over documents. Over a whole step the constants cancel and it is ``sample``; their
code takes that mean for each accumulated batch by itself and averages those, which depends on the accumulation. The
name is kept because people look for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from varlen_lab.packing.collators import checked_row
from varlen_lab.packing.rows import IGNORE

WEIGHTINGS = ("token", "sample", "pack", "longalign")


def token_weights(feature: Mapping[str, Any], weighting: str) -> np.ndarray:
    """The weight of every token of a packed row, float64; 0 where nothing is trained.

    The first token of a document is never trained, whatever its label says.
    """
    ids, labels, lengths = checked_row(feature)
    starts = np.cumsum(lengths) - lengths
    trained = labels != IGNORE
    trained[starts] = False
    if weighting == "token":
        return trained.astype(np.float64)
    if weighting == "pack":
        counts = np.full(len(ids), trained.sum())
    else:
        counts = np.repeat(np.add.reduceat(trained, starts, dtype=np.int64), lengths)
    return np.where(trained, 1 / np.maximum(counts, 1), 0.0)


def collated(
    collate: Callable[[list[Any]], dict[str, Any]], features: Sequence[Mapping[str, Any]], weights: list[np.ndarray]
) -> torch.Tensor:
    """Per-token weights laid out as ``collate`` lays out labels, float32 with 0 for padding.

    The collator is run on token numbers in place of labels; where they land, the weights go.
    """
    ends = np.cumsum([len(one) for one in weights])
    numbers = [np.arange(end - len(one), end) for end, one in zip(ends, weights)]
    places = collate([{**feature, "labels": number} for feature, number in zip(features, numbers)])["labels"]
    flat = torch.from_numpy(np.concatenate(weights)).float()
    return torch.where(places == IGNORE, 0.0, flat[places.clamp(min=0)])
