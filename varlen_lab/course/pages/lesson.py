"""The page of one executed notebook: its cells as HTML that holds its pictures and asks for nothing."""

from __future__ import annotations

import re
from collections.abc import Collection
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any

from varlen_lab.course.lab import LAB_TYPE
from varlen_lab.course.lessons import ENGLISH, Lesson
from varlen_lab.course.outcomes import Outcome
from varlen_lab.course.pages.cleaning import Page, clean
from varlen_lab.course.pages.folds import tag_of, unfolded
from varlen_lab.course.pages.frame import framed
from varlen_lab.course.pages.languages import standing_in
from varlen_lab.course.pages.outputs import ERROR, markdown_html, output_html
from varlen_lab.language.saying import speaking
from varlen_lab.viz.policy import ROW_TYPE

PAPERMILL_MARKER = "papermill-error-cell-tag"
MOVING = {ROW_TYPE: "varlen_lab.viz.explorer_page", LAB_TYPE: "varlen_lab.course.lab.page"}  # have SCRIPT and STYLE
HEADING = re.compile(r"<(/?)h([1-6])\b")


def notebook_page(nb: Any, outcome: Outcome, images: Path, pages: Collection[str] | None = None) -> str:
    """The page of one executed notebook, in its language; pictures its markdown names are read from ``images``.

    ``pages``: names of what will stand beside it (``06_convert``, ``index``), which its links may lead to; None: what
    stands there now.
    """
    if pages is None:
        pages = standing_in(outcome.executed.parent) if outcome.executed else ()
    with speaking(outcome.language):
        body = cells_html(nb, images, outcome.title, pages=pages)
    scripts, sheet = moving(nb)
    before, after = neighbours(outcome.name, images, pages)
    return framed(
        "notebook.html.j2",
        outcome.language,
        outcome.name,
        pages,
        title=outcome.title,
        outcome=outcome,
        body=body,
        headed="<h1" in body,
        before=before,
        after=after,
        command=f"{command(outcome.language)} --only {outcome.name[:2]}",
        scripts=scripts,
        sheet=sheet,
    )


def command(*languages: str, quick: bool = False) -> str:
    """What one types for a walk in ``languages``."""
    spoken = "" if languages == (ENGLISH,) else f" --language {' '.join(languages)}"
    return f"varlen-lab walkthrough{spoken}{' --quick' if quick else ''}"


def neighbours(name: str, folder: Path, pages: Collection[str]) -> tuple[Lesson | None, Lesson | None]:
    """The lessons before and after ``name`` in ``folder`` that have a page."""
    names = sorted(path.stem for path in folder.glob("[0-9][0-9]_*.ipynb"))
    if name not in names:
        return None, None
    place = names.index(name)
    near = (names[place - 1] if place else "", names[place + 1] if place + 1 < len(names) else "")
    before, after = (Lesson(folder / f"{each}.ipynb") if each in pages else None for each in near)
    return before, after


def moving(nb: Any) -> tuple[list[str], str]:
    """The scripts and the style sheets that the outputs of ``nb`` need: the explorer's, the lab's, or none."""
    shown = {mime for cell in nb.cells for output in cell.get("outputs", []) for mime in output.get("data") or {}}
    found = [import_module(MOVING[mime]) for mime in MOVING if mime in shown]
    return [each.SCRIPT for each in found], "".join(each.STYLE for each in found)


def cells_html(nb: Any, images: Path, title: str, *, code: bool = True, pages: Collection[str] = ()) -> str:
    """The cells of ``nb`` as an HTML fragment, with their ``code`` or below the second heading of another page."""
    page = Page(images, title, pages)
    cells = [cell for cell in nb.cells if PAPERMILL_MARKER not in tags_of(cell)]
    parts = [tag_of(each) if isinstance(each, tuple) else cell_html(each, page, code) for each in unfolded(cells)]
    html = in_order("\n".join(filter(None, parts)), above=0 if code else 2)
    first, last, rest = html.rpartition(ERROR)  # it is the one that ended the notebook; others were expected
    return first.replace(ERROR, "<pre ") + last + rest


def tags_of(cell: Any) -> list[str]:
    """The tags of a cell."""
    tags = cell.metadata.get("tags")
    return [str(tag) for tag in tags] if isinstance(tags, list) else []


def cell_html(cell: Any, page: Page, code: bool) -> str:
    """One cell; '' for one with nothing to show."""
    if cell.cell_type == "markdown":
        html = clean(markdown_html(cell.source, cell.get("attachments")), page)
        return f'<section class="prose">\n{html}\n</section>' if html.strip() else ""
    if cell.cell_type != "code":
        return ""
    shown = [html for output in cell.get("outputs", []) if (html := output_html(output, cell, page))]
    parts = [f'<div class="input">{highlighted(cell.source)}</div>'] if code and cell.source.strip() else []
    if shown:
        parts.append('<div class="outputs">\n' + "\n".join(shown) + "\n</div>")
    tags = "".join(f" tag-{escape(tag)}" for tag in tags_of(cell))
    return f'<section class="cell{tags}">\n' + "\n".join(parts) + "\n</section>" if parts else ""


def highlighted(source: str) -> str:
    """The source of a cell in colours."""
    from nbconvert.filters import Highlight2HTML

    return str(Highlight2HTML(pygments_lexer="ipython3")(source))


def in_order(html: str, above: int) -> str:
    """The same HTML with headings that begin below level ``above`` and never skip a level; one first-level heading."""
    last = above
    first = True

    def level(mark: re.Match[str]) -> str:
        nonlocal last, first
        if not mark[1]:
            wanted = int(mark[2]) + above
            least = above + 1 if first else above + 2 - bool(above)
            last, first = min(max(wanted, least), last + 1, 6), False
        return f"<{mark[1]}h{last}"

    return HEADING.sub(level, html)
