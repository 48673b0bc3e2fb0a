"""Answers that a check must take although they look another way, and such as try to change what it compares with."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from varlen_lab.course import (
    check_document_wise,
    check_leaks,
    check_loop,
    check_one_division,
    check_paired,
    check_pairs,
    check_share_out,
)
from varlen_lab.course.puzzles import dividing, loop
from varlen_lab.course.puzzles.work import greedy


def one_division(sums: list[list[float]], counts: list[list[int]]) -> float:
    return sum(map(sum, sums)) / sum(map(sum, counts))


def pairs(lengths: list[int], window: int | None) -> int:
    return sum(i if window is None else min(i, window) for n in lengths for i in range(1, n + 1))


@pytest.mark.parametrize("kind", [float, np.float32, torch.tensor, lambda value: torch.tensor([value]), str])
def test_a_loss_may_be_of_any_type(kind: Callable[[float], Any]) -> None:
    assert check_one_division(lambda sums, counts: kind(one_division(sums, counts))).right


def test_a_reader_may_use_up_the_lists() -> None:
    def using_up(sums: list[list[float]], counts: list[list[int]]) -> float:
        loss = one_division(sums, counts)
        sums[0].append(100.0)
        counts.clear()
        return loss

    def popping(lengths: list[int], window: int | None) -> int:
        return sum(pairs([lengths.pop()], window) for _ in list(lengths))

    before = [repr(dividing.STEPS), repr(loop.COUNTS)]
    assert check_one_division(using_up).right
    assert check_pairs(popping).right
    assert [repr(dividing.STEPS), repr(loop.COUNTS)] == before


def test_no_answer_is_made_right_by_changing_the_question() -> None:
    def sevens(sums: list[list[float]], counts: list[list[int]]) -> float:
        for process, tokens in zip(sums, counts, strict=True):
            process[:], tokens[:] = [7.0] * len(process), [1] * len(tokens)
        return 7.0

    def one(lengths: list[int], window: int | None) -> int:
        lengths[:] = [1]
        return 1

    assert not check_one_division(sevens).right
    assert not check_pairs(one).right
    assert check_one_division(one_division).right and check_pairs(pairs).right


def test_a_layer_may_be_called_in_any_order_and_its_row_written_over() -> None:
    def longest_first(layer: Any, hidden: torch.Tensor, seams: torch.Tensor) -> torch.Tensor:
        documents, row = list(pairwise(seams.tolist())), hidden.clone()
        for start, end in sorted(documents, key=lambda edges: edges[0] - edges[1]):
            row[:, start:end] = layer(hidden[:, start:end])
        return row

    def over(layer: Any, hidden: torch.Tensor, seams: torch.Tensor) -> torch.Tensor:
        row = hidden.clone()
        for start, end in pairwise(seams.tolist()):
            row[:, start:end] = layer(row[:, start:end])
        return row

    assert check_document_wise(longest_first).right
    assert check_document_wise(over).right


def test_attention_may_be_one_masked_call_and_in_doubles() -> None:
    def masked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seams: torch.Tensor) -> torch.Tensor:
        number = torch.bucketize(torch.arange(len(q)), seams[1:], right=True)
        mask = (number[:, None] == number) & torch.ones(len(q), len(q), dtype=torch.bool).tril()
        q, k, v = (x.double().transpose(0, 1) for x in (q, k, v))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(0, 1)

    assert check_loop(masked).right


def paired(a: list[float], b: list[float]) -> torch.Tensor:
    gaps = torch.tensor(a, dtype=torch.float64) - torch.tensor(b, dtype=torch.float64)
    error = gaps.std() / len(gaps) ** 0.5 if len(gaps) > 1 else torch.tensor(torch.nan)
    return torch.stack([gaps.mean(), error])


@pytest.mark.parametrize("kind", [list, tuple, torch.Tensor.numpy, torch.Tensor.float, torch.Tensor.tolist])
def test_a_difference_and_its_error_may_be_of_any_type(kind: Callable[[Any], Any]) -> None:
    assert check_paired(lambda a, b: kind(paired(a, b))).right


@pytest.mark.parametrize("kind", [list, tuple, set, np.array, torch.tensor])
def test_rows_of_a_rank_may_be_in_any_container(kind: Callable[[Any], Any]) -> None:
    assert check_share_out(lambda costs, ranks: [kind(part) for part in greedy(costs, ranks)]).right
    assert "one list of row numbers a rank" in check_share_out(lambda costs, ranks: kind(range(ranks))).words


@pytest.mark.parametrize("kind", [bool, np.bool_, np.array, torch.tensor])
def test_an_alarm_may_ring_in_any_type(kind: Callable[[bool], Any]) -> None:
    def leaks(logits_of: Callable[[Any], Any], ids: Any, seams: list[int]) -> Any:
        before, rung = logits_of(ids), False
        for start, end in pairwise(seams):
            poked = ids.copy()
            poked[start:end] += 1
            moved = (logits_of(poked) != before).any(axis=-1)
            moved[start:end] = False
            rung |= bool(moved.any())
        return kind(rung)

    assert check_leaks(leaks).right


@pytest.mark.parametrize("answer", [lambda *given: None, lambda *given: given[9]])
def test_what_is_said_of_an_alarm_that_breaks_does_not_tell_who_leaks(answer: Callable[..., Any]) -> None:
    said = str(check_leaks(answer))
    assert "toy of" in said and "heard" not in said and "words" not in said
