"""The frame around every page: Jinja over the templates of this folder, one style sheet, the colours of code."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from varlen_lab.course.outcomes import duration
from varlen_lab.viz.policy import csp

HERE = Path(__file__).parent


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
    found.filters["duration"] = duration
    return found


def code_colours() -> str:
    """Pygments' colours for code, for light pages and for dark ones: two sets that are readable on our grounds."""
    from pygments.formatters import HtmlFormatter

    light, dark = (HtmlFormatter(style=name).get_style_defs(".highlight") for name in ("xcode", "one-dark"))
    return f"{without_backgrounds(light)}\n@media (prefers-color-scheme: dark) {{\n{without_backgrounds(dark)}\n}}\n"


def without_backgrounds(css: str) -> str:
    """Without the backgrounds and line heights that the style sheet of the page decides."""
    return "\n".join(line for line in css.splitlines() if not re.match(r"(pre|\.highlight \{|td|span\.line)", line))
