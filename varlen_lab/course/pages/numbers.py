"""The three numbers at the head of the site: read from the table that a lesson showed, never written down here.

The lesson compares three trainings on the same documents, and shows ``Comparison.table()``: a row a mode. Its executed
copy holds that table as HTML. What a reader sees in the lesson is what stands on the landing page.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from varlen_lab.language.saying import catalogue

LESSON = "train"  # the name of the lesson, without its number
MODE, DIFFERENCE, PADDING = "mode", "max |Δ| to unpacked", "padding"  # columns of Comparison.table()


@dataclass(frozen=True)
class Numbers:
    """What one comparison measured, and on what."""

    varlen: float  # the largest difference of a step's loss to unpacked
    packed: float  # the same where seams are ignored
    padding: float  # the share of the unpacked batches that is padding, less what packed rows have
    caption: str


def measured(notebook: Any) -> Numbers | None:
    """The numbers of an executed notebook (as nbformat reads it); None when no output of it is such a table."""
    chinese = {catalogue("zh").get(column, column): column for column in (MODE, DIFFERENCE, PADDING)}
    for table in tables(notebook):
        first, *rows = table.rows or [[]]
        head = [chinese.get(word, word) for word in first]
        if not {MODE, DIFFERENCE, PADDING} <= set(head):
            continue
        of = {row[head.index(MODE)]: dict(zip(head, row)) for row in rows if len(row) == len(head)}
        try:
            return Numbers(
                varlen=number(of["varlen"][DIFFERENCE]),
                packed=number(of["packed"][DIFFERENCE]),
                padding=number(of["unpacked"][PADDING]) - number(of["varlen"][PADDING]),
                caption=table.caption,
            )
        except (KeyError, ValueError):  # a mode was not run, or its cell holds no number
            continue
    return None


def number(cell: str) -> float:
    """``9.5e-07`` and ``59%`` as floats; ValueError for other words."""
    return float(cell.removesuffix("%")) / 100 if cell.endswith("%") else float(cell)


def written(value: float) -> tuple[str, str]:
    """A number as people write it: ``("0.024", "")``, or ``("9.5", "−7")`` for 9.5 times ten to the −7."""
    if value == 0 or abs(value) >= 1e-3:
        return f"{value:.2g}", ""
    digits, power = f"{value:.1e}".split("e")
    return digits, str(int(power)).replace("-", "−")


class Table(NamedTuple):
    """The texts of an HTML table's cells, row by row, and its caption."""

    rows: list[list[str]]
    caption: str


def tables(notebook: Any) -> Iterator[Table]:
    """Every HTML table among the outputs of a notebook."""
    import bs4

    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            html = "".join(output.get("data", {}).get("text/html", ""))
            for table in bs4.BeautifulSoup(html, "html.parser").find_all("table"):
                rows = [[words(each) for each in row.find_all(["td", "th"])] for row in table.find_all("tr")]
                yield Table(rows, words(table.caption) if table.caption else "")


def words(tag: Any) -> str:
    """The text of an element, its white space folded."""
    return " ".join(tag.get_text().split())
