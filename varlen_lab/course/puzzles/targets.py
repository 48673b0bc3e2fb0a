"""Positions and labels of a packed row: the puzzles of lesson 04."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any

from varlen_lab.course.verdicts import Verdict, call, judging, not_yet, numbers, right, unless
from varlen_lab.language.saying import say

ROWS = ([3, 1, 4], [1], [5], [1, 1, 2], [2, 2])  # with documents of one token, at the start and between
IGNORE = -100


@judging
def check_position_ids(position_ids: Callable[[list[int]], Any]) -> Verdict:
    """Judge ``position_ids(lengths)``: 0, 1, 2, … anew in every document."""
    for lengths in ROWS:
        given, total = numbers(call(position_ids, lengths=list(lengths))), sum(lengths)
        wanted = [position for length in lengths for position in range(length)]
        document = [number for number, length in enumerate(lengths) for _ in range(length)]
        mistakes = [
            (list(range(total)), "these positions run through the whole row; every document starts again at 0."),
            ([position + 1 for position in wanted], "positions count from 0, these count from 1."),
            (document, "this says which document a token is in, not where in its document it stands."),
            ([length - 1 - position for length, position in _pairs(lengths)], "this counts backwards in a document."),
        ]
        wrong = say("the row has {total} tokens, this has {count} positions.", total=total, count=len(given))
        if len(given) == total:
            place = next((i for i in range(total) if given[i] != wanted[i]), 0)
            wrong = say("token {token} should be at position {place}.", token=place, place=wanted[place])
        unless(given, wanted, mistakes, wrong, on=f"lengths = {lengths}")
    return right("every document counts from 0, as if it were alone.")


@judging
def check_labels(labels: Callable[[list[int], list[int]], Any]) -> Verdict:
    """Judge ``labels(input_ids, lengths)``: the tokens, with -100 for the first of every document."""
    for lengths in ROWS:
        ids = list(range(11, 11 + sum(lengths)))
        handed = list(ids)
        given = numbers(call(labels, input_ids=handed, lengths=list(lengths)))
        ends = list(accumulate(lengths))
        starts = [end - length for end, length in zip(ends, lengths, strict=True)]
        good = _masked(ids, starts)
        spared = _masked(ids, [start for start, length in zip(starts, lengths, strict=True) if length > 1])
        mistakes = [
            (ids, "the last token of a document is still asked to predict the first of the next one."),
            ([*ids[1:], IGNORE], "do not shift: the model shifts labels by itself, a second shift skips a token."),
            (ids[1:], "do not shift, and give one label for each token: the model shifts labels by itself."),
            ([*good[1:], IGNORE], "the right ones are masked, then all are shifted: that is what the model does."),
            ([max(one, 0) for one in good], "-100 is what the loss skips; 0 is a token, and it would be learned."),
            ([one for one in good if one >= 0], "a label for each token: mask the first ones, do not leave them out."),
            ([IGNORE] * len(ids), "everything is masked: nothing would be trained on."),
            (spared, "a document of one token has nobody to predict it: its only label is masked, too."),
            (_masked(ids, [0]), "the first token of the row is masked, the first of every other document is not."),
            (_masked(ids, starts[1:]), "the seams are masked, the first token of the row is not: nothing predicts it."),
            (
                _masked(ids, [end - 1 for end in ends]),
                "you masked the last token of each document; the label at a seam is the first of the next.",
            ),
        ]
        where = ", ".join(map(str, starts))
        wrong = say("labels must be the tokens themselves, with -100 at {places}.", places=where)
        unless(given, good, mistakes, wrong, on=f"lengths = {lengths}")
        if handed != ids:
            return not_yet(
                "the labels are right, but your function changed input_ids: work on a copy, list(input_ids)."
            )
    return right("nothing before a seam is asked to predict what follows it.")


def _pairs(lengths: list[int]) -> list[tuple[int, int]]:
    """The length of its document and the position of each token."""
    return [(length, position) for length in lengths for position in range(length)]


def _masked(ids: list[int], places: list[int]) -> list[int]:
    """The tokens with -100 at some places."""
    return [IGNORE if place in places else token for place, token in enumerate(ids)]
