"""The folder that a walk leaves: a site that can be moved, zipped and opened without a network.

    index.html          the front door                NN_name.html     every lesson
    api/index.html      the functions, by room        NN_name.ipynb    the executed copy of a lesson that was run

Every lesson has a page, so that no link leads nowhere: one that this walk did not run shows what an earlier walk into
the folder found, with its date, or else the notebook as it is, and says that it was not run. The executed copies are
the only record of earlier walks: papermill notes in them when they ran and how long it took.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from varlen_lab.course.lessons import Lesson, read_notebook
from varlen_lab.course.outcomes import Outcome, one_line
from varlen_lab.course.pages.api import no_api
from varlen_lab.course.pages.index import index_page
from varlen_lab.course.pages.lesson import notebook_page
from varlen_lab.course.pages.ours import refuse_others
from varlen_lab.errors import InputError
from varlen_lab.files.writing import writable, written_whole

API = "api/index.html"
ADDED = {"injected-parameters", "papermill-error-cell-tag"}  # cells that papermill puts into an executed copy


def refuse_folder_of(lessons: Sequence[Lesson], folder: Path) -> None:
    """InputError when ``folder`` is where the lessons themselves lie, or has files of a person's by names of ours."""
    if any(lesson.path.parent.resolve() == folder.resolve() for lesson in lessons):
        raise InputError(f"{folder} holds the lessons themselves; choose another -o.")
    for name in ("index.html", API, *(one for lesson in lessons for one in (lesson.path.name, f"{lesson.name}.html"))):
        with writable(folder / name, "-o"):
            refuse_others(folder / name)


def begin_site(folder: Path, lessons: Sequence[Lesson], quick: bool) -> None:
    """Before anything runs: the whole site as it is so far, so that no page made on the way has a link to nowhere.

    InputError when ``folder`` cannot be written.
    """
    write_missing(folder, [], lessons)
    for lesson in lessons:
        write_lesson(folder, lesson, so_far(folder, lesson), lessons)
    write_index(folder, lessons, {}, None, quick)


def end_site(
    folder: Path, lessons: Sequence[Lesson], outcomes: Mapping[str, Outcome], seconds: float, quick: bool
) -> None:
    """After a walk of so many ``seconds``: the landing page, and a page for the lesson that Ctrl-C ended.

    ``outcomes``: by name, of the lessons that were run, each of which has its page.
    """
    write_missing(folder, lessons, lessons)
    write_index(folder, lessons, outcomes, seconds, quick)


def write_missing(folder: Path, missing: Sequence[Lesson], lessons: Sequence[Lesson]) -> None:
    """A page for each of ``missing`` that has none, and one in the place of the functions."""
    with writable(folder, "-o"):
        (folder / API).parent.mkdir(exist_ok=True)
    if not (folder / API).exists():
        write_page(folder / API, no_api("They are written at the end of a whole walk: varlen-lab walkthrough"))
    for lesson in missing:
        if not (folder / f"{lesson.name}.html").exists():
            write_lesson(folder, lesson, so_far(folder, lesson), lessons)


def write_index(
    folder: Path, lessons: Sequence[Lesson], outcomes: Mapping[str, Outcome], seconds: float | None, quick: bool
) -> None:
    """The landing page; ``seconds`` is None while the walk goes on."""
    from varlen_lab.machine.environment import summary

    found = {lesson.name: outcomes.get(lesson.name) or so_far(folder, lesson) for lesson in lessons}
    for outcome in found.values():
        if outcome.executed and outcome.executed.exists():
            forget_folders(outcome.executed)
    write_page(folder / "index.html", index_page(lessons, found, summary(), seconds, quick))


def write_lesson(folder: Path, lesson: Lesson, outcome: Outcome, lessons: Sequence[Lesson]) -> None:
    """The page of a lesson that was not run in this walk."""
    notebook = read_notebook(outcome.executed or lesson.path)
    pages = [*(each.name for each in lessons), "index", "api/index"]
    write_page(folder / outcome.page, notebook_page(notebook, outcome, lesson.path.parent, pages))


def forget_folders(executed: Path) -> None:
    """Leave of papermill's notes where the notebook lay only its name: the copy may be sent on."""
    import nbformat

    notebook = read_notebook(executed)
    run = notebook.metadata.get("papermill", {})
    run |= {key: Path(run[key]).name for key in ("input_path", "output_path") if run.get(key)}
    write_page(executed, nbformat.writes(notebook))


def so_far(folder: Path, lesson: Lesson) -> Outcome:
    """What an earlier walk into ``folder`` found, or that the lesson was not run."""
    return earlier(lesson, folder / lesson.path.name) or Outcome(lesson.name, lesson.title)


def earlier(lesson: Lesson, executed: Path) -> Outcome | None:
    """What an earlier walk made of a lesson; None when it never ran to its end, or the lesson has changed since."""
    try:
        notebook = read_notebook(executed)
    except InputError:
        return None
    run, errors = notebook.metadata.get("papermill", {}), list(errors_of(notebook))
    if "start_time" not in run or sources(notebook) != sources(lesson.notebook):
        return None
    if not errors and not all(cell.get("execution_count") for cell in code_cells(notebook)):  # Ctrl-C
        return None
    outcome = Outcome(lesson.name, lesson.title, "failed" if errors else "ok", run.get("duration") or 0.0)
    when = datetime.datetime.fromisoformat(run["start_time"]).astimezone().strftime("%Y-%m-%d %H:%M")
    if run.get("parameters", {}).get("quick"):
        when += ", quick"
    return replace(outcome, error=errors[0] if errors else "", executed=executed, earlier=when)


def sources(notebook: Any) -> list[str]:
    """The cells of a lesson as they were written, without those that papermill adds."""
    return [cell.source for cell in notebook.cells if not ADDED & set(cell.metadata.get("tags", []))]


def code_cells(notebook: Any) -> list[Any]:
    """The cells that run."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def errors_of(notebook: Any) -> list[str]:
    """The exceptions that its cells ended with, a line each."""
    outputs = [output for cell in code_cells(notebook) for output in cell.get("outputs", [])]
    return [one_line(f"{o.ename}: {o.evalue}") for o in outputs if o.output_type == "error"]


def write_page(path: Path, html: str) -> None:
    """Whole or not at all; InputError where it cannot be written, or a file that is not ours would go."""
    with writable(path, "-o"):
        refuse_others(path)
    with writable(path, "-o"), written_whole(path, "w") as file:
        file.write(html.encode("utf-8", "replace").decode("utf-8"))  # a notebook can hold half a character
