"""The frame around every page: Jinja over the templates of this folder, one style sheet, the colours of code."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any

from varlen_lab.course.outcomes import duration
from varlen_lab.course.pages.languages import API, switch, way_to_top
from varlen_lab.language.saying import TAGS, phrase, say, speaking
from varlen_lab.viz.policy import csp

HERE = Path(__file__).parent


def framed(template: str, language: str, name: str, pages: Collection[str], **values: Any) -> str:
    """The page ``name`` in ``language`` from one of the templates, with a switch to its twin if ``pages`` has that."""
    with speaking(language):
        known: dict[str, Any] = {
            "lang": TAGS[language],
            "switch": switch(language, name, pages),
            "up": way_to_top(language),
            "api": f"{way_to_top(language)}{API}" in pages,
            "lab": "lab" in pages,
            "glossary": "glossary" in pages,
            "index": "index" in pages,
        }
        return str(templates().get_template(template).render(known | values))


def marked(message: str, /, **values: Any) -> Any:
    """``say`` for a sentence with marks of HTML: these stand, what is filled in is text."""
    from markupsafe import Markup

    return Markup(phrase(message)).format(**values)


@cache
def templates() -> Any:
    """Jinja over the templates of this folder; text is escaped, the HTML of cells comes clean."""
    import jinja2

    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    sheets = "".join((HERE / name).read_text(encoding="utf-8") for name in ("style.css", "cells.css"))
    found.globals["style"] = sheets + code_colours()
    found.globals["csp"] = csp
    found.globals |= {"say": say, "marked": marked}
    found.filters |= {"duration": duration, "phrase": phrase}
    return found


def code_colours() -> str:
    """Pygments' colours for code, for light pages and for dark ones: two sets that are readable on our grounds."""
    from pygments.formatters import HtmlFormatter

    light, dark = (HtmlFormatter(style=name).get_style_defs(".highlight") for name in ("xcode", "one-dark"))
    return f"{without_backgrounds(light)}\n@media (prefers-color-scheme: dark) {{\n{without_backgrounds(dark)}\n}}\n"


def without_backgrounds(css: str) -> str:
    """Without the backgrounds and line heights that the style sheet of the page decides."""
    return "\n".join(line for line in css.splitlines() if not re.match(r"(pre|\.highlight \{|td|span\.line)", line))
