"""The words that the course uses in Chinese, as a page of the site: ``glossary.md`` beside the lessons."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from varlen_lab.course.pages.cleaning import Page, clean
from varlen_lab.course.pages.frame import framed
from varlen_lab.course.pages.languages import Switch, other, way_to_top
from varlen_lab.course.pages.outputs import markdown_html
from varlen_lab.language.saying import LANGUAGES, TAGS, say, speaking

GLOSSARY = "glossary.md"


def glossary_page(source: Path, language: str, pages: Collection[str]) -> str:
    """The page of the glossary ``source``; it has no twin, so its switch leads to the other language's front page."""
    to = other(language)
    home = Switch(f"{way_to_top(language)}index.html", TAGS[to], LANGUAGES[to])
    with speaking(language):
        title = say("Glossary")
        body = clean(markdown_html(source.read_text(encoding="utf-8")), Page(source.parent, title, pages))
    body = f'<section class="prose">\n{body}\n</section>'
    return framed("text.html.j2", language, "glossary", pages, title=title, here="glossary", body=body, switch=home)
