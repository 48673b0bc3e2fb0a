"""The folder that a walk leaves: a site that can be moved, zipped and opened without a network.

    index.html          the front door                NN_name.html     every lesson
    lab.html            the break-it lab
    api/index.html      the functions, by room        NN_name.ipynb    the executed copy of a lesson that was run
    zh/                 the same in Chinese, but for the functions, where the lessons have their twins

Every lesson has a page, so that no link leads nowhere: one that this walk did not run shows what an earlier walk into
the folder found, with its date, or else the notebook as it is, and says that it was not run. The executed copies are
the only record of earlier walks: papermill notes in them when they ran and how long it took.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from varlen_lab.course.lessons import CHINESE, ENGLISH, Lesson, language_of, read_notebook
from varlen_lab.course.outcomes import Outcome, one_line
from varlen_lab.course.pages.api import no_api
from varlen_lab.course.pages.glossary import GLOSSARY, glossary_page
from varlen_lab.course.pages.index import Walk, index_page
from varlen_lab.course.pages.lab import lab_page
from varlen_lab.course.pages.languages import API, folder_of, names_seen
from varlen_lab.course.pages.lesson import notebook_page
from varlen_lab.course.pages.ours import refuse_others
from varlen_lab.errors import InputError
from varlen_lab.files.writing import writable, written_whole

FUNCTIONS = f"{API}.html"
ADDED = {"injected-parameters", "papermill-error-cell-tag"}  # cells that papermill puts into an executed copy


class Tree(NamedTuple):
    """The pages of a site in one language: the folder they lie in, and what they are made of."""

    language: str
    folder: Path
    lessons: Sequence[Lesson]
    names: Sequence[str]  # of all its pages
    seen: Sequence[str] = ()  # of all pages of the site, from here


def trees(site: Path, lessons: Sequence[Lesson]) -> list[Tree]:
    """The languages of a site over ``lessons``, the English ones: another one where they have twins in it."""
    twins = [twin for lesson in lessons if (twin := lesson.twin)]
    found = []
    for language, own in ((ENGLISH, lessons), (CHINESE, twins)):
        if own or language == ENGLISH:
            extra = ["index", "lab"] + ["glossary"] * any((one.path.parent / GLOSSARY).is_file() for one in own)
            names = [*(one.name for one in own), *extra]
            found.append(Tree(language, folder_of(site, language), own, names))
    names_of = {tree.language: tree.names for tree in found}
    return [tree._replace(seen=names_seen(tree.language, names_of)) for tree in found]


def refuse_folder_of(lessons: Sequence[Lesson], folder: Path) -> None:
    """InputError when ``folder`` is where the lessons themselves lie, or has files of a person's by names of ours."""
    languages = trees(folder, lessons)
    homes = {lesson.path.parent.resolve() for tree in languages for lesson in tree.lessons}
    if homes & {tree.folder.resolve() for tree in languages}:
        raise InputError(f"{folder} holds the lessons themselves; choose another -o.")
    if len({tree.folder.resolve() for tree in languages}) < len(languages):
        raise InputError(f"{languages[-1].folder} leads back to {folder}; remove that link, or choose another -o.")
    for tree in languages:
        pages = [f"{name}.html" for name in tree.names] + [FUNCTIONS] * (tree.language == ENGLISH)
        for name in [*pages, *(lesson.path.name for lesson in tree.lessons)]:
            with writable(tree.folder / name, "-o"):
                refuse_others(tree.folder / name)


def begin_site(folder: Path, lessons: Sequence[Lesson], quick: bool, languages: tuple[str, ...] = (ENGLISH,)) -> None:
    """Before anything runs: the whole site as it is so far, so that no page made on the way has a link to nowhere.

    ``languages``: those of the walk. InputError when ``folder`` cannot be written.
    """
    write_missing(folder, [])
    for tree in trees(folder, lessons):
        make_folder_in(tree.folder)
        write_others(tree)
        for lesson in tree.lessons:
            write_lesson(tree, lesson, so_far(tree.folder, lesson))
    write_indices(folder, lessons, {}, Walk(None, quick, languages))


