"""The attention that a reader writes: a loop over documents, and how many pairs of tokens it looks at."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import torch

from varlen_lab.course.verdicts import Verdict, Wrong, call, in_case, judging, not_yet, number, right, shown, unless
from varlen_lab.language.saying import say

HEADS, WIDTH = 2, 4
ROWS = ([3, 2, 4], [5], [1], [1, 1, 3])
CLOSE = 1e-4
# What a loop may leave out, in the order in which it is said
SEAMS = "the seams are ignored: a token reads the documents before its own; run each slice of cu_seqlens by itself."
CAUSAL = "this is not causal: a token sees those after it, among them the one it is to predict."
SCALE = "the scale is missing: divide the scores by the root of the width of a head before the softmax."
TRANSPOSED = "the heads attend to one another: scores must be (heads, tokens, tokens), so move heads in front first."
LATER = "the softmax is over queries; the weights of one query, over its keys, must sum to 1."
FILLED = "a hidden score must be -inf before the softmax; 0 is a score like any other."
AFTER = "these weights are hidden after the softmax, so those left no longer sum to 1; hide the scores before it."
UPSIDE = "the mask is upside down: each token sees itself and those after it; hide the later ones."
SWAPPED = "keys and queries are swapped: the scores are queries @ keys transposed."
ITSELF = "a token must see itself, too: hide keys that come later, not the query's own."


@judging
def check_loop(attention: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], Any]) -> Verdict:
    """Causal attention within documents: ``attention(q, k, v, cu_seqlens)``, all (T, heads, width) -> the same."""
    for lengths in ROWS:
        q, k, v, seams = tensors_of(lengths)
        wanted = attention_with(q, k, v, lengths)
        given = call(attention, q=q.clone(), k=k.clone(), v=v.clone(), cu_seqlens=seams)
        on = say("documents of {lengths} tokens", lengths=", ".join(map(str, lengths)))
        check_form(given, wanted, on)
        if not agree(given, wanted):
            words = in_case(mistake_of(given, q, k, v, lengths), on)
            raise Wrong(not_yet(words, *beside(wanted, given)))
    gradient_flows(attention)
    return right("documents one by one, causal and scaled: this is all that a varlen kernel computes.")


def tensors_of(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """q, k, v (T, heads, width), drawn anew for these lengths, and their seams."""
    drawn = torch.randn(3, sum(lengths), HEADS, WIDTH, generator=torch.Generator().manual_seed(len(lengths)))
    seams = torch.nn.functional.pad(torch.tensor(lengths).cumsum(0), (1, 0)).int()
    return drawn[0], 2 * drawn[1], drawn[2], seams


def attention_with(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: list[int], *left_out: str
) -> torch.Tensor:
    """The right attention, or with something left out."""
    pieces = [sum(lengths)] if SEAMS in left_out else lengths
    outputs = []
    for a, b, c in zip(q.split(pieces), k.split(pieces), v.split(pieces)):
        if TRANSPOSED not in left_out:
            a, b, c = (x.transpose(0, 1) for x in (a, b, c))
        scores = a @ b.transpose(1, 2)
        if SCALE not in left_out:
            scores = scores / WIDTH**0.5
        later = torch.ones(scores.shape[1:], dtype=torch.bool).triu(0 if ITSELF in left_out else 1)
        later = later.T if UPSIDE in left_out else later
        if CAUSAL not in left_out and AFTER not in left_out:
            scores = scores.masked_fill(later, 0.0 if FILLED in left_out else -torch.inf)
        weights = scores.softmax(dim=-2 if LATER in left_out else -1)
        out = (weights.masked_fill(later, 0.0) if AFTER in left_out else weights) @ c
        outputs.append(out if TRANSPOSED in left_out else out.transpose(0, 1))
    return torch.cat(outputs)


def mistake_of(given: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: list[int]) -> str:
    """The sentence of what was left out, the first where it is several things."""
    for slip in ((), (TRANSPOSED,), (LATER,), (ITSELF,), (FILLED,), (AFTER,), (UPSIDE,)):
        for chosen in product((False, True), repeat=3):
            left_out = [words for words, out in zip((SEAMS, CAUSAL, SCALE), chosen) if out]
            if agree(given, attention_with(q, k, v, lengths, *slip, *left_out)):
                return (*slip, *left_out)[0]
    if agree(given, attention_with(k, q, v, lengths)):
        return SWAPPED
    for scale in (WIDTH, HEADS**0.5, len(q) ** 0.5, WIDTH**-0.5):  # of the scores, where WIDTH ** 0.5 is right
        if agree(given, attention_with(q * WIDTH**0.5 / scale, k, v, lengths)):
            words = "these scores are divided by {scale:g}; the root of the width of a head is {root:g}."
            return say(words, scale=scale, root=WIDTH**0.5)
    if torch.isnan(given).any():
        return "there are NaNs: some token sees no key at all."
    ends = torch.nn.functional.pad(torch.tensor(lengths).cumsum(0), (1, 0))[:-1].tolist()
    firsts = all(agree(given[start], v[start]) for start in ends)
    return (
        "the first token of every document is right (it sees itself only), others are not."
        if firsts
        else "not even the first token of a document is right: it sees itself only, so its output is its value."
    )


def check_form(given: Any, wanted: torch.Tensor, on: str) -> None:
    """A tensor of the same shape."""
    if not isinstance(given, torch.Tensor):
        words = "a tensor is wanted, this is of type {kind}: {answer}"
        raise Wrong(not_yet(words, kind=type(given).__name__, answer=shown(given)))
    if given.dtype not in (wanted.dtype, torch.float64):
        raise Wrong(not_yet("the output has another dtype than q; let it be what it was.", wanted.dtype, given.dtype))
    swapped = tuple(given.shape) == (HEADS, len(wanted), WIDTH) != tuple(wanted.shape)
    if given.shape != wanted.shape:
        lost = len(wanted) - len(given)
        words = "heads come back in front; move them behind the tokens." if swapped else "the shape is another one."
        if given.ndim == 3 and given.shape[1:] == wanted.shape[1:] and lost > 0:
            words = say("{count} tokens are lost; cu_seqlens has one number more than there are documents.", count=lost)
        raise Wrong(not_yet(in_case(words, on), tuple(wanted.shape), tuple(given.shape)))


def agree(given: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Whether two tensors are the same up to rounding; NaN is NaN."""
    return torch.allclose(given.detach().float(), wanted.float(), atol=CLOSE, rtol=CLOSE, equal_nan=True)


