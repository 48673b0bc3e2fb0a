"""A lesson is a notebook, ``notebooks/NN_name.ipynb``: what it says of itself is read, nothing is executed.

The file is the only record of a lesson. Its number and name are those of the file, its title is the first heading,
its parameters are the plain ``name: type = literal`` lines of the one cell tagged ``parameters``. Its metadata say
``minutes``, ``difficulty``, ``needs`` (what a reader needs, in words) and ``path``; a lesson that is one of the page's
six steps has ``step``, the page's command and ours; ``gpu: true`` marks it as one to run on a GPU too. So a notebook
that is laid into the folder is found by ``run``, by ``walkthrough``, by the GPU benchmark and by the tests.

A lesson in another language is its twin: the same name in a folder of that language below, ``notebooks/zh/05_train``.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from varlen_lab.course.parameters import Parameter, read_parameters, refuse_unfit
from varlen_lab.errors import InputError, nearest, unknown_choice
from varlen_lab.language.saying import LANGUAGES

RUNNING = ("nbformat", "nbconvert", "ipykernel", "papermill")  # names of modules, of the extra notebooks
PAGES = ("jinja2", "bs4", "bleach", "tinycss2", "defusedxml", "PIL")
ENGLISH, CHINESE = LANGUAGES
NUMBERED = "[0-9][0-9]_*.ipynb"
DIFFICULTIES = ("easy", "medium", "hard")
PATHS = {  # ways through the course: a name, and what for
    "page": ("The page", "why, and XTuner's six steps, each with a discovery"),
    "prove": ("Prove it", "what carries a seam, what leaks, and how one knows"),
    "job": ("My job", "your data, your batch, your model, your machines"),
}


@dataclass(frozen=True)
class Lesson:
    """The notebook at ``path``; title and parameters are read when they are asked for. InputError when it is none."""

    path: Path

    @property
    def name(self) -> str:
        """``05_train``."""
        return self.path.stem

    @property
    def language(self) -> str:
        """Of ``LANGUAGES``: what its parameter says, else the folder it lies in."""
        stated = self.parameters.get("language")
        return stated if isinstance(stated, str) and stated in LANGUAGES else language_of(self.path.parent)

    @property
    def address(self) -> str:
        """The name with which ``run`` finds it: ``05_train``, and ``zh/05_train`` for the one in the folder zh."""
        language = language_of(self.path.parent)
        return self.name if language == ENGLISH else f"{language}/{self.name}"

    @property
    def twin(self) -> Lesson | None:
        """The same lesson in the other language; None where it is not there."""
        folder = self.path.parent
        english = language_of(folder) == ENGLISH
        place = (folder / CHINESE if english else folder.parent) / self.path.name
        return Lesson(place) if place.is_file() else None

    @cached_property
    def title(self) -> str:
        """The first heading, or the file name in words."""
        for cell in self.notebook.cells:
            first = cell.source.strip().split("\n", 1)[0]
            if cell.cell_type == "markdown" and first.startswith("# "):
                return first[2:].strip()
        return self.name[3:].replace("_", " ").capitalize()

    @property
    def gpu(self) -> bool:
        """Whether the GPU benchmark runs it as well, with ``device`` set to the GPU."""
        return self.notebook.metadata.get("gpu") is True

    @property
    def minutes(self) -> int | None:
        """How long a reader takes, exercises and running included; None where the lesson does not say."""
        stated = self.notebook.metadata.get("minutes")
        return stated if isinstance(stated, int) else None

    @property
    def difficulty(self) -> str | None:
        """``easy``, ``medium`` or ``hard``; None where the lesson does not say."""
        stated = self.notebook.metadata.get("difficulty")
        return stated if stated in DIFFICULTIES else None

    @property
    def needs(self) -> str:
        """What a reader needs, in words: ``a CPU``; empty where the lesson does not say."""
        stated = self.notebook.metadata.get("needs")
        return stated if isinstance(stated, str) else ""

    @property
    def paths(self) -> tuple[str, ...]:
        """The ways through the course that it lies on, of ``PATHS``; the first is the one it belongs to."""
        stated = self.notebook.metadata.get("path")
        return tuple(word for word in stated.split() if word in PATHS) if isinstance(stated, str) else ()

    @property
    def step(self) -> dict[str, str]:
        """``{"page": command, "here": command}`` of a lesson that is one of the page's six steps; else empty."""
        stated = self.notebook.metadata.get("step")
        if isinstance(stated, dict) and {"page", "here"} <= set(stated):
            return {place: str(stated[place]) for place in ("page", "here")}
        return {}

    @property
    def parameters(self) -> dict[str, Any]:
        """Names and defaults; ``...`` stands for a default whose value is not known without running the cell."""
        return {name: one.default for name, one in self.typed_parameters.items()}

    @cached_property
    def typed_parameters(self) -> dict[str, Parameter]:
        """What the cell tagged ``parameters`` says, by name."""
        found: dict[str, Parameter] = {}
        for cell in self.notebook.cells:
            if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", []):
                found |= read_parameters(cell.source, self.path.name)
        return found

    @cached_property
    def notebook(self) -> Any:
        """The file as nbformat reads it."""
        return read_notebook(self.path)

    def check(self, parameters: Mapping[str, Any]) -> None:
        """InputError for a name the notebook does not have, or a value that its parameter does not take."""
        refuse_unfit(self.path.name, self.typed_parameters, parameters)

    def walked_with(self, *, quick: bool, device: str | None) -> dict[str, Any]:
        """What a walk gives this lesson: ``quick`` where it has such a parameter, and ``device`` where one is said.

        InputError when it knows no device, or when the machine has no such device.
        """
        given: dict[str, Any] = {"quick": True} if quick and "quick" in self.parameters else {}
        if device is not None:
            if "device" not in self.parameters:
                raise InputError(
                    f"{self.name} has no parameter device, it does the same on every machine; say --only and the "
                    "lessons that have one, as in --only 05 08 --device cuda."
                )
            given["device"] = device
        self.check(given)
        return given


