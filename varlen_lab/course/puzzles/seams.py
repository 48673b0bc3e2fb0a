"""The seams of a packed row from the lengths of its documents: lesson 00's puzzle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from varlen_lab.course.verdicts import Verdict, call, judging, numbers, right, unless
from varlen_lab.language.saying import say

ROWS = ([2, 4, 3], [1], [5, 1], [7, 7, 7, 7])  # several documents, a single token, a document of one token, equal ones


@judging
def check_cu_seqlens(cu_seqlens: Callable[[list[int]], Any]) -> Verdict:
    """Judge ``cu_seqlens(lengths)``: the running total of the lengths with a 0 in front."""
    for lengths in ROWS:
        given = numbers(call(cu_seqlens, lengths=list(lengths)))
        seams = [0]
        for length in lengths:
            seams.append(seams[-1] + length)
        last = [seams[0], *(edge - 1 for edge in seams[1:])]
        mistakes = [
            (lengths, "these are the lengths; cu_seqlens is their running total."),
            ([0, *lengths], "a 0 in front is right; what follows it must be the running total, not the lengths."),
            (seams[1:], "the ends are right but the leading 0 is missing: the first document starts there."),
            (seams[:-1], "the starts are right but the end of the last document is missing."),
            (last, "off by one: an end is one past the last token of a document, as in a Python slice."),
            (last[1:], "off by one, and the leading 0 is missing: an end is one past the last token of a document."),
        ]
        words = "there must be {count} numbers here, each the total of the lengths before it."
        wrong = say(words, count=len(seams))
        unless(given, seams, mistakes, wrong, on=f"lengths = {lengths}")
    return right("n documents have n + 1 edges, from 0 to the number of tokens; document i is row[cu[i]:cu[i + 1]].")
