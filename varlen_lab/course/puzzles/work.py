"""What attention costs: pairs of tokens, what varlen is worth, and rows dealt out to processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from varlen_lab.course.verdicts import Verdict, Wrong, call, in_case, judging, not_yet, number, numbers, right, unless
from varlen_lab.language.saying import phrase, say

ROWS = ([3, 2], [4], [1], [1, 1, 1], [7, 1, 5])
MIXES = (([4096], 256), ([256] * 64, 128), ([600] * 27, 2048), ([1], 64))
DEALS = (([8, 7, 2, 1], 2), ([4, 1, 2, 8], 2), ([9, 1, 1, 1], 2), ([5], 2), ([4, 4, 4, 4, 4, 4], 3), ([6, 5, 4], 1))


@judging
def check_attention_work(attention_work: Callable[[list[int]], Any]) -> Verdict:
    """``attention_work(lengths)``: the pairs of tokens that causal attention inside documents looks at."""
    for lengths in ROWS:
        given, total = number(call(attention_work, lengths=list(lengths))), sum(lengths)
        mistakes = (
            (total * (total + 1) / 2, "this is the triangle of the whole row; the seams cut it into small ones"),
            (sum(n * n for n in lengths), "no token looks at those after it: half of each square, and the diagonal"),
            (sum(n * n / 2 for n in lengths), "half of the square forgets half of the diagonal: a token sees itself"),
            (sum(n * (n - 1) / 2 for n in lengths), "a token looks at itself too, not only at those before it"),
            (total, "these are tokens; the work of attention is pairs of them"),
            (total * total, "this is the square of the whole row, without seams and without causality"),
        )
        wanted = sum(n * (n + 1) // 2 for n in lengths)
        unless(given, wanted, mistakes, "count, for each token of a document, itself and those before", f"{lengths}")
    return right("n (n + 1) / 2 a document: for long ones n² / 2, the small triangles of the figure.")


@judging
def check_speedup(speedup: Callable[[list[int], int], Any]) -> Verdict:
    """``speedup(lengths, width)``: cost of the packed row with seams ignored over that with them."""
    for lengths, width in MIXES:
        given, tokens = number(call(speedup, lengths=list(lengths), width=width)), sum(lengths)
        linear, whole, own = 6 * width * tokens, tokens**2 / 2, sum(n * n for n in lengths) / 2
        wanted = (linear + whole) / (linear + own)
        if abs(given - wanted) <= 2e-3 * wanted:  # n² / 2 and n (n + 1) / 2 alike
            continue
        mistakes = (
            (whole / own, "that is attention alone; the weights are multiplied with every token, seams or not"),
            (1 / wanted, "upside down: the cost that ignores seams over the cost that keeps them"),
            ((linear + 2 * whole) / (linear + 2 * own), "causal attention looks at half of the square"),
            ((6 * tokens + whole) / (6 * tokens + own), "a wider model has more weights: 6 · width a token"),
            (
                (2 * linear + whole) / (2 * linear + own),
                "a pair is 2 · width multiplications and a token 12 · width²: as much as 6 · width pairs, not 12",
            ),
            (
                (2 * width * linear + whole) / (2 * width * linear + own),
                "multiplications and pairs are added here: a pair is 2 · width of them, so a token counts 6 · width",
            ),
            ((linear + whole) / linear, "varlen's own attention is not free: add its small triangles below, too"),
        )
        words = next((words for value, words in mistakes if abs(given - value) <= 2e-3 * abs(value)), "")
        otherwise = "(6 · width · tokens + pairs of the row) over (6 · width · tokens + pairs inside documents)"
        on = say("{count} documents of {length}, width {width}", count=len(lengths), length=lengths[0], width=width)
        raise Wrong(not_yet(in_case(words or otherwise, on), round(wanted, 3), round(given, 3)))
    return right("the weights cost the same in both; only long rows of short documents have triangles to save.")


@judging
def check_share_out(share_out: Callable[[list[float], int], Any]) -> Verdict:
    """``share_out(costs, ranks)``: row numbers of each rank, as many each, the busiest as light as greed gets."""
    for costs, ranks in DEALS:
        dealt = call(share_out, costs=list(costs), ranks=ranks)
        parts, on = parts_of(dealt, ranks), say("costs {costs}, {ranks} ranks", costs=costs, ranks=ranks)
        wanted = greedy(costs, ranks)
        each, flat = -(-len(costs) // ranks), sorted(row for part in parts for row in part)
        if flat != list(range(len(costs))):
            words = "row numbers are wanted, not costs" if flat == sorted(costs) else "every row goes to one rank, once"
            raise Wrong(not_yet(in_case(words, on), wanted, dealt))
        if (full := max(map(len, parts))) > each:
            words = "a rank holds {full} rows and the batch of a step has room for {each}: a full rank takes no more"
            words = say(words, full=full, each=each)
            raise Wrong(not_yet("{words} ({case})", wanted, dealt, words=words, case=on))
        most, best = (max(sum(costs[row] for row in part) for part in of) for of in (parts, wanted))
        if most > best:
            numbered = [list(range(rank, len(costs), ranks)) for rank in range(ranks)]
            words = (
                "dealt out in turn: look at what a rank has already"
                if [sorted(part) for part in parts] == numbered
                else "the most expensive rows first: a cheap one at the end evens out, an expensive one does not"
            )
            told = "{words} ({case}: the busiest rank has {most:g}, {best:g} is possible)"
            raise Wrong(not_yet(told, wanted, dealt, words=phrase(words), case=on, most=most, best=best))
    return right("the expensive first, each to the lightest rank that has room: what the library's share does.")


def parts_of(dealt: Any, ranks: int) -> list[list[int]]:
    """The rows of each rank as whole numbers, or Wrong."""
    plain = dealt.tolist() if hasattr(dealt, "tolist") else dealt
    lists = isinstance(plain, (list, tuple)) and all(hasattr(part, "__len__") for part in plain)
    if not lists or len(plain) != ranks:
        words = "a list with one list of row numbers a rank is wanted, {ranks} of them."
        raise Wrong(not_yet(words, None, dealt, ranks=ranks))
    parts = [numbers(list(part)) if len(part) else [] for part in plain]
    if any(row != int(row) for part in parts for row in part):
        raise Wrong(not_yet("row numbers are whole numbers, from 0 on.", None, dealt))
    return [[int(row) for row in part] for part in parts]


def greedy(costs: Sequence[float], ranks: int) -> list[list[int]]:
    """The rows of each rank: the most expensive first, each to the rank that has least and has room."""
    each = -(-len(costs) // ranks)
    parts: list[list[int]] = [[] for _ in range(ranks)]
    for row in sorted(range(len(costs)), key=lambda row: (-costs[row], row)):
        open_ones = [part for part in parts if len(part) < each]
        min(open_ones, key=lambda part: sum(costs[one] for one in part)).append(row)
    return parts
