"""One sum, one count, one division: the loss of a step over rows and processes; and how many steps there are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from varlen_lab.course.verdicts import Verdict, call, judging, number, right, unless

# loss sums and trained tokens: of each process a list, of each of its rows a number
STEPS: tuple[tuple[list[list[float]], list[list[int]]], ...] = (
    ([[6.0, 3.0]], [[4, 1]]),
    ([[6.0, 3.0], [8.0, 7.0]], [[4, 1], [2, 5]]),
    ([[10.0, 8.0, 3.0], [9.0]], [[5, 2, 1], [7]]),
    ([[6.0, 0.0], [2.5]], [[4, 0], [1]]),
    ([[4.5], []], [[3], []]),
)
# documents, documents a row, rows in a step, epochs
RUNS = ((64, 1.0, 8, 1), (65, 1.0, 8, 1), (1000, 5.0, 8, 1), (1000, 5.4, 8, 3), (3, 10.0, 8, 2), (100, 4.0, 16, 3))


@judging
def check_one_division(step_loss: Callable[[list[list[float]], list[list[int]]], float]) -> Verdict:
    """``step_loss(sums, counts)`` from the loss sums and trained tokens of each process's rows."""
    for sums, counts in STEPS:
        found = number(call(step_loss, sums=[[*one] for one in sums], counts=[[*one] for one in counts]))
        rows = [one for process in sums for one in process]
        tokens = [one for process in counts for one in process]
        wanted = sum(rows) / sum(tokens)
        mistakes = [
            (mean([mean_of(process, count) for process, count in zip(sums, counts, strict=True) if sum(count)]), LOCAL),
            (mean([one / count for one, count in zip(rows, tokens, strict=True) if count]), MEANS),
            (sum(rows), "this is the sum; divide it by the number of trained tokens of the step"),
            (sum(rows) / len(rows), "you divide by the number of rows; divide by the number of trained tokens"),
            (sum(rows) / max(1, sum(counts[0])), "the sum is of all processes, the count of the first one only"),
            (sum(sums[0]) / max(1, sum(counts[0])), "this is the first process alone; a step is all of them"),
        ]
        mistakes = mistakes if len(sums) > 1 else mistakes[1:4]
        otherwise = "add up all loss sums of all processes, and divide once by all trained tokens"
        unless(found, wanted, mistakes, otherwise, f"sums = {sums}, counts = {counts}")
    return right("every trained token weighs the same, whatever row and whatever process it landed in.")


LOCAL = (
    "each process divides by its own count here, and the processes are averaged: a token of a process with few weighs "
    "more; add the counts of all of them first"
)
MEANS = "this is the mean of the rows' means: a token of a short row weighs more than one of a long row"


@judging
def check_steps(steps: Callable[[int, float, int, int], Any]) -> Verdict:
    """``steps(documents, per_row, rows_in_step, epochs)``: optimizer steps of a packed run, its last ones not full."""
    for documents, per_row, rows_in_step, epochs in RUNS:
        case = {"documents": documents, "per_row": per_row, "rows_in_step": rows_in_step, "epochs": epochs}
        found = number(call(steps, **case))
        rows = math.ceil(round(documents / per_row, 6))
        wanted = epochs * math.ceil(rows / rows_in_step)
        mistakes = [
            (epochs * math.ceil(documents / rows_in_step), "these are the steps before packing; a step takes rows"),
            (math.ceil(rows / rows_in_step), "this is one epoch"),
            (math.ceil(epochs * documents / per_row), "these are rows; a step takes several of them"),
            (epochs * (rows // rows_in_step), "the last step of an epoch is not full, and is a step all the same"),
            (
                epochs * int(documents / per_row / rows_in_step),
                "the last step of an epoch is not full, and still a step",
            ),
            (math.ceil(epochs * rows / rows_in_step), "an epoch ends with a step of its own: round up, then multiply"),
            (epochs * rows / rows_in_step, "a step that is not full is a whole step; round up"),
            (epochs * documents / per_row / rows_in_step, "rows and steps are whole; round both up"),
        ]
        on = ", ".join(f"{name} = {value:g}" for name, value in case.items())
        unless(found, float(wanted), mistakes, "rows first, then steps of an epoch, then epochs; round up twice", on)
    return right("an epoch of 1,000 documents is 125 steps of 8 unpacked, and 24 with 5.4 documents in a row.")


def mean_of(sums: list[float], counts: list[int]) -> float:
    """One process's own division."""
    return sum(sums) / sum(counts)


def mean(values: list[float]) -> float:
    """Their mean; 0 for none."""
    return sum(values) / len(values) if values else 0.0
