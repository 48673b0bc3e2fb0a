"""The same pages in several languages, side by side in one folder: English at its top, the others in one of their name.

    05_train.html   index.html   lab.html   api/          zh/05_train.html   zh/index.html   zh/lab.html

A page knows by name what stands in the site: names are seen from its own folder, ``05_train`` beside it,
``zh/05_train`` and ``../05_train`` in the other language, ``api/index`` and ``../api/index``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from varlen_lab.course.lessons import CHINESE, ENGLISH, language_of
from varlen_lab.course.pages.ours import is_page
from varlen_lab.language.saying import LANGUAGES, TAGS

API = "api/index"


class Switch(NamedTuple):
    """A link to a page in the other language: its address, the tag of that language, and what its readers call it."""

    href: str
    tag: str
    name: str


def folder_of(site: Path, language: str) -> Path:
    """Where the pages of a language lie in a site."""
    return site if language == ENGLISH else site / language


def way_to_top(language: str) -> str:
    """From a page to the top of its site: ``""`` or ``../``."""
    return "" if language == ENGLISH else "../"


def other(language: str) -> str:
    """The language that a page's switch leads to."""
    return CHINESE if language == ENGLISH else ENGLISH


def switch(language: str, name: str, pages: Collection[str]) -> Switch | None:
    """From the page ``name`` to the same in the other language; None where ``pages`` does not have it."""
    to = other(language)
    twin = f"../{name}" if to == ENGLISH else f"{to}/{name}"
    return Switch(f"{twin}.html", TAGS[to], LANGUAGES[to]) if twin in pages else None


def names_seen(language: str, names: dict[str, Sequence[str]]) -> list[str]:
    """All pages of a site as a page in ``language`` sees them; ``names``: of each language's, not of the functions'."""
    up, to = way_to_top(language), other(language)
    way = up if to == ENGLISH else f"{to}/"
    return [*names[language], *(f"{way}{name}" for name in names.get(to, ())), f"{up}{API}"]


def standing_in(folder: Path) -> set[str]:
    """The names of the pages in a folder where a page will stand, and of those it may lead to in the other language."""
    found = {path.stem for path in folder.glob("*.html")}
    below = language_of(folder) != ENGLISH
    top, up = (folder.parent, "../") if below else (folder, "")
    way, place = (up, top) if below else (f"{CHINESE}/", folder / CHINESE)
    found |= {f"{up}{API}" for path in top.glob(f"{API}.html") if path.is_file()}
    return found | {f"{way}{path.stem}" for path in place.glob("*.html") if path.is_file() and is_page(path)}