def language_of(folder: Path) -> str:
    """The language of the lessons in ``folder``: that of its name, else English."""
    return folder.name if folder.name in LANGUAGES else ENGLISH


def find_lessons(language: str = ENGLISH) -> list[Lesson]:
    """The numbered notebooks in order: of the folder we stand in, else of the clone this package is installed from.

    ``language``: those in that language. InputError where there are none, or for a language that there is not.
    """
    if language not in LANGUAGES:
        raise unknown_choice("language", language, LANGUAGES)
    for folder in (Path("notebooks"), Path(__file__).resolve().parents[2] / "notebooks"):
        if english := sorted(folder.glob(NUMBERED)):
            found = english if language == ENGLISH else sorted((folder / language).glob(NUMBERED))
            if not found:
                raise InputError(f"there are no lessons in {LANGUAGES[language]} here: {folder / language} has none.")
            return [Lesson(path) for path in found]
    raise InputError(
        "there are no notebooks here: neither ./notebooks nor the installed package has any; "
        "run this in a clone of the repository."
    )


def find_lesson(word: str, lessons: list[Lesson] | None = None) -> Lesson:
    """A lesson by name (05_train) or number (05), in Chinese by zh/05_train or zh/05.

    Without ``lessons`` to choose from, any notebook by its path. InputError, with the name that was perhaps meant,
    where there is none.
    """
    place, folder = Path(word), Path(word).parent.name
    if lessons is None:
        if place.is_file():
            return Lesson(place)
        if place.suffix == ".ipynb" and str(place.parent) not in LANGUAGES:
            lessons = lessons_beside(place)
        else:
            lessons = find_lessons() if folder in ("", "notebooks") else find_lessons(folder)
    wanted = place.stem
    for lesson in lessons:
        here = folder in ("", "notebooks", language_of(lesson.path.parent))
        if here and wanted.zfill(2) in (lesson.name, lesson.name[:2]):
            return lesson
    names = [lesson.address for lesson in lessons]
    hint = nearest(word, names) or nearest(wanted, names)
    raise InputError(f"there is no notebook {word!r}{hint}; the lessons are {', '.join(names)}")


def lessons_beside(path: Path) -> list[Lesson]:
    """The lessons where ``path``, a file that is not there, may be one by its name alone; else InputError."""
    if path.name == str(path):
        with suppress(InputError):
            return find_lessons()
    hint = nearest(path.name, (other.name for other in path.parent.glob("*.ipynb")))
    raise InputError(f"there is no notebook {path}{hint or '; check the path'}.")


def read_notebook(path: Path) -> Any:
    """The notebook at ``path`` in the current format; InputError when it, or Jupyter, is not there."""
    for package in (*RUNNING, *PAGES):  # all of them: said before anything runs
        if importlib.util.find_spec(package) is None:
            raise InputError(f"{package} is not installed; pip install 'varlen_lab[notebooks]' brings it.")
    try:
        Path.home()
    except RuntimeError:  # Jupyter looks for its settings there as it is imported
        raise InputError("Jupyter needs a home folder, and there is none here; set HOME to a folder.") from None
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except OSError as problem:
        raise InputError(f"{path} cannot be read ({problem.strerror}); is the path right?") from None
    except Exception:  # nbformat raises several kinds, all of them mean the same to a reader
        raise InputError(f"{path} is not a notebook: it holds no valid notebook JSON.") from None
