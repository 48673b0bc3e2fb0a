"""What a notebook wrote, markdown or output, as HTML that runs nothing and asks for nothing.

Three passes. What shows or does something of its own (scripts, styles, frames, forms, players) goes with all it holds;
inline SVG becomes a picture. Then bleach passes the tags and attributes of a list and no other, styles by property.
In what is left, pictures are put inside or become links, links to lessons become links to their pages, tables get a
box to scroll in, and their heads say of what they are. The last pass writes only what it made itself, so nothing that
bleach removed comes back.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cache
from html import escape
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from varlen_lab.course.pages.pictures import file_picture, picture, uri_picture
from varlen_lab.language.saying import say

ALLOWED = tomllib.loads((Path(__file__).parent / "allowed.toml").read_text(encoding="utf-8"))["html"]
TAGS, GONE = frozenset(ALLOWED["tags"].split()), ALLOWED["gone"].split()
ATTRIBUTES = {tag: frozenset(names.split()) for tag, names in ALLOWED["attributes"].items()}
NONE: frozenset[str] = frozenset()
DEEPEST = 200
MOST_TAGS = 20_000  # a table of so many cells takes a parser seconds, and a reader none of them
PROPERTIES = re.compile(  # of a style attribute: how a thing looks in its place, never where it is
    r"background(-color)?|border(-.+)?|color|display|flex(-.+)?|font(-.+)?|gap|grid-template-columns|justify-content|"
    r"align-items|letter-spacing|line-height|list-style-type|margin(-.+)?|(max-|min-)?(width|height)|opacity|"
    r"overflow(-.+)?|padding(-.+)?|text-(align|decoration|indent|transform)|vertical-align|white-space|word-break"
)
COLOURED = re.compile(r"(^|; )(color|background)")  # chosen for white paper: it keeps that on a dark page
FUNCTIONS = {"rgb", "rgba", "hsl", "hsla", "calc", "min", "max"}
LINK = re.compile(r"(https?://|mailto:|#)\S*|[^:\s\\]+", re.I)  # the last: a path, for a colon would make it a scheme
DATA = re.compile(r"data:image/[a-z+]+;base64,[A-Za-z0-9+/=]+")


@dataclass
class Page:
    """What the cells of a page have in common: its ``title``, the folder its pictures and neighbours are read from.

    ``pages``: names of the lessons whose pages stand beside this one. ``ids`` are taken; they grow.
    """

    folder: Path
    title: str = ""
    pages: Collection[str] = ()
    ids: set[str] = field(default_factory=lambda: {"error", "cells"})


def clean(html: str, page: Page) -> str:
    """HTML of somebody else as HTML that is safe in ``page``; what no parser takes is shown as text.

    Of very much HTML the beginning, and a sentence that says so.
    """
    import bs4

    html = html.encode("utf-8", "replace").decode("utf-8")  # half a character, which JSON can hold
    cut = next((tag.start() for tag in islice(re.finditer("<", html), MOST_TAGS, None)), None)
    try:
        cleaned = finished(gate().clean(without_machinery(html[:cut])), page)
        return cleaned + (
            "" if cut is None else f"<p>{say('Only the beginning is shown here; the notebook holds all.')}</p>"
        )
    except (RecursionError, bs4.ParserRejectedMarkup):  # nested too deep, or torn
        return f'<pre class="text">{escape(html[:10_000])}</pre>'


def without_machinery(html: str) -> str:
    """Without what shows or does something of its own, comments too; inline SVG as a picture."""
    import bs4

    soup = bs4.BeautifulSoup(html, "html.parser")
    if deeper(soup, DEEPEST):
        raise RecursionError("no page is nested so deep")
    for node in soup.find_all(string=lambda text: isinstance(text, bs4.element.PreformattedString)):
        node.extract()  # comments, doctypes, CDATA
    for svg in soup.find_all("svg"):
        if svg.find_parent("svg") is None:
            words = svg.find("title") or svg.find("desc")
            alt = svg.get("aria-label") or (words.get_text(" ", strip=True) if words else "")
            shown = picture(str(svg).encode("utf-8"), str(alt))
            svg.replace_with(bs4.BeautifulSoup(shown, "html.parser"))
    for tag in soup.find_all(GONE):
        if not tag.decomposed:
            tag.decompose()
    for tag in soup.find_all(True):  # bleach asks again, but thousands of attributes take its parser minutes
        tag.attrs = {
            name: tag.attrs[name] for name in ATTRIBUTES["*"] | ATTRIBUTES.get(tag.name, NONE) if name in tag.attrs
        }
    return str(soup)


def deeper(soup: Any, limit: int) -> bool:
    """Are tags nested more than ``limit`` deep? A parser of HTML takes minutes for thousands."""
    level = [soup]
    for _ in range(limit):
        level = [child for tag in level for child in tag.find_all(True, recursive=False)]
    return bool(level)


@cache
def gate() -> Any:
    """bleach with our list; a tag that is not on it goes and leaves its text."""
    import bleach

    return bleach.Cleaner(
        tags=TAGS,
        attributes=passes,
        protocols={"http", "https", "mailto", "data"},
        strip=True,
        css_sanitizer=Styles(),
    )


def passes(tag: str, name: str, value: str) -> bool:
    """May the attribute stand? Addresses are asked here first, for ``data:`` is for pictures alone."""
    if name not in ATTRIBUTES["*"] | ATTRIBUTES.get(tag, NONE):
        return False
    return LINK.fullmatch(value.strip()) is not None if name == "href" else True


class Styles:
    """What bleach asks about a style attribute."""

    def sanitize_css(self, style: str) -> str:
        """The declarations of the list that are made of words, numbers and colours."""
        import tinycss2

        kept = [
            each
            for each in tinycss2.parse_declaration_list(style, skip_comments=True, skip_whitespace=True)
            if each.type == "declaration" and PROPERTIES.fullmatch(each.lower_name) and all(map(harmless, each.value))
        ]
        return "; ".join(f"{each.lower_name}: {tinycss2.serialize(each.value).strip()}" for each in kept)


def harmless(token: Any) -> bool:
    """Is a part of a value a word, a colour, or a number that moves nothing over its neighbours?"""
    if token.type == "function":
        return token.lower_name in FUNCTIONS and all(map(harmless, token.arguments))
    if token.type in ("number", "dimension", "percentage"):
        return bool(token.value >= 0)
    return token.type in ("ident", "hash", "whitespace") or (token.type == "literal" and token.value in ",/+-*")


@cache
def classes() -> frozenset[str]:
    """The classes that may stand: of pygments and pandas. Ours would make a thing look like a part of the page."""
    from pygments.token import STANDARD_TYPES

    return frozenset(STANDARD_TYPES.values()) | {"highlight", "dataframe"}


def finished(html: str, page: Page) -> str:
    """Clean HTML with its pictures inside, its links leading somewhere, its tables in boxes, each id once."""
    import bs4

    soup = bs4.BeautifulSoup(html, "html.parser", multi_valued_attributes=None)
    for tag in soup.find_all(True):
        names = [name for name in str(tag.attrs.pop("class", "")).split() if name in classes()]
        if names:
            tag["class"] = " ".join(names)
        name = str(tag.attrs.pop("id", ""))
        if name and name not in page.ids:
            page.ids.add(name)
            tag["id"] = name
    for link in soup.find_all("a"):
        finish_link(link, page)
    for image in soup.find_all("img"):
        image.replace_with(bs4.BeautifulSoup(finished_image(image, page), "html.parser"))
    finish_heads(soup.find_all("th"))
    for table in soup.find_all("table"):
        if table.find_parent("table") is None:
            del table["border"]
            box = {"class": "wide", "role": "group", "aria-label": say("table"), "tabindex": "0"}
            table.wrap(soup.new_tag("div", attrs=box))
    for block in soup.find_all(True, recursive=False):
        if any(COLOURED.search(str(tag.get("style", ""))) for tag in (block, *block.find_all(style=True))):
            block["class"] = f"{block.get('class', '')} coloured".strip()
    return str(soup)


def finish_heads(heads: Any) -> None:
    """Heads of tables say whether they are of a column or of a row; an empty one, as in pandas' corners, is no head."""
    for head in heads:
        row = head.find_parent("tr")
        across = head.find_parent("thead") is not None or row is None or row.find("td") is None
        axis, span = ("col", "colspan") if across else ("row", "rowspan")
        head.attrs.setdefault("scope", axis + ("group" if head.get(span, "1") != "1" else ""))
    for head in heads:
        if not head.get_text(strip=True) and not head.find("img"):
            head.name = "td"
            del head["scope"]


