"""A lesson is a notebook, ``notebooks/NN_name.ipynb``: what it says of itself is read, nothing is executed.

The file is the only record of a lesson. Its number and name are those of the file, its title is the first heading,
its parameters are the plain ``name = literal`` lines of the one cell tagged ``parameters``, and ``gpu: true`` in its
metadata marks it as one to run on a GPU too. So a notebook that is laid into the folder is found by ``run``, by
``walkthrough``, by the GPU benchmark and by the tests.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from varlen_lab.errors import InputError, nearest


@dataclass(frozen=True)
class Lesson:
    """The notebook at ``path``; title and parameters are read when they are asked for. InputError when it is none."""

    path: Path

    @property
    def name(self) -> str:
        """``05_train``."""
        return self.path.stem

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

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """Names and defaults; ``...`` stands for a default whose value is not known without running the cell."""
        found: dict[str, Any] = {}
        for cell in self.notebook.cells:
            if cell.cell_type != "code" or "parameters" not in cell.metadata.get("tags", []):
                continue
            try:
                statements = ast.parse(cell.source).body
            except SyntaxError as problem:
                raise InputError(
                    f"{self.path.name}: the parameters cell is not plain Python (line {problem.lineno}); "
                    "keep it to lines like quick = False."
                ) from None
            for node in statements:
                if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                    value = literal(node.value, otherwise=...)
                    found |= {target.id: value for target in targets if isinstance(target, ast.Name)}
        return found

    @cached_property
    def notebook(self) -> Any:
        """The file as nbformat reads it."""
        return read_notebook(self.path)

    def check(self, parameters: Mapping[str, Any]) -> None:
        """InputError for a name the notebook does not have, or a value of another type than its default.

        papermill only warns about a name it does not find, so a typo would run the defaults in silence.
        """
        for name, value in parameters.items():
            if name not in self.parameters:
                names = ", ".join(self.parameters)
                has = f"it has {names}" if names else "it has no cell tagged parameters"
                raise InputError(f"{self.path.name} has no parameter {name!r}{nearest(name, self.parameters)}; {has}.")
            default = self.parameters[name]
            if default is None or default is ... or type(value) is type(default):
                continue
            if not (isinstance(default, float) and type(value) is int):  # 1 for 1e-3 is fine, True for 1 is not
                kind = type(default).__name__
                raise InputError(
                    f"{self.path.name}: {name} is {default!r} by default, so {value!r} must be a {kind} too."
                )


def find_lessons() -> list[Lesson]:
    """The numbered notebooks in order: of the folder we stand in, else of the clone this package is installed from."""
    for folder in (Path("notebooks"), Path(__file__).resolve().parents[2] / "notebooks"):
        if paths := sorted(folder.glob("[0-9][0-9]_*.ipynb")):
            return [Lesson(path) for path in paths]
    raise InputError(
        "there are no notebooks here: neither ./notebooks nor the installed package has any; "
        "run this in a clone of the repository."
    )


def find_lesson(word: str, lessons: list[Lesson] | None = None) -> Lesson:
    """A lesson by name (05_train) or number (05); without ``lessons`` to choose from, any notebook by its path."""
    if lessons is None:
        if Path(word).is_file():
            return Lesson(Path(word))
        lessons = find_lessons()
    wanted = Path(word).stem
    for lesson in lessons:
        if wanted in (lesson.name, lesson.name[:2]):
            return lesson
    names = [lesson.name for lesson in lessons]
    raise InputError(f"there is no notebook {word!r}{nearest(wanted, names)}; the lessons are {', '.join(names)}")


def read_notebook(path: Path) -> Any:
    """The notebook at ``path`` in the current format; InputError when it, or Jupyter, is not there."""
    for package in ("nbformat", "nbconvert", "ipykernel", "papermill"):  # all of them: said before anything runs
        if importlib.util.find_spec(package) is None:
            raise InputError(f"{package} is not installed; pip install 'varlen_lab[notebooks]' brings it.")
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except OSError as problem:
        raise InputError(f"{path} cannot be read ({problem.strerror}); is the path right?") from None
    except Exception:  # nbformat raises several kinds, all of them mean the same to a reader
        raise InputError(f"{path} is not a notebook: it holds no valid notebook JSON.") from None


def value_of(word: str) -> Any:
    """A word of the command line as a Python value: ``20`` int, ``true`` bool, anything else text."""
    constants = {"true": True, "false": False, "none": None}
    return constants[word.lower()] if word.lower() in constants else literal(word, otherwise=word)


def literal(source: str | ast.expr, otherwise: Any) -> Any:
    """The value of a Python literal; ``otherwise`` when ``source`` is none."""
    try:
        return ast.literal_eval(source)
    except (ValueError, SyntaxError):
        return otherwise
