"""Which notebooks there are and which parameters they take, read from the files; nothing is executed here.

A lesson is ``notebooks/NN_name.ipynb``. Its parameters are the plain ``name = literal`` lines of the one
cell tagged ``parameters``. papermill only warns about a parameter a notebook does not have, so a typo would
run the defaults in silence; ``check_parameters`` refuses it before anything starts.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from varlen_lab.errors import InputError, nearest

LESSONS = "[0-9][0-9]_*.ipynb"


def find_lessons() -> list[Path]:
    """The numbered notebooks: of the folder we stand in, else of the clone this package is installed from."""
    for folder in (Path("notebooks"), Path(__file__).resolve().parents[2] / "notebooks"):
        lessons = sorted(folder.glob(LESSONS))
        if lessons:
            return lessons
    raise InputError(
        "there are no notebooks here: neither ./notebooks nor the installed package has any; "
        "run this in a clone of the repository."
    )


def find_notebook(word: str, lessons: list[Path] | None = None) -> Path:
    """A lesson by name (05_train) or number (05); unless ``lessons`` limits the choice, any path too."""
    if lessons is None:
        if Path(word).is_file():
            return Path(word)
        lessons = find_lessons()
    stem = Path(word).stem
    for lesson in lessons:
        if stem in (lesson.stem, lesson.stem[:2]):
            return lesson
    names = [lesson.stem for lesson in lessons]
    raise InputError(f"there is no notebook {word!r}{nearest(stem, names)}; the lessons are {', '.join(names)}")


def need_jupyter() -> None:
    """InputError when the extra ``notebooks`` is not installed."""
    for package in ("nbformat", "nbconvert", "ipykernel", "papermill"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"{package} is not installed; pip install 'varlen_lab[notebooks]' brings it.")


def read_notebook(path: Path) -> Any:
    """The notebook at ``path`` in the current format; InputError when it cannot be read as one."""
    need_jupyter()
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except OSError as problem:
        raise InputError(f"{path} cannot be read ({problem.strerror}); is the path right?") from None
    except Exception:  # nbformat raises several kinds, all of them mean the same to a reader
        raise InputError(f"{path} is not a notebook: it holds no valid notebook JSON.") from None


def title_of(path: Path) -> str:
    """The first heading of a notebook, or its file name in words."""
    for cell in read_notebook(path).cells:
        first = cell.source.strip().split("\n", 1)[0]
        if cell.cell_type == "markdown" and first.startswith("# "):
            return first[2:].strip()
    return path.stem[3:].replace("_", " ").capitalize()


def notebook_parameters(path: Path) -> dict[str, Any]:
    """Names and defaults of the cell tagged ``parameters``; ``...`` stands for what is not a literal."""
    found: dict[str, Any] = {}
    for cell in read_notebook(path).cells:
        if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", []):
            for node in parsed(path, cell.source):
                targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
                for target in targets:
                    if isinstance(target, ast.Name):
                        found[target.id] = literal(node.value)  # type: ignore[attr-defined]
    return found


def parsed(path: Path, source: str) -> list[ast.stmt]:
    """The statements of a parameters cell; InputError when it is not plain Python."""
    try:
        return ast.parse(source).body
    except SyntaxError as problem:
        raise InputError(
            f"{path.name}: the parameters cell is not plain Python (line {problem.lineno}); "
            "keep it to lines like quick = False."
        ) from None


def literal(node: ast.expr) -> Any:
    """The value of a literal, or ``...`` for an expression whose type is not known without running it."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ...


def check_parameters(path: Path, parameters: Mapping[str, Any]) -> None:
    """InputError for a name the notebook does not have, or a value of another type than its default."""
    known = notebook_parameters(path)
    for name, value in parameters.items():
        if name not in known:
            has = f"it has {', '.join(known)}" if known else "it has no cell tagged parameters"
            raise InputError(f"{path.name} has no parameter {name!r}{nearest(name, known)}; {has}.")
        default = known[name]
        widened = isinstance(default, float) and type(value) is int
        if default is not None and default is not ... and type(value) is not type(default) and not widened:
            kind = type(default).__name__
            raise InputError(f"{path.name}: {name} is {default!r} by default, so {value!r} must be a {kind} too.")


def parse_value(text: str) -> Any:
    """A word of the command line as a Python value: ``20`` int, ``true`` bool, anything else text."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
