"""The break-it lab as a page of the site: twelve mistakes to switch on, in either language, without a kernel."""

from __future__ import annotations

from collections.abc import Collection
from html import escape

from varlen_lab.course.pages.frame import framed
from varlen_lab.language.saying import say, speaking


def lab_page(language: str, pages: Collection[str]) -> str:
    """The page of the lab; it runs the lab's script and no other."""
    from varlen_lab.course.lab.page import SCRIPT, STYLE, fragment

    with speaking(language):
        title = say("Break-it lab")
    body = f"<h1>{escape(title)}</h1>\n{fragment(language)}"
    return framed(
        "text.html.j2", language, "lab", pages, title=title, here="lab", body=body, scripts=[SCRIPT], sheet=STYLE
    )
