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
