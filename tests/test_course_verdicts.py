"""A verdict says right, names the mistake, or that nothing was guessed; a check never raises."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np
import pytest
import torch

from varlen_lab.course.verdicts import Verdict, Wrong, call, guess, judging, not_yet, number, numbers, right, unless


@pytest.mark.parametrize(
    ("said", "truth", "unit", "near"),
    [
        (62, 62.2, " %", True),
        ("62%", 62.2, " %", True),
        ("62 %", 62.2, " %", True),
        ("0.62", 0.622, "", True),
        ("62%", 0.622, "", True),
        ("1,000", 1000.0, "", True),
        ("3×", 3.1, "×", True),
        (torch.tensor(3.0), 3.1, "", True),
        (40, 62.2, " %", False),
        (True, True, "", True),
        ("no", False, "", True),
        ("False", True, "", False),
        ("varlen", "varlen", "", True),
    ],
)
def test_a_guess_is_read_as_people_write_it(said: Any, truth: Any, unit: str, near: bool) -> None:
    verdict = guess(said, truth, unit)
    assert verdict.right is near and verdict.judged and "measured" in verdict.words


@pytest.mark.parametrize("said", ["many", [1, [2, 3]], {}, float("nan"), True, object()])
def test_a_guess_that_is_no_number_is_said(said: Any) -> None:
    assert not guess(said, 3.0).right


@pytest.mark.parametrize("said", [None, ...])
def test_no_guess_is_not_judged_and_the_measurement_stands_there(said: Any) -> None:
    verdict = guess(said, 3.14159, " nats")
    assert str(verdict).startswith("· no guess: measured: 3.14 nats.") and "#767676" in verdict._repr_html_()


def test_expected_stands_beside_got_in_text_and_html() -> None:
    verdict = not_yet("these are the lengths", [0, 2, 6], np.array([2, 4]))
    assert str(verdict) == "✗ not yet: these are the lengths\n   expected  [0, 2, 6]\n   got       [2, 4]"
    assert "[0, 2, 6]" in verdict._repr_html_() and "[2, 4]" in verdict._repr_html_()
    assert "<b>" not in not_yet("<b>", "<b>", "<b>")._repr_html_()


@pytest.mark.parametrize("answer", [None, "62%", [[1, 2], [3]], {}, 3, object()])
def test_what_is_no_list_of_numbers_is_said(answer: Any) -> None:
    with pytest.raises(Wrong, match="a flat list of numbers is wanted"):
        numbers(answer)


def test_lists_arrays_and_tensors_are_alike() -> None:
    assert numbers((1, 2)) == numbers(np.array([1, 2])) == numbers(torch.tensor([[1, 2]])) == [1, 2]
    assert numbers(accumulate([1, 1])) == numbers(n for n in (1, 2)) == [1, 2]
    assert number("62%") == 0.62 and number(torch.tensor([5])) == 5


def test_what_goes_wrong_inside_a_function_names_its_line_and_its_arguments() -> None:
    def mine(lengths: list[int]) -> int:
        return lengths[99]

    with pytest.raises(Wrong, match=r"IndexError.*return lengths\[99\].*called with lengths = \[2, 4\]"):
        call(mine, lengths=[2, 4])
    with pytest.raises(Wrong, match="returns None"):
        call(lambda lengths: None, lengths=[2])
    with pytest.raises(Wrong, match="a function is wanted"):
        call("62%", lengths=[2])


def test_the_first_mistake_that_fits_is_named() -> None:
    unless([0, 2], [0, 2], [], "other")
    with pytest.raises(Wrong, match=r"the lengths \(for a case\)"):
        unless([2], [0, 2], [([2], "the lengths"), ([2], "again")], "other", on="a case")
    with pytest.raises(Wrong, match="other"):
        unless([7], [0, 2], [([2], "the lengths")], "other")


def test_a_check_that_breaks_is_a_verdict() -> None:
    @judging
    def check(answer: Any) -> Verdict:
        return right("yes") if answer.there else not_yet("no")

    assert not check(3).right and "cannot read this answer (AttributeError" in check(3).words