def finish_link(link: Any, page: Page) -> None:
    """A lesson's address becomes its page's; a path to what does not stand beside the page leaves its words."""
    address = str(link.get("href", "")).strip()
    parts = urlsplit(address)
    if parts.scheme or not address or address.startswith("#"):
        if parts.scheme:
            link["rel"] = "noopener noreferrer"
        return
    name, _, kind = unquote(parts.path).rpartition(".")  # ../05_train leads to a lesson's twin
    if parts.netloc or kind not in ("ipynb", "html", "md") or name not in page.pages:
        link.unwrap()
        return
    link["href"] = f"{name}.html" + (f"#{parts.fragment}" if parts.fragment else "")


def finished_image(image: Any, page: Page) -> str:
    """The picture itself where it is at hand, a link to one that is elsewhere, else its words."""
    source, alt = str(image.get("src", "")).strip(), str(image.get("alt") or image.get("title") or "").strip()
    width = str(image.get("width", ""))
    shown = ""
    if DATA.fullmatch(source):
        shown = uri_picture(source, alt or say("Picture of {title}", title=page.title), width)
    elif urlsplit(source).scheme in ("http", "https"):
        words = escape(alt or say("picture"))
        if image.find_parent("a") is not None:
            return words
        return f'<a rel="noopener noreferrer" href="{escape(source)}">{words}</a>'
    elif source and not urlsplit(source).scheme:
        shown = file_picture(page.folder, unquote(source), alt or Path(source).stem.replace("_", " "), width)
    return shown or escape(alt)
