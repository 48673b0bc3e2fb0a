"""The packer a reader writes: documents stay whole, rows are never overfull, and few of them are opened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

import numpy as np

from varlen_lab.course.verdicts import Verdict, Wrong, call, in_case, judging, not_yet, numbers, right
from varlen_lab.language.saying import counted, say

# Lengths, tokens of a row, and what a packer gets wrong that opens more rows than needed. Every packer that goes from
# the longest document down and looks at each open row, or at the emptiest, needs the fewest rows in all of these.
CASES: tuple[tuple[list[int], int, str], ...] = (
    ([1], 10, "one document needs one row"),
    ([4, 4], 10, "every document has a row of its own, this packs nothing; two of 4 tokens fit in a row of 10"),
    ([10], 10, "one document needs one row"),
    ([5, 5], 10, "a row may be full to its last token: ask for <=, not for <"),
    (
        [7, 6, 4, 3],
        10,
        "a row is opened while an older one still has room; look at every open row, or the emptiest",
    ),
    (
        [3, 3, 3, 7, 7, 7],
        10,
        "the short ones went first and left no room for the long ones; begin with the longest",
    ),
    ([1] * 10, 4, "ten documents of one token fill two rows of 4 and a half"),
    ([4, 25, 6], 10, "cut to 10 tokens the second fills a row, and the two others share one"),
    ([4, 4, 7, 3, 3], 10, "there are more rows than needed"),
)
MANY, ROW = 1000, 512  # documents of the last case, and the tokens of its rows


@judging
def check_packer(pack: Callable[[list[int], int], list[list[int]]]) -> Verdict:
    """``pack(lengths, max_length)`` gives rows of document lengths, one longer than a row cut to ``max_length``."""
    for lengths, max_length, why_more in CASES:
        rows = rows_of(pack, lengths, max_length)
        wanted = emptiest_first(lengths, max_length)
        said = whole(rows, lengths, max_length) or (why_more if len(rows) > len(wanted) else "")
        if said:
            case = say("{lengths} in rows of {width}", lengths=lengths, width=max_length)
            raise Wrong(not_yet(in_case(said, case), wanted, rows))
    lengths = np.random.default_rng(0).lognormal(4.2, 0.9, MANY).astype(int).clip(1, ROW).tolist()
    rows, bound = rows_of(pack, lengths, ROW), -(-sum(lengths) // ROW)
    if said := whole(rows, lengths, ROW, brief=True):
        return not_yet("the small cases are right; among {count:,} documents {fault}.", count=MANY, fault=said)
    if len(rows) > 1.01 * bound:
        return not_yet(
            "the small cases are right, but {count:,} documents take over 1 % more rows than the bound; look at every "
            "open row, not only at the latest.",
            say("at most {count} rows", count=int(1.01 * bound)),
            say("{count} rows", count=len(rows)),
            count=MANY,
        )
    return right(
        "every document is in one row, no row is overfull, and {count:,} documents take {rows} rows of {width}, "
        "where no packer needs fewer than {bound}.",
        count=MANY,
        rows=len(rows),
        width=ROW,
        bound=bound,
    )


def rows_of(pack: Any, lengths: list[int], max_length: int) -> list[list[int]]:
    """What the reader's function gives, as lists of whole numbers; Wrong for anything else."""
    given = call(pack, lengths=list(lengths), max_length=max_length)
    if not hasattr(given, "__len__") or isinstance(given, (str, dict)):
        raise Wrong(not_yet("return the rows as a list of lists of lengths.", [[7, 3], [4, 4]], given))
    if len(given) and not hasattr(given[0], "__len__"):
        raise Wrong(not_yet("each row is a list of the lengths in it, this is a list of numbers.", [[7, 3]], given))
    return [numbers(row) for row in given]


def whole(rows: list[list[int]], lengths: list[int], max_length: int, brief: bool = False) -> str:
    """What is wrong with which documents lie where; '' where each is in one row and none is overfull."""
    wanted, found = (
        Counter(min(length, max_length) for length in lengths),
        Counter(length for row in rows for length in row),
    )
    fullest = max(map(sum, rows), default=0)
    if max(lengths) > max_length and any(length > max_length for row in rows for length in row):
        words = "a document longer than a row is still {count} tokens long; cut it to max_length"
        return say(words, count=max(lengths))
    if fullest > max_length:
        words = "a row holds {count} tokens, more than the {width} it has room for"
        return say(words, count=fullest, width=max_length)
    lost, more = wanted - found, found - wanted
    if lost and more:
        return say("the rows hold other lengths than came in; a document is whole, and only an over-long one is cut")
    if lost and max(lengths) > max_length and set(lost) == {max_length}:
        words = "the over-long document is gone without a word; cut it to max_length, so that its beginning is trained"
        return say(words)
    if lost or more:
        words = say("a document is missing from the rows") if lost else say("a document lies in two rows")
        length = counted(min(lost or more), "token")
        return words if brief else say("{words}, {length} long", words=words, length=length)
    return say("an empty row was opened") if any(not row for row in rows) else ""


def emptiest_first(lengths: list[int], max_length: int) -> list[list[int]]:
    """Rows by a heap: the longest document first, each into the row with most room."""
    rows: list[list[int]] = []
    heap: list[tuple[int, int]] = []  # tokens of a row and its number
    for length in sorted((min(length, max_length) for length in lengths), reverse=True):
        if heap and heap[0][0] + length <= max_length:
            tokens, row = heappop(heap)
        else:
            tokens, row = 0, len(rows)
            rows.append([])
        rows[row].append(length)
        heappush(heap, (tokens + length, row))
    return rows
