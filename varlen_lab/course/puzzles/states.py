"""A layer with a state, run document by document: the loop that a reader writes around it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch

from varlen_lab.course.verdicts import Verdict, Wrong, call, in_case, judging, not_yet, right, shown
from varlen_lab.language.saying import phrase, say

WIDTH = 3
ROWS = ([3, 2, 4], [4], [1], [1, 1, 3], [2, 2])


class Running:
    """A layer that sums up what came before within a call, and remembers what it was called with."""

    def __init__(self) -> None:
        self.given: list[torch.Tensor] = []

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        self.given.append(hidden.detach().clone())  # the reader may write over it
        return hidden.cumsum(dim=1)


@judging
def check_document_wise(document_wise: Callable[[Any, torch.Tensor, torch.Tensor], Any]) -> Verdict:
    """``document_wise(layer, hidden, cu_seqlens)``: hidden (1, T, width) -> the same, each document as if alone."""
    for lengths in ROWS:
        layer, hidden = Running(), row_of(lengths)
        seams = torch.nn.functional.pad(torch.tensor(lengths).cumsum(0), (1, 0)).int()
        on = say("documents of {lengths} tokens", lengths=", ".join(map(str, lengths)))
        try:
            given = call(document_wise, layer=layer, hidden=hidden, cu_seqlens=seams)
        except Wrong:
            begun = [(1, n) for n in lengths[: len(layer.given)]]
            if [one.shape[:2] for one in layer.given] != begun:  # it stops later, for what it was called with
                check_calls(layer.given, hidden, lengths, on)
            raise
        wanted = torch.cat([part.cumsum(dim=1) for part in hidden.split(lengths, dim=1)], dim=1)
        if isinstance(given, (list, tuple)):
            words = "{count} pieces come back; lay them end to end along dim=1, as one row."
            raise Wrong(not_yet(words, count=len(given)))
        if not isinstance(given, torch.Tensor):
            raise Wrong(not_yet("a tensor is wanted, this is {answer}.", answer=shown(given)))
        check_calls(layer.given, hidden, lengths, on)
        if given.shape != wanted.shape:
            words = in_case(misshaped(given, wanted), on)
            raise Wrong(not_yet(words, tuple(wanted.shape), tuple(given.shape)))
        if not torch.allclose(given.detach().float(), wanted.detach(), atol=1e-5):
            words = in_case(mistake_of(given, hidden, lengths), on)
            raise Wrong(not_yet(words, *first_channel(wanted, given)))
        if not given.requires_grad:
            raise Wrong(not_yet("the numbers are right and no gradient flows back; leave out detach and no_grad."))
    return right("the layer is called once a document and knows of no other: what it carries, it carries within one.")


def row_of(lengths: list[int]) -> torch.Tensor:
    """Hidden states (1, T, width), drawn for these lengths, that want a gradient."""
    generator = torch.Generator().manual_seed(len(lengths))
    return torch.randn(1, sum(lengths), WIDTH, generator=generator).requires_grad_()


def check_calls(given: list[torch.Tensor], hidden: torch.Tensor, lengths: list[int], on: str) -> None:
    """The layer saw one document a call."""
    shapes = [tuple(one.shape) if isinstance(one, torch.Tensor) else () for one in given]
    wanted = [(1, n, WIDTH) for n in lengths]
    if sorted(shapes) == sorted(wanted):  # in any order: what comes back is looked at next
        parts = hidden.detach().split(lengths, dim=1)
        if all(any(torch.equal(one, part) for part in parts) for one in given):
            return
    whole, tokens = [tuple(hidden.shape)], sum(lengths)
    if not shapes:
        words = "the layer was never called, so no other layer would be in your loop."
    elif shapes == whole:
        words = "the layer ran once, on the whole row: its state goes from one document into the next."
    elif shapes == wanted[:-1]:
        words = "the last document was never run; cu_seqlens has one number more than there are documents."
    elif shapes and all(len(shape) == 3 and shape[1] == tokens for shape in shapes):
        words = "the cut is along the wrong axis: tokens are dimension 1 of (1, T, width)."
    elif shapes == [(1, end, WIDTH) for end in running(lengths)]:
        words = "each call begins at token 0 of the row; a document begins where the one before it ends."
    elif shapes == [(n, WIDTH) for n in lengths]:
        words = "the leading 1 is lost; a layer takes (1, tokens, width), so cut with hidden[:, start:end]."
    elif shapes == wanted:
        words = "the calls are as long as the documents, and hold other tokens; cut at cu_seqlens[i] and [i + 1]."
    elif len(shapes) == tokens != len(lengths):
        words = "the layer is called once a token, so nothing is carried within a document; call it once a document."
    else:
        words = "the layer wants one call a document, with (1, tokens of it, width)."
    told = "{words} Below: the shapes it was called with (for {case})."
    raise Wrong(not_yet(told, wanted, shapes, words=phrase(words), case=on))


def running(lengths: list[int]) -> list[int]:
    """Where documents end."""
    return torch.tensor(lengths).cumsum(0).tolist()


def misshaped(given: torch.Tensor, wanted: torch.Tensor) -> str:
    """What a wrong shape comes from."""
    if given.ndim == 3 and given.shape[0] == 1 and given.shape[1] < wanted.shape[1]:
        return "only a part of the row comes back; keep what every call returned."
    if given.ndim == 3 and given.shape[1] == wanted.shape[1] and given.shape[2] > WIDTH:
        return "documents are laid side by side; lay them end to end along the tokens, dim=1."
    return "the row must come back as it went in, (1, T, width): lay the outputs end to end along dim=1."


def mistake_of(given: torch.Tensor, hidden: torch.Tensor, lengths: list[int]) -> str:
    """What gives these numbers in the right shape."""
    parts = [part.cumsum(dim=1) for part in hidden.detach().split(lengths, dim=1)]
    if torch.allclose(given.detach().float(), torch.cat(parts[::-1], dim=1), atol=1e-5):
        return "the documents come back in another order; the row must be in the order it had."
    carried = [parts[0]]
    for part in parts[1:]:
        carried.append(part + carried[-1][:, -1:])
    if torch.allclose(given.detach().float(), torch.cat(carried, dim=1), atol=1e-5):
        return "the end of each document is added to the next: that is the state which must stop at the seam."
    wrong = [number for number, (a, b) in enumerate(pairwise([0, *running(lengths)]))
             if not torch.allclose(given.detach()[:, a:b].float(), parts[number], atol=1e-5)]  # fmt: skip
    words = "the calls are right, and what comes back for document {number} is not what its call returned."
    return say(words, number=wrong[0] + 1)


def first_channel(wanted: torch.Tensor, given: torch.Tensor) -> list[str]:
    """Channel 0 of both, in words."""
    both = (" ".join(f"{x:.2f}" for x in one.detach()[0, :, 0].tolist()) for one in (wanted, given))
    return [say("channel 0: {values}", values=values) for values in both]
