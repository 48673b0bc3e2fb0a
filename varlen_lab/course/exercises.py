"""The checks of the lessons: an answer in, a sentence out that says right, or names the mistake.

    check_position_ids([0, 1, 2, 3, 4], lengths=[2, 3])
    ✗ not yet: these positions run through the whole row; every document starts again at 0.

A check never raises for a wrong answer: a notebook must run to its end, and a hint teaches more than a traceback.
Each exercise starts with the common mistake as its answer, so the first hint a reader sees is the likely one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from varlen_lab.course.verdicts import Verdict, not_yet, right
from varlen_lab.packing.boundaries import Boundaries


def check_position_ids(answer: Sequence[int], lengths: Sequence[int]) -> Verdict:
    """Positions in a packed row: 0, 1, 2, … anew in every document."""
    given, total = as_list(answer), sum(lengths)
    wanted = [position for length in lengths for position in range(length)]
    if given == wanted:
        return right("every document counts from 0, as if it were alone.")
    if given == list(range(total)):
        return not_yet("these positions run through the whole row; every document starts again at 0.")
    if given == [position + 1 for position in wanted]:
        return not_yet("positions count from 0, these count from 1.")
    if given == np.repeat(np.arange(len(lengths)), lengths).tolist():
        return not_yet("this says which document a token is in, not where in its document it stands.")
    if len(given) != total:
        return not_yet(f"the row has {total} tokens, this has {len(given)} positions.")
    wrong = next(i for i in range(total) if given[i] != wanted[i])
    return not_yet(f"token {wrong} should be at position {wanted[wrong]}, not {given[wrong]}.")


def check_labels(answer: Sequence[int], input_ids: Sequence[int], lengths: Sequence[int]) -> Verdict:
    """Labels of a packed row: the tokens themselves, and -100 for the first of every document."""
    given, ids = as_list(answer), as_list(input_ids)
    starts = Boundaries.from_lengths(lengths).cu_seqlens[:-1].tolist()
    wanted = [-100 if i in starts else token for i, token in enumerate(ids)]
    if given == wanted:
        return right("nothing before a seam is asked to predict what follows it.")
    if given == ids:
        return not_yet("the last token of a document is still asked to predict the first of the next one.")
    if given == [*ids[1:], -100] or given == ids[1:]:
        return not_yet("do not shift: the model shifts labels by itself, a second shift predicts the token after next.")
    if given == [-100, *ids[1:]]:
        return not_yet("the first token of the row is masked, the first of every other document is not.")
    ends = [start - 1 for start in starts[1:]] + [len(ids) - 1]
    if given == [-100 if i in ends else token for i, token in enumerate(ids)]:
        return not_yet("you masked the last token of each document; the label at a seam is the first of the next.")
    return not_yet(f"labels must be the tokens, with -100 at {', '.join(map(str, starts))}.")


def check_step_loss(answer: float, sums: Sequence[float], counts: Sequence[int]) -> Verdict:
    """The loss of an optimizer step from the loss sums and trained-token counts of its rows."""
    truth = sum(sums) / sum(counts)
    means = [total / count for total, count in zip(sums, counts, strict=True)]
    if abs(answer - truth) < 1e-9 * max(1, abs(truth)):
        return right(f"{truth:.4f}: every trained token weighs the same, whatever row it landed in.")
    if abs(answer - sum(means) / len(means)) < 1e-9:
        return not_yet(
            "this is the mean of the rows' means: a token in a short row weighs more than one in a long row."
        )
    if abs(answer - sum(sums)) < 1e-9:
        return not_yet("this is the sum; divide it by the number of trained tokens.")
    if abs(answer - sum(sums) / len(sums)) < 1e-9:
        return not_yet("divide by the number of trained tokens, not by the number of rows.")
    return not_yet("add up the loss sums of all rows, then divide once, by the count of all trained tokens.")


def as_list(answer: Any) -> list[Any]:
    """Lists, tuples, arrays and (1, T) tensors alike."""
    return np.asarray(answer).reshape(-1).tolist()
