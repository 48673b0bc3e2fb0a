"""The landing page of the site: the picture, three numbers, the explorer, the lessons, and what they found."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from varlen_lab.course.lessons import PATHS, Lesson, read_notebook
from varlen_lab.course.outcomes import Outcome, duration
from varlen_lab.course.pages.frame import templates
from varlen_lab.course.pages.lesson import cells_html
from varlen_lab.course.pages.numbers import LESSON, measured, written

TAG = "walkthrough"
HEAD = [70, 300, 180]  # tokens of the documents whose masks stand at the head of the page
MOST_DOCUMENTS = 64  # of the explorer's slider


def index_page(
    lessons: Sequence[Lesson],
    outcomes: Mapping[str, Outcome],
    facts: Mapping[str, str],
    seconds: float | None,
    quick: bool,
) -> str:
    """The landing page; ``outcomes`` by the names of ``lessons``, ``facts`` of this machine.

    ``seconds`` of the walk, None while it goes on; ``quick``: its trainings are shortened.
    """
    from varlen_lab.packing.boundaries import Boundaries  # here, for they import torch and numpy: pages do not need to
    from varlen_lab.viz.explorer_page import SCRIPT, STYLE
    from varlen_lab.viz.masks import count_cells

    head = Boundaries.from_lengths(HEAD)
    rows = [(lesson, outcomes[lesson.name]) for lesson in lessons]
    results = [(outcome, html) for lesson, outcome in rows if (html := shown_outputs(lesson, outcome))]
    now = [outcome for _, outcome in rows if outcome.status != "not run" and not outcome.earlier]
    page = templates().get_template("index.html.j2")
    return page.render(
        title="Varlen attention: see it, prove it, use it",
        rows=rows,
        groups=groups(rows),
        results=results,
        numbers=numbers(rows),
        explorer=explorer(),
        facts=facts,
        quick=quick,
        ran=now,
        earlier=[outcome for _, outcome in rows if outcome.earlier],
        failed=[outcome for outcome in now if outcome.status == "failed"],
        duration=seconds and duration(seconds),
        date=datetime.datetime.now().strftime("%Y-%m-%d %H:%M"),
        mask={"total": head.total, "spans": head.spans, "crossing": count_cells(head).cross_share},
        scripts=[SCRIPT],
        sheet=STYLE,
    )


class Group(NamedTuple):
    """Lessons under one heading: (lesson, outcome, claim); ``also``: those of other groups that this path takes in."""

    name: str
    about: str
    minutes: int
    lessons: list[tuple[Lesson, Outcome, str]]
    also: list[tuple[Lesson, Outcome]]


def groups(rows: Sequence[tuple[Lesson, Outcome]]) -> list[Group]:
    """The lessons by the path that each belongs to; a last group without a name for those that say none."""
    found = []
    for path, (name, about) in {**PATHS, "": ("", "")}.items():
        own = [(lesson, outcome) for lesson, outcome in rows if (lesson.paths or ("",))[0] == path]
        also = [(lesson, outcome) for lesson, outcome in rows if path in lesson.paths[1:]]
        minutes = sum(lesson.minutes or 0 for lesson, _ in own + also)
        with_claims = [(lesson, outcome, claim(lesson.notebook)) for lesson, outcome in own]
        found.append(Group(name, about, minutes, with_claims, also))
    return [group for group in found if group.lessons]


def numbers(rows: Sequence[tuple[Lesson, Outcome]]) -> dict[str, Any]:
    """The three numbers and the outcome of the lesson that measures them; without numbers, the reason in ``why``."""
    outcome = next((outcome for lesson, outcome in rows if lesson.name[3:] == LESSON), None)
    if outcome is None:
        return {"why": "no lesson of this course measures it"}
    if outcome.executed is None or not outcome.executed.exists():
        return {"why": f"lesson {outcome.name[:2]} was not run", "outcome": outcome}
    found = measured(read_notebook(outcome.executed))
    if found is None:
        why = "failed before it had measured" if outcome.status == "failed" else "shows no table of its three trainings"
        return {"why": f"lesson {outcome.name[:2]} {why}", "outcome": outcome}
    values = {
        "varlen": written(found.varlen),
        "packed": written(found.packed),
        "padding": (f"{100 * found.padding:.0f}\N{NO-BREAK SPACE}%", ""),
    }
    return {"found": values, "caption": found.caption, "outcome": outcome}


def explorer() -> str:
    """The explorer over example rows of one to sixty-four documents, as HTML."""
    from varlen_lab.viz.explorer import DOCUMENTS, START, example_lengths
    from varlen_lab.viz.explorer_page import fragment, row_data
    from varlen_lab.viz.masks import PackedRow

    documents, total = START
    rows = [example_lengths(count, total) for count in DOCUMENTS if count <= MOST_DOCUMENTS]
    row = PackedRow(example_lengths(documents, total), None, None)
    return fragment(row_data(row, rows=rows), label="Attention masks of a packed row")


def claim(notebook: Any) -> str:
    """The sentence behind ``> **Claim.**`` in a lesson, which it then puts to the test; '' where there is none."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (
            found := re.search(r"^> \*\*Claim\.\*\* (.+(?:\n> .+)*)", cell.source, re.M)
        ):
            return re.sub(r"\*\*|`", "", found[1].replace("\n> ", " "))
    return ""


def shown_outputs(lesson: Lesson, outcome: Outcome) -> str:
    """Outputs, not code, of the cells tagged ``walkthrough``, and tagged markdown; '' if there are none."""
    if outcome.executed is None or not outcome.executed.exists():
        return ""
    nb = read_notebook(outcome.executed)
    tagged = [cell for cell in nb.cells if TAG in cell.metadata.get("tags", [])]
    nb.cells = [cell for cell in tagged if cell.cell_type == "markdown" or cell.get("outputs")]
    return cells_html(nb, lesson.path.parent, outcome.title, code=False) if nb.cells else ""
