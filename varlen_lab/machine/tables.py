"""Tables on stdout, whole whatever the width: columns that do not fit go to lines below."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from varlen_lab.machine.console import USUAL_WIDTH, put, width
from varlen_lab.machine.folding import Cell, Line, folded, folded_spans
from varlen_lab.machine.letters import in_one_line, shown

INDENT = 4  # of columns that moved to a line below


def print_table(head: Sequence[str], rows: Iterable[Sequence[Cell]], *, right: Sequence[str] = ()) -> None:
    """``rows`` under ``head`` on stdout, whole whatever the width: columns that do not fit go to lines below, indented.

    A row of one cell runs across all columns. ``right``: names of columns that are set to the right, as numbers are.
    No ``head``, no line for it.
    """
    cells = [[as_cell(cell) for cell in row] for row in rows]
    lines = laid_out([(shown(name), "bold") for name in head], cells, [name in right for name in head], width())
    for line in lines:
        put(line, sys.stdout)


def as_cell(cell: Cell) -> tuple[str, str]:
    """Text and style of a cell, as the console will have it."""
    text, style = (cell, "") if isinstance(cell, str) else cell
    return in_one_line(shown(text)).expandtabs(), style


def laid_out(head: Line, rows: Sequence[Line], right: Sequence[bool], columns: int | None) -> list[Line]:
    """Lines of (text, style) spans: the head and every row, each over as many lines as ``columns`` (or 80) ask for."""
    from rich.cells import cell_len

    columns = columns or USUAL_WIDTH
    count = max(map(len, [head, *rows]))
    table = [head, *rows] if head else rows
    widths = [max((cell_len(row[n][0]) for row in table if len(row) == count), default=0) for n in range(count)]
    groups = grouped(widths, columns)
    lines: list[Line] = []
    for row in table:
        if len(row) < count:
            ((text, style),) = row
            lines += [[(piece, style)] for piece in folded(text, columns, hang=2)]
            continue
        for number, group in enumerate(groups):
            spans = [(" " * INDENT, "")] if number else []
            for n in group:
                text, style = row[n]
                room = " " * (widths[n] - cell_len(text))
                spans += [(room, ""), (text, style)] if any(right[n : n + 1]) else [(text, style), (room, "")]
                spans.append(("  ", ""))
            lines += fitted(spans, columns)
    return lines


def grouped(widths: Sequence[int], columns: int) -> list[list[int]]:
    """Numbers of the columns that share a line: as many as fit, two blanks between them, all but the first indented.

    >>> grouped([30, 30, 30], 80)
    [[0, 1], [2]]
    """
    groups: list[list[int]] = [[]]
    for n, wide in enumerate(widths):
        used = sum(widths[m] + 2 for m in groups[-1]) + INDENT * (len(groups) > 1)
        if groups[-1] and used + wide > columns:
            groups.append([])
        groups[-1].append(n)
    return groups


def fitted(spans: Line, columns: int) -> list[Line]:
    """The spans without blanks at the end, and folded where even one cell is wider than the console; [] if empty.

    A word, such as a name, stays whole whatever the width: it is there to be copied.
    """
    while spans and not spans[-1][0].strip():
        spans = spans[:-1]
    if not spans:
        return []
    return folded_spans([*spans[:-1], (spans[-1][0].rstrip(), spans[-1][1])], columns, hang=2, whole_words=True)
