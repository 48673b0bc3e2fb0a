"""Lesson 14: a verdict from numbers: is a packed row its documents alone, up to rounding?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from varlen_lab.course.verdicts import Verdict, Wrong, call, judging, not_yet, right, shown

LENGTHS, WORDS = (3, 1, 4), 6  # documents, and logits of a token
MANY = 4000  # logits of a token in the case where a mean drowns the one that differs


class Case(NamedTuple):
    """Logits of documents alone, those of the packed row, the verdict, and what to say when it is another."""

    alone: list[torch.Tensor]
    packed: torch.Tensor
    exact: bool
    words: str


def cases() -> list[Case]:
    """From the plain to the ugly."""
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(sum(LENGTHS), WORDS, generator=draw)
    logits[0, 0], last = 4.0, sum(LENGTHS) - 1

    def case(exact: bool, words: str, *places: tuple[int, int, float], scale: float = 1.0) -> Case:
        packed = logits.clone()
        for token, word, more in places:
            packed[token, word] += more
        return Case(list((logits * scale).split(LENGTHS)), packed * scale, exact, words)

    zero = case(True, "a logit of 0 that came out as 1e-9 is rounding: measure the row by its largest logit, not each "
                "logit by itself.")  # fmt: skip
    zero.alone[0][1, 1], zero.packed[1, 1] = 0.0, 1e-9
    below = case(True, "logits all below zero, and you call their rounding a leak: the largest logit is the one "
                 "with the largest absolute value.", (5, 1, 4e-7))  # fmt: skip
    wide = torch.randn(sum(LENGTHS), MANY, generator=draw).clamp(-4, 4)
    wide[0, 0], leak = 4.0, torch.zeros_like(wide)
    leak[5, 1] = 1e-3
    return [
        case(True, "this row is its documents, number for number."),
        case(False, "the last document differs and you call it exact: compare all of them.", (last, 2, 0.5)),
        case(False, "the document of one token differs and you call it exact: compare every token.", (3, 0, 0.5)),
        case(False, "a difference below zero is a difference: take the absolute value.", (5, 1, -0.5)),
        case(False, "two differences that cancel are called exact: take the largest, not a mean or a sum.",
             (5, 1, -0.5), (6, 2, 0.5)),
        case(True, "equal bits are too much to ask: a difference of 4e-7 is rounding.", (5, 1, 4e-7)),
        case(True, "logits of ten thousand round at 0.004, and you call that a leak: divide by the largest logit of "
             "the documents alone.", (5, 1, 4e-7), scale=1e4),
        case(False, "logits of a millionth, one of them off by an eighth of the largest, are called exact: divide by "
             "the largest logit of the documents alone.", (5, 1, 0.5), scale=1e-6),
        zero,
        case(False, "a row with NaN in it is called exact: ask whether the difference is below a limit, which NaN "
             "never is.", (5, 1, float("nan"))),
        below._replace(alone=[part - 9 for part in below.alone], packed=below.packed - 9),
        case(False, "a leak of a thousandth of the largest logit is called exact: rounding in fp32 stays below 1e-5.",
             (5, 1, 4e-3)),
        Case(list(wide.split(LENGTHS)), wide + leak, False, "one logit among thousands is off and you call the row "
             "exact: take the largest difference; in a mean or a norm it drowns."),
    ]  # fmt: skip


@judging
def check_exact(exact: Callable[[list[torch.Tensor], torch.Tensor], bool]) -> Verdict:
    """A function of the logits of documents alone and of the packed row: True where packing changed nothing."""
    every = cases()
    for alone, packed, wanted, words in every:
        answer = call(exact, alone=alone, packed=packed)
        if truth(answer) != wanted:
            return not_yet(words, wanted, not wanted)
    return right("{count} rows, judged by the largest difference as a share of the largest logit.", count=len(every))


def truth(answer: Any) -> bool:
    """True or False; Wrong for anything else."""
    try:
        plain = answer.item() if hasattr(answer, "item") else answer
    except (TypeError, ValueError, RuntimeError):
        plain = answer
    if not isinstance(plain, bool):
        raise Wrong(not_yet("True or False is wanted, this is {answer}.", answer=shown(answer)))
    return plain
