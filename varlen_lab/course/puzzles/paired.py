"""A difference between two trainings, seed by seed, and how sure it is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

from varlen_lab.course.verdicts import Verdict, Wrong, call, in_case, judging, not_yet, number, right, same
from varlen_lab.language.saying import say

CASES = (
    ([2.7705, 2.7795, 2.7924], [2.7536, 2.7640, 2.7770]),
    ([5.0, 7.0, 6.0, 9.0], [4.0, 7.5, 4.0, 8.0]),
    ([1.0, 2.0], [2.0, 1.0]),
)


@judging
def check_paired(paired: Callable[[list[float], list[float]], Any]) -> Verdict:
    """``paired(a, b)`` gives the mean of a - b over seeds, and its standard error; nan, inf or None for one seed."""
    for a, b in CASES:
        wanted = expected(a, b)
        given = two(call(paired, a=list(a), b=list(b)))
        if same(given, list(wanted)):
            continue
        if not same(given[0], wanted[0]):
            words = (
                "the sign: the first run minus the second is wanted"
                if same(given[0], -wanted[0])
                else "the mean of the differences of the pairs is wanted first"
            )
            raise Wrong(not_yet(in_case(words, f"a = {a}, b = {b}"), list(wanted), given))
        raise Wrong(not_yet(in_case(error_words(a, b, given[1]), f"a = {a}, b = {b}"), list(wanted), given))
    alone = call(paired, a=[2.8], b=[2.7])
    alone = plain(alone)
    if not isinstance(alone, (list, tuple)) or len(alone) != 2 or not same(number_or_nan(alone[0]), 2.8 - 2.7):
        return not_yet("one seed has a mean too; return two values for it.", ["0.1", "nan"], alone)
    if alone[1] is not None and math.isfinite(number_or_nan(alone[1])):
        return not_yet(
            "one seed says nothing about how seeds differ: its standard error is nan, and 0 would claim certainty.",
            "nan",
            alone[1],
        )
    return right(
        "what all seeds share falls out of a paired difference; here it makes the error some twenty times smaller "
        "than that of unpaired means."
    )


def expected(a: list[float], b: list[float]) -> tuple[float, float]:
    """Mean and standard error of the paired differences."""
    gaps = [one - two for one, two in zip(a, b, strict=True)]
    return statistics.mean(gaps), statistics.stdev(gaps) / math.sqrt(len(gaps))


def error_words(a: list[float], b: list[float], given: float) -> str:
    """Which known mistake a wrong standard error is."""
    gaps, count = [one - two for one, two in zip(a, b, strict=True)], len(a)
    unpaired = math.sqrt((statistics.variance(a) + statistics.variance(b)) / count)
    known = (
        (statistics.stdev(gaps), "this is the standard deviation of a seed; the mean of n seeds is surer by √n"),
        (
            statistics.pstdev(gaps) / math.sqrt(count),
            "this divides by n; a sample of n seeds has n - 1 free differences, and with three seeds that is a fifth",
        ),
        (statistics.pstdev(gaps), "two steps are missing: n - 1 instead of n, and the division by √n"),
        (unpaired, "this treats the runs as unpaired: subtract seed by seed first, then ask how much the gaps differ"),
        (statistics.stdev(gaps) / count, "the error falls with √n, not with n"),
        (statistics.variance(gaps) / count, "this is the square of the error; take its root"),
        (0.0, "averaging first and subtracting then leaves one number, and nothing to judge it by"),
    )
    return next(
        (words for value, words in known if math.isclose(given, value, rel_tol=1e-3)),
        "this is not the standard error of the gaps",
    )


def two(answer: Any) -> list[float]:
    """Two numbers, or Wrong."""
    answer = plain(answer)
    if not isinstance(answer, (list, tuple)) or len(answer) != 2:
        raise Wrong(
            not_yet("two numbers are wanted: the mean and its standard error.", [say("mean"), say("error")], answer)
        )
    if math.isnan(number_or_nan(answer[1])):
        raise Wrong(not_yet("several seeds have a standard error; this one is nan.", say("a number"), answer[1]))
    return [number(answer[0]), number(answer[1])]


def number_or_nan(answer: Any) -> float:
    """A number, nan among them, also that of an array or a tensor."""
    one = plain(answer)
    return one if isinstance(one, float) and math.isnan(one) else number(one)


def plain(answer: Any) -> Any:
    """Arrays and tensors as Python's own lists and numbers."""
    return answer.tolist() if hasattr(answer, "tolist") else answer
