"""Lesson 01: a test of attention kernels, tested: it must take the right ones and refuse those with a planted fault."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention

from varlen_lab.course.verdicts import Verdict, Wrong, call, judging, not_yet, right, shown
from varlen_lab.language.saying import say

FAINT = 1e-3  # the share of another document that the faint leak lets in


class Kernel(NamedTuple):
    """A kernel under test: ``kernel(q, k, v, cu_seqlens)`` with tensors of (tokens, heads, head dim)."""

    name: str
    attend: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, list[int]], torch.Tensor]
    slipped: str  # what to say when a test judges it wrongly

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: Any) -> torch.Tensor:
        return self.attend(q, k, v, [int(edge) for edge in cu_seqlens])

    def __repr__(self) -> str:
        return self.name


def one_at_a_time(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: list[int], causal: bool = True
) -> torch.Tensor:
    """Right: each document by itself."""
    found = []
    for start, end in pairwise(cu_seqlens):
        q1, k1, v1 = (x[start:end].transpose(0, 1) for x in (q, k, v))
        found.append(scaled_dot_product_attention(q1, k1, v1, is_causal=causal).transpose(0, 1))
    return torch.cat(found)


def by_a_mask(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: list[int]) -> torch.Tensor:
    """Right, in another order of sums: the whole row under one mask."""
    document = torch.bucketize(torch.arange(len(q)), torch.tensor(cu_seqlens[1:]), right=True)
    mask = (document[:, None] == document[None, :]).tril()
    scores = torch.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~mask, float("-inf")).softmax(-1), v)


def seam_early(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: list[int]) -> torch.Tensor:
    """Planted: each seam between documents stands one token early, where there is room."""
    moved = [max(edge - 1, before) for before, edge in pairwise(cu_seqlens[:-1])]
    return one_at_a_time(q, k, v, sorted({0, *moved, len(q)}))


def shifted(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: list[int]) -> torch.Tensor:
    """Planted: the right rows, one place too far down."""
    return one_at_a_time(q, k, v, cu_seqlens).roll(1, 0)


def faint(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: list[int]) -> torch.Tensor:
    """Planted: a thousandth of what a kernel without seams gives."""
    own, whole = one_at_a_time(q, k, v, cu_seqlens), one_at_a_time(q, k, v, [0, len(q)])
    return own + FAINT * (whole - own)


def not_a_number(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: list[int]) -> torch.Tensor:
    """Planted: NaN for a document of one token."""
    found = one_at_a_time(q, k, v, cu_seqlens).clone()
    for start, end in pairwise(cu_seqlens):
        if end - start == 1:
            found[start] = float("nan")
    return found


RIGHT = (
    Kernel(
        "one_at_a_time",
        one_at_a_time,
        "your test refuses the plain loop over documents, which is right by definition.",
    ),
    Kernel(
        "by_a_mask",
        by_a_mask,
        "your test refuses a right kernel that only adds in another order: equal bits are too much to ask, "
        "a difference below 1e-5 is rounding.",
    ),
)
PLANTED = (
    Kernel(
        "ignores_the_seams",
        lambda q, k, v, cu_seqlens: one_at_a_time(q, k, v, [0, len(q)]),
        "The first ignores every seam: the packed row must differ from it, so compare numbers.",
    ),
    Kernel(
        "sees_the_future",
        lambda q, k, v, cu_seqlens: one_at_a_time(q, k, v, cu_seqlens, False),
        "The first sees the future inside each document: alone it does so, too. Compare with the "
        "formula, backend 'reference', not with the kernel itself.",
    ),
    Kernel(
        "loses_later_seams",
        lambda q, k, v, cu_seqlens: one_at_a_time(q, k, v, [*cu_seqlens[:2], *cu_seqlens[2:][-1:]]),
        "The first keeps one seam and loses all later ones: two documents have one seam; pack more.",
    ),
    Kernel("seam_early", seam_early, "The seams of the first stand one token early: compare every token."),
    Kernel(
        "shifted",
        shifted,
        "The output of the first is one token out of place: its mean is right. Take the largest absolute difference.",
    ),
    Kernel(
        "faint",
        faint,
        "The first lets in {faint:g} of other documents: your limit is too wide, rounding in fp32 is about 1e-6.",
    ),
    Kernel(
        "not_a_number",
        not_a_number,
        "The first gives NaN for a document of one token: pack such a document, and ask whether the "
        "difference is below a limit, which NaN never is.",
    ),
)


@judging
def check_obeys(obeys: Callable[[Callable[..., torch.Tensor]], bool]) -> Verdict:
    """A function that takes a kernel and says whether it obeys the law: a packed row equals each document alone."""
    for kernel in RIGHT:
        if not said(obeys, kernel):
            return not_yet(kernel.slipped, True, False)
    if slipped := [kernel for kernel in PLANTED if said(obeys, kernel)]:
        names = ", ".join(kernel.name for kernel in slipped)
        words = "{slipped} of {count} planted kernels slip through ({names}). {first}"
        first = say(slipped[0].slipped, faint=FAINT)
        return not_yet(words, False, True, slipped=len(slipped), count=len(PLANTED), names=names, first=first)
    words = "{right} right kernels pass, {planted} with a planted fault are refused."
    return right(words, right=len(RIGHT), planted=len(PLANTED))


def said(obeys: Any, kernel: Kernel) -> bool:
    """What the reader's test says of a kernel; the same random numbers each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        answer = call(obeys, kernel=kernel)
    try:
        plain = answer.item() if hasattr(answer, "item") else answer
    except (TypeError, ValueError, RuntimeError):
        plain = answer
    if not isinstance(plain, bool):
        words = "your test must say True or False, for {kernel} it says {answer}."
        raise Wrong(not_yet(words, kernel=kernel, answer=shown(answer)))
    return plain
