"""The landing page of the site: the picture, three numbers, the explorer, the lessons, and what they found."""

from __future__ import annotations

import datetime
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from varlen_lab.course.lessons import ENGLISH, PATHS, Lesson, read_notebook
from varlen_lab.course.outcomes import Outcome, duration
from varlen_lab.course.pages.frame import framed, marked
from varlen_lab.course.pages.lesson import cells_html, command
from varlen_lab.course.pages.numbers import LESSON, measured, written
from varlen_lab.language.saying import phrase, say, speaking, spoken

TAG = "walkthrough"
HEAD = [70, 300, 180]  # tokens of the documents whose masks stand at the head of the page
CHINESE_SIGN = "[\u3000-\u9fff\uff00-\uffef]"
MOST_DOCUMENTS = 64  # of the explorer's slider


def index_page(
    lessons: Sequence[Lesson],
    outcomes: Mapping[str, Outcome],
    facts: Mapping[str, str],
    walk: Walk,
    language: str = ENGLISH,
    pages: Collection[str] = (),
    measuring: Outcome | None = None,
) -> str:
    """The landing page in ``language``; ``outcomes`` by the names of ``lessons``, ``facts`` of this machine.

    ``pages``: what stands in the site. ``measuring``: the run in the other language whose numbers stand in where this
    one's lesson was not run.
    """
    from varlen_lab.packing.boundaries import Boundaries  # here, for they import torch and numpy: pages do not need to
    from varlen_lab.viz.explorer_page import SCRIPT, STYLE
    from varlen_lab.viz.masks import count_cells

    head = Boundaries.from_lengths(HEAD)
    rows = [(lesson, outcomes[lesson.name]) for lesson in lessons]
    now = [outcome for _, outcome in rows if outcome.status != "not run" and not outcome.earlier]
    with speaking(language):
        return framed(
            "index.html.j2",
            language,
            "index",
            pages,
            title=say("Varlen attention: see it, prove it, use it"),
            rows=rows,
            groups=groups(rows),
            results=[(outcome, html) for lesson, outcome in rows if (html := shown_outputs(lesson, outcome))],
            numbers=numbers(rows, walk.quick, measuring),
            explorer=explorer(),
            facts=facts,
            quick=walk.quick,
            walked=language in walk.languages,
            ran=now,
            earlier=[outcome for _, outcome in rows if outcome.earlier],
            failed=[outcome for outcome in now if outcome.status == "failed"],
            duration=walk.seconds and duration(walk.seconds),
            date=datetime.datetime.now().strftime("%Y-%m-%d %H:%M"),
            mask={"total": head.total, "spans": head.spans},
            share=f"{100 * count_cells(head).cross_share:.0f}",
            command=command(language),
            made_by=command(*walk.languages, quick=walk.quick),
            scripts=[SCRIPT],
            sheet=STYLE,
        )


class Walk(NamedTuple):
    """A walk as its pages tell it: so many ``seconds``, None while it goes on, ``quick`` with shortened trainings."""

    seconds: float | None
    quick: bool
    languages: tuple[str, ...] = (ENGLISH,)


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
    for path, words in {**PATHS, "": ("", "")}.items():
        name, about = map(phrase, words)
        own = [(lesson, outcome) for lesson, outcome in rows if (lesson.paths or ("",))[0] == path]
        also = [(lesson, outcome) for lesson, outcome in rows if path in lesson.paths[1:]]
        minutes = sum(lesson.minutes or 0 for lesson, _ in own + also)
        with_claims = [(lesson, outcome, claim(lesson.notebook)) for lesson, outcome in own]
        found.append(Group(name, about, minutes, with_claims, also))
    return [group for group in found if group.lessons]


def numbers(
    rows: Sequence[tuple[Lesson, Outcome]], quick: bool = False, measuring: Outcome | None = None
) -> dict[str, Any]:
    """The three numbers and the outcome of the lesson that measures them; without numbers, the reason in ``why``."""
    own = next((outcome for lesson, outcome in rows if lesson.name[3:] == LESSON), None)
    if own is None:
        return {"why": say("no lesson of this course measures it")}
    outcome = own if ran(own) or measuring is None else measuring
    if outcome.executed is None or not ran(outcome):
        return {"why": say("lesson {number} was not run", number=own.name[:2]), "outcome": own}
    found = measured(read_notebook(outcome.executed))
    if found is None:
        failed = outcome.status == "failed"
        why = (
            say("lesson {number} failed before it had measured", number=own.name[:2])
            if failed
            else say("lesson {number} shows no table of its three trainings", number=own.name[:2])
        )
        return {"why": why, "outcome": own}
    values = {
        "varlen": written(found.varlen),
        "packed": written(found.packed),
        "padding": (f"{100 * found.padding:.0f}\N{NO-BREAK SPACE}%", ""),
    }
    return {"found": values, "source": source(outcome, own.page, found.caption, quick), "outcome": own}


def ran(outcome: Outcome) -> bool:
    """Whether there is an executed copy, of this walk or an earlier one."""
    return outcome.executed is not None and outcome.executed.exists()


def source(outcome: Outcome, page: str, caption: str, quick: bool) -> Any:
    """Where the three numbers come from, as a sentence with a link to ``page``."""
    known = {"page": page, "number": outcome.name[:2], "when": outcome.when}
    if outcome.earlier:
        told = marked('Measured by <a href="{page}">lesson {number}</a> in an earlier walk, {when}', **known)
    elif quick:
        told = marked(
            'Measured by <a href="{page}">lesson {number}</a> in this walk, with a shortened training', **known
        )
    else:
        told = marked('Measured by <a href="{page}">lesson {number}</a> in this walk', **known)
    if outcome.language != spoken():
        told += say(", run in English, which is the same code")
    if outcome.status == "failed":
        told += say(", which failed later")
    if caption:
        return marked("{told}: {caption}.", told=told, caption=caption)
    return marked("{told}.", told=told)


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
    """The sentence behind ``> **Claim.**``, in Chinese ``> **论断。**``, which a lesson then puts to the test.

    '' where there is none.
    """
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (
            found := re.search(r"^> \*\*(?:Claim\.\*\* |论断。\*\* ?)(.+(?:\n> .+)*)", cell.source, re.M)
        ):
            words = re.sub(r"\*\*|`", "", found[1])
            words = re.sub(f"(?<={CHINESE_SIGN})\n> (?={CHINESE_SIGN})", "", words)  # no space between them
            return words.replace("\n> ", " ")
    return ""


def shown_outputs(lesson: Lesson, outcome: Outcome) -> str:
    """Outputs, not code, of the cells tagged ``walkthrough``, and tagged markdown; '' if there are none.

    Of the run, or those that the course keeps where ``outcome`` says that these are shown.
    """
    if not ran(outcome) and not outcome.kept:
        return ""
    nb = read_notebook(outcome.executed if ran(outcome) and outcome.executed else lesson.path)
    tagged = [cell for cell in nb.cells if TAG in cell.metadata.get("tags", [])]
    nb.cells = [cell for cell in tagged if cell.cell_type == "markdown" or cell.get("outputs")]
    return cells_html(nb, lesson.path.parent, outcome.title, code=False) if nb.cells else ""
