"""The alarm: does a document's output move when another one is poked? Tried on toys that leak in ways of their own.

A toy takes token ids (T,) and gives logits (T, 4). The clean one sees the past of its own document; each of the others
hears one thing more, and an alarm that looks at too little misses it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from varlen_lab.course.verdicts import Verdict, Wrong, call, judging, not_yet, right, shown
from varlen_lab.language.saying import phrase, say

WORDS, WIDTH = 50, 4
LENGTHS = [3, 1, 4, 5, 2]
Ids = np.ndarray
Heard = Callable[[np.ndarray, Sequence[int]], np.ndarray]  # embedded tokens (T, C) and seams -> what is heard too


class Toy(NamedTuple):
    """A model, whether it leaks, and what is said of an alarm that is wrong about it."""

    lengths: Sequence[int]
    heard: Heard | None
    words: str

    def __repr__(self) -> str:
        return f"a toy of {len(self.lengths)} documents"  # a reader sees it: what it hears would be the answer

    def run(self, ids: Any) -> np.ndarray:
        """Logits (T, 4) of token ids (T,): means over the past of each document, and what else is heard."""
        if np.size(ids) != sum(self.lengths):
            words = "logits_of takes the whole row of {count} tokens: poke it, do not cut it"
            raise ValueError(say(words, count=sum(self.lengths)))
        table = np.random.default_rng(0).normal(size=(WORDS, WIDTH))
        embedded = table[np.asarray(ids, dtype=int).reshape(-1) % WORDS]
        seams = [0, *np.cumsum(self.lengths).tolist()]
        hidden = np.concatenate([embedded[a:b].cumsum(0) for a, b in pairwise(seams)])
        return hidden if self.heard is None else hidden + self.heard(embedded, seams)


def row_before(embedded: np.ndarray, seams: Sequence[int]) -> np.ndarray:
    """All that came before in the row."""
    return embedded.cumsum(0)


def from_to(speaker: int, hearer: int, size: float = 1.0, last: bool = False) -> Heard:
    """One document hears one other, or only its last token."""

    def heard(embedded: np.ndarray, seams: Sequence[int]) -> np.ndarray:
        extra = np.zeros_like(embedded)
        begin = seams[speaker + 1] - 1 if last else seams[speaker]
        extra[seams[hearer]] = size * embedded[begin : seams[speaker + 1]].sum(0)
        return extra

    return heard


OWN = "a false alarm: this model is clean. A document that is poked moves its own logits, and may; leave them out"
TOYS = (
    Toy(LENGTHS, None, OWN),
    Toy(LENGTHS, row_before, "silent although every document hears all that came before it in the row"),
    Toy(
        LENGTHS, from_to(0, 2), "one slipped through: document 3 hears document 1 only. Look at all, not at neighbours"
    ),
    Toy(LENGTHS, from_to(3, 1), "one slipped through: document 2 hears document 4. Look at documents before it, too"),
    Toy(
        LENGTHS,
        from_to(3, 4, last=True),
        "one slipped through: at one seam the last token of document 4 is heard. Poke every token of every document",
    ),
    Toy(LENGTHS, from_to(2, 3, 1e-9), "one slipped through: a leak of one part in a billion. Compare bits, with !="),
    Toy([6], None, "a false alarm: one document alone in its row has nobody to hear"),
)


@judging
def check_leaks(leaks: Callable[[Callable[[Any], np.ndarray], np.ndarray, list[int]], Any]) -> Verdict:
    """``leaks(logits_of, ids, seams)`` must be True for each toy that leaks and False for each that does not."""
    for toy in TOYS:
        seams = [0, *np.cumsum(toy.lengths).tolist()]
        ids = np.arange(11, 11 + seams[-1])
        given = ids.copy()
        found = call(leaks, logits_of=toy.run, ids=given, seams=seams)
        if not np.array_equal(ids, given):
            return not_yet(
                "your function changes ids itself, so that the next poke starts from a poked row; copy them."
            )
        found = found.item() if getattr(found, "shape", None) == () else found  # a bool of torch or numpy
        if not isinstance(found, bool):
            raise Wrong(not_yet("True or False is wanted, your function returns {answer}.", answer=shown(found)))
        if found != (toy.heard is not None):
            words = say("{words} (lengths = {lengths}).", words=phrase(toy.words), lengths=list(toy.lengths))
            return not_yet(words, toy.heard is not None, found)
    leaking = sum(toy.heard is not None for toy in TOYS)
    words = "it rings for all {leaking} models that leak, and for none of the {clean} that do not."
    return right(words, leaking=leaking, clean=len(TOYS) - leaking)


def rings(leaks: Callable[..., Any], model: Any, batch: Mapping[str, Any], lengths: Sequence[int]) -> bool | None:
    """Whether an alarm rings for ``model`` on ``batch``, whose documents have ``lengths``; None where it fails.

    The alarm is given ids (T,) of all rows end to end, and logits (T, V).
    """
    import torch

    shape = batch["input_ids"].shape

    def logits_of(ids: Any) -> np.ndarray:
        with torch.no_grad():
            given = {**batch, "input_ids": torch.as_tensor(np.asarray(ids)).view(shape)}
            logits: np.ndarray = model(**given).logits.flatten(0, 1).numpy()
            return logits

    seams = [0, *np.cumsum(lengths).tolist()]
    try:
        return bool(leaks(logits_of, batch["input_ids"].flatten().numpy().copy(), seams))
    except Exception:  # the reader's code; its check says what is wrong with it
        return None