def end_site(
    folder: Path,
    lessons: Sequence[Lesson],
    outcomes: Mapping[str, Outcome],
    seconds: float,
    quick: bool,
    languages: tuple[str, ...] = (ENGLISH,),
) -> None:
    """After a walk of so many ``seconds``: the landing pages, and a page for the lesson that Ctrl-C ended.

    ``outcomes``: by address (``05_train``, ``zh/05_train``), of the lessons that were run, each of which has its page.
    """
    write_missing(folder, trees(folder, lessons))
    write_indices(folder, lessons, outcomes, Walk(seconds, quick, languages))


def write_missing(folder: Path, missing: Sequence[Tree]) -> None:
    """A page for each lesson of ``missing`` that has none, and one in the place of the functions."""
    make_folder_in((folder / FUNCTIONS).parent)
    if not (folder / FUNCTIONS).exists():
        write_page(folder / FUNCTIONS, no_api("They are written at the end of a whole walk: varlen-lab walkthrough"))
    for tree in missing:
        make_folder_in(tree.folder)
        write_others(tree)
        for lesson in tree.lessons:
            if not (tree.folder / f"{lesson.name}.html").exists():
                write_lesson(tree, lesson, so_far(tree.folder, lesson))


def make_folder_in(folder: Path) -> None:
    """A folder of the site; InputError where it cannot be made."""
    with writable(folder, "-o"):
        folder.mkdir(exist_ok=True)


def write_others(tree: Tree) -> None:
    """The pages of a language that are no lessons and no landing page."""
    write_page(tree.folder / "lab.html", lab_page(tree.language, tree.seen))
    if "glossary" in tree.names:
        source = tree.lessons[0].path.parent / GLOSSARY
        write_page(tree.folder / "glossary.html", glossary_page(source, tree.language, tree.seen))


def write_indices(folder: Path, lessons: Sequence[Lesson], outcomes: Mapping[str, Outcome], walk: Walk) -> None:
    """The landing page of each language."""
    from varlen_lab.course.pages.numbers import LESSON
    from varlen_lab.machine.environment import summary

    measuring: Outcome | None = None
    for tree in trees(folder, lessons):
        found = {one.name: outcomes.get(one.address) or so_far(tree.folder, one) for one in tree.lessons}
        for outcome in found.values():
            if outcome.executed and outcome.executed.exists():
                forget_folders(outcome.executed)
        page = index_page(tree.lessons, found, summary(), walk, tree.language, tree.seen, measuring)
        write_page(tree.folder / "index.html", page)
        measuring = next((outcome for outcome in found.values() if outcome.name[3:] == LESSON), None)


def write_lesson(tree: Tree, lesson: Lesson, outcome: Outcome) -> None:
    """The page of a lesson that was not run in this walk."""
    notebook = read_notebook(outcome.executed or lesson.path)
    write_page(tree.folder / outcome.page, notebook_page(notebook, outcome, lesson.path.parent, tree.seen))


def forget_folders(executed: Path) -> None:
    """Leave of papermill's notes where the notebook lay only its name: the copy may be sent on."""
    import nbformat

    notebook = read_notebook(executed)
    run = notebook.metadata.get("papermill", {})
    run |= {key: Path(run[key]).name for key in ("input_path", "output_path") if run.get(key)}
    write_page(executed, nbformat.writes(notebook))


def so_far(folder: Path, lesson: Lesson) -> Outcome:
    """What an earlier walk into ``folder`` found, or that the lesson was not run."""
    if ran := earlier(lesson, folder / lesson.path.name):
        return ran
    language = language_of(lesson.path.parent)
    kept = language != ENGLISH and any(cell.get("outputs") for cell in lesson.notebook.cells)
    return Outcome(lesson.name, lesson.title, language=language, kept=kept)


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
    return replace(
        outcome,
        error=errors[0] if errors else "",
        executed=executed,
        earlier=datetime.datetime.fromisoformat(run["start_time"]).astimezone().strftime("%Y-%m-%d %H:%M"),
        quick=bool(run.get("parameters", {}).get("quick")),
        language=language_of(lesson.path.parent),
    )


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