def beside(wanted: torch.Tensor, given: torch.Tensor) -> tuple[str, str]:
    """The first token on which they differ, head 0, in words."""
    apart = ~torch.isclose(given.detach().float(), wanted, atol=CLOSE, rtol=CLOSE)
    token = int(apart.flatten(1).any(dim=1).nonzero()[0])
    head = int(apart[token].any(dim=-1).nonzero()[0])
    return tuple(  # type: ignore[return-value]
        say("token {token}, head {head}: ", token=token, head=head)
        + " ".join(f"{x:.3f}" for x in one[token, head].tolist())
        for one in (wanted, given.detach())
    )


def gradient_flows(attention: Callable[..., Any]) -> None:
    """Wrong where nothing would be trained."""
    q, k, v, seams = tensors_of([3, 2])
    q.requires_grad_()
    out = call(attention, q=q, k=k, v=v, cu_seqlens=seams)
    if not out.requires_grad:
        raise Wrong(not_yet("the numbers are right and no gradient flows back; do without .item(), .data and no_grad."))


# ------------------------------------------------------------------------------------------------- how many pairs

COUNTS: tuple[tuple[list[int], int | None], ...] = (
    ([2, 4, 3], None), ([4], 2), ([1], None), ([1, 1, 1], 1), ([70, 300, 180], 64), ([3, 9], 100),
)  # fmt: skip


@judging
def check_pairs(pairs: Callable[[list[int], int | None], Any]) -> Verdict:
    """How many (query, key) pairs causal attention within documents has: ``pairs(lengths, window)``, window or None."""
    for lengths, window in COUNTS:
        said = number(call(pairs, lengths=list(lengths), window=window))
        given = int(said) if said.is_integer() else said
        mistakes = [
            (count([sum(lengths)], window), "this counts the row as one document; a token pairs within its own only."),
            (sum(n * n for n in lengths), "these are squares; half of each lies in the future."),
            (sum(n * (n - 1) // 2 for n in lengths), "a token sees itself, too: a document has n (n + 1) / 2 pairs."),
            (count(lengths, None), "the window is forgotten: a token sees itself and the window - 1 before it."),
            (count(lengths, (window or 0) + 1), "one key too many: the window holds the token itself."),
            (
                sum(w * (w + 1) // 2 for w in (min(n, window or n) for n in lengths)),
                "this is the first tokens only; all later ones see window keys each.",
            ),
            (
                sum(n * (window or 0) - (window or 0) * ((window or 0) - 1) // 2 for n in lengths),
                "a window longer than a document cuts nothing off; take the shorter of the two.",
            ),
            (
                sum(n * (window or 0) for n in lengths),
                "the first tokens of a document have fewer keys than the window: there is nobody before them.",
            ),
            (sum(n * n // 2 for n in lengths), "half a square lacks half its diagonal: it is n (n + 1) / 2."),
        ]
        words = "a token at place i of its document sees min(i, window) keys, counting i from 1; add them up."
        unless(given, count(lengths, window), mistakes, words, f"lengths = {lengths}, window = {window}")
    return right("a closed form: no mask is drawn, and 128k tokens are counted as fast as nine.")


def count(lengths: list[int], window: int | None) -> int:
    """Pairs of tokens within documents, not later, and with a window no further back than it."""
    seen = [n if window is None else min(n, window) for n in lengths]
    return sum(w * (w + 1) // 2 + (n - w) * w for n, w in zip(lengths, seen))
