"""What a model says next, and how far its prediction moves: the two measures of lesson 00.

next_words({"alone": logits_of_one, "packed": logits_of_another}, tokenizer)     # a table of words
moved(before, after)                                                             # a share for each token
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from varlen_lab.errors import InputError
from varlen_lab.language.saying import phrase, say
from varlen_lab.viz.masks import legible, percent


def next_words(logits: Mapping[str, Any], tokenizer: Any, count: int = 3) -> Any:
    """A table (pandas): a line for each entry, its ``count`` likeliest next words with their probability.

    ``logits``: name -> logits whose last dimension is the vocabulary; where there are more, those of the last token.
    """
    import pandas

    table = {}
    for name, values in logits.items():
        chances, ids = last(values).softmax(-1).topk(count)
        words = [word_of(tokenizer, number) for number in ids.tolist()]
        table[phrase(name)] = [
            f"{word}, {percent(chance)}" for word, chance in zip(words, chances.tolist(), strict=True)
        ]
    columns = [say("next word"), *(say("choice {n}", n=n) for n in range(2, count + 1))]
    return pandas.DataFrame.from_dict(table, orient="index", columns=columns)


def next_word(logits: Any, tokenizer: Any) -> str:
    """The likeliest next word."""
    return word_of(tokenizer, int(last(logits).argmax()))


def moved(before: Any, after: Any) -> np.ndarray:
    """How far each token's prediction moved: the share of its probability that went to other words, 0 to 1.

    ``before``, ``after``: logits of shape (tokens, vocabulary). It is the total variation distance, half the sum of
    |p - q|; equal bits give exactly 0. Raises InputError for shapes that differ.
    """
    if before.shape != after.shape:
        raise InputError(
            f"logits of shape {tuple(before.shape)} and {tuple(after.shape)} cannot be compared token by token; "
            "change a token for one other token, so that the row keeps its length."
        )
    one, other = (values.double().softmax(-1) for values in (before, after))
    share = (one - other).abs().sum(-1) / 2
    return share.clamp(0, 1).cpu().numpy()


def last(logits: Any) -> torch.Tensor:
    """The logits of the last token, in double precision."""
    return torch.as_tensor(logits).reshape(-1, logits.shape[-1])[-1].double()


def word_of(tokenizer: Any, number: int) -> str:
    """A token as a reader would write it."""
    return legible(" ".join(tokenizer.decode([number]).split())) or say("(space)")
