"""``<details>`` that opens in one markdown cell and closes in a later one: a page folds the cells between, code too.

Jupyter shows every cell by itself, so there such a fold is cut at the first cell's end; on a page it is whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from varlen_lab.language.saying import say

MARK = re.compile(
    r"^ {0,3}(?P<fence>```+|~~~+)|(?P<open><details\b[^<>]*>)|(?P<close></details\s*>)|`[^`\n]+`", re.M | re.I
)
SUMMARY = re.compile(r"\s*<summary\b[^>]*>(.*?)</summary\s*>", re.S | re.I)
OPEN, CLOSE = "open", "close"


def unfolded(cells: Sequence[Any]) -> Iterator[Any]:
    """The cells; where a fold spans several, (OPEN, words of its summary) and (CLOSE, "") stand between them."""
    opened: list[tuple[int, re.Match[str]]] = []  # cell, tag
    cuts: dict[int, list[tuple[int, int, tuple[str, str]]]] = {}  # cell -> (from, to, what stands there)
    for index, cell in enumerate(cells):
        if cell.cell_type != "markdown":
            continue
        for kind, mark in marks(cell.source):
            if kind == OPEN:
                opened.append((index, mark))
            elif opened:
                first, tag = opened.pop()
                if first == index:
                    continue  # whole within a cell: markdown can do it
                summary = SUMMARY.match(cells[first].source, tag.end())
                words = re.sub(r"<[^>]*>", "", summary[1]).strip() if summary else ""
                end = summary.end() if summary else tag.end()
                cuts.setdefault(first, []).append((tag.start(), end, (OPEN, words or say("Details"))))
                cuts.setdefault(index, []).append((mark.start(), mark.end(), (CLOSE, "")))
    for index, cell in enumerate(cells):
        place = 0
        for start, end, what in sorted(cuts.get(index, [])):
            yield from part_of(cell, cell.source[place:start])
            yield what
            place = end
        if place:
            yield from part_of(cell, cell.source[place:])
        else:
            yield cell


def marks(source: str) -> Iterator[tuple[str, re.Match[str]]]:
    """The tags of details in markdown, in order, those in code left out."""
    fence = ""
    for mark in MARK.finditer(source):
        if mark["fence"]:
            if not fence:
                fence = mark["fence"]
            elif mark["fence"].startswith(fence):
                fence = ""
        elif not fence and (mark["open"] or mark["close"]):
            yield (OPEN if mark["open"] else CLOSE), mark


def part_of(cell: Any, source: str) -> Iterator[Any]:
    """The markdown cell with ``source`` alone, if there is any."""
    if source.strip():
        part = cell.copy()
        part["source"] = source
        yield part


def tag_of(what: tuple[str, str]) -> str:
    """The HTML of a mark between cells."""
    kind, words = what
    return f"<details><summary>{escape(words)}</summary>" if kind == OPEN else "</details>"
