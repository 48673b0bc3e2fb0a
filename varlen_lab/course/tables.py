"""A table in a lesson: plain rows in, HTML in a notebook and aligned text elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from varlen_lab.language.saying import phrase


@dataclass(frozen=True)
class Table:
    """Rows under a head; cells are words already, those that begin like a number stand to the right."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __repr__(self) -> str:
        from rich.cells import cell_len, set_cell_size  # a Chinese sign takes two columns

        widths = [max(map(cell_len, column)) for column in zip(self.head, *self.rows, strict=True)]
        return "\n".join(
            "  ".join(set_cell_size(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (self.head, *self.rows)
        )

    def _repr_html_(self) -> str:
        def line(cells: Sequence[str], tag: str) -> str:
            made = (f'<{tag} style="text-align:{side(cell)}">{escape(cell)}</{tag}>' for cell in cells)
            return f"<tr>{''.join(made)}</tr>"

        body = "".join(line(row, "td") for row in self.rows)
        return f"<table><thead>{line(self.head, 'th')}</thead><tbody>{body}</tbody></table>"


def side(cell: str) -> str:
    """To which side a cell is set: numbers to the right."""
    return "right" if cell.lstrip("+-−±").replace(",", "").replace(".", "").rstrip(" %×").isdigit() else "left"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A table of ``rows``; floats get three decimals, None is a dash, words are said in the language spoken.

    ValueError for a row of another length.
    """
    made = tuple(tuple(map(as_words, row)) for row in rows)
    for row in made:
        if len(row) != len(head):
            raise ValueError(f"a row has {len(row)} cells and the head {len(head)}; give each row as many.")
    return Table(tuple(map(phrase, head)), made)


def as_words(value: Any) -> str:
    """One cell."""
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else phrase(str(value))
