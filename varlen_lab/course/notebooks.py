"""Running the lessons: one notebook with parameters, or all of them and a page about what came out.

Every notebook runs by papermill in a kernel of *this* Python, whether or not Jupyter knows a kernel of that
name, and in its own folder, as it would in JupyterLab. Each leaves an executed copy and beside it an HTML
page that needs no network. A failing cell ends its notebook, never the walk: the others run, the page shows
the error, and the exit code says so. What the pages look like is the business of ``varlen_lab.course.pages``.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from varlen_lab.course.comparing import compare_walk
from varlen_lab.course.lessons import ENGLISH, Lesson, find_lesson, find_lessons, read_notebook
from varlen_lab.course.outcomes import Outcome, one_line
from varlen_lab.course.pages.api import INSTALL, write_api
from varlen_lab.course.pages.languages import folder_of
from varlen_lab.course.pages.lesson import notebook_page
from varlen_lab.course.pages.ours import refuse_others
from varlen_lab.course.site import begin_site, end_site, refuse_folder_of, write_page
from varlen_lab.errors import InputError
from varlen_lab.files.places import check_file, check_folder
from varlen_lab.files.writing import writable
from varlen_lab.machine.console import bar, say

CELL_SECONDS = 1800  # a cell that takes longer hangs
QUIET = "--IPKernelApp.log_level=50"  # or kernels talk into our terminal, about encryption and interrupts
OnCell = Callable[[int, int], None]  # (cells done, cells in all)


def walkthrough(
    out: str | os.PathLike[str] = "runs/walkthrough",
    quick: bool = False,
    only: list[str] | None = None,
    *,
    api: bool = True,
    device: str | None = None,
    compare: bool = False,
    languages: Sequence[str] = (ENGLISH,),
) -> int:
    """Run the lessons in order into ``out``, a site that opens at ``out/index.html``; 1 when one failed, else 0.

    ``languages``: which of the twins run, ``"en"``, ``"zh"`` or both; the pages of the other language are written too.

    ``only`` narrows the walk: names or numbers. An earlier walk of the others is shown with its date. ``api``: a
    whole walk writes the pages of the functions too. ``quick`` and ``device`` become parameters of the lessons:
    ``quick=True`` where one has it. ``compare`` sets the numbers of lessons that ran in full beside those they are kept
    with; 1 where one differs. Raises InputError before anything runs when a name is unknown, a lesson has no parameter
    ``device``, the machine has no such device, or ``out`` cannot be written.
    """
    spoken = tuple(dict.fromkeys(languages))
    lessons = find_lessons()
    chosen = [lesson for language in spoken for lesson in named(only, find_lessons(language))]
    given = {lesson.address: lesson.walked_with(quick=quick, device=device) for lesson in chosen}
    folder = make_folder(Path(out))
    outcomes: dict[str, Outcome] = {}
    started = time.monotonic()
    refuse_folder_of(lessons, folder)
    try:
        begin_site(folder, lessons, quick, spoken)
        for lesson in chosen:
            outcomes[lesson.address] = run_shown(lesson, folder / f"{lesson.address}.ipynb", given[lesson.address])
    finally:  # also after Ctrl-C: what has run is shown, the rest says "not run"
        end_site(folder, lessons, outcomes, time.monotonic() - started, quick, spoken)
    if api and only is None and not write_api(folder / "api"):
        say(f"no pages of the functions: {INSTALL}", hang=2)
    failed = [outcome.address for outcome in outcomes.values() if outcome.status == "failed"]
    if failed:
        say(", ".join(failed), mark=(f"{len(failed)} of {len(chosen)} failed: ", "red"), hang=2)
    differing = compare_walk(chosen, outcomes, given) if compare else []
    say(f"open {folder_of(folder, spoken[0]) / 'index.html'}")
    return 1 if failed or differing else 0


def named(only: list[str] | None, lessons: list[Lesson]) -> list[Lesson]:
    """The lessons that ``only`` names, in their order; all of them where it is None."""
    found = lessons if only is None else [find_lesson(word, lessons) for word in only]
    return [lesson for lesson in lessons if lesson in found]


def run_shown(lesson: Lesson, output: Path, parameters: Mapping[str, Any]) -> Outcome:
    """``run_notebook``, with a bar while it runs where a person looks at it, and one line when it is done."""
    with bar(lesson.address) as on_cell:
        outcome = run_notebook(lesson.path, output, parameters, on_cell=on_cell)
    mark = ("✗ ", "red") if outcome.error else ("✓ ", "green")
    say(f"{lesson.address:<24} {outcome.seconds:6.1f} s  {outcome.error}".rstrip(), mark=mark, hang=2)
    return outcome


def run_notebook(
    path: Path, output: Path, parameters: Mapping[str, Any] | None = None, *, on_cell: OnCell | None = None
) -> Outcome:
    """Execute ``path`` into ``output`` (an .ipynb) and write its page beside; a failing cell is an outcome.

    Raises InputError when ``path`` is not a notebook or ``parameters`` names one it does not have.
    """
    lesson = Lesson(path)
    total = len(lesson.notebook.cells)  # first: it says so when Jupyter is not installed
    import papermill
    from papermill.exceptions import PapermillExecutionError

    lesson.check(parameters or {})
    if output.suffix != ".ipynb":
        raise InputError(f"{output} must end in .ipynb (the page takes its name); for example -o run.ipynb")
    for written in (output, output.with_suffix(".html")):
        check_file(written, "-o")
    if output.resolve() == path.resolve():
        raise InputError(f"{output} is the notebook itself; write the executed copy somewhere else.")
    make_folder(output.parent)
    for written in (output, output.with_suffix(".html")):
        refuse_others(written)
    # a result of an earlier run must not be taken for this one's when no kernel comes
    for stale in (output, output.with_suffix(".html")):
        stale.unlink(missing_ok=True)
    error, started = "", time.monotonic()
    try:
        papermill.execute_notebook(
            path.resolve(),
            output.resolve(),
            dict(parameters or {}),
            kernel_name="python3",
            language="python",
            kernel_manager_class=this_python(),
            progress_bar=False,
            cwd=path.resolve().parent,
            execution_timeout=CELL_SECONDS,
            on_cell_start=lambda cell, cell_index: on_cell(cell_index, total) if on_cell else None,
        )
    except PapermillExecutionError as problem:
        error = one_line(f"{problem.ename}: {problem.evalue}")
    except Exception as problem:  # a kernel that died or never came is a failed notebook, not a failed walk
        error = one_line(f"{type(problem).__name__}: {problem}")
        if type(problem).__name__ == "DeadKernelError":
            small = ", or give it less: -p model=stand-in" if "model" in lesson.parameters else ""
            error = (
                f"the kernel died, mostly for want of memory; close other programs and run {lesson.name} again{small}."
            )
    seconds = time.monotonic() - started
    status: Literal["failed", "ok"] = "failed" if error else "ok"
    outcome = Outcome(lesson.name, lesson.title, status, seconds, error, output, language=lesson.language)
    executed = read_notebook(output if output.exists() else path)  # as it was written when no kernel came
    if not output.exists():  # its outputs are of another day
        for cell in executed.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
    write_page(output.with_suffix(".html"), notebook_page(executed, outcome, path.parent))
    return outcome


def this_python() -> type:
    """A kernel manager that starts this very interpreter, so no kernelspec has to be installed."""
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    class ThisPython(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(
                argv=[sys.executable, "-m", "ipykernel_launcher", QUIET, "-f", "{connection_file}"],
                env={"PYDEVD_DISABLE_FILE_VALIDATION": "1"},  # debugpy's advice about frozen modules
                display_name="this Python",
                language="python",
            )

    return ThisPython


def make_folder(folder: Path) -> Path:
    """``folder``, made; InputError where it cannot be, or nothing can be written there."""
    check_folder(folder, "-o")
    with writable(folder, "-o"):
        folder.mkdir(parents=True, exist_ok=True)
    return folder
