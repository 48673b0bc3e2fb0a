"""The pages of the functions, made by pdoc from the docstrings of the public face and the faces of the rooms.

pdoc looks into a module's ``__dict__``, and a face holds a name only once it was asked for, so all are asked for first.
What stands on a page is pdoc's template; the frame, the style and the content security policy are ours.
"""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

from varlen_lab.course.pages.frame import HERE, templates
from varlen_lab.course.pages.ours import pages_in
from varlen_lab.files.writing import folder_written_whole, written_whole

FACE = "varlen_lab"
ROOMS = (  # in the order in which a reader needs them
    "packing",
    "attention",
    "viz",
    "leaks",
    "models",
    "documents",
    "config",
    "training",
    "studies",
    "machine",
    "files",
    "course",
    "language",
)
INSTALL = "pdoc is not installed; pip install 'varlen_lab[docs]', and varlen-lab walkthrough writes them"


def write_api(folder: Path) -> bool:
    """Write a page for the public face and for each room into ``folder``; without pdoc one that says so, and False."""
    try:
        import pdoc.doc
        import pdoc.render
    except ModuleNotFoundError:
        folder.mkdir(parents=True, exist_ok=True)
        with written_whole(folder / "index.html", "w") as file:
            file.write(no_api(INSTALL))
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pdoc cannot read some annotations, and writes them as they stand
        modules = {module.__name__: pdoc.doc.Module(module) for module in faces()}
        pdoc.render.configure(docformat="markdown", search=False, show_source=False, template_directory=HERE / "api")
        frame = templates()
        pdoc.render.env.globals |= {"style": frame.globals["style"], "csp": frame.globals["csp"]}
        with folder_written_whole(folder, pages_in(folder)) as draft:
            for name, module in modules.items():
                page = draft / file_of(name)
                page.parent.mkdir(exist_ok=True)
                page.write_text(pdoc.render.html_module(module, modules), encoding="utf-8", newline="\n")
            (draft / "index.html").write_text(contents(modules), encoding="utf-8", newline="\n")
    return True


def faces() -> list[ModuleType]:
    """The public face and the faces of the rooms, with every name of theirs in place."""
    found = [importlib.import_module(name) for name in (FACE, *(f"{FACE}.{room}" for room in ROOMS))]
    for module in found:
        for name in module.__all__:
            getattr(module, name)
    return found


def file_of(module: str) -> str:
    """The file of a module's page, as pdoc links to it: ``varlen_lab/packing.html``."""
    return f"{module.replace('.', '/')}.html"


def contents(modules: dict[str, Any]) -> str:
    """The page over all modules (pdoc's, by name): what each is about, and its names with their first sentences."""
    rows = [
        (
            name,
            file_of(name),
            first_sentence(module.docstring),
            [(m, first_sentence(m.docstring)) for m in module.own_members],
        )
        for name, module in modules.items()
    ]
    return templates().get_template("api/contents.html.j2").render(title="Functions of varlen_lab", rows=rows)


def no_api(why: str) -> str:
    """The page that stands in for those of the functions."""
    return templates().get_template("api/contents.html.j2").render(title="Functions of varlen_lab", why=why)


def first_sentence(docstring: str) -> str:
    """Up to the first full stop or the end of the first paragraph, without marks of code."""
    paragraph = " ".join(docstring.strip().split("\n\n", 1)[0].split())
    return paragraph.split(". ", 1)[0].replace("``", "").rstrip(".:;")
